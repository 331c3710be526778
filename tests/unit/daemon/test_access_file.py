"""The file of the access log: when it is written, and what a disk that is slow or full does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.daemon import access_file
from natproxy.daemon.access_file import FLUSH, KEPT, RETRY, STOP, AccessFile
from natproxy.daemon.logfile import RotatingFile
from natproxy.nat import Outcome
from natproxy.protocol import Command
from natproxy.server.events import Finished
from tests.support.doubles import Journal
from tests.support.logged_errors import LoggedErrorsCase

T = TypeVar("T")

FULL = OSError(28, "No space left on device")


class PlayedOutput:
    """A file in memory.

    :ivar space: bytes that it still takes; then each write fails.
    :ivar part: bytes that one write takes at most.
    :ivar replaced: whether opening it again succeeds.
    """

    path = "/var/log/access"

    def __init__(self) -> None:
        self.files = [b""]
        self.space = 1 << 40
        self.part = 1 << 40
        self.replaced = True
        self.closed = False

    def write_some(self, data: memoryview) -> int:
        size = min(len(data), self.space, self.part)
        if not size:
            raise FULL
        self.files[-1] += bytes(data[:size])
        self.space -= size
        return size

    def reopen(self) -> bool:
        if self.replaced:
            self.files.append(b"")
        return self.replaced

    def close(self) -> None:
        self.closed = True


class Thread:
    """Runs functions when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []
        self.slow = False

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def job() -> None:
            try:
                result = function()
            except Exception:
                done.errback(Failure())
            else:
                done.callback(result)

        if self.slow:
            self.jobs.append(job)
        else:
            job()
        return done

    def run(self) -> None:
        """Run what waits."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


class AccessCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = Journal(self)
        self.clock = Clock()
        self.output = PlayedOutput()
        self.thread = Thread()
        self.file = AccessFile(self.clock, self.output, self.thread, lambda: 0.0)

    def end(self, name: str = "a", times: int = 1) -> None:
        """End commands that name a file."""
        command = Command(b"DOWNLOAD", name.encode(), b"DOWNLOAD " + name.encode())
        for _ in range(times):
            self.file.log.finished(
                Finished(Address("10.0.0.7", 1), command, Outcome.COMPLETED, 1, 0.0, 0.0)
            )

    def names(self, file: int = -1) -> list[str]:
        """Return the names in a file, and its notes as they are; it ends with a whole line."""
        text = self.output.files[file].decode()
        self.assertTrue(not text or text.endswith("\n"))
        return [line if line[0] == "#" else line.split(" ")[5] for line in text.splitlines()]

    def fill(self) -> None:
        """End commands until no more lines are kept."""
        before = self.file.lost
        while self.file.lost == before:
            self.end("x" * 4000, 64)


class WriteTests(AccessCase):
    def test_lines_are_written_soon_and_together(self) -> None:
        self.end("a")
        self.clock.advance(FLUSH / 2)
        self.end("b")
        self.assertEqual(self.names(), [])
        self.clock.advance(FLUSH / 2)
        self.assertEqual(self.names(), ["a", "b"])

    def test_idle_file_has_no_timer(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.end()
        self.clock.advance(FLUSH)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_short_writes_are_completed(self) -> None:
        self.output.part = 7
        self.end("a", 3)
        self.clock.advance(FLUSH)
        self.assertEqual(self.names(), ["a"] * 3)

    def test_lines_that_end_while_the_thread_writes_follow(self) -> None:
        self.thread.slow = True
        self.end("a")
        self.clock.advance(FLUSH)
        self.end("b")
        self.clock.advance(10 * FLUSH)
        self.assertEqual(len(self.thread.jobs), 1)
        self.thread.run()
        self.assertEqual(self.names(), ["a"])
        self.clock.advance(FLUSH)
        self.thread.run()
        self.assertEqual(self.names(), ["a", "b"])

    def test_many_bytes_are_written_at_once_and_none_is_lost(self) -> None:
        # The longest names that a client can send: they must not displace the lines of others.
        for name in ("x" * 16_000, "\xff" * 8_000):
            self.end("a")
            self.end(name, 150)
        self.clock.advance(FLUSH)
        self.assertEqual(len(self.names()), 302)
        self.assertEqual((self.file.lost, self.journal.lines()), (0, []))

    def test_many_bytes_that_wait_for_the_thread_follow_at_once(self) -> None:
        self.thread.slow = True
        self.end("a")
        self.clock.advance(FLUSH)
        self.end("x" * 16_000, 64)
        self.thread.run()
        self.assertEqual(len(self.thread.jobs), 1)
        self.thread.run()
        self.assertEqual((len(self.names()), self.file.lost), (65, 0))

    def test_stop_writes_what_is_left_and_closes(self) -> None:
        self.end("a")
        self.successResultOf(self.file.stop())
        self.assertEqual((self.names(), self.output.closed), (["a"], True))
        self.assertEqual((self.clock.getDelayedCalls(), self.journal.lines()), ([], []))

    def test_stop_while_the_thread_writes(self) -> None:
        self.thread.slow = True
        self.end("a")
        self.clock.advance(FLUSH)
        self.end("b")
        stopped = self.file.stop()
        self.thread.run()
        self.assertNoResult(stopped)
        self.thread.run()
        self.successResultOf(stopped)
        self.assertEqual((self.names(), self.output.closed), (["a", "b"], True))

    def test_status(self) -> None:
        self.assertEqual(self.file.status(), {"path": "/var/log/access", "lost": 0, "error": None})


class FaultTests(AccessCase):
    def test_full_disk_loses_nothing_that_is_kept_and_is_reported_once(self) -> None:
        self.output.space = 100
        self.end("a", 5)
        self.clock.advance(FLUSH)
        for _ in range(3):
            self.clock.advance(RETRY)
        self.end("b")
        (line,) = self.journal.lines()
        self.assertIn("cannot write the access log /var/log/access: No space left", line)
        self.assertEqual(self.file.status()["error"], "No space left on device")
        self.output.space = 1 << 40
        self.clock.advance(RETRY)
        self.assertEqual(self.names(), ["a"] * 5 + ["b"])
        self.assertIn("is written again; lines lost: 0", self.journal.lines()[-1])
        self.assertEqual((len(self.journal.lines()), self.file.lost), (2, 0))

    def test_lines_beyond_what_is_kept_are_counted_and_noted_in_their_place(self) -> None:
        self.output.space = 0
        self.end("first")
        self.clock.advance(FLUSH)
        self.fill()
        lost = self.file.lost
        for _ in range(5):
            self.clock.advance(RETRY)
        self.assertLessEqual(self.file._size, KEPT + 100)
        self.output.space = 1 << 40
        self.clock.advance(RETRY)
        self.end("last")
        self.clock.advance(FLUSH)
        names = self.names()
        self.assertEqual((names[0], names[-2:]), ("first", [f"# {lost} lines were lost", "last"]))
        self.assertEqual(len([name for name in names if name.startswith("#")]), 1)
        self.assertIn(f"is written again; lines lost: {lost}", self.journal.lines()[-1])
        self.assertEqual(len(self.journal.lines()), 2)

    def test_lost_lines_are_noted_without_a_command_after_them(self) -> None:
        self.output.space = 0
        self.fill()
        self.clock.advance(FLUSH)
        self.output.space = 1 << 40
        self.clock.pump([RETRY, FLUSH, FLUSH])
        self.assertEqual(self.names()[-1], f"# {self.file.lost} lines were lost")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_disk_delays_nobody_and_memory_is_bounded(self) -> None:
        self.thread.slow = True
        self.end("a")
        self.clock.advance(FLUSH)
        self.fill()
        self.fill()
        self.assertLessEqual(self.file._size, KEPT)
        self.assertEqual(len(self.thread.jobs), 1)
        (line,) = self.journal.lines()
        self.assertIn("is written too slowly: lines are lost", line)
        self.thread.run()
        self.clock.advance(FLUSH)
        self.thread.run()
        self.clock.advance(FLUSH)
        self.thread.run()
        self.assertEqual(self.names()[-1], f"# {self.file.lost} lines were lost")

    def test_stop_on_a_full_disk_counts_what_is_lost(self) -> None:
        self.output.space = 0
        self.end("a", 3)
        self.successResultOf(self.file.stop())
        self.assertEqual((self.file.lost, self.output.closed), (3, True))
        self.assertIn("the end of the access log /var/log/access is lost; lines: 3", " ".join(
            self.journal.lines()
        ))  # fmt: skip

    def test_stop_does_not_wait_for_a_disk_that_hangs(self) -> None:
        self.thread.slow = True
        self.end("a")
        self.clock.advance(FLUSH)
        self.end("b")
        stopped = self.file.stop()
        self.clock.advance(STOP)
        self.successResultOf(stopped)
        self.assertFalse(self.output.closed)
        self.journal.line_with(f"could not be written within {STOP:g} s")
        self.journal.line_with("the end of the access log /var/log/access is lost; lines: up to 2")
        self.assertEqual(self.file.lost, 2)
        self.thread.run()
        self.assertEqual(self.thread.jobs, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(st.lists(st.integers(0, 300), max_size=12), st.lists(st.booleans(), max_size=12))
    def test_file_is_whole_lines_in_their_order(
        self, spaces: list[int], reopened: list[bool]
    ) -> None:
        self.setUp()
        ended = []
        for number, space in enumerate(spaces):
            self.output.space = space
            self.end(f"n{number}")
            ended.append(f"n{number}")
            if number < len(reopened) and reopened[number]:
                self.file.reopen()
            self.clock.pump([FLUSH, RETRY])
        self.output.space = 1 << 40
        self.clock.pump([RETRY, RETRY, FLUSH])
        text = b"".join(self.output.files)
        found = [name for file in range(len(self.output.files)) for name in self.whole(file)]
        self.assertEqual([name for name in ended if name in found], found)
        self.assertEqual(len(ended) - len(found), self.file.lost)
        if not any(reopened):
            self.assertEqual(text.count(b"\n"), len(ended))

    def whole(self, file: int) -> list[str]:
        """Return the names in the whole lines of a file that may end inside a line."""
        lines = self.output.files[file].decode().split("\n")[:-1]
        for line in lines:
            self.assertEqual(len(line.split(" ")), 14)
        return [line.split(" ")[5] for line in lines]


class ErrorTests(AccessCase, LoggedErrorsCase):
    def test_unexpected_error_is_logged_and_writing_goes_on(self) -> None:
        write, self.output.write_some = self.output.write_some, None  # type: ignore[assignment, method-assign]
        self.end("a")
        self.clock.advance(FLUSH)
        self.assertEqual(self.flush(TypeError), 1)
        self.assertEqual(self.file.lost, 1)
        self.output.write_some = write  # type: ignore[method-assign]
        self.end("b")
        self.clock.advance(RETRY)
        self.assertEqual(self.names(), ["b"])


class ReopenTests(AccessCase):
    def test_lines_before_the_signal_are_in_the_old_file(self) -> None:
        self.end("a")
        self.file.reopen()
        self.end("b")
        self.clock.advance(FLUSH)
        self.assertEqual([self.names(0), self.names(1)], [["a"], ["b"]])

    def test_signal_while_the_thread_writes(self) -> None:
        self.thread.slow = True
        self.end("a")
        self.clock.advance(FLUSH)
        self.file.reopen()
        self.end("b")
        self.thread.run()
        self.thread.run()
        self.end("c")
        self.clock.advance(FLUSH)
        self.thread.run()
        self.assertEqual([self.names(0), self.names(1)], [["a", "b"], ["c"]])

    def test_line_of_which_a_part_is_written_does_not_begin_the_new_file(self) -> None:
        self.output.space = 10
        self.end("a", 2)
        self.clock.advance(FLUSH)
        self.file.reopen()
        self.output.space = 1 << 40
        self.clock.advance(RETRY)
        self.assertEqual((len(self.output.files[0]), self.names(1)), (10, ["a"]))
        self.assertEqual(self.file.lost, 1)

    def test_file_that_cannot_be_opened_again_is_written_on(self) -> None:
        self.output.replaced = False
        self.output.space = 10
        self.end("a", 2)
        self.clock.advance(FLUSH)
        self.file.reopen()
        self.output.space = 1 << 40
        self.clock.advance(RETRY)
        self.assertEqual((self.names(), self.file.lost), (["a", "a"], 0))


def test_real_file_is_opened_again_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "access"
    clock = Clock()
    file = AccessFile(clock, RotatingFile(str(path), size=0), Thread())
    command = Command(b"LIST", b"", b"LIST")
    ended = Finished(Address("10.0.0.7", 1), command, Outcome.COMPLETED, 1, 0.0, 0.0)
    file.log.finished(ended)
    clock.advance(FLUSH)
    os.rename(path, tmp_path / "old")
    file.reopen()
    file.log.finished(ended)
    file.stop()
    assert [p.read_bytes().count(b" LIST ") for p in (path, tmp_path / "old")] == [1, 1]
    assert access_file.State.STOPPED is file._state
