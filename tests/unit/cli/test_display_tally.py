"""Totals of events."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.display.tally import REMEMBERED, Tally
from natproxy.client.events import Event, Phase


class TallyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.tally = Tally(self.clock.seconds)

    def add(
        self,
        phase: Phase,
        done: int,
        size: int | None = 10000,
        name: bytes = b"a",
        after: float = 0,
        message: str = "",
        files: int = 0,
    ) -> None:
        self.clock.advance(after)
        self.tally.add(Event(name, phase, done, size, message, files))

    def test_resumed_bytes_do_not_count_as_speed(self) -> None:
        self.add(Phase.RECEIVING, 8000)
        self.add(Phase.RECEIVING, 9000, after=1)
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.bytes_total, view.received), (9000, 10000, 1000))
        self.assertEqual((view.per_second, view.seconds_left), (1000, 1))
        (row,) = view.rows
        self.assertEqual((row.done, row.per_second, row.seconds_left), (9000, 1000, 1))

    def test_hashed_bytes_are_neither_received_nor_present(self) -> None:
        self.add(Phase.HASHING, 0)
        self.add(Phase.HASHING, 8000, after=1)
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.received, view.per_second), (0, 0, 0))
        (row,) = view.rows
        self.assertEqual((row.per_second, row.seconds_left), (8000, None))
        self.add(Phase.VERIFYING, 0)
        self.add(Phase.COMPLETE, 10000)
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.received), (10000, 0))

    def test_files_that_are_received_together_count_when_they_are_received(self) -> None:
        self.tally.expect(3, 9000)
        self.add(Phase.RECEIVING, 4000, None, b"", after=1, files=1)
        self.add(Phase.RECEIVING, 4000, None, b"", after=1, files=1)
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.received, view.files_done), (8000, 8000, 0))
        self.assertEqual(view.files_received, 2)
        self.assertEqual((view.per_second, view.seconds_left, view.rows), (4000, 0.25, []))
        self.add(Phase.COMPLETE, 5000, 5000, b"a")
        self.add(Phase.UNCHANGED, 1000, 1000, b"b")
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.received, view.files_done), (9000, 8000, 2))
        self.assertEqual(view.files_received, 3)
        # Received, and not written.
        self.add(Phase.FAILED, 0, 3000, b"c", message="full")
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.received, view.files_failed), (6000, 8000, 1))
        self.assertEqual(view.files_received, 2)
        self.assertEqual([row.name for row in view.ended], [b"a", b"b", b"c"])
        # Those of the next directory.
        self.tally.expect(5, 14000)
        self.add(Phase.RECEIVING, 2000, None, b"", after=1, files=1)
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.received, view.files_received), (8000, 10000, 3))

    def test_discarded_bytes_count_as_received(self) -> None:
        self.add(Phase.RECEIVING, 0)
        self.add(Phase.RECEIVING, 4000)
        self.add(Phase.RESTARTING, 0)
        self.assertEqual(self.tally.view().bytes_done, 0)
        self.add(Phase.RECEIVING, 0, 5000)
        self.add(Phase.RECEIVING, 5000, 5000)
        self.add(Phase.COMPLETE, 5000, 5000)
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.bytes_total, view.received), (5000, 5000, 9000))

    def test_waiting_loses_nothing(self) -> None:
        self.add(Phase.RECEIVING, 1000)
        self.add(Phase.RECEIVING, 2000)
        self.add(Phase.WAITING, 0)
        self.assertEqual(self.tally.view().bytes_done, 2000)
        # The first event after it may come with the first bytes.
        self.add(Phase.RECEIVING, 3000)
        self.assertEqual(self.tally.view().received, 2000)

    def test_bytes_without_an_event_count_as_received_at_the_end(self) -> None:
        self.add(Phase.COMPLETE, 10, 10, b"small")
        self.add(Phase.RECEIVING, 0, 10, b"other")
        self.add(Phase.VERIFYING, 0, 10, b"other")
        self.add(Phase.COMPLETE, 10, 10, b"other")
        self.add(Phase.COMPLETE, 7, None, b"of no known size")
        view = self.tally.view()
        self.assertEqual((view.received, view.bytes_done, view.bytes_total), (27, 27, 27))

    def test_events_out_of_order_count_once(self) -> None:
        for done in (0, 2000, 1000, 3000):
            self.add(Phase.RECEIVING, done)
        self.assertEqual(self.tally.view().received, 3000)

    def test_speed_is_that_of_the_last_seconds(self) -> None:
        self.add(Phase.RECEIVING, 0, 10**6)
        self.assertIsNone(self.tally.view().per_second)
        for second in range(1, 11):
            self.add(Phase.RECEIVING, second * 1000, 10**6, after=1)
            self.assertEqual(self.tally.view().per_second, 1000)
        for _ in range(10):
            self.clock.advance(1)
            view = self.tally.view()
        self.assertEqual(view.per_second, 0)
        self.assertIsNone(view.seconds_left)

    def test_totals_grow(self) -> None:
        self.tally.expect(1, 100)
        self.tally.expect(2, None)
        self.add(Phase.RECEIVING, 10, 100)
        self.assertIsNone(self.tally.view().bytes_total)
        self.add(Phase.RECEIVING, 10, None, b"b")
        self.assertIsNone(self.tally.view().bytes_total)
        self.add(Phase.RECEIVING, 10, 300, b"b")
        self.assertEqual(self.tally.view().bytes_total, 400)
        self.add(Phase.RECEIVING, 10, 500, b"c")
        self.assertEqual((self.tally.view().files_total, self.tally.view().bytes_total), (3, 900))
        self.tally.expect(9, 20)
        self.assertEqual((self.tally.view().files_total, self.tally.view().bytes_total), (9, 30))

    def test_all_files_take_no_less_time_than_one_of_them(self) -> None:
        self.add(Phase.RECEIVING, 0, 10000, b"slow")
        self.add(Phase.RECEIVING, 0, 10000, b"fast")
        self.add(Phase.RECEIVING, 100, 10000, b"slow", after=1)
        self.add(Phase.RECEIVING, 9000, 10000, b"fast")
        view = self.tally.view()
        slow, fast = view.rows
        self.assertEqual((slow.seconds_left, view.seconds_left), (99, 99))
        self.assertEqual(fast.seconds_left, 1000 / 9000)
        self.assertEqual(view.per_second, 9100)

    def test_waiting_segment_does_not_change_the_speed_of_the_others(self) -> None:
        self.add(Phase.RECEIVING, 0, 10000)
        self.add(Phase.RECEIVING, 1000, after=1)
        self.assertEqual(self.tally.view().rows[0].per_second, 1000)
        self.add(Phase.WAITING, 1000, message="lost")
        # Another segment continues.
        self.add(Phase.RECEIVING, 1000)
        (row,) = self.tally.view().rows
        self.assertEqual((row.per_second, row.seconds_left), (1000, 9))
        self.assertEqual(self.tally.view().seconds_left, 9)

    def test_file_that_waited_has_the_speed_of_the_last_seconds_again(self) -> None:
        self.add(Phase.RECEIVING, 0, 10**6)
        self.add(Phase.RECEIVING, 1000, 10**6, after=1)
        self.add(Phase.WAITING, 1000, 10**6, message="lost")
        for _ in range(60):
            self.clock.advance(1)
            self.assertIsNone(self.tally.view().rows[0].per_second)
        self.add(Phase.RECEIVING, 1000, 10**6)
        self.add(Phase.RECEIVING, 6000, 10**6, after=5)
        self.assertEqual(self.tally.view().rows[0].per_second, 1000)

    def test_bytes_of_a_file_being_saved_are_present(self) -> None:
        self.add(Phase.RECEIVING, 0)
        self.add(Phase.RECEIVING, 9000)
        self.add(Phase.SAVING, 10000)
        view = self.tally.view()
        self.assertEqual((view.bytes_done, view.rows[0].phase), (9000, Phase.SAVING))
        self.add(Phase.COMPLETE, 10000)
        self.assertEqual((self.tally.view().received, self.tally.view().bytes_done), (10000, 10000))

    def test_failed_file_takes_no_time(self) -> None:
        self.add(Phase.RECEIVING, 0, 1000)
        self.add(Phase.RECEIVING, 500, 1000, after=1)
        self.add(Phase.FAILED, 0, 1000)
        self.add(Phase.RECEIVING, 0, 1000, b"b")
        view = self.tally.view()
        self.assertEqual((view.files_failed, view.bytes_done, view.bytes_total), (1, 500, 2000))
        self.assertEqual(view.seconds_left, 2)

    def test_files_that_have_ended_are_counted_and_forgotten(self) -> None:
        for number in range(100):
            self.add(Phase.UNCHANGED, 1, 1, b"%d" % number)
        view = self.tally.view()
        self.assertEqual((view.files_done, view.files_unchanged, view.received), (100, 100, 0))
        self.assertEqual(len(view.ended), REMEMBERED)
        self.assertEqual(view.rows, [])

    def test_add_returns_only_changes(self) -> None:
        def new(phase: Phase, message: str = "") -> bool:
            return self.tally.add(Event(b"a", phase, 0, 1, message)) is not None

        self.assertTrue(new(Phase.RECEIVING))
        self.assertFalse(new(Phase.RECEIVING))
        self.assertTrue(new(Phase.WAITING, "one"))
        self.assertFalse(new(Phase.WAITING, "one"))
        self.assertTrue(new(Phase.WAITING, "two"))

    def test_totals_are_unknown_while_more_may_be_listed(self) -> None:
        self.tally.expect(2, 20000, more=True)
        self.add(Phase.RECEIVING, 0)
        self.add(Phase.RECEIVING, 5000, after=1)
        view = self.tally.view()
        self.assertEqual((view.files_total, view.more), (2, True))
        self.assertEqual((view.bytes_done, view.bytes_total, view.seconds_left), (5000, None, None))
        self.tally.expect(2, 20000)
        view = self.tally.view()
        self.assertEqual((view.bytes_total, view.seconds_left, view.more), (20000, 3, False))
