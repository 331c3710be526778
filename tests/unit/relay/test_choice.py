"""Which way a body goes, by what its two ends can do; and how much of it in one turn."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Any
from unittest import mock, skipUnless

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IFileDescriptor,
    ISSLTransport,
    ISystemHandle,
    ITCPTransport,
    IUNIXTransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import CountedBody, ListingBody, Refusal
from natproxy.relay import (
    FileJob,
    Method,
    Outbound,
    PeerGone,
    Relay,
    Relays,
    SocketJob,
    SocketRelay,
    SourceShort,
    choice,
    outbound_of,
)
from natproxy.relay.copy import CopyRelay
from natproxy.relay.files import CopyingFileRelay
from natproxy.relay.pipes import LARGE, PipePool
from natproxy.relay.sendfile import STRETCH, SendfileRelay
from natproxy.relay.splice import SLICE, TURN, SpliceRelay
from tests.support.doubles import PlayedPageCache, SocketWire
from tests.support.ends import Ends
from tests.support.files import RawFile

TCP = (ITCPTransport, IFileDescriptor, ISystemHandle)
LIMIT = 128 * 1024


class Account:
    """What has gone to the client, by either way."""

    def __init__(self, outbound: object) -> None:
        self._outbound = outbound
        self.relayed = 0

    def write(self, data: bytes) -> None:
        self.relayed += len(data)
        self._outbound.write(data)

    def count(self, size: int) -> None:
        self.relayed += size


class KernelCase(SynchronousTestCase):
    """The two sides of a relay, and a reactor that watches nothing."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.progress: list[object] = []
        self.ends = Ends()
        self.client = self.wire()
        self.upstream = self.wire()

    def wire(self, *provided: object) -> SocketWire:
        wire = SocketWire(9000, 43_210, *provided)
        self.addCleanup(wire.socket.close)
        return wire

    def relays(
        self,
        method: Method = Method.AUTO,
        reactor: object = None,
        cache: PlayedPageCache | None = None,
    ) -> Relays:
        relays = Relays(self.reactor if reactor is None else reactor, method, cache)
        self.addCleanup(relays.close)
        return relays

    def outbound(self) -> Outbound:
        """Give the client's outbound, as if it had just connected."""
        self.client.producer = None
        self.lent = outbound_of(self.client, lambda: None)
        return self.lent

    def between(self, relays: Relays, size: int) -> SocketRelay:
        outbound = self.outbound()
        self.account = Account(outbound)
        relay = relays.relay(
            SocketJob(
                b"OK n\n",
                CountedBody(size) if size else ListingBody(),
                size,
                self.upstream,
                self.upstream,
                outbound,
                self.account,
                lambda: self.progress.append(None),
                self.ends,
            )
        )
        self.addCleanup(relay.cancel)
        return relay

    def from_file(self, relays: Relays, size: int) -> Relay:
        """Make a relay of a file whose bytes nobody reads."""
        kept = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        file = RawFile(os.dup(kept.fileno()))
        kept.close()
        self.addCleanup(file.close)
        relay = relays.send(FileJob(b"OK n\n", file, size, self.outbound(), self.ends))
        self.addCleanup(relay.cancel)
        return relay


@skipUnless(hasattr(os, "splice"), "no splice on this system")
class ChoosingTests(KernelCase):
    def assert_chosen(self, relays: Relays, between: type, from_file: type, size: int) -> None:
        self.assertIs(type(self.between(relays, size)), between, size)
        self.assertIs(type(self.from_file(relays, size)), from_file, size)

    def test_large_bodies_go_inside_the_kernel_and_small_ones_do_not(self) -> None:
        relays = self.relays()
        self.assert_chosen(relays, CopyRelay, CopyingFileRelay, 1)
        self.assert_chosen(relays, CopyRelay, CopyingFileRelay, 64 * 1024)
        self.assert_chosen(relays, CopyRelay, SendfileRelay, 64 * 1024 + 1)
        self.assert_chosen(relays, CopyRelay, SendfileRelay, LIMIT - 1)
        self.assert_chosen(relays, SpliceRelay, SendfileRelay, LIMIT)
        self.assert_chosen(relays, SpliceRelay, SendfileRelay, 1 << 62)

    def test_forced_even_one_byte_goes_inside_the_kernel(self) -> None:
        self.assert_chosen(self.relays(Method.KERNEL), SpliceRelay, SendfileRelay, 1)

    def test_forced_everything_is_copied(self) -> None:
        self.assert_chosen(self.relays(Method.COPY), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_by_itself_everything_is_copied(self) -> None:
        self.assert_chosen(Relays(), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_what_has_no_size_is_copied(self) -> None:
        self.assertIs(type(self.between(self.relays(Method.KERNEL), 0)), CopyRelay)
        self.assertIs(type(self.from_file(self.relays(Method.KERNEL), 0)), CopyingFileRelay)

    def test_what_is_in_memory_is_copied(self) -> None:
        relays = self.relays(Method.KERNEL)
        relay = relays.send_bytes(b"x" * LIMIT, self.outbound(), self.ends)
        self.assertIs(type(relay), CopyingFileRelay)
        relay.cancel()

    def test_reactor_that_watches_no_descriptors_has_all_copied(self) -> None:
        self.assert_chosen(
            self.relays(Method.KERNEL, Clock()), CopyRelay, CopyingFileRelay, 1 << 40
        )

    def test_other_systems_have_all_copied(self) -> None:
        with mock.patch.object(choice, "_LINUX", False):
            self.assert_chosen(self.relays(Method.KERNEL), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_client_without_a_bare_tcp_socket_has_all_copied(self) -> None:
        for provided in ((*TCP, ISSLTransport), (*TCP, IUNIXTransport), TCP[:1], TCP[1:]):
            self.client = self.wire(*provided)
            self.assert_chosen(self.relays(Method.KERNEL), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_upstream_without_a_bare_tcp_socket_has_all_copied(self) -> None:
        for provided in ((*TCP, ISSLTransport), (*TCP, IUNIXTransport), TCP[:1], TCP[1:]):
            self.upstream = self.wire(*provided)
            self.assertIs(type(self.between(self.relays(Method.KERNEL), 1 << 40)), CopyRelay)

    def test_without_a_pipe_all_is_copied_until_there_is_one(self) -> None:
        relays = self.relays()
        with mock.patch.object(PipePool, "lend", return_value=None):
            self.assertIs(type(self.between(relays, LIMIT)), CopyRelay)
        self.assertIs(type(self.between(relays, LIMIT)), SpliceRelay)

    def test_ways_have_their_names(self) -> None:
        self.assertEqual([str(way) for way in Method], ["auto", "copy", "kernel"])


@skipUnless(hasattr(os, "splice"), "no splice on this system")
class SpliceTurnTests(KernelCase):
    """One turn of the reactor, with a kernel that is played."""

    def setUp(self) -> None:
        super().setUp()
        self.moves: list[int] = []
        self.most = 1 << 40
        patched = mock.patch.object(os, "splice", self.splice)
        patched.start()
        self.addCleanup(patched.stop)
        self.shared = self.relays()
        self.relay = self.between(self.shared, 1 << 30)
        self.relay.start()

    def splice(self, source: int, sink: int, count: int, flags: int = 0) -> int:
        self.assertFalse(flags & os.SPLICE_F_MORE, "the rest would wait for 200 ms")
        self.assertTrue(flags & os.SPLICE_F_NONBLOCK)
        moved = self.play(count)
        self.moves.append(moved)
        self.assertLess(len(self.moves), 1000, "it goes on and on")
        return moved

    def play(self, count: int) -> int:
        """Let all that is asked for be moved, from a source and to a sink that never wait."""
        return min(count, self.most)

    def ready(self) -> None:
        """Let whatever is waited for be ready, once."""
        waited_for = {*self.reactor.getReaders(), *self.reactor.getWriters()}
        self.assertEqual(len(waited_for), 1)
        (descriptor,) = waited_for
        if descriptor in self.reactor.getReaders():
            descriptor.doRead()
        else:
            descriptor.doWrite()

    def test_header_has_gone_first(self) -> None:
        self.assertEqual(self.client.socket.taken(), b"OK n\n")
        self.assertEqual(self.upstream.producerState, "paused")

    def test_one_relay_takes_a_bounded_part_and_leaves_others_their_turn(self) -> None:
        for most in (8192, 100_000, LARGE):
            self.moves.clear()
            self.most = most
            self.ready()
            self.assertEqual(sum(self.moves), 2 * TURN)

    def test_the_more_relays_there_are_the_less_each_takes_in_one_turn(self) -> None:
        taken = []
        for _ in range(20):
            self.moves.clear()
            self.ready()
            taken.append(sum(self.moves) // 2)
            self.between(self.shared, 1 << 30)
        self.assertEqual(taken, sorted(taken, reverse=True))
        self.assertEqual((taken[0], taken[1], taken[-1]), (TURN, TURN // 2, SLICE))

    def test_all_that_is_moved_is_counted_once(self) -> None:
        self.ready()
        self.assertEqual(self.account.relayed, len(b"OK n\n") + sum(self.moves) // 2)
        self.assertEqual(len(self.progress), 2)

    def test_full_sink_is_waited_for_and_then_the_source(self) -> None:
        answers = [5000, 3000, BlockingIOError(), 1000, BlockingIOError(), 1000, BlockingIOError()]

        def play(count: int) -> int:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.play = play
        self.ready()
        self.assertEqual((self.reactor.getReaders(), len(self.reactor.getWriters())), ([], 1))
        before = len(self.progress)
        self.ready()
        self.assertEqual((self.reactor.getReaders(), len(self.reactor.getWriters())), ([], 1))
        self.assertEqual(len(self.progress), before)
        self.ready()
        self.assertEqual((len(self.reactor.getReaders()), self.reactor.getWriters()), (1, []))
        # Now it is the source's turn, and its time begins.
        self.assertEqual(len(self.progress), before + 1)
        self.assertEqual((answers, self.account.relayed), ([], 5000 + len(b"OK n\n")))

    def test_source_that_ends_or_breaks_is_short(self) -> None:
        for end in (0, ConnectionResetError(errno.ECONNRESET, "reset")):
            self.setUp()
            self.play = mock.Mock(side_effect=[end])
            self.ready()
            self.assertIsInstance(self.ends[0], SourceShort)
            self.assertIn(f"{1 << 30} bytes", self.ends[0].missing)
            self.assertEqual([self.reactor.getReaders(), self.reactor.getWriters()], [[], []])

    def test_broken_sink_is_the_clients_end(self) -> None:
        for error in (BrokenPipeError(), ConnectionResetError(), OSError(errno.ETIMEDOUT, "")):
            self.setUp()
            self.play = mock.Mock(side_effect=[10, error])
            self.ready()
            self.assertIsInstance(self.ends[0], PeerGone)
            self.assertEqual([self.reactor.getReaders(), self.reactor.getWriters()], [[], []])

    def test_outbound_is_free_again_after_stop(self) -> None:
        self.play = mock.Mock(side_effect=[10, BlockingIOError()])
        self.ready()
        self.assertTrue(self.lent.paused)
        self.relay.cancel()
        self.assertFalse(self.lent.paused)
        self.assertIsNone(self.lent._relay)

    def test_nothing_is_told_or_moved_after_stop(self) -> None:
        (descriptor,) = self.reactor.getReaders()
        self.relay.cancel()
        self.relay.cancel()
        self.relay.source_lost()
        self.assertEqual((descriptor.fileno(), self.ends), (-1, []))
        self.assertEqual([self.reactor.getReaders(), self.reactor.getWriters()], [[], []])
        self.assertEqual(self.client.socket.taken(), b"OK n\n")


@skipUnless(hasattr(os, "sendfile"), "no sendfile on this system")
class SendfileTurnTests(KernelCase):
    """One turn of the reactor, with a kernel that is played."""

    def setUp(self) -> None:
        super().setUp()
        self.asked: list[tuple[int, int]] = []
        patched = mock.patch.object(os, "sendfile", self.sendfile)
        patched.start()
        self.addCleanup(patched.stop)

    def sendfile(self, sink: int, source: int, offset: int, count: int) -> int:
        self.asked.append((offset, count))
        self.assertLess(len(self.asked), 100, "it goes on and on")
        return self.play(count)

    def play(self, count: int) -> int:
        return count

    def start(self, cache: PlayedPageCache | None = None) -> Relay:
        relay = self.from_file(self.relays(cache=cache), 10 * STRETCH)
        relay.start()
        return relay

    def test_one_relay_sends_a_stretch_and_leaves_others_their_turn(self) -> None:
        relay = self.start()
        for turn in range(10):
            self.assertEqual(self.asked[-1], (turn * STRETCH, STRETCH))
            self.assertEqual((len(self.asked), self.ends), (turn + 1, [None] * (turn == 9)))
            self.assertEqual(relay.sent, len(b"OK n\n") + (turn + 1) * STRETCH)
            for descriptor in self.reactor.getWriters():
                descriptor.doWrite()
        self.assertEqual(self.reactor.getWriters(), [])

    def test_only_what_is_warm_is_sent_however_little_the_socket_takes(self) -> None:
        cache = PlayedPageCache()
        warm: list[tuple[int, int]] = []
        self.play = lambda count: min(count, 300_000)
        self.start(cache)
        for _ in range(60):
            if self.ends:
                break
            if cache.loading:
                ((_, offset, size),) = cache.loading
                warm.append((offset, offset + size))
                self.assertEqual(self.reactor.getWriters(), [])
                cache.loaded()
            else:
                (descriptor,) = self.reactor.getWriters()
                descriptor.doWrite()
            for offset, count in self.asked:
                self.assertTrue(
                    any(start <= offset and offset + count <= end for start, end in warm),
                    f"{count} bytes from {offset}, but {warm} are warm",
                )
        self.assertEqual(self.ends, [None])

    def test_stray_event_of_the_sink_sends_nothing_that_is_cold(self) -> None:
        cache = PlayedPageCache()
        relay = self.start(cache)
        relay._receiver.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.asked, [])
        cache.loaded()
        self.assertEqual(self.asked, [(0, STRETCH)])

    def test_read_that_is_refused_at_once_is_the_end(self) -> None:
        cache = PlayedPageCache()

        def refuse(*arguments: Any) -> Deferred[None]:
            arguments[-1]()
            return fail(Refusal(429, "too many reads at once"))

        self.patch(cache, "load", refuse)
        self.start(cache)
        self.assertEqual(self.ends[0].code, 429)
        self.assertEqual(self.reactor.getWriters(), [])

    def test_broken_sink_is_the_clients_end(self) -> None:
        for error in (BrokenPipeError(), ConnectionResetError(), OSError(errno.ETIMEDOUT, "")):
            self.setUp()
            self.play = mock.Mock(side_effect=error)
            self.start()
            self.assertIsInstance(self.ends[0], PeerGone)
            self.assertEqual(self.reactor.getWriters(), [])

    def test_failing_disk_is_not_the_clients_end(self) -> None:
        self.play = mock.Mock(side_effect=OSError(errno.EIO, "Input/output error"))
        self.start()
        self.assertEqual(self.ends[0].errno, errno.EIO)
