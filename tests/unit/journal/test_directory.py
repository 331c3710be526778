"""The directory of a journal: made, locked, or refused with a sentence; a run without a journal."""

from __future__ import annotations

import os
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.catalogue import Catalogue
from natproxy.journal.directory import JournalError, claim, note_off, unwritten_starts
from natproxy.journal.files import is_off
from natproxy.journal.recovery import recover
from natproxy.journal.rows import GapRow
from natproxy.journal.segment import Segment
from natproxy.journal.writer import Writer
from tests.support.journals import NOW, WALL, Traffic, gaps_of, paths_of


class DirectoryCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())


class ClaimTests(DirectoryCase):
    def claim(self, directory: str | None = None) -> int:
        descriptor = claim(directory or self.directory)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def test_directory_is_made_for_the_owner_alone(self) -> None:
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        path = os.path.join(self.directory, "natproxy", "proxy-9000")
        self.claim(path)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o700)
        self.assertEqual(os.stat(os.path.join(path, "lock")).st_mode & 0o777, 0o600)

    def test_directory_that_exists_keeps_its_mode(self) -> None:
        os.mkdir(self.directory, 0o750)
        self.claim()
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o750)

    def test_second_daemon_is_refused_until_the_first_ends(self) -> None:
        first = claim(self.directory)
        error = self.assertRaises(JournalError, claim, self.directory)
        self.assertEqual(
            str(error),
            f"another daemon writes the journal in {self.directory}; choose another --name, or"
            " another directory with --journal",
        )
        os.close(first)
        self.claim()

    def test_file_in_its_place_is_refused(self) -> None:
        with open(self.directory, "wb"):
            pass
        error = self.assertRaises(JournalError, claim, self.directory)
        self.assertIn(f"cannot keep a journal in {self.directory}: File exists", str(error))

    def test_parent_that_is_a_file_is_refused(self) -> None:
        with open(self.directory, "wb"):
            pass
        error = self.assertRaises(JournalError, claim, f"{self.directory}/a/b")
        self.assertIn("Not a directory; choose another directory with --journal", str(error))

    def test_directory_that_is_not_writable_is_refused(self) -> None:
        os.mkdir(self.directory)
        with patch("os.access", return_value=False):
            error = self.assertRaises(JournalError, claim, self.directory)
        self.assertIn("it is not writable", str(error))

    def test_file_system_without_locks_is_refused(self) -> None:
        with patch("fcntl.flock", side_effect=OSError(37, "No locks available")):
            error = self.assertRaises(JournalError, claim, self.directory)
        self.assertIn("No locks available; choose a directory on a local file system", str(error))


class OffTests(DirectoryCase):
    def run_with_journal(self, boot: str, seconds: float) -> None:
        """Let a daemon run, and stop in order."""
        traffic = Traffic(boot, wall=WALL + seconds)
        recover(self.directory, boot, traffic.now)
        writer = Writer(self.directory, traffic.origin, traffic.now, names=True)
        writer.write(traffic.batch(stopped=True))
        writer.close()

    def test_directory_that_does_not_exist_is_not_made(self) -> None:
        note_off(self.directory, WALL)
        self.assertFalse(os.path.exists(self.directory))

    def test_directory_without_segments_is_left_as_it_is(self) -> None:
        os.mkdir(self.directory)
        note_off(self.directory, WALL)
        self.assertEqual(os.listdir(self.directory), [])

    def test_gap_begins_with_the_run_and_has_no_end(self) -> None:
        os.mkdir(self.directory)
        self.run_with_journal("0a", 0)
        note_off(self.directory, WALL + 10.5)
        self.assertEqual(
            gaps_of(self.directory), [GapRow(NOW + 10_500_000, None, None, None, "off")]
        )
        (info,) = Catalogue(self.directory).infos()
        self.assertEqual((info.opened, info.complete_to), (NOW + 10_500_000, NOW + 10_500_000))
        self.assertTrue(is_off(info.file))

    def test_one_gap_is_enough_until_the_next_run_with_a_journal(self) -> None:
        os.mkdir(self.directory)
        self.run_with_journal("0a", 0)
        note_off(self.directory, WALL + 10)
        note_off(self.directory, WALL + 20)
        self.assertEqual(len(paths_of(self.directory)), 2)
        self.run_with_journal("0b", 30)
        note_off(self.directory, WALL + 40)
        self.assertEqual(
            [is_off(path) for path in paths_of(self.directory)], [False, True, False, True]
        )

    def test_killed_run_before_it_is_still_recovered(self) -> None:
        os.mkdir(self.directory)
        traffic = Traffic()
        writer = Writer(self.directory, traffic.origin, traffic.now, names=True)
        writer.write(traffic.batch())
        writer.close()
        note_off(self.directory, WALL + 10)
        self.run_with_journal("0b", 30)
        self.assertEqual(
            gaps_of(self.directory),
            [
                GapRow(NOW, NOW + 30_000_000, None, None, "killed"),
                GapRow(NOW + 10_000_000, None, None, None, "off"),
            ],
        )

    def test_run_that_cannot_be_recorded_is_a_gap_later(self) -> None:
        os.mkdir(self.directory)
        self.run_with_journal("0a", 0)
        with patch.object(Segment, "create", side_effect=OSError(28, "No space left on device")):
            self.assertRaises(JournalError, note_off, self.directory, WALL + 10)
        self.assertEqual(unwritten_starts(self.directory), {0: NOW + 10_000_000})
        note_off(self.directory, WALL + 20)
        self.assertEqual(
            gaps_of(self.directory),
            [
                GapRow(NOW + 20_000_000, None, None, None, "off"),
                GapRow(NOW + 10_000_000, NOW + 20_000_000, None, None, "unwritten"),
            ],
        )
        self.assertEqual(unwritten_starts(self.directory), {})

    def test_fault_is_one_sentence(self) -> None:
        os.mkdir(self.directory)
        self.run_with_journal("0a", 0)
        with patch.object(Segment, "create", side_effect=OSError(28, "No space left on device")):
            error = self.assertRaises(JournalError, note_off, self.directory, WALL + 10)
        self.assertIn(
            f"cannot record in the journal in {self.directory} that the daemon runs without it:",
            str(error),
        )
