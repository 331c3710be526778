"""The sums of a window of time: bounded in memory, complete in total."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.top import window as windows
from natproxy.cli.top.window import OTHERS, SLOTS, Window
from natproxy.journal.postgres.activity import Open, Sum

SECOND = 1_000_000
LENGTH = 60 * SECOND


def sum_of(moment: int, key: str | None, commands: int = 1, failed: int = 0, size: int = 0) -> Sum:
    return Sum(moment // (LENGTH // SLOTS), key, commands, failed, size)


class WindowTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.window = Window(LENGTH)

    def test_rates_are_of_the_whole_window(self) -> None:
        now = 1000 * SECOND
        self.window.add(
            [sum_of(now, "a", 120, 6, 600), sum_of(now, None, 120, 6, 600)],
            [Open("a", 2, 50), Open(None, 2, 50)],
            now,
        )
        (row,) = self.window.rows()
        self.assertEqual((row.key, row.in_flight, row.sent), ("a", 2, 650))
        self.assertEqual((row.finished, row.failed, row.rate), (2.0, 0.1, 10.0))
        total = self.window.total()
        self.assertEqual((total.in_flight, total.finished, total.rate), (2, 2.0, 10.0))

    def test_what_has_left_the_window_is_discarded(self) -> None:
        now = 1000 * SECOND
        self.window.add([sum_of(now, "a"), sum_of(now, None)], [], now)
        self.window.add([], [], now + LENGTH)
        self.assertEqual(len(self.window.rows()), 1)
        self.window.add([], [], now + LENGTH + 2 * SECOND)
        self.assertEqual(self.window.rows(), [])
        self.assertEqual(self.window.total().finished, 0)

    def test_what_is_open_is_replaced(self) -> None:
        self.window.add([], [Open("a", 1, 1), Open(None, 1, 1)], 0)
        self.window.add([], [Open("b", 1, 1), Open(None, 1, 1)], 0)
        self.assertEqual([row.key for row in self.window.rows()], ["b"])

    def test_cleared_window_is_empty(self) -> None:
        self.window.add([sum_of(0, "a"), sum_of(0, None)], [], 0)
        self.window.clear()
        self.assertEqual(self.window.rows(), [])

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 9))))
    def test_rows_sum_up_to_the_total_however_many_groups_there_are(
        self, found: list[tuple[int, int, int]]
    ) -> None:
        self.patch(windows, "MOST", 2)
        window = Window(LENGTH)
        for slot, key, commands in found:
            moment = slot * SECOND
            window.add(
                [
                    sum_of(moment, str(key), commands, 1, commands),
                    sum_of(moment, None, commands, 1, commands),
                ],
                [Open("0", 1, 0), Open(None, 3, 7)],
                5 * SECOND,
            )
        rows = window.rows()
        total = window.total()
        sums = Counter[str]()
        for row in rows:
            sums["finished"] += round(row.finished * 60)
            sums["failed"] += round(row.failed * 60)
            sums["in flight"] += row.in_flight
        self.assertEqual(sums["finished"], sum(commands for _, _, commands in found))
        self.assertEqual(sums["failed"], len(found))
        self.assertEqual(sums["in flight"], total.in_flight)
        # Four groups of each of six slots, one that is open, and the others.
        self.assertLessEqual(len(rows), 26)
        if found:
            self.assertIn(OTHERS, [row.key for row in rows])
