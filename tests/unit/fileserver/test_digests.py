"""Digests: computing, sharing, remembering, suspending and cancelling them."""

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

from natproxy.fileserver import computation, digests
from natproxy.fileserver.computation import CHUNK, SLICE, Computation, FileRange
from natproxy.fileserver.digests import (
    CONCURRENT_DIGESTS,
    QUEUED_DIGESTS,
    SUSPENDED_FOR,
    Digests,
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
    """A directory with one file, changed a minute ago by the wall clock."""

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

    def digest(
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

    def computed(self, pending: Deferred[str]) -> str:
        self.thread.run()
        return self.successResultOf(pending)

    def assert_open(self, number: int) -> None:
        self.assertEqual(len(os.listdir("/proc/self/fd")), self.descriptors + number)


class ComputingTests(DigestsCase):
    def test_whole_file(self) -> None:
        self.assertEqual(self.computed(self.digest()), sha256(self.content))
        self.assert_open(0)

    @settings(deadline=None, database=None)
    @given(st.binary(max_size=40), st.integers(1, 9), st.data())
    def test_any_part_in_pieces_of_any_size(
        self, content: bytes, chunk: int, data: st.DataObject
    ) -> None:
        self.path.write_bytes(content)
        offset = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, len(content) - offset))
        file = self.storage.open(b"a")
        part = FileRange(file.identity, offset, length)
        with mock.patch("natproxy.fileserver.computation.CHUNK", chunk):
            computation = Computation(part, file, reusable=True)
            computed = computation.run()
        computation.close()
        self.assertEqual(computed, sha256(content[offset : offset + length]))

    def test_file_of_many_chunks(self) -> None:
        content = os.urandom(1000) * (3 * CHUNK // 1000)
        self.path.write_bytes(content)
        self.assertEqual(self.computed(self.digest(7, 2 * CHUNK)), sha256(content[7:][: 2 * CHUNK]))

    def test_file_that_is_changed_before_or_while_it_is_read(self) -> None:
        for change in (
            lambda: os.truncate(self.path, 3),
            lambda: os.truncate(self.path, 300),
            lambda: os.utime(self.path, (1, 1)),
        ):
            self.setUp()
            pending = self.digest()
            change()
            self.thread.run()
            refusal = self.failureResultOf(pending, Refusal).value
            self.assertEqual((refusal.code, refusal.message), (503, "the file is changing"))
            self.assert_open(0)
            # The next request succeeds.
            self.assertEqual(self.computed(self.digest()), sha256(self.path.read_bytes()))

    def test_read_that_fails(self) -> None:
        pending = self.digest()
        with mock.patch.object(os, "fstat", side_effect=OSError(5, "Input/output error")):
            self.thread.run()
        self.failureResultOf(pending, OSError)
        self.assert_open(0)
        self.assertEqual(self.computed(self.digest()), sha256(self.content))

    def test_file_that_cannot_be_closed_does_not_fail_the_digest(self) -> None:
        class Unclosable(MemoryFile):
            def close(self) -> None:
                super().close()
                raise OSError(5, "Input/output error")

        node = MemoryStorage({b"a": self.content})._nodes[b"a"]
        for _ in range(2):
            # The first is computed, the second is known.
            pending = self.digests.digest(Unclosable(node, True), 0, 4)
            while self.thread.asked:
                self.thread.run()
            self.assertEqual(self.successResultOf(pending), sha256(self.content[:4]))


class RememberingTests(DigestsCase):
    def test_second_request_needs_no_thread(self) -> None:
        first = self.computed(self.digest())
        self.assertEqual(self.successResultOf(self.digest()), first)
        self.assertEqual(self.thread.calls, 1)
        self.assert_open(0)

    def test_each_part_has_its_own(self) -> None:
        for offset, length in ((0, 12), (1, 11), (0, 11), (1, 10)):
            computed = self.computed(self.digest(offset, length))
            self.assertEqual(computed, sha256(self.content[offset : offset + length]))
        self.assertEqual(self.thread.calls, 4)

    def test_changed_file_is_read_again(self) -> None:
        self.computed(self.digest())
        self.path.write_bytes(b"other bytes")
        self.assertEqual(self.computed(self.digest()), sha256(b"other bytes"))

    def test_file_changed_a_moment_ago_is_not_remembered(self) -> None:
        # The next change may leave the etag as it is.
        for self.age in (-60.0, 0.0, 0.5):
            self.computed(self.digest())
            self.assertNoResult(pending := self.digest())
            self.computed(pending)
        self.age = 3.0
        self.computed(self.digest())
        self.successResultOf(self.digest())

    def test_clock_behind_the_storages_delays_remembering_by_two_seconds(self) -> None:
        self.age = -3600.0
        self.computed(self.digest())
        self.clock.advance(GRANULE + 0.1)
        self.assertNoResult(pending := self.digest())
        self.computed(pending)
        self.successResultOf(self.digest())

    def test_clock_ahead_of_the_storages_is_not_trusted(self) -> None:
        # By this machine's clock the file is an hour old; it was changed just now.
        racy = RacyTimestamps(self.clock.seconds, lambda: time.time() + 3600, lambda device: False)
        self.storage = LocalStorage(os.fspath(self.top), racy=racy)
        self.computed(self.digest())
        self.assertNoResult(pending := self.digest())
        self.computed(pending)
        self.clock.advance(GRANULE + 0.1)
        self.computed(self.digest())
        self.successResultOf(self.digest())

    def test_least_recently_requested_digests_are_dropped(self) -> None:
        with mock.patch.object(digests, "REMEMBERED", 3):
            for length in (1, 2, 3):
                self.computed(self.digest(0, length))
            self.successResultOf(self.digest(0, 1))
            self.computed(self.digest(0, 4))
            for length in (1, 3, 4):
                self.successResultOf(self.digest(0, length))
            self.assertNoResult(pending := self.digest(0, 2))
            self.computed(pending)


class SharingTests(DigestsCase):
    def test_requests_of_one_range_share_a_computation(self) -> None:
        pending = [self.digest() for _ in range(RESULTS)]
        self.assert_open(1)
        self.thread.run()
        self.assertEqual({self.successResultOf(one) for one in pending}, {sha256(self.content)})
        self.assertEqual(self.thread.calls, 1)

    def test_results_of_many_requests_fire_in_several_turns(self) -> None:
        pending = [self.digest() for _ in range(2 * RESULTS + 1)]
        self.thread.run()
        self.assertEqual(
            [one.called for one in pending], [True] * RESULTS + [False] * (RESULTS + 1)
        )
        pending[RESULTS].cancel()
        self.failureResultOf(pending[RESULTS], CancelledError)
        self.clock.turn()
        self.clock.turn()
        received = {self.successResultOf(one) for one in pending if one is not pending[RESULTS]}
        self.assertEqual(received, {sha256(self.content)})
        self.assert_open(0)

    def test_failure_reaches_every_request(self) -> None:
        pending = [self.digest() for _ in range(3)]
        os.truncate(self.path, 1)
        self.thread.run()
        for one in pending:
            self.failureResultOf(one, Refusal)

    def test_cancelled_request_leaves_the_others(self) -> None:
        first, second = self.digest(), self.digest()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.computed(second), sha256(self.content))

    def test_file_with_another_etag_is_not_shared(self) -> None:
        first = self.digest()
        self.path.write_bytes(b"other bytes")
        second = self.digest()
        self.thread.run()
        self.failureResultOf(first, Refusal)
        self.assertEqual(self.computed(second), sha256(b"other bytes"))


class BoundsTests(DigestsCase):
    def fill(self, number: int) -> list[Deferred[str]]:
        """Request the digests of different files."""
        for count in range(number):
            (self.top / str(count)).write_bytes(b"%d" % count)
        return [self.digest(name=b"%d" % count) for count in range(number)]

    def test_two_are_computed_at_a_time(self) -> None:
        pending = self.fill(20)
        for count, one in enumerate(pending):
            self.assertLessEqual(len(self.thread.asked), CONCURRENT_DIGESTS)
            self.assertEqual(self.computed(one), sha256(b"%d" % count))
        self.assert_open(0)

    def test_too_many_are_refused_except_known_and_shared_ones(self) -> None:
        first = self.digest()
        self.thread.run()
        pending = self.fill(CONCURRENT_DIGESTS + QUEUED_DIGESTS)
        self.assert_open(CONCURRENT_DIGESTS + QUEUED_DIGESTS)
        for name in (b"a", b"5"):
            # One is known, the other under way.
            self.digest(name=name)
        file = self.storage.open(b"a")
        refused = self.assertRaises(Overloaded, self.digests.digest, file, 1, 2)
        self.assertEqual(str(refused), "too many digests at once")
        self.assertEqual(file.fileno(), -1)
        for one in pending:
            self.computed(one)
        self.computed(self.digest(1, 2))
        self.successResultOf(first)
        self.assert_open(0)

    def test_queued_digest_whose_requests_are_cancelled_is_dropped(self) -> None:
        pending = self.fill(4)
        other = self.digest(name=b"3")
        for one in pending[2:]:
            one.cancel()
            self.failureResultOf(one, CancelledError)
        self.assert_open(3)
        for _ in range(3):
            self.thread.run()
        self.assertEqual(self.successResultOf(other), sha256(b"3"))
        self.assertEqual(self.thread.asked, [])
        # It can be pending for again.
        self.assertEqual(self.computed(self.digest(name=b"2")), sha256(b"2"))

    def test_digest_of_a_hanging_thread_times_out(self) -> None:
        pending = self.digest()
        others = [self.digest(0, length) for length in (1, 2)]
        self.clock.advance(WORK_TIMEOUT)
        for one in (pending, *others):
            refused = self.failureResultOf(one, Unresponsive).value
            self.assertEqual(str(refused), NO_RESPONSE)
        # Both threads of this device hang: further requests of it are refused.
        file = self.storage.open(b"a")
        self.assertRaises(Unresponsive, self.digests.digest, file, 1, 2)
        self.assertEqual(file.fileno(), -1)
        while self.thread.asked:
            self.thread.run()
        self.assert_open(0)
        self.assertEqual(self.computed(self.digest()), sha256(self.content))

    def test_one_client_does_not_occupy_the_whole_queue(self) -> None:
        crowd = [self.digest(0, length, client="crowd") for length in range(12)]
        crowd += [self.digest(1, length, client="crowd") for length in range(11)]
        crowd += [self.digest(2, length, client="crowd") for length in range(10)]
        crowd += [self.digest(3, length, client="crowd") for length in range(9)]
        crowd += [self.digest(4, length, client="crowd") for length in range(8)]
        crowd += [self.digest(5, length, client="crowd") for length in range(7)]
        crowd += [self.digest(6, length, client="crowd") for length in range(6)]
        crowd += [self.digest(7, length, client="crowd") for length in range(3)]
        self.assertEqual(len(crowd), CONCURRENT_DIGESTS + QUEUED_DIGESTS)
        self.assertRaises(Overloaded, self.digest, 8, 1, client="crowd")
        other = self.digest(8, 1, client="other")
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
        self.patch(computation, "CHUNK", 10)
        self.patch(digests, "SHORT", 50)
        self.reads: list[int] = []
        self.on_read: Callable[[], None] = lambda: None
        update = self

        class Noting(computation.Progress):
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

        self.patch(computation, "Progress", Noting)


class ResumingTests(LongCase):
    def cancel_after(self, reads: int) -> None:
        """Request a digest, and cancel it after a number of reads."""
        pending = self.digest()

        def cancel() -> None:
            if len(self.reads) == reads:
                pending.cancel()

        self.on_read = cancel
        self.thread.run()
        self.failureResultOf(pending, CancelledError)
        self.assertEqual(len(self.reads), reads)
        self.assert_open(0)
        self.on_read = lambda: None

    def test_cancelled_digest_is_suspended_and_continued(self) -> None:
        self.cancel_after(3)
        self.assertEqual(self.computed(self.digest()), sha256(self.content))
        self.assertEqual((len(self.reads), sum(self.reads)), (10, 100))
        self.assertEqual(self.thread.calls, 2)
        self.successResultOf(self.digest())
        self.assert_open(0)

    def test_digest_of_a_file_that_has_changed_begins_anew(self) -> None:
        self.cancel_after(3)
        self.path.write_bytes(bytes(100))
        self.assertEqual(self.computed(self.digest()), sha256(bytes(100)))
        self.assertEqual(sum(self.reads), 130)

    def test_digest_of_a_file_changed_a_moment_ago_begins_anew(self) -> None:
        # Its etag may stand for other bytes by now.
        self.age = 0.0
        self.cancel_after(3)
        self.assertEqual(self.computed(self.digest()), sha256(self.content))
        self.assertEqual(sum(self.reads), 130)

    def test_suspended_computations_are_kept_for_a_time(self) -> None:
        self.cancel_after(3)
        self.clock.advance(SUSPENDED_FOR - 1)
        self.reads.clear()
        self.cancel_after(2)
        self.clock.advance(SUSPENDED_FOR + 1)
        self.reads.clear()
        self.assertEqual(self.computed(self.digest()), sha256(self.content))
        self.assertEqual(sum(self.reads), 100)

    def test_number_of_suspended_computations_is_limited(self) -> None:
        self.patch(digests, "SUSPENDED", 2)
        for length in (97, 98, 99):
            pending = self.digest(0, length)
            self.on_read = pending.cancel
            self.thread.run()
            self.failureResultOf(pending, CancelledError)
        self.on_read = lambda: None
        for length, left in ((97, 97), (98, 88), (99, 89)):
            self.reads.clear()
            self.assertEqual(self.computed(self.digest(0, length)), sha256(self.content[:length]))
            self.assertEqual(sum(self.reads), left)

    def test_request_before_the_thread_has_returned_continues_the_digest(self) -> None:
        pending = self.digest()
        again: list[Deferred[str]] = []

        def cancel_and_request_again() -> None:
            if len(self.reads) == 3:
                pending.cancel()
                again.append(self.digest())

        self.on_read = cancel_and_request_again
        self.thread.run()
        self.failureResultOf(pending, CancelledError)
        self.thread.run()
        self.assertEqual(self.successResultOf(again[0]), sha256(self.content))
        self.assertEqual(sum(self.reads), 100)
        self.assert_open(0)

    def test_request_before_the_thread_fails_receives_the_error(self) -> None:
        pending = self.digest()
        again: list[Deferred[str]] = []

        def cancel_and_request_again() -> None:
            if len(self.reads) == 3:
                pending.cancel()
                again.append(self.digest())
                os.truncate(self.path, 1)

        self.on_read = cancel_and_request_again
        self.thread.run()
        self.failureResultOf(pending, CancelledError)
        self.failureResultOf(again[0], Refusal)
        self.assert_open(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.computed(self.digest()), sha256(self.path.read_bytes()))

    def test_request_of_a_digest_that_hangs_times_out(self) -> None:
        self.digest().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        for _ in range(2):
            # The last cancelled request cancels the timer.
            self.digest().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
            self.assertEqual(self.clock.getDelayedCalls(), [])
        pending = [self.digest() for _ in range(2)]
        self.clock.advance(WORK_TIMEOUT)
        for one in pending:
            refused = self.failureResultOf(one, Unresponsive).value
            self.assertEqual(str(refused), NO_RESPONSE)
        self.thread.run()
        self.assert_open(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.computed(self.digest()), sha256(self.content))

    def test_digest_cancelled_in_the_queue_between_two_slices_is_suspended(self) -> None:
        pending = self.digest()
        others = [self.digest(1, length) for length in (97, 98)]
        self.on_read = lambda: self.clock.advance(SLICE)
        self.thread.run()
        pending.cancel()
        self.failureResultOf(pending, CancelledError)
        self.assert_open(2)
        for one in others:
            one.cancel()
            self.failureResultOf(one, CancelledError)
        while self.thread.asked:
            self.thread.run()
        self.on_read = lambda: None
        self.reads.clear()
        self.assertEqual(self.computed(self.digest()), sha256(self.content))
        self.assertEqual(sum(self.reads), 90)


class ClassesTests(LongCase):
    def test_short_digests_do_not_wait_for_long_ones(self) -> None:
        for length in (95, 96, 97, 98):
            self.digest(0, length).addErrback(lambda _: None)
        self.assertEqual(len(self.thread.asked), CONCURRENT_DIGESTS)
        short = self.digest(0, 5)
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
        long = [self.digest(0, 90 + number, client="one") for number in range(4)]
        other = self.digest(0, 60, client="other")
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
        pending = [self.digest(0, length, client=str(length)) for length in (90, 91, 92)]
        # After a slice of two of them, one of the three waits in line.
        self.thread.run()
        self.thread.run()
        self.assertEqual(self.reads, [10, 10])
        self.clock.advance(WORK_TIMEOUT)
        refused = [one for one in pending if one.called]
        self.assertTrue(refused)
        for one in refused:
            self.failureResultOf(one, Unresponsive)
        for one in pending:
            one.addErrback(lambda _: None)
        while self.thread.asked:
            self.thread.run()
        self.assert_open(0)
        for length in (90, 91, 92):
            again = self.digest(0, length)
            while not again.called:
                self.thread.run()
            self.assertEqual(self.successResultOf(again), sha256(self.content[:length]))
        # No byte of any was read twice, whether it waited in line or its thread was hanging.
        self.assertEqual(sum(self.reads), 90 + 91 + 92)
        self.assert_open(0)


class CancellingTests(DigestsCase):
    def test_every_request_fails_and_every_file_is_closed(self) -> None:
        pending = [self.digest(0, length) for length in range(5)]
        self.digests.cancel()
        for one in pending:
            refusal = self.failureResultOf(one, Refusal).value
            self.assertEqual((refusal.code, refusal.message), (503, "the server is stopping"))
        self.assert_open(CONCURRENT_DIGESTS)
        while self.thread.asked:
            self.thread.run()
        self.assertEqual(self.thread.calls, CONCURRENT_DIGESTS)
        self.assert_open(0)

    def test_nothing_is_kept_after_cancel(self) -> None:
        self.digest().addErrback(lambda _: None)
        self.digests.cancel()
        self.digests.cancel()
        again = self.digest()
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
        computation = Computation(
            FileRange("identity", 0, 1 << 50), file, reusable=True, clock=float
        )
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
