"""Digests: what is computed, what is shared and remembered, and what stops it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from natproxy import digests
from natproxy.digests import AT_ONCE, CHUNK, IN_LINE, Computation, Digests, Part, Stopped
from natproxy.storage import Directory, Served
from natproxy.wire import Refusal
from tests.doubles import PlayedThread


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class DigestsCase(SynchronousTestCase):
    """A folder with one file, changed a minute ago by the clock that is handed in."""

    content = b"some content"

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "a"
        self.path.write_bytes(self.content)
        self.directory = Directory(folder.name)
        self.thread = PlayedThread()
        self.age = 60.0
        self.digests = Digests(self.thread, self.wall_clock)
        self.descriptors = len(os.listdir("/proc/self/fd"))

    def wall_clock(self) -> float:
        return time.time() + self.age

    def ask(self, offset: int = 0, length: int | None = None, name: bytes = b"a") -> Deferred[str]:
        served = self.directory.open(name)
        return self.digests.digest(
            served, offset, served.size - offset if length is None else length
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
        served = self.directory.open(b"a")
        part = Part(served.status.etag, offset, length)
        with mock.patch.object(digests, "CHUNK", chunk):
            computed = Computation(part, served, self.wall_clock).run()
        self.assertEqual(computed, (sha256(content[offset : offset + length]), True))
        self.assertTrue(served.file.closed)

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
        asked = [self.ask() for _ in range(100)]
        self.assert_open(1)
        self.thread.run()
        self.assertEqual({self.successResultOf(one) for one in asked}, {sha256(self.content)})
        self.assertEqual(self.thread.calls, 1)

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
            (self.folder / str(count)).write_bytes(b"%d" % count)
        return [self.ask(name=b"%d" % count) for count in range(number)]

    def test_two_at_a_time_the_others_wait(self) -> None:
        asked = self.fill(20)
        for count, one in enumerate(asked):
            self.assertLessEqual(len(self.thread.asked), AT_ONCE)
            self.assertEqual(self.computed(one), sha256(b"%d" % count))
        self.assert_open(0)

    def test_too_many_are_refused_but_not_those_that_cost_nothing(self) -> None:
        first = self.ask()
        self.thread.run()
        asked = self.fill(AT_ONCE + IN_LINE)
        self.assert_open(AT_ONCE + IN_LINE)
        for name in (b"a", b"5"):
            # One is known, the other under way.
            self.ask(name=name)
        served = self.directory.open(b"a")
        refused = self.assertRaises(Refusal, self.digests.digest, served, 1, 2)
        self.assertEqual((refused.code, refused.message), (429, "too many digests at once"))
        self.assertTrue(served.file.closed)
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

    def test_one_that_has_been_begun_is_computed_for_the_next_who_asks(self) -> None:
        asked = self.ask()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        again = self.ask()
        again.cancel()
        self.failureResultOf(again, CancelledError)
        self.thread.run()
        self.assertEqual(self.successResultOf(self.ask()), sha256(self.content))
        self.assertEqual(self.thread.calls, 1)


class StoppingTests(DigestsCase):
    def test_everybody_is_told_and_every_file_closed(self) -> None:
        asked = [self.ask(0, length) for length in range(5)]
        self.digests.stop()
        for one in asked:
            refusal = self.failureResultOf(one, Refusal).value
            self.assertEqual((refusal.code, refusal.message), (503, "the server is stopping"))
        self.assert_open(AT_ONCE)
        while self.thread.asked:
            self.thread.run()
        self.assertEqual(self.thread.calls, AT_ONCE)
        self.assert_open(0)

    def test_nothing_is_kept_of_what_was_stopped(self) -> None:
        self.ask().addErrback(lambda _: None)
        self.digests.stop()
        self.digests.stop()
        again = self.ask()
        self.thread.run()
        self.assertNoResult(again)
        self.assertEqual(self.computed(again), sha256(self.content))

    def test_thread_returns_after_the_chunk_that_it_is_reading(self) -> None:
        class EndlessFile:
            """Fills every buffer, and has its reader stopped by and by."""

            closed = False
            reads = 0

            def seek(self, _: int) -> None: ...

            def readinto(self, buffer: memoryview) -> int:
                self.reads += 1
                if self.reads == 3:
                    computation.stop()
                return len(buffer)

            def __enter__(self) -> EndlessFile:
                return self

            def __exit__(self, *_: object) -> None:
                self.closed = True

        file = EndlessFile()
        computation = Computation(
            Part("etag", 0, 1 << 50), Served(file, os.stat(os.curdir)), self.wall_clock
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
        self.assertIsInstance(failures[0], Stopped)
        self.assertEqual((file.reads, file.closed), (3, True))
