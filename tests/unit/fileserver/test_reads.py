"""Reads of files that may hang: they leave threads, and replies, to other file systems."""

from __future__ import annotations

import errno

from twisted.internet.task import Clock

from natproxy.fileserver.factory import CONCURRENT_READS, Reads
from natproxy.relay import PageCache, Relays
from natproxy.server.threads import WORK_TIMEOUT, Unresponsive
from tests.support.doubles import PlayedThread
from tests.support.fileserver import FileServerCase
from tests.support.relay_cases import PlayedMounts
from tests.support.storage import descriptors


class HangingTests(FileServerCase):
    """Every read hangs."""

    def setUp(self) -> None:
        super().setUp()
        (self.files / "a").write_bytes(b"content")
        self.reads = PlayedThread()
        cache = PageCache(Reads(self.reads, self.clock), PlayedMounts(False))
        self.patch(cache, "known", lambda file, device: False)
        self.patch(cache, "read_cached", lambda file, offset, size: b"")
        self.factory.services.relays = Relays(None, page_cache=cache)

    def test_reads_that_hang_time_out_and_further_ones_are_refused_at_once(self) -> None:
        clients = [self.new_client(50_000 + number) for number in range(CONCURRENT_READS)]
        for protocol, _ in clients:
            protocol.dataReceived(b"GET a\n")
        # Half of the threads are left to other file systems.
        self.assertEqual(self.reads.calls, CONCURRENT_READS // 2)
        self.clock.advance(WORK_TIMEOUT)
        for _, client in clients:
            self.assertEqual(client.taken(), b"ERR 503 the storage does not respond\n")
            self.assertTrue(client.open)
        self.assertEqual(self.send(b"GET a\n"), b"ERR 503 the storage does not respond\n")
        self.assertEqual(self.send(b"DOWNLOAD a\n"), b"ERR the storage does not respond\n")
        while self.reads.asked:
            self.reads.run()
        self.send(b"DOWNLOAD a\n")
        self.reads.run()
        self.assertEqual(self.wire.taken(), b"OK 7\ncontent")

    def test_file_of_a_read_that_hangs_is_closed_when_its_thread_returns(self) -> None:
        before = descriptors()
        self.send(b"GET a\n")
        self.clock.advance(WORK_TIMEOUT)
        self.assertEqual(self.wire.taken(), b"ERR 503 the storage does not respond\n")
        # Closing it might hang as well, and stop the reactor.
        self.assertEqual(len(descriptors()), len(before) + 1)
        self.reads.run()
        self.assertLessEqual(descriptors(), before)

    def test_queued_read_of_a_client_that_is_gone_is_dropped(self) -> None:
        clients = [self.new_client(50_000 + number) for number in range(CONCURRENT_READS)]
        before = descriptors()
        for protocol, _ in clients:
            protocol.dataReceived(b"GET a\n")
        for protocol, _ in clients:
            protocol.connectionLost()
        # Those that have begun are the threads'.
        self.assertEqual(len(descriptors()), len(before) + CONCURRENT_READS // 2)
        while self.reads.asked:
            self.reads.run()
        self.assertEqual(self.reads.calls, CONCURRENT_READS // 2)
        self.assertLessEqual(descriptors(), before)

    def test_other_file_systems_are_read_meanwhile(self) -> None:
        clock = Clock()
        read = Reads(self.reads, clock)
        for _ in range(CONCURRENT_READS):
            read(lambda: None, 1, int).addErrback(lambda failure: failure.trap(Unresponsive))
        other = read(lambda: "other", 2, int)
        function, called = self.reads.asked.pop()
        called.callback(function())
        self.assertEqual(self.successResultOf(other), "other")
        clock.advance(WORK_TIMEOUT)

    def test_first_read_that_fails_is_an_error_reply(self) -> None:
        self.send(b"GET a\n")
        _, called = self.reads.asked.pop()
        called.errback(OSError(errno.EIO, "Input/output error"))
        expected = b"ERR 503 the server cannot open files at present\n"
        self.assertEqual(self.wire.taken(), expected)
        self.assertTrue(self.wire.open)
