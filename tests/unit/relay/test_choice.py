"""Which relay moves a body, by what its two ends can do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock, skipUnless

from twisted.internet.interfaces import (
    IFileDescriptor,
    ISSLTransport,
    ISystemHandle,
    ITCPTransport,
    IUNIXTransport,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.relay import FileJob, Method, PageCache, Relays, choice
from natproxy.relay.copy import CopyRelay
from natproxy.relay.files import Bytes, CopyingFileRelay
from natproxy.relay.sendfile import SendfileRelay
from natproxy.relay.splice import SpliceRelay
from tests.support.files import RawFile
from tests.support.relay_cases import KernelCase, PlayedMounts

TCP = (ITCPTransport, IFileDescriptor, ISystemHandle)
LIMIT = 128 * 1024


@skipUnless(hasattr(os, "splice"), "no splice on this system")
class ChoosingTests(KernelCase):
    def assert_chosen(self, relays: Relays, from_socket: type, from_file: type, size: int) -> None:
        self.assertIs(type(self.socket_relay(relays, size)), from_socket, size)
        self.assertIs(type(self.file_relay(relays, size)), from_file, size)

    def test_kernel_moves_large_bodies_and_small_ones_are_copied(self) -> None:
        relays = self.relays()
        self.assert_chosen(relays, CopyRelay, CopyingFileRelay, 1)
        self.assert_chosen(relays, CopyRelay, CopyingFileRelay, 64 * 1024)
        self.assert_chosen(relays, CopyRelay, SendfileRelay, 64 * 1024 + 1)
        self.assert_chosen(relays, CopyRelay, SendfileRelay, LIMIT - 1)
        self.assert_chosen(relays, SpliceRelay, SendfileRelay, LIMIT)
        self.assert_chosen(relays, SpliceRelay, SendfileRelay, 1 << 62)

    def test_method_can_be_changed_for_further_bodies(self) -> None:
        relays = self.relays()
        relays.use(Method.COPY)
        self.assert_chosen(relays, CopyRelay, CopyingFileRelay, LIMIT)
        relays.use(Method.KERNEL)
        self.assert_chosen(relays, SpliceRelay, SendfileRelay, 1)
        relays.use(Method.AUTO)
        self.assert_chosen(relays, CopyRelay, CopyingFileRelay, 1)
        self.assert_chosen(relays, SpliceRelay, SendfileRelay, LIMIT)

    def test_relays_are_counted_by_kind(self) -> None:
        relays = self.relays()
        made = [
            make(relays, size)
            for size in (1, LIMIT)
            for make in (self.socket_relay, self.file_relay)
        ]
        used = {kind: tally for kind, tally in relays.tallies.items() if tally.begun}
        self.assertEqual(set(used), {"copy", "splice", "sendfile", "read"})
        self.assertEqual([(tally.begun, tally.ended) for tally in used.values()], [(1, 0)] * 4)
        for relay in made:
            relay.cancel()
            relay.cancel()
        self.assertEqual([(tally.begun, tally.ended) for tally in used.values()], [(1, 1)] * 4)

    def test_kernel_moves_even_one_byte_if_forced(self) -> None:
        self.assert_chosen(self.relays(Method.KERNEL), SpliceRelay, SendfileRelay, 1)

    def test_everything_is_copied_if_forced(self) -> None:
        self.assert_chosen(self.relays(Method.COPY), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_without_a_reactor_everything_is_copied(self) -> None:
        self.assert_chosen(Relays(), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_body_without_a_size_is_copied(self) -> None:
        self.assertIs(type(self.socket_relay(self.relays(Method.KERNEL), 0)), CopyRelay)
        self.assertIs(type(self.file_relay(self.relays(Method.KERNEL), 0)), CopyingFileRelay)

    def test_bytes_in_memory_are_copied(self) -> None:
        relays = self.relays(Method.KERNEL)
        relay = relays.send_bytes(b"x" * LIMIT, self.outbound(), self.ends)
        self.assertIs(type(relay), CopyingFileRelay)
        relay.cancel()

    def test_everything_is_copied_if_the_reactor_watches_no_descriptors(self) -> None:
        self.assert_chosen(
            self.relays(Method.KERNEL, Clock()), CopyRelay, CopyingFileRelay, 1 << 40
        )

    def test_everything_is_copied_on_other_systems(self) -> None:
        with mock.patch.object(choice, "_LINUX", False):
            self.assert_chosen(self.relays(Method.KERNEL), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_everything_is_copied_to_a_client_without_a_bare_tcp_socket(self) -> None:
        for provided in ((*TCP, ISSLTransport), (*TCP, IUNIXTransport), TCP[:1], TCP[1:]):
            self.client = self.wire(*provided)
            self.assert_chosen(self.relays(Method.KERNEL), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_everything_is_copied_from_an_upstream_without_a_bare_tcp_socket(self) -> None:
        for provided in ((*TCP, ISSLTransport), (*TCP, IUNIXTransport), TCP[:1], TCP[1:]):
            self.upstream = self.wire(*provided)
            self.assertIs(type(self.socket_relay(self.relays(Method.KERNEL), 1 << 40)), CopyRelay)

    def test_number_of_spliced_bodies_is_limited(self) -> None:
        relays = Relays(self.reactor, splices=1)
        first = self.socket_relay(relays, LIMIT)
        self.assertIs(type(first), SpliceRelay)
        self.assertIs(type(self.socket_relay(relays, LIMIT)), CopyRelay)
        first.cancel()
        self.assertIs(type(self.socket_relay(relays, LIMIT)), SpliceRelay)

    def test_no_timer_is_left_after_close(self) -> None:
        relays = self.relays()
        self.socket_relay(relays, LIMIT).start()
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        relays.close()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_body_is_copied_without_descriptors(self) -> None:
        for spared in (0, 1):
            duplicates = [os.dup(0) for _ in range(spared)]
            scarce = mock.patch.object(os, "dup", side_effect=[*duplicates, OSError])
            with scarce:
                self.assertIs(type(self.socket_relay(self.relays(), LIMIT)), CopyRelay)
            self.reactor.turn()
            for duplicate in duplicates:
                self.assertRaises(OSError, os.fstat, duplicate)

    def test_methods_have_their_names(self) -> None:
        self.assertEqual([str(method) for method in Method], ["auto", "copy", "kernel"])


class ReadSmallTests(SynchronousTestCase):
    """Small files, which need no relay."""

    def read(
        self,
        relays: Relays,
        size: int,
        offset: int = 0,
        unchanged: Callable[[], bool] | None = None,
        file: Any = None,
    ) -> bytes | None:
        """Return what `Relays.read_small` does for a file of 10 bytes, or another one."""
        if file is None:
            with tempfile.TemporaryFile(buffering=0) as kept:
                kept.write(b"0123456789")
                file = RawFile(os.dup(kept.fileno()))
        self.file = file
        self.addCleanup(file.close)
        job = FileJob(b"OK n\n", file, size, mock.Mock(), mock.Mock(), offset, unchanged)
        return relays.read_small(job)

    def test_reply_is_returned_and_the_file_closed(self) -> None:
        self.assertEqual(self.read(Relays(), 3, 2, lambda: True), b"OK n\n234")
        self.assertTrue(self.file.closed)
        self.assertEqual(self.read(Relays(), 0, 2, lambda: False), b"OK n\n")
        self.assertTrue(self.file.closed)

    def test_relay_is_left_to_report_a_file_that_is_shorter_or_has_changed(self) -> None:
        self.assertIsNone(self.read(Relays(), 11))
        self.assertFalse(self.file.closed)
        self.assertIsNone(self.read(Relays(), 3, 0, lambda: False))
        self.assertFalse(self.file.closed)

    def test_relay_is_left_to_report_a_read_that_fails(self) -> None:
        failing = mock.Mock(closed=False)
        failing.read_at.side_effect = OSError
        self.assertIsNone(self.read(Relays(), 3, file=failing))
        failing.close.assert_not_called()

    def test_large_files_and_those_that_the_kernel_must_move_have_a_relay(self) -> None:
        large = Bytes(b"x" * (64 * 1024 + 1))
        reply = self.read(Relays(), 64 * 1024, file=large)
        self.assertEqual(reply, b"OK n\n" + b"x" * 64 * 1024)
        self.assertIsNone(self.read(Relays(), 64 * 1024 + 1, file=large))
        self.assertIsNone(self.read(Relays(None, Method.KERNEL), 1))

    def test_read_that_may_wait_has_a_relay(self) -> None:
        cache = PageCache(mock.Mock(), PlayedMounts(False))
        relays = Relays(None, page_cache=cache)
        cached = b"012"
        self.patch(cache, "read_cached", lambda file, offset, size: cached)
        self.assertEqual(self.read(relays, 3), b"OK n\n012")
        self.assertIsNone(self.read(relays, 4))
        self.patch(cache, "read_cached", mock.Mock(side_effect=BlockingIOError))
        self.assertIsNone(self.read(relays, 3))
        waiting = mock.Mock(blocking=True)
        waiting.fileno.return_value = None
        self.assertIsNone(self.read(relays, 3, file=waiting))
        waiting.read_at.assert_not_called()
        self.assertEqual(self.read(relays, 3, file=Bytes(b"abc")), b"OK n\nabc")
