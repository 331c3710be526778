"""One journal of several workers: each writes its own segments, and a search needs all of them."""

from __future__ import annotations

import os
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal import writer
from natproxy.journal.catalogue import Catalogue
from natproxy.journal.directory import (
    Claim,
    JournalError,
    claim,
    living_writers,
    unwritten_starts,
)
from natproxy.journal.files import ALL, Share, segment_files, worker_of
from natproxy.journal.rows import GapRow
from natproxy.journal.search import Journal
from natproxy.journal.service import JournalService, JournalSettings
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery, WhoisReply
from tests.support.doubles import PlayedThread
from tests.support.journals import NOW, WALL, Traffic, entries_of, gaps_of, meta_of
from tests.support.logged_errors import LoggedErrorsCase

SECOND = 1_000_000
PORT = 50_001


class ShareTests(SynchronousTestCase):
    def test_numbers_without_a_worker_are_divided(self) -> None:
        for workers in (1, 2, 3):
            for number in range(7):
                owners = [n for n in range(workers) if Share(n, workers).owns(number)]
                self.assertEqual(owners, [number % workers])

    def test_worker_in_the_name_of_a_file(self) -> None:
        self.assertEqual(worker_of("20261126T140307.123456Z-w12-1f2e.segment"), 12)
        self.assertEqual(worker_of("20261126T140307.123456Z-w1-1f2e.segment.damaged"), 1)
        self.assertEqual(worker_of("notes-w3-a.segment"), 3)
        self.assertEqual(worker_of("other.segment"), 0)


class ClaimTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())

    def claim(self, worker: int, boot: str, workers: int = 2) -> Claim:
        made = Claim(self.directory, Share(worker, workers), boot)
        self.addCleanup(made.release)
        return made

    def test_workers_write_beside_each_other_and_their_master(self) -> None:
        master = claim_of(self, self.directory)
        self.claim(0, "a")
        self.claim(1, "b")
        self.assertEqual(sorted(living_writers(self.directory)), [(0, "a"), (1, "b")])
        os.close(master)

    def test_daemon_without_workers_excludes_a_master(self) -> None:
        Claim(self.directory, ALL, "a")
        self.assertRaises(JournalError, claim, self.directory)

    def test_worker_knows_what_it_replaces(self) -> None:
        self.assertEqual(self.claim(0, "a").beside, ())
        self.claim(1, "b")
        self.assertEqual(self.claim(0, "c").beside, ("a",))

    def test_lock_of_a_process_that_was_killed_is_removed(self) -> None:
        left = os.path.join(self.directory, "w1-b.lock")
        self.claim(0, "a")
        with open(left, "wb"):
            pass
        self.assertEqual(list(living_writers(self.directory)), [(0, "a")])
        self.assertFalse(os.path.exists(left))

    def test_release_removes_the_lock(self) -> None:
        made = self.claim(0, "a")
        made.release()
        made.release()
        self.assertEqual(os.listdir(self.directory), ["lock"])

    def test_start_is_marked_for_each_worker(self) -> None:
        first, second = self.claim(0, "a"), self.claim(1, "b")
        self.assertEqual(first.mark_start(NOW), [])
        self.assertEqual(second.mark_start(NOW + 1), [])
        self.assertEqual(unwritten_starts(self.directory), {0: NOW, 1: NOW + 1})
        first.clear_start()
        self.assertEqual(unwritten_starts(self.directory), {1: NOW + 1})
        self.assertEqual(unwritten_starts(self.directory, Share(0, 2)), {})

    def test_start_of_a_number_without_a_worker_becomes_a_gap(self) -> None:
        for number, boot in enumerate("abc"):
            self.claim(number, boot, 3).mark_start(NOW + number)
        single = Claim(self.directory, ALL, "d")
        self.addCleanup(single.release)
        gaps = single.mark_start(NOW + 9)
        self.assertEqual(
            sorted(gaps),
            [GapRow(NOW + number, NOW + 9, None, None, "unwritten") for number in range(3)],
        )
        single.clear_start()
        self.assertEqual(unwritten_starts(self.directory), {})


def claim_of(test: SynchronousTestCase, directory: str) -> int:
    os.mkdir(directory)
    return claim(directory)


class WorkersCase(LoggedErrorsCase):
    """Starts, stops and kills the journals of workers, whose threads run at once."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        self.thread = PlayedThread()
        self.wall: float = WALL

    def start(self, worker: int, boot: str, workers: int = 2) -> JournalService:
        traffic = Traffic(boot, wall=self.wall, worker=worker)
        journal = JournalService(
            traffic.clock,
            traffic.ring,
            self.directory,
            JournalSettings(86_400, 10**9),
            lambda: self.wall,
            self.thread,
            Share(worker, workers),
        )
        journal.traffic = traffic  # type: ignore[attr-defined]
        journal.startService()
        self.run_threads()
        return journal

    def traffic(self, journal: JournalService) -> Traffic:
        found = journal.traffic  # type: ignore[attr-defined]
        assert isinstance(found, Traffic)
        return found

    def run_threads(self) -> None:
        while self.thread.asked:
            self.thread.run()

    def wait(self, seconds: float, *journals: JournalService) -> None:
        """Let time pass, and have some journals write."""
        self.wall += seconds
        for journal in journals:
            traffic = self.traffic(journal)
            elapsed, traffic.wall = self.wall - traffic.wall, self.wall
            traffic.clock.advance(max(0.0, elapsed))
            flushed = journal.flush()
            self.run_threads()
            self.successResultOf(flushed)

    def stop(self, journal: JournalService) -> None:
        self.traffic(journal).wall = self.wall
        stopped = journal.stopService()
        self.run_threads()
        self.successResultOf(stopped)

    def kill(self, journal: JournalService) -> None:
        """End the process; what it has locked is free, and its lock file remains."""
        found = journal._claim
        assert found is not None
        for descriptor in found._descriptors:
            os.close(descriptor)
        assert found._writer is not None
        os.close(found._writer._descriptor)
        journal._claim = None
        journal._writer.close()

    def whois(self, seconds: float, port: int = PORT) -> WhoisReply:
        moment = NOW + round(seconds * SECOND)
        with Journal(self.directory) as journal:
            return journal.whois(WhoisQuery(port, since=moment, until=moment))

    def result(self, seconds: float, port: int = PORT) -> str:
        return self.whois(seconds, port).result


class CoverageTests(WorkersCase):
    def test_every_worker_has_to_cover_a_time(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        self.traffic(second).command(PORT)
        self.wait(10, first, second)
        self.assertEqual(self.result(5), NOBODY)
        self.assertEqual(self.whois(0).translations[0].worker, 1)
        self.wait(10, first)
        found = self.whois(15)
        self.assertEqual(found.result, UNKNOWN)
        assert found.gap is not None
        self.assertIn("worker 1", found.gap.cause)
        self.wait(0, second)
        self.assertEqual(self.result(15), NOBODY)
        self.stop(first)
        self.stop(second)
        self.assertEqual(self.result(15), NOBODY)

    def test_translation_is_found_though_another_worker_is_late(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        entry = self.traffic(first).register(PORT)
        self.wait(10, first)
        self.assertEqual(self.result(5), FOUND)
        self.traffic(first).remove(entry)
        for each in (first, second):
            self.stop(each)

    def test_worker_that_was_killed_leaves_a_gap_until_its_successor(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        self.traffic(second).register(PORT)
        self.wait(10, first, second)
        self.kill(second)
        self.wait(10, first)
        self.assertEqual(self.result(15), UNKNOWN)
        self.assertEqual(self.result(15, 50_002), UNKNOWN)
        third = self.start(1, "c")
        self.wait(10, first, third)
        self.assertEqual([self.result(each) for each in (9, 15, 25)], [FOUND, UNKNOWN, NOBODY])
        self.assertEqual(
            [(entry["boot"], entry["outcome"]) for entry in entries_of(self.directory)],
            [("b", "lost")],
        )
        for each in (first, third):
            self.stop(each)

    def test_fewer_workers_after_a_restart(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        self.wait(10, first, second)
        self.stop(first)
        self.kill(second)
        self.wait(10)
        single = self.start(0, "c", 1)
        self.wait(10, single)
        self.assertEqual([self.result(each) for each in (5, 15, 25)], [NOBODY, UNKNOWN, NOBODY])
        self.stop(single)
        self.wait(10)
        # Nobody had its number between the two.
        more = [self.start(0, "d"), self.start(1, "e")]
        self.wait(10, *more)
        self.assertEqual(
            [self.result(each) for each in (15, 25, 35, 45)],
            [UNKNOWN, NOBODY, NOBODY, NOBODY],
        )
        for each in more:
            self.stop(each)

    def test_old_worker_that_drains_beside_its_successor(self) -> None:
        old = self.start(0, "a")
        other = self.start(1, "b")
        self.wait(10, old, other)
        new = self.start(0, "c")
        self.assertEqual(meta_of(self.last("c"))["beside"], "a")
        entry = self.traffic(old).register(PORT)
        self.wait(10, old, new, other)
        # The clock was not set back although the two overlap.
        self.assertEqual([self.result(each) for each in (15, 19)], [FOUND, FOUND])
        self.assertEqual(self.result(15, 50_002), NOBODY)
        self.traffic(old).remove(entry)
        self.stop(old)
        self.wait(10, new, other)
        self.assertEqual([self.result(each) for each in (15, 25)], [FOUND, NOBODY])
        for each in (new, other):
            self.stop(each)

    def test_clock_that_was_set_back_between_two_runs_is_noticed(self) -> None:
        first = self.start(0, "a")
        self.wait(7, first)
        entry = self.traffic(first).register(PORT)
        self.wait(3, first)
        self.traffic(first).remove(entry)
        self.stop(first)
        self.wall -= 5
        second = self.start(0, "b")
        self.wait(10, second)
        self.assertEqual(self.result(8), UNKNOWN)
        self.stop(second)

    def test_damaged_segment_of_one_worker_is_a_gap_until_its_next_one(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        self.wait(10, first, second)
        self.stop(second)
        self.wait(10, first)
        with open(self.last("b"), "r+b") as file:
            file.write(b"x" * 4096)
        self.assertEqual(self.result(5), UNKNOWN)
        third = self.start(1, "c")
        self.wait(10, first, third)
        self.assertEqual([self.result(each) for each in (5, 25)], [UNKNOWN, NOBODY])
        for each in (first, third):
            self.stop(each)

    def last(self, boot: str) -> str:
        (name,) = [each for each in segment_files(self.directory) if f"-{boot}." in each]
        return os.path.join(self.directory, name)


class RecoveryTests(WorkersCase):
    def test_segments_of_a_sibling_that_runs_are_left_alone(self) -> None:
        first = self.start(0, "a")
        self.traffic(first).register(PORT)
        self.wait(1, first)
        second = self.start(1, "b")
        # One that replaces it, while it still runs.
        third = self.start(0, "c")
        self.assertEqual(Catalogue(self.directory).infos(), [])
        self.assertEqual([e["state"] for e in entries_of(self.directory)], ["registered"])
        for each in (first, second, third):
            self.stop(each)

    def test_sibling_that_is_killed_later_is_recovered_by_its_successor(self) -> None:
        first = self.start(0, "a")
        self.traffic(first).register(PORT)
        self.wait(1, first)
        third = self.start(0, "c")
        self.kill(first)
        self.wait(61, third)
        self.assertEqual([e["state"] for e in entries_of(self.directory)], ["lost"])
        self.stop(third)

    def test_single_daemon_leaves_workers_alone_whose_master_was_killed(self) -> None:
        worker = self.start(1, "b")
        self.traffic(worker).register(PORT)
        self.wait(1, worker)
        single = self.start(0, "c", 1)
        self.assertEqual([e["state"] for e in entries_of(self.directory)], ["registered"])
        self.stop(single)
        self.stop(worker)


class SearchTests(WorkersCase):
    def test_worker_searches_its_own_segments_only(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        self.traffic(first).command(PORT)
        self.traffic(second).command(50_002)
        self.wait(1, first, second)
        for number, boot in enumerate("ab"):
            with Journal(self.directory, share=Share(number, 2)) as journal:
                self.assertEqual({e.boot for e in journal.events(EventsQuery())}, {boot})
        with Journal(self.directory) as journal:
            self.assertEqual([each.worker for each in journal.history(HistoryQuery())], [0, 1])
            self.assertEqual(
                [each.boot for each in journal.events(EventsQuery(after=1, boot="a"))], ["a", "a"]
            )
        for each in (first, second):
            self.stop(each)

    def test_history_continues_when_the_segment_of_one_worker_is_sealed(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        for port in range(50_000, 50_400):
            self.traffic(first).register(port)
        self.traffic(second).command(PORT)
        self.wait(1, first, second)
        with Journal(self.directory) as journal:
            found = journal.history(HistoryQuery())
            serials = [next(found).serial for _ in range(3)]
            with patch.object(writer, "ROWS", 1):
                self.traffic(first).command(50_500)
                self.wait(1, first)
            serials += [each.serial for each in found if each.worker == 0]
        self.assertEqual(sorted(set(serials)), list(range(1, 401)))
        for each in (first, second):
            self.stop(each)

    def test_verify_finds_nothing_wrong(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        self.wait(1, first, second)
        self.kill(second)
        third = self.start(1, "c")
        self.wait(1, first, third)
        for each in (first, third):
            self.stop(each)
        with Journal(self.directory) as journal:
            self.assertEqual([check.problems for check in journal.verify()], [()] * 3)


class RetentionTests(WorkersCase):
    def test_first_worker_deletes_the_segments_of_all(self) -> None:
        first, second = self.start(0, "a"), self.start(1, "b")
        self.wait(1, first, second)
        self.stop(first)
        self.stop(second)
        self.wait(86_402)
        second = self.start(1, "d")
        self.assertEqual(len(segment_files(self.directory)), 3)
        first = self.start(0, "c")
        self.wait(1, first, second)
        self.assertEqual(
            sorted(name.rpartition("-")[2] for name in segment_files(self.directory)),
            ["c.segment", "d.segment"],
        )
        self.assertIn("deleted", [gap.cause for gap in gaps_of(self.directory)])
        # What was deleted is known to be missing, whichever worker's it was.
        self.assertEqual(self.result(0.5), UNKNOWN)
        self.assertEqual(self.result(86_403.5), NOBODY)
        for each in (first, second):
            self.stop(each)
