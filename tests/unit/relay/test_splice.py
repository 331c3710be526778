"""One turn of a splice: how much of a body it moves, what it waits for, and every end."""

from __future__ import annotations

import errno
import os
from unittest import mock, skipUnless

from natproxy.relay import PeerGone, SourceShort
from natproxy.relay.outbound import LEAST_BUDGET
from natproxy.relay.pipes import LARGE
from natproxy.relay.splice import SLICE, TURN
from tests.support.relay_cases import KernelCase


@skipUnless(hasattr(os, "splice"), "no splice on this system")
class SpliceTurnTests(KernelCase):
    """One turn of the reactor, with ``os.splice`` patched."""

    def setUp(self) -> None:
        super().setUp()
        self.moves: list[int] = []
        self.most = 1 << 40
        patched = mock.patch.object(os, "splice", self.splice)
        patched.start()
        self.addCleanup(patched.stop)
        self.shared = self.relays()
        self.relay = self.socket_relay(self.shared, 1 << 30)
        self.relay.start()

    def splice(self, source: int, receiver: int, count: int, flags: int = 0) -> int:
        self.assertFalse(flags & os.SPLICE_F_MORE, "the rest would wait for 200 ms")
        self.assertTrue(flags & os.SPLICE_F_NONBLOCK)
        moved = self.play(count)
        self.moves.append(moved)
        self.assertLess(len(self.moves), 1000, "splice is called without end")
        return moved

    def play(self, count: int) -> int:
        """Return how many bytes are moved: all, from a source and to a receiver that never wait."""
        return min(count, self.most)

    def ready(self) -> None:
        """Make the descriptor that is waited for ready, once."""
        waited_for = {*self.reactor.getReaders(), *self.reactor.getWriters()}
        self.assertEqual(len(waited_for), 1)
        (descriptor,) = waited_for
        if descriptor in self.reactor.getReaders():
            descriptor.doRead()
        else:
            descriptor.doWrite()

    def test_header_is_sent_first(self) -> None:
        self.assertEqual(self.client.socket.taken(), b"OK n\n")
        self.assertEqual(self.upstream.producerState, "paused")
        self.assertEqual(self.relay._header, b"", "held until the end of the body")

    def test_one_relay_moves_a_bounded_part_in_one_turn(self) -> None:
        for most in (8192, 100_000, LARGE):
            self.moves.clear()
            self.most = most
            self.ready()
            self.assertEqual(sum(self.moves), 2 * TURN)

    def test_relays_share_what_is_moved_in_one_turn(self) -> None:
        taken = []
        for _ in range(20):
            self.moves.clear()
            self.ready()
            taken.append(sum(self.moves) // 2)
            self.socket_relay(self.shared, 1 << 30)
        self.assertEqual(taken, sorted(taken, reverse=True))
        self.assertEqual((taken[0], taken[1], taken[-1]), (TURN, TURN // 2, SLICE))

    def test_budget_of_the_outbound_limits_what_is_moved_in_one_turn(self) -> None:
        self.client_outbound.budget = LEAST_BUDGET
        for _ in range(3):
            self.moves.clear()
            self.ready()
            self.assertEqual(sum(self.moves), 2 * LEAST_BUDGET)

    def test_every_byte_is_counted_once(self) -> None:
        self.ready()
        self.assertEqual(self.account.relayed, len(b"OK n\n") + sum(self.moves) // 2)
        self.assertEqual(len(self.progress), 2)

    def test_full_receiver_is_waited_for_and_then_the_source(self) -> None:
        results = [5000, 3000, BlockingIOError(), 1000, BlockingIOError(), 1000, BlockingIOError()]

        def play(count: int) -> int:
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        self.play = play
        self.ready()
        self.assertEqual((self.reactor.getReaders(), len(self.reactor.getWriters())), ([], 1))
        before = len(self.progress)
        self.ready()
        self.assertEqual((self.reactor.getReaders(), len(self.reactor.getWriters())), ([], 1))
        self.assertEqual(len(self.progress), before)
        self.ready()
        self.assertEqual((len(self.reactor.getReaders()), self.reactor.getWriters()), (1, []))
        # The time-out of the source begins.
        self.assertEqual(len(self.progress), before + 1)
        self.assertEqual((results, self.account.relayed), ([], 5000 + len(b"OK n\n")))

    def test_source_that_ends_or_breaks_is_short(self) -> None:
        for end in (0, ConnectionResetError(errno.ECONNRESET, "reset")):
            self.setUp()
            self.play = mock.Mock(side_effect=[end])
            self.ready()
            self.assertIsInstance(self.ends[0], SourceShort)
            self.assertIn(f"{1 << 30} bytes", self.ends[0].missing)
            self.assertEqual([self.reactor.getReaders(), self.reactor.getWriters()], [[], []])

    def test_broken_receiver_is_reported_as_peer_gone(self) -> None:
        for error in (BrokenPipeError(), ConnectionResetError(), OSError(errno.ETIMEDOUT, "")):
            self.setUp()
            self.play = mock.Mock(side_effect=[10, error])
            self.ready()
            self.assertIsInstance(self.ends[0], PeerGone)
            self.assertEqual([self.reactor.getReaders(), self.reactor.getWriters()], [[], []])

    def test_outbound_is_free_after_cancel(self) -> None:
        self.play = mock.Mock(side_effect=[10, BlockingIOError()])
        self.ready()
        self.assertTrue(self.client_outbound.paused)
        self.relay.cancel()
        self.assertFalse(self.client_outbound.paused)
        self.assertIsNone(self.client_outbound._relay)

    def test_nothing_is_reported_or_moved_after_cancel(self) -> None:
        (descriptor,) = self.reactor.getReaders()
        self.relay.cancel()
        self.relay.cancel()
        self.relay.source_lost()
        self.assertEqual((descriptor.fileno(), self.ends), (-1, []))
        self.assertEqual([self.reactor.getReaders(), self.reactor.getWriters()], [[], []])
        self.assertEqual(self.client.socket.taken(), b"OK n\n")
