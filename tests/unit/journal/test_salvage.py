"""What a process that is killed has in its spool is in the journal after the next start."""

from __future__ import annotations

import os
import shutil
import sqlite3
from unittest.mock import patch

from natproxy.journal import recovery, salvage, spool
from natproxy.journal.contents import Directory
from natproxy.journal.coverage import OLDEST
from natproxy.journal.erase import erase_client
from natproxy.journal.files import file_name
from natproxy.journal.maintenance import Maintenance
from natproxy.journal.postgres.completeness import Known, ProxyCoverage, Report
from natproxy.journal.postgres.positions import Taken
from natproxy.journal.rows import GapRow
from natproxy.journal.salvage import read_spools
from natproxy.journal.search import Journal
from natproxy.journal.segment import Segment
from natproxy.journal.service import JournalService, JournalSettings
from natproxy.journal.spool_format import spool_path
from natproxy.records.queries import EventsQuery
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery
from tests.support.doubles import Journal as Log
from tests.support.doubles import PlayedThread
from tests.support.journals import (
    NOW,
    Traffic,
    entries_of,
    gaps_of,
    meta_of,
    paths_of,
    steps_of,
)
from tests.support.logged_errors import LoggedErrorsCase

SECOND = 1_000_000
PORT = 50_001


class KilledCase(LoggedErrorsCase):
    """A daemon that is killed, and the next one."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        self.thread = PlayedThread()
        self.log = Log(self)
        self.traffic = Traffic("0a")
        self.journal = self.start(self.traffic)

    def start(self, traffic: Traffic) -> JournalService:
        journal = JournalService(
            traffic.clock,
            traffic.ring,
            self.directory,
            JournalSettings(86_400, 10**9),
            lambda: traffic.wall,
            self.thread,
        )
        journal.startService()
        self.run_threads()
        return journal

    def run_threads(self) -> None:
        while self.thread.asked:
            self.thread.run()

    def flush(self) -> None:  # type: ignore[override]
        flushed = self.journal.flush()
        self.run_threads()
        self.successResultOf(flushed)

    def kill(self) -> None:
        """End the process: what it has locked is free, and nothing is removed."""
        if self.journal._spool is not None:
            self.journal._spool.close(remove=False)
        self.traffic.ring.spool_to(None)
        found = self.journal._claim
        assert found is not None
        found.release()
        self.journal._writer.close()

    def restart(self, after: float = 10) -> JournalService:
        """Start the next daemon; it ends in order."""
        later = Traffic("0b", wall=self.traffic.wall + after)
        self.later = later
        journal = self.start(later)
        self.stop(journal)
        return journal

    def stop(self, journal: JournalService) -> None:
        stopped = journal.stopService()
        self.run_threads()
        self.successResultOf(stopped)

    def states(self) -> list[tuple[int, str]]:
        return [(entry["nat_port"], entry["state"]) for entry in entries_of(self.directory)]

    def result(self, seconds: float, port: int = PORT) -> str:
        moment = NOW + round(seconds * SECOND)
        with Journal(self.directory) as journal:
            return journal.whois(WhoisQuery(port, since=moment, until=moment)).result

    def spools(self) -> list[str]:
        return [name for name in os.listdir(self.directory) if ".spool" in name]


class SalvageTests(KilledCase):
    def test_events_that_were_not_written_are_recovered(self) -> None:
        early = self.traffic.register(50_000)
        self.flush()
        self.traffic.advance(0.1)
        self.traffic.relay(early)
        entry = self.traffic.register(PORT)
        self.traffic.advance(0.01)
        self.traffic.remove(entry)
        self.traffic.remove(early)
        self.traffic.fail()
        self.traffic.ring.act("kill", self.traffic.wall, 0, 17, "everything")
        self.traffic.register(50_002)
        expected, _ = self.traffic.ring.read(0, 100)
        self.kill()
        self.restart()
        self.assertEqual(
            self.states(),
            [(50_000, "removed"), (PORT, "removed"), (None, "failed"), (50_002, "lost")],
        )
        with Journal(self.directory) as journal:
            found = [(each.seq, each.event) for each in journal.events(EventsQuery(boot="0a"))]
            self.assertEqual([check.problems for check in journal.verify()], [()] * 2)
        self.assertEqual(found, [row[:2] for row in expected])
        self.assertEqual(self.spools(), [])

    def test_attempts_of_a_command_are_recovered(self) -> None:
        traffic = self.traffic
        first = traffic.register(50_001)
        self.flush()
        traffic.advance(0.1)
        second = traffic.retry(first, 50_002)
        traffic.relay(second)
        self.flush()
        traffic.advance(0.1)
        # The segment has this attempt's beginning, and the spool its end.
        third = traffic.retry(second, 50_003)
        traffic.advance(0.1)
        traffic.retry(third, 50_004)
        self.kill()
        self.restart()
        self.assertEqual(
            [
                tuple(entry[member] for member in ("nat_port", "command", "attempt", "outcome"))
                for entry in entries_of(self.directory)
            ],
            [
                (50_001, 1, 1, "retried"),
                (50_002, 1, 2, "retried"),
                (50_003, 1, 3, "retried"),
                (50_004, 1, 4, "lost"),
            ],
        )
        self.assertEqual(
            [
                self.result(at, port)
                for at, port in ((0.05, 50_001), (0.15, 50_002), (0.25, 50_003))
            ],
            [FOUND] * 3,
        )
        with Journal(self.directory) as journal:
            found = [(each.command, each.attempt) for each in journal.events(EventsQuery())]
        self.assertEqual(found[-3:], [(1, 3), (1, 3), (1, 4)])

    def test_whois_is_exact_until_the_kill_and_after_it(self) -> None:
        self.flush()
        self.traffic.advance(0.1)
        self.traffic.command(PORT)
        self.traffic.advance(0.05)
        self.traffic.register(50_002)
        self.traffic.advance(0.05)
        self.kill()
        self.assertEqual(self.result(0.12), UNKNOWN)
        self.restart()
        self.assertEqual(
            gaps_of(self.directory), [GapRow(NOW + 150_000, NOW + 10_200_000, None, None, "ended")]
        )
        self.assertEqual(
            [self.result(at) for at in (0.05, 0.1, 0.12, 5, 10.1)], [NOBODY, FOUND, *[NOBODY] * 3]
        )
        # Nothing shows when exactly the process ended.
        self.assertEqual(
            [self.result(at, 50_002) for at in (0.14, 0.15, 0.16, 10.1, 10.3)],
            [NOBODY, FOUND, UNKNOWN, UNKNOWN, NOBODY],
        )
        with Journal(self.directory) as journal:
            self.assertEqual([gap.cause for gap in journal.gaps(since=NOW)], [])

    def test_kill_before_the_first_write(self) -> None:
        journal, self.journal = self.journal, self.journal
        self.stop(journal)
        self.traffic = Traffic("0c", wall=self.traffic.wall + 1)
        self.traffic.command(PORT)
        self.journal = JournalService(
            self.traffic.clock,
            self.traffic.ring,
            self.directory,
            JournalSettings(86_400, 10**9),
            lambda: self.traffic.wall,
            self.thread,
        )
        self.journal.startService()
        self.thread.asked.clear()
        self.kill()
        self.restart()
        self.assertEqual(self.states(), [(PORT, "removed")])
        # It is not known that it could not write.
        self.assertIn("unwritten", [gap.cause for gap in gaps_of(self.directory)])

    def test_recovery_is_interrupted_before_the_spool_is_removed(self) -> None:
        self.traffic.command(PORT)
        self.traffic.register(50_002)
        self.kill()
        path = spool_path(self.directory, 0, "0a")
        shutil.copy(path, f"{path}.copy")
        found = salvage.salvage(self.directory, NOW + SECOND)
        self.assertEqual((found.rows, found.messages), (4, []))
        os.rename(f"{path}.copy", path)
        self.assertEqual(salvage.salvage(self.directory, NOW + 2 * SECOND).rows, 0)
        self.restart()
        self.assertEqual(self.states(), [(PORT, "removed"), (50_002, "lost")])
        self.assertEqual([gap.until for gap in gaps_of(self.directory)], [NOW + SECOND])

    def test_disk_that_is_full_at_the_next_start(self) -> None:
        self.traffic.command(PORT)
        self.kill()
        full = sqlite3.OperationalError("database or disk is full")
        with patch.object(Segment, "append", side_effect=full):
            report = Maintenance(self.directory, "0b", NOW, 86_400, 10**9).run(NOW + SECOND)
        self.assertIn("free some space", report.messages[0])
        self.assertEqual(len(self.spools()), 1)
        self.restart()
        self.assertEqual(self.states(), [(PORT, "removed")])

    def test_kill_while_the_disk_is_full(self) -> None:
        self.traffic.command(50_000)
        self.flush()
        full = sqlite3.OperationalError("database or disk is full")
        with patch.object(Segment, "append", side_effect=full):
            for port in (PORT, 50_002, 50_003):
                self.traffic.command(port)
                self.traffic.advance(1.25)
                self.run_threads()
        self.kill()
        self.restart()
        self.assertEqual([port for port, _ in self.states()], [50_000, PORT, 50_002, 50_003])
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["ended"])

    def test_spool_of_another_run_of_the_kernel(self) -> None:
        self.flush()
        self.traffic.advance(0.1)
        self.traffic.command(PORT)
        self.kill()
        with patch.object(salvage, "kernel_boot", return_value="another"):
            self.restart()
        self.assertEqual((self.states(), self.spools()), ([], []))
        self.assertEqual(
            gaps_of(self.directory), [GapRow(NOW, NOW + 10_100_000, None, None, "killed")]
        )
        self.assertEqual(self.result(0.1), UNKNOWN)

    def test_spool_that_was_full(self) -> None:
        self.flush()
        self.traffic.advance(0.1)
        self.traffic.command(PORT)
        self.traffic.advance(0.1)
        found = self.journal._spool
        assert found is not None
        found._end = 0
        found._filled[1] += 1
        self.traffic.command(50_002)
        self.kill()
        self.restart()
        self.assertEqual(self.states(), [(PORT, "removed")])
        self.assertEqual(
            gaps_of(self.directory), [GapRow(NOW + 100_000, NOW + 10_200_000, None, None, "killed")]
        )
        self.assertEqual([self.result(at) for at in (0.05, 0.1, 0.2)], [NOBODY, FOUND, UNKNOWN])

    def test_spool_that_cannot_be_read(self) -> None:
        self.traffic.command(PORT)
        self.kill()
        with open(spool_path(self.directory, 0, "0a"), "r+b") as file:
            file.write(b"x" * 100)
        with open(os.path.join(self.directory, "w0-0e.spool.new"), "wb"):
            pass
        self.restart()
        self.assertEqual((self.states(), self.spools()), ([], []))
        self.log.line_with("it is not a spool; the time since the last write is a gap")
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["killed"])

    def test_what_is_no_file_does_not_stop_the_recovery(self) -> None:
        self.flush()
        self.traffic.command(PORT)
        self.kill()
        (name,) = self.spools()
        path = os.path.join(self.directory, name)
        for make in (lambda: os.mkfifo(path), lambda: os.symlink("/dev/zero", path)):
            if os.path.lexists(path):
                os.unlink(path)
            make()
            found = salvage.salvage(self.directory, NOW)
            self.assertEqual(found.rows, 0)
            self.assertIn(f"{path} is not a file of the journal: remove it", found.messages[0])
        self.restart()
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["killed"])

    def test_spool_of_any_size_is_read_in_part(self) -> None:
        self.traffic.command(PORT)
        self.kill()
        (name,) = self.spools()
        os.truncate(os.path.join(self.directory, name), 1 << 40)
        (message,) = salvage.salvage(self.directory, NOW).messages
        self.assertIn("bytes in place of", message)
        self.assertEqual(self.spools(), [])

    def test_damaged_segment_is_set_aside_and_its_spool_removed(self) -> None:
        self.traffic.command(PORT)
        self.kill()
        with open(paths_of(self.directory)[0], "r+b") as file:
            file.write(b"x" * 8192)
        self.restart()
        self.assertEqual(self.spools(), [])
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["unreadable"])

    def test_spool_of_a_process_that_runs_is_left_alone(self) -> None:
        self.traffic.command(PORT)
        found = salvage.salvage(self.directory, NOW)
        self.assertEqual((found.rows, len(self.spools())), (0, 1))
        self.stop(self.journal)
        self.assertEqual(self.spools(), [])

    def test_clock_that_was_set_back_before_the_kill(self) -> None:
        self.flush()
        self.traffic.advance(5)
        self.traffic.command(PORT)
        self.traffic.wall -= 3
        self.traffic.command(50_002)
        self.kill()
        self.restart()
        ((time, step, _),) = steps_of(self.directory)
        self.assertEqual((time, step), (NOW + 2 * SECOND, -3 * SECOND))
        self.assertEqual(self.result(3), UNKNOWN)
        self.assertEqual(self.result(0.5), UNKNOWN)

    def test_segment_is_begun_between_the_last_write_and_the_kill(self) -> None:
        early = self.traffic.register(50_000)
        self.traffic.command(PORT)
        with patch("natproxy.journal.writer.ROWS", 1):
            self.flush()
        self.assertEqual(len(paths_of(self.directory)), 2)
        self.assertNotIn("last_seq", meta_of(paths_of(self.directory)[1]))
        self.traffic.remove(early)
        self.kill()
        self.restart()
        self.assertEqual(self.states(), [(PORT, "removed"), (50_000, "removed")])

    def begin_segment(self, seconds: float) -> str:
        """Leave what the creation of a segment leaves that is interrupted by a kill."""
        name = file_name(self.traffic.ring.origin, NOW + round(seconds * SECOND))
        path = os.path.join(self.directory, name)
        with open(path, "wb"):
            return path

    def test_kill_while_the_next_segment_is_created(self) -> None:
        early = self.traffic.register(50_000)
        self.flush()
        self.traffic.remove(early)
        self.traffic.command(PORT)
        begun = self.begin_segment(30)
        self.kill()
        self.restart()
        self.assertEqual(self.states(), [(50_000, "removed"), (PORT, "removed")])
        self.assertFalse(os.path.exists(begun))
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["ended"])

    def test_kill_while_the_first_segment_is_created(self) -> None:
        self.traffic.command(PORT)
        begun = self.begin_segment(30)
        self.kill()
        for path in paths_of(self.directory):
            if path != begun:
                os.unlink(path)
        self.restart()
        self.assertEqual(self.states(), [(PORT, "removed")])
        self.assertFalse(os.path.exists(begun))

    def test_file_of_an_earlier_version_has_no_spool(self) -> None:
        self.flush()
        found = self.journal._spool
        assert found is not None
        found.close(remove=True)
        self.kill()
        with patch.object(recovery, "salvage", wraps=salvage.salvage) as called:
            self.restart()
        self.assertEqual(called.call_count, 1)
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["killed"])


class ReaderTests(KilledCase):
    """Without a daemon, a search and an erasure read the spool of one that was killed."""

    def setUp(self) -> None:
        super().setUp()
        self.flush()
        self.traffic.advance(0.1)
        self.traffic.command(PORT, "192.0.2.77")
        self.kill()

    def test_search_without_a_daemon(self) -> None:
        self.assertEqual(self.result(0.1), UNKNOWN)
        read_spools(self.directory)
        self.assertEqual([self.result(at) for at in (0.1, 5)], [FOUND, NOBODY])
        self.assertEqual(self.spools(), [])
        self.restart()
        self.assertEqual([self.result(at) for at in (0.1, 5)], [FOUND, NOBODY])
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["ended"])

    def test_directory_of_another_user_is_left_as_it_is(self) -> None:
        other = os.stat(self.directory).st_uid + 1
        with patch.object(os, "geteuid", return_value=other):
            read_spools(self.directory)
        self.assertEqual(len(self.spools()), 1)
        self.assertEqual(self.result(0.1), UNKNOWN)

    def test_shipper_has_no_gap_when_the_spool_was_read(self) -> None:
        # Before, the record reaches to the last write; nothing says that it is all.
        report = self.shipped()
        self.assertEqual([gap.gap.cause for gap in report.gaps], [OLDEST])
        self.assertEqual(report.complete_to, {0: NOW - 1})
        self.restart()
        report = self.shipped()
        self.assertEqual([gap.gap.cause for gap in report.gaps], [OLDEST])
        self.assertEqual(report.complete_to, {0: NOW + 60 * SECOND})

    def shipped(self) -> Report:
        """Return the completeness of what a shipper has taken of everything that there is."""
        directory = Directory(self.directory)
        self.addCleanup(directory.close)
        contents = directory.contents()
        taken = [Taken(number, each, done=True) for number, each in enumerate(contents.segments)]
        return ProxyCoverage(taken, Known(contents, NOW + 60 * SECOND)).report({})

    def test_client_is_erased_from_the_spool_too(self) -> None:
        (found,) = erase_client(self.directory, "192.0.2.77")
        self.assertEqual((found.rows, found.failure), (1, None))
        self.assertEqual(self.spools(), [])
        for name in os.listdir(self.directory):
            with open(os.path.join(self.directory, name), "rb") as file:
                self.assertNotIn(b"192.0.2.77", file.read())

    def test_spool_that_cannot_be_read_is_named_by_an_erasure(self) -> None:
        full = sqlite3.OperationalError("database or disk is full")
        with patch.object(Segment, "append", side_effect=full):
            (found,) = erase_client(self.directory, "192.0.2.77")
        self.assertEqual(found.segment, "w0-0a.spool")
        assert found.failure is not None
        self.assertIn("it may have the client", found.failure)


class ServiceTests(KilledCase):
    def test_no_space_for_a_spool_is_a_warning(self) -> None:
        self.stop(self.journal)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with patch.object(spool.os, "posix_fallocate", full):
            self.traffic = Traffic("0c", wall=self.traffic.wall + 1)
            self.journal = self.start(self.traffic)
        self.traffic.command(PORT)
        self.flush()
        self.assertEqual(self.states(), [(PORT, "removed")])
        line = self.log.line_with("no spool for the journal in")
        self.assertIn("the disk is full; free some space", line)
        self.stop(self.journal)

    def test_what_could_not_be_written_at_the_end_is_recovered(self) -> None:
        self.traffic.command(PORT)
        full = sqlite3.OperationalError("database or disk is full")
        with patch.object(Segment, "append", side_effect=full):
            self.stop(self.journal)
        self.assertEqual(len(self.spools()), 1)
        self.restart()
        self.assertEqual(self.states(), [(PORT, "removed")])

    def test_spool_has_nothing_of_a_client_when_everything_is_written(self) -> None:
        self.traffic.command(PORT, "192.0.2.77")
        path = spool_path(self.directory, 0, "0a")
        with open(path, "rb") as file:
            self.assertIn(b"192.0.2.77", file.read())
        self.traffic.advance(0.25)
        self.run_threads()
        with open(path, "rb") as file:
            self.assertNotIn(b"192.0.2.77", file.read())
        self.stop(self.journal)
