"""One turn of a splice: how much of a body it moves, what it waits for, and every end."""

from __future__ import annotations

import errno
import os
from socket import SO_RCVLOWAT
from unittest import mock, skipUnless

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from natproxy.relay import PeerGone, SourceShort
from natproxy.relay.low_water import DELAY, MARK
from natproxy.relay.outbound import DIRECT, SocketOutbound
from natproxy.relay.pipes import PipePool
from natproxy.relay.rotation import SLICE, TURN
from natproxy.relay.splice import LEAST_MOVE, WORTHWHILE, SpliceRelay, Waiting
from tests.support.relay_cases import KernelCase, TurnReactor

HEADER = len(b"OK n\n")
ENDLESS = 1 << 40


class PlayedKernel:
    """What the kernel has for one relay, and how much of it a call moves.

    :ivar received: bytes that the source's socket has.
    :ivar ended: whether no more will come.
    :ivar room: bytes that the receiver's socket takes.
    :ivar reported: bytes that it is reported to take; ``None`` for as many.
    :ivar piped: bytes in the pipe.
    :ivar delivered: bytes that the receiver has taken.
    :ivar broken: raised by the next call for the receiver, or for the source.
    """

    def __init__(self) -> None:
        self.received = self.room = ENDLESS
        self.reported: int | None = None
        self.ended = False
        self.piped = self.delivered = 0
        self.broken: dict[str, OSError] = {}
        self.moves: list[int] = []

    def fill(self, size: int) -> int:
        """Move bytes from the source to the pipe."""
        if "source" in self.broken:
            raise self.broken["source"]
        assert not self.piped, "filled while it is not empty"
        moved = min(size, self.received)
        if not moved and not self.ended:
            raise BlockingIOError
        self.received -= moved
        self.piped += moved
        self.moves.append(moved)
        assert len(self.moves) < 10_000, "it moves without end"
        return moved

    def drain(self, size: int) -> int:
        """Move bytes from the pipe to the receiver."""
        if "receiver" in self.broken:
            raise self.broken["receiver"]
        assert size == self.piped
        moved = min(size, self.room)
        if not moved:
            raise BlockingIOError
        self.piped -= moved
        self.room -= moved
        self.delivered += moved
        return moved


@skipUnless(hasattr(os, "splice"), "no splice on this system")
class SpliceTurnTests(KernelCase):
    """One turn of the reactor, with ``os.splice`` patched."""

    def setUp(self) -> None:
        super().setUp()
        self.kernels: dict[int, PlayedKernel] = {}
        self.patch(os, "splice", self.splice)
        self.patch(SocketOutbound, "space", lambda outbound: self.room(outbound))
        self.shared = self.relays()
        self.relay = self.new_relay(ENDLESS)

    def new_relay(self, size: int) -> SpliceRelay:
        """Return a relay of a body between two new connections; it has been started."""
        self.client, self.upstream = self.wire(), self.wire()
        self.kernel = PlayedKernel()
        relay = self.socket_relay(self.shared, size)
        assert isinstance(relay, SpliceRelay)
        self.kernels[relay._source.fileno()] = self.kernel
        self.kernels[relay._receiver.fileno()] = self.kernel
        self.kernels[id(self.client_outbound)] = self.kernel
        relay.start()
        return relay

    def splice(self, source: int, receiver: int, count: int, flags: int = 0) -> int:
        self.assertFalse(flags & os.SPLICE_F_MORE, "the rest would wait for 200 ms")
        self.assertTrue(flags & os.SPLICE_F_NONBLOCK)
        if source in self.kernels:
            return self.kernels[source].fill(count)
        return self.kernels[receiver].drain(count)

    def room(self, outbound: SocketOutbound) -> int:
        kernel = self.kernels[id(outbound)]
        return kernel.room if kernel.reported is None else kernel.reported

    def ready(self, relay: SpliceRelay | None = None) -> None:
        """Make the descriptor that a relay waits for ready, once."""
        relay = relay or self.relay
        if relay._source in self.reactor.getReaders():
            relay._source.doRead()
        else:
            self.assertIn(relay._receiver, self.reactor.getWriters())
            relay._receiver.doWrite()

    def serve(self) -> None:
        """Make the descriptor that the relay waits for ready, and let the relay have its turn."""
        self.ready()
        while self.relay in self.shared.rotation:
            self.turn()

    def turn(self) -> None:
        """Run one turn of the reactor."""
        self.reactor.turn()

    @property
    def watched(self) -> tuple[int, int]:
        """The numbers of the descriptors that are waited for: to read, and to write."""
        return len(self.reactor.getReaders()), len(self.reactor.getWriters())

    def test_header_is_sent_first(self) -> None:
        self.assertEqual(self.client.socket.taken(), b"OK n\n")
        self.assertEqual(self.upstream.producerState, "paused")
        self.assertEqual(self.relay._header, b"", "held until the end of the body")

    def test_one_slice_is_moved_for_one_event(self) -> None:
        self.ready()
        self.assertEqual(self.kernel.moves, [SLICE])
        self.assertEqual(self.watched, (1, 0))

    def test_all_relays_together_move_a_bounded_part_in_one_turn(self) -> None:
        relays = [self.relay, *(self.new_relay(ENDLESS) for _ in range(9))]
        for relay in relays:
            self.ready(relay)
        for turn in range(1, 11):
            moved = sum(kernel.delivered for kernel in set(self.kernels.values()))
            self.assertEqual(moved, turn * TURN)
            self.turn()
        self.assertEqual([kernel.moves for kernel in set(self.kernels.values())], [[SLICE]] * 10)

    def test_relay_in_line_watches_nothing(self) -> None:
        relays = [self.relay, *(self.new_relay(ENDLESS) for _ in range(9))]
        for relay in relays:
            self.ready(relay)
        # Those that had their turn wait for the source, and the first in line has the next one.
        self.assertEqual(self.watched, (TURN // SLICE + 1, 0))
        self.turn()
        self.assertEqual(self.watched, (TURN // SLICE + 1, 0))
        # Only the rotation's turn and the common timer of the low-water marks are scheduled.
        self.assertEqual(len(self.reactor.getDelayedCalls()), 2)

    def test_stray_event_of_a_relay_in_line_moves_nothing(self) -> None:
        self.shared.rotation.count(TURN)
        self.ready()
        self.relay._source.doRead()
        self.assertEqual((self.kernel.moves, len(self.shared.rotation)), ([], 1))
        self.turn()
        self.assertEqual(self.kernel.moves, [SLICE])

    def test_budget_of_the_outbound_limits_what_is_moved_in_one_turn(self) -> None:
        self.client_outbound.budget = DIRECT
        for _ in range(3):
            self.serve()
        self.assertEqual(self.kernel.moves, [DIRECT] * 3)

    def test_every_byte_is_counted_once(self) -> None:
        self.ready()
        self.assertEqual(self.account.relayed, HEADER + SLICE)
        self.assertEqual(self.relay.sent, HEADER + SLICE)
        self.assertEqual(len(self.progress), 2)

    def test_pipe_is_lent_for_a_move_only(self) -> None:
        relays = [self.new_relay(ENDLESS) for _ in range(600)]
        for relay in relays:
            self.assertEqual(self.shared.pool.lent, 0)
            self.ready(relay)
        for _ in range(600):
            self.turn()
        moves = [kernel.moves for kernel in set(self.kernels.values()) if kernel.moves]
        self.assertEqual(moves, [[SLICE]] * 600)
        pool = self.shared.pool
        self.assertEqual((pool.lent, pool.kept, pool.refused), (0, 1, 0))

    def test_no_more_is_moved_than_the_receiver_has_room_for(self) -> None:
        self.kernel.room = WORTHWHILE + 5
        self.ready()
        self.assertEqual((self.kernel.moves, self.shared.pool.lent), ([WORTHWHILE + 5], 0))
        self.assertEqual(self.watched, (1, 0))

    def test_receiver_with_little_room_is_waited_for_without_a_pipe(self) -> None:
        self.kernel.room = WORTHWHILE - 1
        self.ready()
        self.assertEqual((self.kernel.moves, self.shared.pool.lent), ([], 0))
        self.assertEqual(self.watched, (0, 1))
        self.assertTrue(self.client_outbound.paused)
        # It has become writable with the same free space: nothing more can be expected.
        self.ready()
        self.assertEqual(self.kernel.moves, [WORTHWHILE - 1])
        self.assertEqual(self.watched, (1, 0))
        self.assertFalse(self.client_outbound.paused)

    def test_last_bytes_do_not_wait_for_room_that_they_do_not_need(self) -> None:
        self.relay = self.new_relay(WORTHWHILE - 1)
        self.kernel.room = WORTHWHILE - 1
        self.ready()
        self.assertEqual(self.ends, [None])

    def test_receiver_that_is_writable_gets_something_whatever_is_reported(self) -> None:
        self.kernel.reported = -1
        self.ready()
        self.ready()
        self.assertEqual(self.kernel.moves, [LEAST_MOVE])

    def test_receiver_that_takes_less_than_reported_is_waited_for_with_the_pipe(self) -> None:
        self.kernel.reported, self.kernel.room = SLICE, 3000
        self.serve()
        self.assertEqual((self.kernel.piped, self.shared.pool.lent), (SLICE - 3000, 1))
        self.assertEqual((self.watched, self.client_outbound.paused), ((0, 1), True))
        before = len(self.progress)
        self.serve()
        self.assertEqual((self.kernel.piped, self.watched), (SLICE - 3000, (0, 1)))
        self.kernel.room = 1000
        self.serve()
        self.assertEqual((self.kernel.piped, self.watched), (SLICE - 4000, (0, 1)))
        self.assertEqual(len(self.progress), before)
        self.kernel.room = SLICE
        self.serve()
        self.assertEqual((self.kernel.moves, self.shared.pool.lent), ([SLICE], 0))
        self.assertEqual((self.watched, self.client_outbound.paused), ((1, 0), False))
        # The time-out of the source begins.
        self.assertEqual(len(self.progress), before + 1)
        self.assertEqual(self.account.relayed, HEADER + SLICE)

    def test_stop_hands_on_what_is_in_the_pipe(self) -> None:
        self.kernel.reported, self.kernel.room = SLICE, 3000
        self.serve()
        self.assertEqual(self.kernel.piped, SLICE - 3000)
        piped = bytes(SLICE - 3000)
        with mock.patch("os.read", side_effect=lambda descriptor, size: piped[:size]) as read:
            self.relay.stop()
        self.assertEqual(read.call_count, 1)
        self.assertEqual(self.account.relayed, HEADER + SLICE)
        self.assertEqual(self.shared.pool.lent, 0)

    def test_time_out_of_a_receiver_begins_again_with_each_byte_that_it_takes(self) -> None:
        changes: list[bool] = []
        self.kernel.reported, self.kernel.room = SLICE, 3000
        self.client_outbound._changed = lambda: changes.append(self.client_outbound.paused)
        self.serve()
        self.assertEqual(changes, [True])
        self.serve()
        self.assertEqual(changes, [True])
        self.kernel.room = 1
        self.serve()
        self.assertEqual(changes, [True, True])

    def test_relay_with_bytes_in_a_pipe_goes_before_the_others(self) -> None:
        self.kernel.reported, self.kernel.room = SLICE, 3000
        self.ready()
        slow, kernel = self.relay, self.kernel
        others = [self.new_relay(ENDLESS) for _ in range(5)]
        for other in others:
            self.ready(other)
        kernel.room = SLICE
        self.ready(slow)
        self.turn()
        self.assertEqual((kernel.piped, self.shared.pool.lent), (0, 0))

    def test_stalled_receivers_leave_pipes_for_the_others(self) -> None:
        stalled = [self.new_relay(ENDLESS) for _ in range(100)]
        for relay in stalled:
            self.kernels[relay._source.fileno()].room = 0
            self.ready(relay)
        while len(self.shared.rotation):
            self.turn()
        self.assertEqual((self.shared.pool.lent, self.watched), (0, (1, 100)))
        self.ready()
        self.assertEqual(sum(sum(kernel.moves) for kernel in set(self.kernels.values())), SLICE)

    def test_without_a_pipe_one_piece_is_copied_and_the_next_is_spliced_again(self) -> None:
        upstream = self.upstream.socket._peers
        body = bytes(range(256)) * (DIRECT // 256)
        with mock.patch.object(PipePool, "lend", return_value=None):
            upstream.send(body + body)
            self.ready()
        self.assertEqual(self.client.socket.taken(), b"OK n\n" + body)
        self.assertEqual(self.account.relayed, HEADER + DIRECT)
        self.ready()
        self.assertEqual(self.kernel.moves, [SLICE])
        self.assertEqual(self.account.relayed, HEADER + DIRECT + SLICE)

    def test_copied_piece_that_the_receiver_does_not_take_is_flushed_first(self) -> None:
        upstream = self.upstream.socket._peers
        self.client.socket.room = 10
        with mock.patch.object(PipePool, "lend", return_value=None):
            upstream.send(b"x" * 30)
            self.ready()
            self.assertEqual((self.watched, self.client_outbound.paused), ((0, 0), True))
            self.assertEqual(self.client.drain(), b"x" * 20)
        self.assertEqual((self.watched, self.client_outbound.paused), ((1, 0), False))

    def test_stray_event_moves_nothing_before_what_was_written(self) -> None:
        upstream = self.upstream.socket._peers
        self.client.socket.room = 10
        with mock.patch.object(PipePool, "lend", return_value=None):
            upstream.send(b"x" * 30)
            self.ready()
        self.relay._source.connectionLost(Failure(ConnectionLost()))
        self.assertEqual((self.kernel.moves, self.watched), ([], (0, 0)))

    def test_without_a_pipe_every_end_is_reported(self) -> None:
        with mock.patch.object(PipePool, "lend", return_value=None):
            # There is nothing to read yet.
            self.ready()
            self.assertEqual((self.ends, self.watched), ([], (1, 0)))
            self.relay = self.new_relay(1 << 20)
            self.upstream.socket._peers.close()
            self.ready()
            self.assertEqual(self.ends.error(SourceShort).missing, f"{1 << 20} bytes")

    def test_source_that_ends_or_breaks_is_short(self) -> None:
        for broken in (None, ConnectionResetError(errno.ECONNRESET, "reset")):
            self.setUp()
            self.kernel.received, self.kernel.ended = 0, True
            if broken is not None:
                self.kernel.broken["source"] = broken
            self.ready()
            self.assertIn(f"{ENDLESS} bytes", self.ends.error(SourceShort).missing)
            self.assertEqual((self.watched, self.shared.pool.lent), ((0, 0), 0))
            self.assertEqual(self.shared.pool.kept, 1)

    def test_source_with_nothing_to_read_is_waited_for(self) -> None:
        self.kernel.received = 0
        self.ready()
        self.assertEqual((self.ends, self.watched), ([], (1, 0)))
        self.assertEqual((self.shared.pool.lent, self.shared.pool.kept), (0, 1))

    def test_broken_receiver_is_reported_as_peer_gone(self) -> None:
        for error in (BrokenPipeError(), ConnectionResetError(), OSError(errno.ETIMEDOUT, "")):
            self.setUp()
            self.kernel.broken["receiver"] = error
            self.ready()
            self.assertIsInstance(self.ends[0], PeerGone)
            self.assertEqual((self.watched, self.shared.pool.lent), ((0, 0), 0))
            # It holds bytes that belong to this relay only.
            self.assertEqual(self.shared.pool.kept, 0)

    def test_outbound_is_free_after_cancel(self) -> None:
        self.kernel.room = 0
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
        self.assertEqual(self.watched, (0, 0))
        self.assertEqual(self.client.socket.taken(), b"OK n\n")

    def test_relay_that_is_cancelled_in_line_has_no_turn(self) -> None:
        self.shared.rotation.count(TURN)
        self.ready()
        self.assertIn(self.relay, self.shared.rotation)
        self.relay.cancel()
        self.assertEqual(len(self.shared.rotation), 0)
        self.reactor.advance(2 * DELAY)
        self.assertEqual((self.kernel.moves, self.ends), ([], []))

    def test_source_that_is_lost_in_line_is_short(self) -> None:
        self.shared.rotation.count(TURN)
        self.ready()
        self.relay.source_lost()
        self.ends.error(SourceShort)
        self.reactor.advance(2 * DELAY)
        self.assertEqual((self.kernel.moves, len(self.ends)), ([], 1))

    def test_unexpected_exception_ends_the_relay_with_an_error(self) -> None:
        self.relay.fail_turn(ZeroDivisionError())
        self.relay.fail_turn(ZeroDivisionError())
        self.ends.error(ZeroDivisionError)
        self.assertEqual(self.watched, (0, 0))

    def marks(self) -> list[int]:
        """Return the low-water marks that were set on the upstream's socket."""
        options = self.upstream.socket.options
        return [value for option, value in options if option == SO_RCVLOWAT]

    def test_source_has_a_low_water_mark_up_to_the_rest_of_the_body(self) -> None:
        self.relay = self.new_relay(2 * MARK)
        self.kernel.received = MARK + 100_000
        self.serve()
        self.assertEqual(self.marks(), [MARK, MARK - 100_000])
        self.kernel.received = MARK - 100_001
        self.serve()
        # For the last byte there is none.
        self.assertEqual(self.marks(), [MARK, MARK - 100_000, 1])
        self.kernel.received = 1
        self.serve()
        self.assertEqual((self.ends, len(self.marks())), ([None], 3))

    def test_bytes_below_the_mark_are_moved_after_the_delay(self) -> None:
        self.reactor.advance(DELAY)
        self.assertEqual(self.marks(), [MARK, 1])
        self.kernel.received = 1024
        self.ready()
        self.assertEqual((self.kernel.moves, self.marks()), ([1024], [MARK, 1]))

    def test_source_that_sends_fast_again_has_a_mark_again(self) -> None:
        self.reactor.advance(DELAY)
        self.serve()
        self.assertEqual(self.marks(), [MARK, 1, MARK])

    def test_mark_that_was_reached_stays_while_the_receiver_is_waited_for(self) -> None:
        self.kernel.room = WORTHWHILE - 1
        self.ready()
        self.reactor.advance(2 * DELAY)
        self.assertEqual((self.watched, self.marks()), ((0, 1), [MARK]))

    def test_mark_is_reset_at_the_end(self) -> None:
        self.relay.cancel()
        self.assertEqual(self.marks(), [MARK, 1])
        self.assertEqual(self.watched, (0, 0))

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 2 * SLICE), st.integers(0, 2 * SLICE), st.booleans()),
            max_size=20,
        ),
        st.integers(128 * 1024, 4 * SLICE),
    )
    def test_every_byte_of_any_body_is_moved_in_order_and_no_pipe_is_left(
        self, steps: list[tuple[int, int, bool]], size: int
    ) -> None:
        self.kernels.clear()
        self.reactor = TurnReactor()
        self.shared = self.relays()
        relay = self.relay = self.new_relay(size)
        kernel = self.kernel
        kernel.received = kernel.room = 0
        for received, room, wrong in [*steps, *[(SLICE, SLICE, False)] * 20]:
            if self.ends:
                break
            # As much as a peer sends and reads, and a kernel that reports too much free space.
            kernel.received = min(
                kernel.received + received, size - kernel.delivered - kernel.piped
            )
            kernel.room = min(kernel.room + room, 2 * SLICE)
            kernel.reported = 2 * SLICE if wrong else None
            if kernel.received or relay._waiting is not Waiting.SOURCE:
                self.ready()
            self.turn()
        self.assertEqual((self.ends, kernel.delivered), ([None], size))
        self.assertEqual(self.account.relayed, HEADER + size)
        self.assertEqual((self.shared.pool.lent, self.watched), (0, (0, 0)))
        self.ends.clear()
