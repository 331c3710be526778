"""Sending a file by ``sendfile``: one turn of it, parts of files, and every end."""

from __future__ import annotations

import errno
import os
from typing import Any
from unittest import mock, skipUnless

from hypothesis import given, settings
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import Refusal
from natproxy.relay import Method, PeerGone, Relay, Relays, SourceChanged
from natproxy.relay.outbound import DIRECT
from natproxy.relay.rotation import SLICE, TURN
from natproxy.relay.sendfile import SendfileRelay
from tests.support.doubles import PlayedPageCache, SocketWire
from tests.support.relay_cases import (
    HEADER,
    LARGE_CONTENT,
    FileParts,
    KernelCase,
    TurnReactor,
    parts,
)


@skipUnless(hasattr(os, "sendfile"), "no sendfile on this system")
class SendfileTurnTests(KernelCase):
    """One turn of the reactor, with ``os.sendfile`` patched."""

    def setUp(self) -> None:
        super().setUp()
        self.calls: list[tuple[int, int]] = []
        patched = mock.patch.object(os, "sendfile", self.sendfile)
        patched.start()
        self.addCleanup(patched.stop)

    def sendfile(self, receiver: int, file: int, offset: int, count: int) -> int:
        self.calls.append((offset, count))
        self.assertLess(len(self.calls), 100, "sendfile is called without end")
        return self.play(count)

    def play(self, count: int) -> int:
        return count

    def start(self, cache: PlayedPageCache | None = None) -> Relay:
        relay = self.file_relay(self.relays(cache=cache), 10 * SLICE)
        relay.start()
        return relay

    def test_one_slice_is_sent_for_one_event(self) -> None:
        relay = self.start()
        for turn in range(10):
            self.assertEqual(self.calls[-1], (turn * SLICE, SLICE))
            self.assertEqual((len(self.calls), self.ends), (turn + 1, [None] * (turn == 9)))
            self.assertEqual(relay.sent, len(b"OK n\n") + (turn + 1) * SLICE)
            for descriptor in self.reactor.getWriters():
                descriptor.doWrite()
            self.reactor.turn()
        self.assertEqual(self.reactor.getWriters(), [])

    def test_relay_waits_in_line_when_the_bytes_of_the_turn_are_used_up(self) -> None:
        relays = self.relays()
        relays.rotation.count(TURN)
        relay = self.file_relay(relays, 10 * SLICE)
        relay.start()
        self.assertEqual(self.client.socket.taken(), b"OK n\n")
        self.assertEqual((self.calls, self.reactor.getWriters()), ([], []))
        self.reactor.turn()
        self.assertEqual(self.calls, [(0, SLICE)])
        (descriptor,) = self.reactor.getWriters()
        relays.rotation.count(TURN)
        descriptor.doWrite()
        self.assertEqual((len(self.calls), len(relays.rotation)), (1, 1))
        relay.cancel()
        self.assertEqual(self.reactor.getWriters(), [])
        self.reactor.turn()
        self.assertEqual((len(self.calls), len(relays.rotation)), (1, 0))

    def test_relay_that_has_sent_a_slice_goes_to_the_end_of_the_line(self) -> None:
        relays = self.relays()
        relays.rotation.count(TURN)
        made = [self.file_relay(relays, 10 * SLICE) for _ in range(3)]
        for relay in made:
            relay.start()
        for turn in range(9):
            self.assertEqual((len(relays.rotation), self.reactor.getWriters()), (3, []))
            self.reactor.turn()
            self.assertEqual(
                [relay.sent // SLICE for relay in made], [(turn + n) // 3 for n in (3, 2, 1)]
            )
        # Clients that take less are waited for; two half slices fit into one turn.
        self.play = lambda size: size // 2
        self.reactor.turn()
        self.assertEqual((len(relays.rotation), len(self.reactor.getWriters())), (1, 2))

    def test_budget_of_the_outbound_limits_what_is_sent_in_one_turn(self) -> None:
        relay = self.file_relay(self.relays(), 3 * DIRECT)
        self.client_outbound.budget = DIRECT
        relay.start()
        for turn in range(3):
            self.assertEqual(self.calls[turn:], [(turn * DIRECT, DIRECT)])
            for descriptor in self.reactor.getWriters():
                descriptor.doWrite()
        self.assertEqual(self.ends, [None])

    def test_only_cached_bytes_are_sent_even_if_the_socket_takes_few(self) -> None:
        cache = PlayedPageCache()
        loaded: list[tuple[int, int]] = []
        self.play = lambda count: min(count, 300_000)
        self.start(cache)
        for _ in range(60):
            if self.ends:
                break
            if cache.loading:
                ((_, offset, size),) = cache.loading
                loaded.append((offset, offset + size))
                self.assertEqual(self.reactor.getWriters(), [])
                cache.loaded()
            else:
                (descriptor,) = self.reactor.getWriters()
                descriptor.doWrite()
            self.reactor.turn()
            for offset, count in self.calls:
                self.assertTrue(
                    any(start <= offset and offset + count <= end for start, end in loaded),
                    f"{count} bytes from {offset}, but only {loaded} are cached",
                )
        self.assertEqual(self.ends, [None])

    def test_stray_event_of_the_receiver_sends_nothing_that_is_not_cached(self) -> None:
        cache = PlayedPageCache()
        relay = self.start(cache)
        relay._receiver.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.calls, [])
        cache.loaded()
        self.assertEqual(self.calls, [(0, SLICE)])

    def test_read_that_is_refused_at_once_is_reported(self) -> None:
        cache = PlayedPageCache()

        def refuse(*arguments: Any) -> Deferred[None]:
            arguments[-1]()
            return fail(Refusal(429, "too many reads at once"))

        self.patch(cache, "load", refuse)
        self.start(cache)
        self.assertEqual(self.ends[0].code, 429)
        self.assertEqual(self.reactor.getWriters(), [])

    def test_broken_receiver_is_reported_as_peer_gone(self) -> None:
        for error in (BrokenPipeError(), ConnectionResetError(), OSError(errno.ETIMEDOUT, "")):
            self.setUp()
            self.play = mock.Mock(side_effect=error)
            self.start()
            self.assertIsInstance(self.ends[0], PeerGone)
            self.assertEqual(self.reactor.getWriters(), [])

    def test_failing_disk_is_reported_with_its_error(self) -> None:
        self.play = mock.Mock(side_effect=OSError(errno.EIO, "Input/output error"))
        self.start()
        self.assertEqual(self.ends[0].errno, errno.EIO)


@skipUnless(hasattr(os, "splice"), "no sendfile of this kind on this system")
class SendfilePartsTests(FileParts, SynchronousTestCase):
    """Parts of files, sent by the kernel to a socket."""

    kind = SendfileRelay

    @settings(deadline=None, database=None)
    @given(parts())
    def test_any_part(self, part: tuple[bytes, int, int]) -> None:
        self.new_client()
        self.assert_all_arrives(*part)

    def new_client(self) -> None:
        self.reactor = TurnReactor()
        self.client = SocketWire(9001, 43_210)
        self.addCleanup(self.client.socket.close)
        self.relays = Relays(self.reactor, Method.KERNEL)

    def take(self) -> None:
        self.received += self.client.socket.taken()
        for descriptor in self.reactor.getWriters():
            descriptor.doWrite()
        self.reactor.turn()

    def test_only_the_last_byte_is_held_back(self) -> None:
        self.relay(LARGE_CONTENT, 0, 100, lambda: False)
        self.run_to_the_end()
        self.assertEqual(self.received, HEADER + LARGE_CONTENT[:99])

    def test_last_byte_waits_for_the_socket(self) -> None:
        results = [True, True, True]
        full = mock.patch.object(os, "write", side_effect=BlockingIOError)
        with full:
            self.relay(LARGE_CONTENT, 0, 100, results.pop)
            self.take()
            self.take()
            self.assertEqual((self.received, self.ends), (HEADER + LARGE_CONTENT[:99], []))
        self.run_to_the_end()
        self.assertEqual(self.received, HEADER + LARGE_CONTENT[:100])

    def test_change_while_the_last_byte_waits(self) -> None:
        results = [False, True]
        with mock.patch.object(os, "write", side_effect=BlockingIOError):
            self.relay(LARGE_CONTENT, 0, 100, results.pop)
            self.take()
        self.run_to_the_end()
        self.assertIsInstance(self.ends[0], SourceChanged)
        self.assertEqual(self.received, HEADER + LARGE_CONTENT[:99])
