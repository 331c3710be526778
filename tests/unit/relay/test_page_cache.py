"""Files of which nobody can say whether a read will wait: they are read in threads."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.factory import CONCURRENT_READS, read_in
from natproxy.kernel.mounts import Mounts
from natproxy.relay import FileJob, Outbound, PageCache, Relays, SourceChanged, SourceShort
from natproxy.relay.files import BLOCK, CopyingFileRelay, ThreadedFileRelay
from natproxy.server.threads import WORK_TIMEOUT, Threads, Unresponsive
from tests.support.doubles import BufferedWire, PlayedThread
from tests.support.ends import Ends
from tests.support.files import RawFile
from tests.support.fileserver import FileServerCase
from tests.support.storage import descriptors

UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)


class PlayedMounts(Mounts):
    """Knows one device: whether its files are in memory."""

    def __init__(self, memory: bool) -> None:
        super().__init__()
        self.memory = memory

    def in_memory(self, device: int) -> bool:
        return self.memory


class UnknownCase(SynchronousTestCase):
    """A file on a file system where ``RWF_NOWAIT`` is not supported."""

    code = errno.EOPNOTSUPP

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "a"
        self.thread = PlayedThread()
        self.ends = Ends()
        self.client = BufferedWire(9000, 43_210)
        self.outbound = Outbound(self.client, lambda: None)
        self.relays = Relays(None, page_cache=PageCache(self.read, PlayedMounts(False)))
        preadv = os.preadv

        def failing(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
            if flags:
                raise OSError(self.code, os.strerror(self.code))
            return preadv(file, buffers, offset)

        self.patch(os, "preadv", failing)

    def read(
        self, work: Callable[[], Any], device: int, returned: Callable[[], object]
    ) -> Deferred[Any]:
        def read() -> Any:
            try:
                return work()
            finally:
                returned()

        return self.thread(read)

    def relay(self, content: bytes, unchanged: Callable[[], bool] | None = None) -> Any:
        self.path.write_bytes(content)
        self.file = RawFile(self.path)
        self.ends.clear()
        return self.relays.send(
            FileJob(
                b"OK n\n",
                self.file,
                len(content),
                self.outbound,
                self.ends,
                unchanged=unchanged,
            )
        )


class PageCacheTests(UnknownCase):
    def test_unsupported_means_not_known_unless_the_file_is_in_memory(self) -> None:
        with tempfile.TemporaryFile() as file:
            for self.code in UNSUPPORTED:
                for memory in (False, True):
                    cache = PageCache(self.read, PlayedMounts(memory))
                    self.assertEqual(cache.known(file.fileno(), 0), memory, self.code)
            self.code = errno.EAGAIN
            self.assertTrue(PageCache(self.read, PlayedMounts(False)).known(file.fileno(), 0))


class ThreadedFileRelayTests(UnknownCase):
    def test_small_file_is_one_read_in_a_thread_and_one_write(self) -> None:
        relay = self.relay(b"content")
        self.assertIsInstance(relay, ThreadedFileRelay)
        relay.start()
        self.assertEqual((self.client.value(), relay.begun), (b"", False))
        self.thread.run()
        self.assertEqual(self.client.value(), b"OK n\ncontent")
        self.assertEqual(self.ends, [None])
        self.assertEqual(self.thread.calls, 1)
        self.assertTrue(self.file.closed)

    def test_large_file_is_read_block_by_block_as_the_client_takes_it(self) -> None:
        content = os.urandom(3 * BLOCK + 5)
        relay = self.relay(content)
        relay.start()
        received = b""
        while not self.ends:
            self.assertLessEqual(len(self.thread.asked), 1)
            if self.thread.asked:
                self.thread.run()
            received += self.client.drain()
        self.assertEqual(received + self.client.drain(), b"OK n\n" + content)
        self.assertEqual(self.thread.calls, 4)

    def test_file_that_has_shrunk_or_changed_is_not_sent_to_its_end(self) -> None:
        relay = self.relay(b"content")
        os.truncate(self.path, 0)
        relay.start()
        self.thread.run()
        self.ends.error(SourceShort)
        relay = self.relay(b"content", lambda: False)
        relay.start()
        self.thread.run()
        self.ends.error(SourceChanged)
        self.assertTrue(self.file.closed)

    def test_client_that_goes_leaves_the_file_to_the_thread(self) -> None:
        relay = self.relay(b"content")
        relay.start()
        relay.cancel()
        self.assertFalse(self.file.closed)
        self.thread.run()
        self.assertTrue(self.file.closed)
        self.assertEqual(self.ends, [])

    def test_file_in_memory_is_copied(self) -> None:
        self.relays = Relays(None, page_cache=PageCache(self.read, PlayedMounts(True)))
        relay = self.relay(b"content")
        self.assertIs(type(relay), CopyingFileRelay)
        relay.start()
        self.assertEqual(self.client.value(), b"OK n\ncontent")
        self.assertEqual(self.thread.calls, 0)


class HangingTests(FileServerCase):
    """Every read hangs."""

    def setUp(self) -> None:
        super().setUp()
        (self.files / "a").write_bytes(b"content")
        self.reads = PlayedThread()
        cache = PageCache(read_in(self.reads, self.clock), PlayedMounts(False))
        self.patch(cache, "known", lambda file, device: False)
        self.factory.services.relays = Relays(None, page_cache=cache)

    def test_reads_that_hang_are_answered_and_further_ones_refused_at_once(self) -> None:
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

    def test_read_in_line_is_dropped_with_its_client_and_its_file_closed(self) -> None:
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
        read = read_in(self.reads, clock)
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


class MountsTests(SynchronousTestCase):
    def test_types_are_read_from_the_table_and_kept_for_a_while(self) -> None:
        table = Path(self.mktemp())
        table.write_text(
            "36 35 0:41 / /dev/shm rw,nosuid shared:1 - tmpfs tmpfs rw\n"
            "37 35 0:42 / /srv rw - fuse.sshfs host: rw\n"
            "38 35 8:1 / / rw master:1 - ext4 /dev/sda1 rw\nmalformed\n- \n"
        )
        now = [0.0]
        mounts = Mounts(str(table), lambda: now[0])
        shm, fuse, disk = os.makedev(0, 41), os.makedev(0, 42), os.makedev(8, 1)
        self.assertEqual([mounts.in_memory(d) for d in (shm, fuse, disk)], [True, False, False])
        found = [mounts.has_local_clock(d) for d in (shm, fuse, disk)]
        self.assertEqual(found, [True, False, True])
        self.assertIsNone(mounts.type_of(os.makedev(0, 43)))
        # The number is given to another file system.
        table.write_text("36 35 0:41 / /mnt rw - fuse x rw\n")
        self.assertTrue(mounts.in_memory(shm))
        now[0] += 61
        self.assertFalse(mounts.in_memory(shm))
        self.assertIsNone(Mounts("/nonexistent").type_of(1))


class ThreadsTests(SynchronousTestCase):
    def test_pool_starts_with_its_first_work_and_ends_with_the_reactor(self) -> None:
        triggers: list[Callable[[], None]] = []

        class PlayedReactor:
            def addSystemEventTrigger(
                self, phase: str, event: str, call: Callable[[], None]
            ) -> None:
                triggers.append(call)

            def callFromThread(self, call: Callable[..., None], *arguments: object) -> None:
                call(*arguments)

        threads = Threads(PlayedReactor(), 2, "test")
        threads.stop()
        self.assertEqual(triggers, [])
        threads(lambda: None)
        threads(lambda: None)
        self.assertEqual(len(triggers), 1)
        self.assertTrue(all(thread.daemon for thread in threads._pool.threads))
        triggers[0]()
