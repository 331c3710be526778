"""Low-water marks: never above the rest of a body, never for long, only for fast sources."""

from __future__ import annotations

import errno
from socket import SO_RCVLOWAT
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.relay.low_water import DELAY, FAST, LEAST, MARK, LowWater, Mark
from tests.support.doubles import PlayedSocket


class LowWaterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.low_water = LowWater(self.clock)
        self.mark = self.new_mark()

    def new_mark(self) -> Mark:
        self.socket = PlayedSocket()
        self.addCleanup(self.socket.close)
        return self.low_water.of(self.socket)

    @property
    def options(self) -> list[int]:
        """The marks that were set on the newest socket."""
        assert all(option == SO_RCVLOWAT for option, _ in self.socket.options)
        return [value for _, value in self.socket.options]

    def test_mark_is_never_above_the_rest_of_the_body(self) -> None:
        for remaining in (1 << 40, MARK + 1, MARK, MARK - 1, LEAST + 1):
            self.mark.wait(remaining)
            self.assertEqual(self.mark.value, min(MARK, remaining))
            self.mark.reached()
        self.mark.wait(LEAST)
        self.assertEqual((self.mark.value, self.options[-1]), (1, 1))
        self.mark.wait(1)
        self.assertEqual(self.options, [MARK, MARK - 1, LEAST + 1, 1])

    def test_small_body_has_no_mark(self) -> None:
        self.mark.wait(LEAST)
        self.mark.reached()
        self.mark.close()
        self.assertEqual((self.options, self.clock.getDelayedCalls()), ([], []))

    def test_same_mark_is_set_once(self) -> None:
        for _ in range(5):
            self.mark.wait(1 << 40)
            self.mark.reached()
            self.mark.moved(MARK)
        self.assertEqual(self.options, [MARK])

    def test_mark_that_is_not_reached_is_lowered(self) -> None:
        self.mark.wait(1 << 40)
        self.clock.advance(DELAY * 0.9)
        self.assertEqual(self.options, [MARK])
        self.clock.advance(DELAY * 0.2)
        self.assertEqual(self.options, [MARK, 1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_wait_has_the_whole_delay_and_all_have_one_timer(self) -> None:
        marks = []
        for _ in range(10):
            marks.append(self.new_mark())
            marks[-1].wait(1 << 40)
            self.clock.advance(DELAY / 20)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(DELAY / 2)
        for lowered in range(1, 11):
            self.assertEqual(
                [mark.value for mark in marks], [1] * lowered + [MARK] * (10 - lowered)
            )
            self.clock.advance(DELAY / 20)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_source_that_drips_has_no_mark_again(self) -> None:
        self.mark.wait(1 << 40)
        self.clock.advance(2 * DELAY)
        for _ in range(2 * MARK // 1024):
            self.mark.reached()
            self.mark.moved(1024)
            self.mark.wait(1 << 40)
            self.clock.advance(1.0)
        self.assertEqual(self.options, [MARK, 1])

    def test_source_that_sends_fast_again_has_a_mark_again(self) -> None:
        for pieces in ([FAST], [16 * 1024] * (MARK // (16 * 1024))):
            self.mark.wait(1 << 40)
            self.clock.advance(2 * DELAY)
            for piece in pieces:
                self.assertEqual(self.mark.value, 1)
                self.mark.reached()
                self.mark.moved(piece)
                self.mark.wait(1 << 40)
                self.clock.advance(DELAY / 1000)
            self.assertEqual(self.mark.value, MARK)
            self.mark.reached()

    def test_source_that_is_fast_in_pieces_only_now_and_then_has_no_mark(self) -> None:
        self.mark.wait(1 << 40)
        self.clock.advance(2 * DELAY)
        for _ in range(50):
            self.mark.reached()
            self.mark.moved(FAST - 1)
            self.mark.wait(1 << 40)
            self.clock.advance(DELAY)
            self.assertEqual(self.mark.value, 1)

    def test_kernel_that_refuses_is_asked_once(self) -> None:
        refused = mock.Mock(side_effect=OSError(errno.ENOPROTOOPT, "refused"))
        self.patch(self.socket, "setsockopt", refused)
        for _ in range(3):
            self.mark.wait(1 << 40)
            self.mark.reached()
        self.mark.close()
        refused.assert_called_once()
        self.assertEqual((self.mark.value, self.clock.getDelayedCalls()), (1, []))

    def test_mark_is_reset_at_the_end(self) -> None:
        self.mark.wait(1 << 40)
        self.mark.close()
        self.assertEqual(self.options, [MARK, 1])
        self.clock.advance(2 * DELAY)
        self.assertEqual(self.options, [MARK, 1])

    def test_no_timer_is_left_after_close(self) -> None:
        self.mark.wait(1 << 40)
        self.low_water.close()
        self.low_water.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.mark.close()

    @given(
        st.lists(
            st.tuples(st.integers(1, 2 * MARK), st.floats(0, 3 * DELAY, allow_nan=False)),
            min_size=1,
            max_size=30,
        )
    )
    def test_bytes_never_wait_longer_than_the_delay(self, pieces: list[tuple[int, float]]) -> None:
        self.setUp()
        remaining = sum(size for size, _ in pieces)
        for size, seconds in pieces:
            self.mark.wait(remaining)
            self.assertLessEqual(self.mark.value, max(1, remaining))
            self.clock.advance(seconds)
            if seconds > DELAY:
                self.assertEqual(self.mark.value, 1)
            self.mark.reached()
            self.mark.moved(size)
            remaining -= size
        self.mark.close()
        self.assertEqual(self.mark.value, 1)
