"""Digests: what is computed, what is shared and remembered, and what stops it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver import digests
from natproxy.fileserver.digests import (
    CHUNK,
    CONCURRENT_DIGESTS,
    QUEUED_DIGESTS,
    SLICE,
    SUSPENDED_FOR,
    Computation,
    Digests,
    FileRange,
)
from natproxy.protocol import Refusal
from natproxy.server.rotation import RESULTS
from natproxy.server.threads import (
    NO_RESPONSE,
    WORK_TIMEOUT,
    Overloaded,
    Unresponsive,
    WorkCancelled,
)
from natproxy.storage import LocalStorage, RacyTimestamps
from natproxy.storage.local.storage import GRANULE
from natproxy.testing import MemoryFile, MemoryStorage
from tests.support.doubles import PlayedThread, TurnClock


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class DigestsCase(SynchronousTestCase):
    """A directory with one file, changed a minute ago by the clock that is handed in."""

    content = b"some content"

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.top = Path(directory.name)
        self.path = self.top / "a"
        self.path.write_bytes(self.content)
        self.age = 60.0
        self.clock = TurnClock()
        racy = RacyTimestamps(self.clock.seconds, self.wall_clock, lambda device: True)
        self.storage = LocalStorage(directory.name, racy=racy)
        self.thread = PlayedThread()
        self.digests = Digests(self.thread, self.clock, self.clock.seconds)
        self.descriptors = len(os.listdir("/proc/self/fd"))

    def wall_clock(self) -> float:
        return time.time() + self.age

    def ask(
        self,
        offset: int = 0,
        length: int | None = None,
        name: bytes = b"a",
        client: str | None = None,
    ) -> Deferred[str]:
        file = self.storage.open(name)
        return self.digests.digest(
            file, offset, file.size - offset if length is None else length, client
        )

    def computed(self, asked: Deferred[str]) -> str:
        self.thread.run()
        return self.successResultOf(asked)

    def assert_open(self, number: int) -> None:
        self.assertEqual(len(os.listdir("/proc/self/fd")), self.descriptors + number)


class ComputingTests(DigestsCase):
    def test_whole_file(self) -> None:
        self.assertEqual(self.computed(self.ask()), sha256(self.content))
        self.assert_open(0)

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.binary(max_size=40), st.integers(1, 9), st.data())
    def test_any_part_in_pieces_of_any_size(
        self, content: bytes, chunk: int, data: st.DataObject
    ) -> None:
        self.path.write_bytes(content)
        offset = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, len(content) - offset))
        file = self.storage.open(b"a")
        part = FileRange(file.metadata.etag, offset, length)
        with mock.patch.object(digests, "CHUNK", chunk):
            computation = Computation(part, file, reusable=True)
            computed = computation.run()
        computation.close()
        self.assertEqual(computed, sha256(content[offset : offset + length]))

    def test_file_of_many_chunks(self) -> None:
        content = os.urandom(1000) * (3 * CHUNK // 1000)
        self.path.write_bytes(content)
        self.assertEqual(self.computed(self.ask(7, 2 * CHUNK)), sha256(content[7:][: 2 * CHUNK]))

    def test_file_that_is_changed_before_or_while_it_is_read(self) -> None:
        for change in (
            lambda: os.truncate(self.path, 3),
            lambda: os.truncate(self.path, 300),
            lambda: os.utime(self.path, (1, 1)),
        ):
            self.setUp()
            asked = self.ask()
            change()
            self.thread.run()
            refusal = self.failureResultOf(asked, Refusal).value
            self.assertEqual((refusal.code, refusal.message), (503, "the file is changing"))
            self.assert_open(0)
            # Who tries again gets it.
            self.assertEqual(self.computed(self.ask()), sha256(self.path.read_bytes()))

    def test_read_that_fails(self) -> None:
        asked = self.ask()
        with mock.patch.object(os, "fstat", side_effect=OSError(5, "Input/output error")):
            self.thread.run()
        self.failureResultOf(asked, OSError)
        self.assert_open(0)
        self.assertEqual(self.computed(self.ask()), sha256(self.content))


class RememberingTests(DigestsCase):
    def test_second_question_costs_no_thread(self) -> None:
        first = self.computed(self.ask())
        self.assertEqual(self.successResultOf(self.ask()), first)
        self.assertEqual(self.thread.calls, 1)
        self.assert_open(0)

    def test_each_part_has_its_own(self) -> None:
        for offset, length in ((0, 12), (1, 11), (0, 11), (1, 10)):
            computed = self.computed(self.ask(offset, length))
            self.assertEqual(computed, sha256(self.content[offset : offset + length]))
        self.assertEqual(self.thread.calls, 4)

    def test_changed_file_is_read_again(self) -> None:
        self.computed(self.ask())
        self.path.write_bytes(b"other bytes")
        self.assertEqual(self.computed(self.ask()), sha256(b"other bytes"))

    def test_file_changed_a_moment_ago_is_not_remembered(self) -> None:
        # The next change may leave the etag as it is.
        for self.age in (-60.0, 0.0, 0.5):
            self.computed(self.ask())
            self.assertNoResult(asked := self.ask())
            self.computed(asked)
        self.age = 3.0
        self.computed(self.ask())
        self.successResultOf(self.ask())

    def test_clock_behind_the_storages_delays_remembering_by_two_seconds(self) -> None:
        self.age = -3600.0
        self.computed(self.ask())
        self.clock.advance(GRANULE + 0.1)
        self.assertNoResult(asked := self.ask())
        self.computed(asked)
        self.successResultOf(self.ask())

    def test_clock_ahead_of_the_storages_is_not_trusted(self) -> None:
        # By this machine's clock the file is an hour old; it was changed just now.
        racy = RacyTimestamps(self.clock.seconds, lambda: time.time() + 3600, lambda device: False)
        self.storage = LocalStorage(os.fspath(self.top), racy=racy)
        self.computed(self.ask())
        self.assertNoResult(asked := self.ask())
        self.computed(asked)
        self.clock.advance(GRANULE + 0.1)
        self.computed(self.ask())
        self.successResultOf(self.ask())

    def test_those_asked_for_longest_ago_are_forgotten(self) -> None:
        with mock.patch.object(digests, "REMEMBERED", 3):
            for length in (1, 2, 3):
                self.computed(self.ask(0, length))
            self.successResultOf(self.ask(0, 1))
            self.computed(self.ask(0, 4))
            for length in (1, 3, 4):
                self.successResultOf(self.ask(0, length))
            self.assertNoResult(asked := self.ask(0, 2))
            self.computed(asked)


class SharingTests(DigestsCase):
    def test_who_asks_for_the_same_shares_it(self) -> None:
        asked = [self.ask() for _ in range(RESULTS)]
        self.assert_open(1)
        self.thread.run()
        self.assertEqual({self.successResultOf(one) for one in asked}, {sha256(self.content)})
        self.assertEqual(self.thread.calls, 1)

    def test_crowd_is_told_in_several_turns(self) -> None:
        asked = [self.ask() for _ in range(2 * RESULTS + 1)]
        self.thread.run()
        self.assertEqual([one.called for one in asked], [True] * RESULTS + [False] * (RESULTS + 1))
        asked[RESULTS].cancel()
        self.failureResultOf(asked[RESULTS], CancelledError)
        self.clock.turn()
        self.clock.turn()
        told = {self.successResultOf(one) for one in asked if one is not asked[RESULTS]}
        self.assertEqual(told, {sha256(self.content)})
        self.assert_open(0)

    def test_all_who_share_it_are_told_of_its_failure(self) -> None:
        asked = [self.ask() for _ in range(3)]
        os.truncate(self.path, 1)
        self.thread.run()
        for one in asked:
            self.failureResultOf(one, Refusal)

    def test_one_who_goes_takes_it_from_nobody(self) -> None:
        first, second = self.ask(), self.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.computed(second), sha256(self.content))

    def test_file_with_another_etag_is_not_shared(self) -> None:
        first = self.ask()
        self.path.write_bytes(b"other bytes")
        second = self.ask()
        self.thread.run()
        self.failureResultOf(first, Refusal)
        self.assertEqual(self.computed(second), sha256(b"other bytes"))


class BoundsTests(DigestsCase):
    def fill(self, number: int) -> list[Deferred[str]]:
        """Ask for the digests of different parts."""
        for count in range(number):
            (self.top / str(count)).write_bytes(b"%d" % count)
        return [self.ask(name=b"%d" % count) for count in range(number)]

    def test_two_at_a_time_the_others_wait(self) -> None:
        asked = self.fill(20)
        for count, one in enumerate(asked):
            self.assertLessEqual(len(self.thread.asked), CONCURRENT_DIGESTS)
            self.assertEqual(self.computed(one), sha256(b"%d" % count))
        self.assert_open(0)

    def test_too_many_are_refused_but_not_those_that_cost_nothing(self) -> None:
        first = self.ask()
        self.thread.run()
        asked = self.fill(CONCURRENT_DIGESTS + QUEUED_DIGESTS)
        self.assert_open(CONCURRENT_DIGESTS + QUEUED_DIGESTS)
        for name in (b"a", b"5"):
            # One is known, the other under way.
            self.ask(name=name)
        file = self.storage.open(b"a")
        refused = self.assertRaises(Overloaded, self.digests.digest, file, 1, 2)
        self.assertEqual(str(refused), "too many digests at once")
        self.assertEqual(file.fileno(), -1)
        for one in asked:
            self.computed(one)
        self.computed(self.ask(1, 2))
        self.successResultOf(first)
        self.assert_open(0)

    def test_waiting_one_that_nobody_wants_any_more_is_dropped(self) -> None:
        asked = self.fill(4)
        other = self.ask(name=b"3")
        for one in asked[2:]:
            one.cancel()
            self.failureResultOf(one, CancelledError)
        self.assert_open(3)
        for _ in range(3):
            self.thread.run()
        self.assertEqual(self.successResultOf(other), sha256(b"3"))
        self.assertEqual(self.thread.asked, [])
        # It can be asked for again.
        self.assertEqual(self.computed(self.ask(name=b"2")), sha256(b"2"))

    def test_thread_that_hangs_is_waited_for_for_a_time_only(self) -> None:
        asked = self.ask()
        others = [self.ask(0, length) for length in (1, 2)]
        self.clock.advance(WORK_TIMEOUT)
        for one in (asked, *others):
            refused = self.failureResultOf(one, Unresponsive).value
            self.assertEqual(str(refused), NO_RESPONSE)
        # Both threads of this file system hang: nobody else is kept waiting for them.
        file = self.storage.open(b"a")
        self.assertRaises(Unresponsive, self.digests.digest, file, 1, 2)
        self.assertEqual(file.fileno(), -1)
        while self.thread.asked:
            self.thread.run()
        self.assert_open(0)
        self.assertEqual(self.computed(self.ask()), sha256(self.content))

    def test_one_client_does_not_take_the_whole_line(self) -> None:
        crowd = [self.ask(0, length, client="crowd") for length in range(12)]
        crowd += [self.ask(1, length, client="crowd") for length in range(11)]
        crowd += [self.ask(2, length, client="crowd") for length in range(10)]
        crowd += [self.ask(3, length, client="crowd") for length in range(9)]
        crowd += [self.ask(4, length, client="crowd") for length in range(8)]
        crowd += [self.ask(5, length, client="crowd") for length in range(7)]
        crowd += [self.ask(6, length, client="crowd") for length in range(6)]
        crowd += [self.ask(7, length, client="crowd") for length in range(3)]
        self.assertEqual(len(crowd), CONCURRENT_DIGESTS + QUEUED_DIGESTS)
        self.assertRaises(Overloaded, self.ask, 8, 1, client="crowd")
        other = self.ask(8, 1, client="other")
        self.failureResultOf(crowd[-1], Overloaded)
        # Those that are under way, and one of the crowd's.
        for _ in range(CONCURRENT_DIGESTS + 2):
            self.thread.run()
        self.assertEqual(self.successResultOf(other), sha256(self.content[8:9]))
        self.digests.cancel()
        for one in crowd:
            one.addErrback(lambda _: None)
        while self.thread.asked:
            self.thread.run()
        self.assert_open(0)


class LongCase(DigestsCase):
    """Reads a few bytes at a time; the clock of the slices runs with each."""

    content = bytes(range(100))

    def setUp(self) -> None:
        super().setUp()
        self.patch(digests, "CHUNK", 10)
        self.patch(digests, "SHORT", 50)
        self.reads: list[int] = []
        self.on_read: Callable[[], None] = lambda: None
        update = self

        class Noting(digests.Progress):
            """Notes how much is read, and lets something happen meanwhile."""

            @property
            def done(self) -> int:
                return self._done

            @done.setter
            def done(self, done: int) -> None:
                if done:
                    update.reads.append(done - self._done)
                    update.on_read()
                self._done = done

        self.patch(digests, "Progress", Noting)


class ResumingTests(LongCase):
    def stop_after(self, reads: int) -> None:
        """Ask for a digest and go when so much of it has been read."""
        asked = self.ask()

        def leave() -> None:
            if len(self.reads) == reads:
                asked.cancel()

        self.on_read = leave
        self.thread.run()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(len(self.reads), reads)
        self.assert_open(0)
        self.on_read = lambda: None

    def test_digest_that_nobody_waits_for_stops_and_is_continued(self) -> None:
        self.stop_after(3)
        self.assertEqual(self.computed(self.ask()), sha256(self.content))
        self.assertEqual((len(self.reads), sum(self.reads)), (10, 100))
        self.assertEqual(self.thread.calls, 2)
        self.successResultOf(self.ask())
        self.assert_open(0)

    def test_digest_of_a_file_that_has_changed_begins_anew(self) -> None:
        self.stop_after(3)
        self.path.write_bytes(bytes(100))
        self.assertEqual(self.computed(self.ask()), sha256(bytes(100)))
        self.assertEqual(sum(self.reads), 130)

    def test_digest_of_a_file_changed_a_moment_ago_begins_anew(self) -> None:
        # Its etag may stand for other bytes by now.
        self.age = 0.0
        self.stop_after(3)
        self.assertEqual(self.computed(self.ask()), sha256(self.content))
        self.assertEqual(sum(self.reads), 130)

    def test_stopped_computations_are_kept_for_a_time_and_up_to_a_number(self) -> None:
        self.stop_after(3)
        self.clock.advance(SUSPENDED_FOR - 1)
        self.reads.clear()
        self.stop_after(2)
        self.clock.advance(SUSPENDED_FOR + 1)
        self.reads.clear()
        self.assertEqual(self.computed(self.ask()), sha256(self.content))
        self.assertEqual(sum(self.reads), 100)

    def test_number_of_stopped_computations_is_bounded(self) -> None:
        self.patch(digests, "SUSPENDED", 2)
        for length in (97, 98, 99):
            asked = self.ask(0, length)
            self.on_read = asked.cancel
            self.thread.run()
            self.failureResultOf(asked, CancelledError)
        self.on_read = lambda: None
        for length, left in ((97, 97), (98, 88), (99, 89)):
            self.reads.clear()
            self.assertEqual(self.computed(self.ask(0, length)), sha256(self.content[:length]))
            self.assertEqual(sum(self.reads), left)

    def test_one_who_asks_again_before_the_thread_has_stopped_gets_it(self) -> None:
        asked = self.ask()
        again: list[Deferred[str]] = []

        def leave_and_come_back() -> None:
            if len(self.reads) == 3:
                asked.cancel()
                again.append(self.ask())

        self.on_read = leave_and_come_back
        self.thread.run()
        self.failureResultOf(asked, CancelledError)
        self.thread.run()
        self.assertEqual(self.successResultOf(again[0]), sha256(self.content))
        self.assertEqual(sum(self.reads), 100)
        self.assert_open(0)

    def test_one_who_asks_again_for_what_hangs_is_told_after_a_time(self) -> None:
        self.ask().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        for _ in range(2):
            # Whoever goes takes the timer along.
            self.ask().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
            self.assertEqual(self.clock.getDelayedCalls(), [])
        asked = [self.ask() for _ in range(2)]
        self.clock.advance(WORK_TIMEOUT)
        for one in asked:
            refused = self.failureResultOf(one, Unresponsive).value
            self.assertEqual(str(refused), NO_RESPONSE)
        self.thread.run()
        self.assert_open(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.computed(self.ask()), sha256(self.content))

    def test_what_waits_in_line_between_two_slices_is_kept_as_well(self) -> None:
        asked = self.ask()
        others = [self.ask(1, length) for length in (97, 98)]
        self.on_read = lambda: self.clock.advance(SLICE)
        self.thread.run()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assert_open(2)
        for one in others:
            one.cancel()
            self.failureResultOf(one, CancelledError)
        while self.thread.asked:
            self.thread.run()
        self.on_read = lambda: None
        self.reads.clear()
        self.assertEqual(self.computed(self.ask()), sha256(self.content))
        self.assertEqual(sum(self.reads), 90)


class ClassesTests(LongCase):
    def test_short_digests_do_not_wait_for_long_ones(self) -> None:
        for length in (95, 96, 97, 98):
            self.ask(0, length).addErrback(lambda _: None)
        self.assertEqual(len(self.thread.asked), CONCURRENT_DIGESTS)
        short = self.ask(0, 5)
        self.assertEqual(len(self.thread.asked), CONCURRENT_DIGESTS + 1)
        function, called = self.thread.asked.pop()
        called.callback(function())
        self.assertEqual(self.successResultOf(short), sha256(self.content[:5]))
        self.digests.cancel()
        while self.thread.asked:
            self.thread.run()
        self.assert_open(0)

    def test_long_digests_take_turns(self) -> None:
        self.on_read = lambda: self.clock.advance(SLICE)
        long = [self.ask(0, 90 + number, client="one") for number in range(4)]
        other = self.ask(0, 60, client="other")
        runs = 0
        while not other.called:
            # The end of a long one is short.
            self.assertLessEqual(len(self.thread.asked), 2 * CONCURRENT_DIGESTS)
            self.thread.run()
            runs += 1
        # One of six slices each; all of the others, and not one to its end.
        self.assertNotIn(True, [one.called for one in long])
        self.assertLessEqual(runs, 6 * 2 * CONCURRENT_DIGESTS)
        while self.thread.asked:
            self.thread.run()
        for number, one in enumerate(long):
            self.assertEqual(self.successResultOf(one), sha256(self.content[: 90 + number]))
        self.assert_open(0)

    def test_progress_is_kept_when_the_wait_for_the_next_turn_is_refused(self) -> None:
        self.on_read = lambda: self.clock.advance(SLICE)
        asked = [self.ask(0, length, client=str(length)) for length in (90, 91, 92)]
        # After a slice of two of them, one of the three waits in line.
        self.thread.run()
        self.thread.run()
        self.assertEqual(self.reads, [10, 10])
        self.clock.advance(WORK_TIMEOUT)
        refused = [one for one in asked if one.called]
        self.assertTrue(refused)
        for one in refused:
            self.failureResultOf(one, Unresponsive)
        for one in asked:
            one.addErrback(lambda _: None)
        while self.thread.asked:
            self.thread.run()
        self.assert_open(0)
        for length in (90, 91, 92):
            again = self.ask(0, length)
            while not again.called:
                self.thread.run()
            self.assertEqual(self.successResultOf(again), sha256(self.content[:length]))
        # No byte of any was read twice, whether it waited in line or its thread was hanging.
        self.assertEqual(sum(self.reads), 90 + 91 + 92)
        self.assert_open(0)


class StoppingTests(DigestsCase):
    def test_everybody_is_told_and_every_file_closed(self) -> None:
        asked = [self.ask(0, length) for length in range(5)]
        self.digests.cancel()
        for one in asked:
            refusal = self.failureResultOf(one, Refusal).value
            self.assertEqual((refusal.code, refusal.message), (503, "the server is stopping"))
        self.assert_open(CONCURRENT_DIGESTS)
        while self.thread.asked:
            self.thread.run()
        self.assertEqual(self.thread.calls, CONCURRENT_DIGESTS)
        self.assert_open(0)

    def test_nothing_is_kept_of_what_was_stopped(self) -> None:
        self.ask().addErrback(lambda _: None)
        self.digests.cancel()
        self.digests.cancel()
        again = self.ask()
        self.thread.run()
        self.assertNoResult(again)
        self.assertEqual(self.computed(again), sha256(self.content))

    def test_thread_returns_after_the_chunk_that_it_is_reading(self) -> None:
        class EndlessFile(MemoryFile):
            """Returns as many bytes as requested, and has its reader cancelled."""

            reads = 0

            def read_at(self, offset: int, size: int) -> bytes:
                self.reads += 1
                if self.reads == 3:
                    computation.cancel()
                return bytes(size)

        file = EndlessFile(MemoryStorage({b"a": b""})._nodes[b"a"], True)
        computation = Computation(FileRange("etag", 0, 1 << 50), file, reusable=True, clock=float)
        failures: list[BaseException] = []

        def run() -> None:
            try:
                computation.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertIsInstance(failures[0], WorkCancelled)
        self.assertEqual(file.reads, 3)
