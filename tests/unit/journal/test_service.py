"""The service: when it writes, what a fault does, and what a stop leaves."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from unittest.mock import patch

from twisted.internet.defer import Deferred

from natproxy.journal import service as services
from natproxy.journal import writer
from natproxy.journal.catalogue import Catalogue
from natproxy.journal.directory import Claim
from natproxy.journal.maintenance import Maintenance, Report
from natproxy.journal.rows import GapRow
from natproxy.journal.search import Journal
from natproxy.journal.segment import Segment
from natproxy.journal.service import JournalError, JournalService, JournalSettings
from natproxy.records.record import format_time
from natproxy.records.whois import NOBODY, UNKNOWN, WhoisQuery
from tests.support.doubles import Journal as Log
from tests.support.doubles import PlayedThread
from tests.support.journals import (
    NOW,
    WALL,
    Traffic,
    entries_of,
    gaps_of,
    meta_of,
    paths_of,
)
from tests.support.logged_errors import LoggedErrorsCase

FULL = sqlite3.OperationalError("database or disk is full")


class ServiceCase(LoggedErrorsCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        self.log = Log(self)
        self.thread = PlayedThread()
        self.traffic = Traffic()
        self.journal = self.make(self.traffic)

    def make(self, traffic: Traffic) -> JournalService:
        return JournalService(
            traffic.clock,
            traffic.ring,
            self.directory,
            JournalSettings(86_400, 10**9),
            lambda: traffic.wall,
            self.thread,
        )

    def start(self) -> None:
        self.journal.startService()
        self.addCleanup(self.stop)
        self.run_threads()

    def stop(self) -> None:
        if self.journal.running:
            stopped = self.journal.stopService()
            self.run_threads()
            self.successResultOf(stopped)

    def run_threads(self) -> None:
        while self.thread.asked:
            self.thread.run()

    def ports(self) -> list[int]:
        return [entry["nat_port"] for entry in entries_of(self.directory)]


class FlushTests(ServiceCase):
    def test_segment_exists_from_the_start(self) -> None:
        self.start()
        (path,) = paths_of(self.directory)
        meta = meta_of(path)
        self.assertEqual((meta["boot_started"], meta["complete_to"]), (NOW, NOW))
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o700)

    def test_events_are_written_a_quarter_of_a_second_after_the_first(self) -> None:
        self.start()
        self.traffic.advance(3)
        self.traffic.command(50_001)
        self.traffic.advance(0.2)
        self.traffic.command(50_002)
        self.assertEqual(self.thread.asked, [])
        self.traffic.advance(0.05)
        self.assertEqual(len(self.thread.asked), 1)
        self.run_threads()
        self.assertEqual(self.ports(), [50_001, 50_002])
        self.assertEqual(self.journal.complete_to, NOW + 3_250_000)

    def test_command_never_waits_and_batches_do_not_overlap(self) -> None:
        self.start()
        self.traffic.command(50_001)
        self.traffic.advance(0.25)
        self.traffic.command(50_002)
        self.traffic.advance(5)
        self.assertEqual(len(self.thread.asked), 1)
        self.run_threads()
        self.assertEqual(self.ports(), [50_001])
        self.traffic.advance(0.25)
        self.run_threads()
        self.assertEqual(self.ports(), [50_001, 50_002])

    def test_completeness_is_renewed_when_idle(self) -> None:
        self.start()
        calls = self.thread.calls
        self.traffic.advance(services.IDLE)
        self.run_threads()
        self.assertEqual(self.thread.calls, calls + 1)
        self.assertEqual(meta_of(paths_of(self.directory)[0])["complete_to"], NOW + 10_000_000)

    def test_nothing_runs_in_between_when_idle(self) -> None:
        self.start()
        due = sorted(call.getTime() - 50 for call in self.traffic.clock.getDelayedCalls())
        self.assertEqual(due, [services.IDLE, services.MAINTENANCE])

    def test_flush_makes_everything_durable(self) -> None:
        self.start()
        self.traffic.command(50_001)
        self.traffic.advance(0.1)
        flushed = self.journal.flush()
        self.assertNoResult(flushed)
        self.run_threads()
        self.successResultOf(flushed)
        self.assertEqual(self.ports(), [50_001])
        self.assertEqual(self.journal.complete_to, NOW + 100_000)

    def test_flush_during_a_write_waits_for_the_next(self) -> None:
        self.start()
        self.traffic.command(50_001)
        self.traffic.advance(0.25)
        self.traffic.command(50_002)
        flushed = [self.journal.flush(), self.journal.flush()]
        self.thread.run()
        for waiting in flushed:
            self.assertNoResult(waiting)
        self.assertEqual(len(self.thread.asked), 1)
        self.run_threads()
        for waiting in flushed:
            self.successResultOf(waiting)
        self.assertEqual(self.ports(), [50_001, 50_002])

    def test_flush_that_is_cancelled_is_no_error(self) -> None:
        self.start()
        flushed = self.journal.flush()
        flushed.cancel()
        self.failureResultOf(flushed)
        self.run_threads()

    def test_full_segment_is_sealed_in_the_other_thread(self) -> None:
        self.start()
        self.patch(writer, "ROWS", 1)
        self.traffic.command(50_001)
        self.traffic.advance(0.25)
        self.thread.run()
        self.assertEqual(len(paths_of(self.directory)), 2)
        self.assertEqual(Catalogue(self.directory).infos(), [])
        self.assertEqual(len(self.thread.asked), 1)
        self.run_threads()
        self.assertEqual(len(Catalogue(self.directory).infos()), 1)

    def test_limits_that_change_apply_to_the_maintenance_at_once(self) -> None:
        self.start()
        with patch("natproxy.journal.maintenance.retain", return_value=[]) as retain:
            self.journal.retain(60.0, 1 << 20)
            self.run_threads()
            self.assertEqual(retain.call_args.args[2:], (60.0, 1 << 20))
            retain.reset_mock()
            self.journal.retain(60.0, 1 << 20)
            self.run_threads()
            retain.assert_not_called()

    def test_segment_that_is_full_during_a_maintenance_is_sealed_after_it(self) -> None:
        self.journal.startService()
        self.addCleanup(self.stop)
        self.patch(writer, "ROWS", 1)
        self.traffic.command(50_001)
        write, maintain = self.thread.asked
        self.thread.asked = [write]
        self.thread.run()
        self.traffic.advance(0.25)
        self.thread.run()
        self.thread.asked.append(maintain)
        self.run_threads()
        self.traffic.advance(services.MAINTENANCE)
        self.run_threads()
        self.assertEqual(len(Catalogue(self.directory).infos()), 1)


class StateTests(ServiceCase):
    def test_state_for_the_status(self) -> None:
        self.start()
        self.traffic.command(50_001)
        self.traffic.advance(0.25)
        self.run_threads()
        state = self.journal.status().json()
        self.assertGreater(state.pop("bytes"), 4096)
        self.assertEqual(
            state,
            {
                "directory": self.directory,
                "complete_to": format_time(NOW + 250_000),
                "lag": 0.0,
                "rows": 1,
                "gaps": 0,
                "segments": 1,
                "error": None,
            },
        )

    def test_lag_is_the_age_of_the_oldest_event_that_waits(self) -> None:
        self.start()
        self.assertEqual(self.journal.lag(), 0)
        self.traffic.command(50_001)
        self.traffic.advance(0.125)
        self.traffic.command(50_002)
        self.assertAlmostEqual(self.journal.lag(), 0.125, 3)

    def test_lag_of_events_that_are_lost_is_since_the_last_write(self) -> None:
        self.traffic = Traffic(size=3)
        self.journal = self.make(self.traffic)
        self.start()
        self.traffic.advance(1)
        for port in range(50_001, 50_004):
            self.traffic.command(port)
        self.assertAlmostEqual(self.journal.lag(), 1)


class FaultTests(ServiceCase):
    def fail_writes(self, error: Exception, times: int) -> None:
        """Fail attempts to write, one each second."""
        with patch.object(Segment, "append", side_effect=error):
            self.traffic.advance(0.25)
            self.run_threads()
            for _ in range(times - 1):
                self.traffic.advance(1)
                self.run_threads()

    def test_full_disk_is_logged_once_and_loses_nothing(self) -> None:
        self.start()
        self.traffic.command(50_001)
        self.fail_writes(FULL, 4)
        self.traffic.command(50_002)
        self.assertIn("the disk is full", str(self.journal.status().error))
        line = self.log.line_with("has stopped")
        self.assertIn(f"the journal in {self.directory} has stopped: the disk is full", line)
        self.assertIn("free some space, or lower --journal-max-size", line)
        self.traffic.advance(1)
        self.run_threads()
        self.assertEqual(self.ports(), [50_001, 50_002])
        self.assertEqual(gaps_of(self.directory), [])
        self.log.line_with("is written again")
        self.assertIsNone(self.journal.status().error)

    def test_what_the_ring_loses_is_a_gap(self) -> None:
        self.traffic = Traffic(size=3)
        self.journal = self.make(self.traffic)
        self.start()
        self.traffic.advance(1)
        self.traffic.command(50_001)
        self.fail_writes(FULL, 2)
        self.traffic.command(50_002)
        self.traffic.advance(1)
        self.run_threads()
        self.assertEqual(self.ports(), [50_002])
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW, NOW + 2_250_000, 1, 3, "disk")])
        self.assertEqual(self.journal.gaps, 1)

    def test_flush_fails_with_the_reason(self) -> None:
        self.start()
        self.traffic.command(50_001)
        with patch.object(Segment, "append", side_effect=FULL):
            waiting = self.journal.flush()
            self.run_threads()
        for flushed in (waiting, self.journal.flush()):
            error = self.failureResultOf(flushed, JournalError).value
            self.assertIn(f"the journal in {self.directory} cannot be written: ", str(error))

    def test_disk_that_is_full_at_the_start(self) -> None:
        with patch.object(Segment, "create", side_effect=OSError(28, "No space left on device")):
            self.start()
        self.traffic.command(50_001)
        self.traffic.advance(1)
        self.run_threads()
        self.assertEqual(self.ports(), [50_001])
        self.assertEqual(meta_of(paths_of(self.directory)[0])["opened"], NOW)

    def test_bug_is_logged_and_does_not_end_the_journal(self) -> None:
        self.start()
        self.traffic.command(50_001)
        self.fail_writes(RuntimeError("unexpected"), 3)
        self.assertEqual(self.flush(RuntimeError), 1)
        self.traffic.advance(1)
        self.run_threads()
        self.assertEqual(self.ports(), [50_001])

    def test_bug_of_the_maintenance_is_logged_and_it_runs_again(self) -> None:
        with patch.object(Maintenance, "run", side_effect=RuntimeError("unexpected")):
            self.start()
        self.assertEqual(self.flush(RuntimeError), 1)
        with patch.object(Maintenance, "run", side_effect=RuntimeError("again")) as run:
            self.traffic.advance(services.MAINTENANCE)
            self.run_threads()
        run.assert_called_once()
        self.assertEqual(self.flush(RuntimeError), 1)

    def test_segment_that_is_being_read_is_sealed_soon(self) -> None:
        busy, idle = Report(1, 1, busy=True), Report(1, 1)
        with patch.object(Maintenance, "run", side_effect=[busy, idle]) as run:
            self.start()
            self.traffic.advance(services.READ)
            self.run_threads()
            self.traffic.advance(services.READ)
            self.run_threads()
        self.assertEqual(run.call_count, 2)

    def test_directory_in_use_is_an_error_of_the_start(self) -> None:
        self.start()
        other = self.make(Traffic("0b"))
        error = self.assertRaises(JournalError, other.startService)
        self.assertIn("another daemon writes the journal", str(error))


class RestartTests(ServiceCase):
    def result(self, seconds: float) -> str:
        """Return what a search for a time finds."""
        moment = NOW + round(seconds * 1e6)
        with Journal(self.directory) as journal:
            return journal.whois(WhoisQuery(50_001, since=moment, until=moment)).result

    def restart(self, seconds: float) -> None:
        self.journal = self.make(Traffic(f"b{round(seconds)}", wall=WALL + seconds))

    def kill(self) -> None:
        """End the process; no thread returns."""
        self.thread.asked.clear()
        assert self.journal._claim is not None
        self.journal._claim.release()
        self.journal._claim = None
        self.journal._writer.close()

    def test_run_that_wrote_nothing_is_unknown(self) -> None:
        self.start()
        self.stop()
        for seconds in (10, 20):
            self.restart(seconds)
            self.journal.startService()
            self.assertEqual(
                [self.result(time) for time in (5, 10, 15, 25)],
                [NOBODY, UNKNOWN, UNKNOWN, UNKNOWN],
            )
            self.kill()
        self.restart(30)
        self.start()
        self.stop()
        self.assertEqual(
            gaps_of(self.directory),
            [GapRow(NOW + 10_000_000, NOW + 30_000_000, None, None, "unwritten")],
        )
        results = [self.result(time) for time in (5, 15, 25, 31)]
        self.assertEqual(results, [NOBODY, UNKNOWN, UNKNOWN, NOBODY])

    def test_run_that_is_killed_after_its_first_write_has_no_other_gap(self) -> None:
        with patch.object(Claim, "clear_start"):
            self.start()
        self.kill()
        self.restart(10)
        self.start()
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["killed"])

    def test_files_that_cannot_be_read_are_a_gap_and_no_obstacle(self) -> None:
        os.mkdir(self.directory)
        path = os.path.join(self.directory, "20231114T221300.000000Z-w0-0c.segment")
        with open(path, "wb") as file:
            file.write(b"x" * 999)
        self.start()
        self.assertIn("is set aside", self.log.line_with("cannot read the journal's segment"))
        self.traffic.advance(services.IDLE)
        self.run_threads()
        self.assertEqual(
            gaps_of(self.directory), [GapRow(NOW - 20_000_000, NOW, None, None, "unreadable")]
        )

    def test_run_after_a_kill(self) -> None:
        self.start()
        self.traffic.register(50_001)
        self.traffic.advance(0.25)
        self.run_threads()
        self.kill()
        killed = self.journal
        self.restart(60)
        self.start()
        self.assertEqual(
            gaps_of(self.directory),
            [GapRow(NOW + 250_000, NOW + 60_000_000, None, None, "killed")],
        )
        self.assertEqual([entry["state"] for entry in entries_of(self.directory)], ["lost"])
        self.assertTrue(killed.running)


class StopTests(ServiceCase):
    def test_last_events_are_written_and_the_end_recorded(self) -> None:
        self.start()
        self.traffic.command(50_001)
        stopped = self.journal.stopService()
        self.assertNoResult(stopped)
        self.run_threads()
        self.successResultOf(stopped)
        self.assertEqual(self.ports(), [50_001])
        (path,) = paths_of(self.directory)
        self.assertEqual(meta_of(path)["stopped"], NOW)
        self.assertEqual(self.traffic.clock.getDelayedCalls(), [])
        self.assertFalse(os.path.exists(f"{path}-wal"))

    def test_stop_during_a_write_writes_once_more(self) -> None:
        self.start()
        self.traffic.command(50_001)
        self.traffic.advance(0.25)
        self.traffic.command(50_002)
        stopped = self.journal.stopService()
        self.run_threads()
        self.successResultOf(stopped)
        self.assertEqual(self.ports(), [50_001, 50_002])
        self.assertIn("stopped", meta_of(paths_of(self.directory)[0]))

    def test_stop_waits_for_the_maintenance(self) -> None:
        self.journal.startService()
        self.thread.run()
        stopped = self.journal.stopService()
        maintain = self.thread.asked.pop(0)
        self.thread.run()
        self.assertNoResult(stopped)
        self.thread.asked.append(maintain)
        self.thread.run()
        self.successResultOf(stopped)
        self.assertEqual(self.traffic.clock.getDelayedCalls(), [])

    def test_full_disk_does_not_delay_the_stop(self) -> None:
        self.start()
        self.traffic.command(50_001)
        with patch.object(Segment, "append", side_effect=FULL):
            stopped = self.journal.stopService()
            self.run_threads()
        self.successResultOf(stopped)
        self.assertNotIn("stopped", meta_of(paths_of(self.directory)[0]))

    def test_disk_that_hangs_does_not_delay_the_stop_for_long(self) -> None:
        self.start()
        stopped = self.journal.stopService()
        self.traffic.advance(services.STOP)
        self.successResultOf(stopped)
        self.log.line_with("could not be closed within")
        self.run_threads()

    def test_lock_is_released(self) -> None:
        self.start()
        self.stop()
        self.journal = self.make(Traffic("0b"))
        self.start()

    def test_journal_that_was_never_started(self) -> None:
        self.journal.prepare()
        self.successResultOf(self.journal.stopService())
        self.journal = self.make(Traffic("0b"))
        self.start()

    def test_flush_of_a_closed_journal_fails(self) -> None:
        self.failureResultOf(self.journal.flush(), JournalError)
        self.start()
        flushed: Deferred[None] = self.journal.flush()
        stopped = self.journal.stopService()
        self.failureResultOf(self.journal.flush(), JournalError)
        self.run_threads()
        self.successResultOf(stopped)
        self.successResultOf(flushed)
        self.failureResultOf(self.journal.flush(), JournalError)


class LiveTests(ServiceCase):
    def test_live_segment_is_readable_at_any_time(self) -> None:
        self.start()
        self.traffic.command(50_001)
        self.traffic.advance(0.25)
        self.run_threads()
        (path,) = paths_of(self.directory)
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            count = reader.execute("select count(*) from entries").fetchone()
            self.traffic.command(50_002)
            self.traffic.advance(0.25)
            self.run_threads()
            again = reader.execute("select count(*) from entries").fetchone()
        self.assertEqual((count, again), ((1,), (2,)))
