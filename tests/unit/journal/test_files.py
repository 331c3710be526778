from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.files import (
    boot_of,
    file_name,
    files_of,
    is_off,
    opened_of,
    remove,
    segment_files,
)
from natproxy.records.record import Origin
from tests.support.journals import NOW

ORIGIN = Origin("proxy-9000", 0, "0a1b")
NAME = "20231114T221320.123456Z-w0-0a1b.segment"


class NameTests(SynchronousTestCase):
    def test_name_begins_with_the_time(self) -> None:
        self.assertEqual(file_name(ORIGIN, NOW + 123_456), NAME)

    def test_time_in_a_name(self) -> None:
        self.assertEqual(opened_of(NAME), NOW + 123_456)
        self.assertEqual(opened_of("20231114T221320.000007Z-w0-0c.segment.damaged"), NOW + 7)
        self.assertIsNone(opened_of("20231314T221320.000007Z-w0-0c.segment"))
        self.assertIsNone(opened_of("other.segment"))

    def test_boot_in_a_name(self) -> None:
        self.assertEqual(boot_of(NAME), "0a1b")
        self.assertEqual(boot_of(f"{NAME}.damaged"), "0a1b")

    def test_segment_of_a_run_without_a_journal(self) -> None:
        self.assertFalse(is_off(NAME))
        self.assertTrue(is_off(file_name(Origin("proxy-9000", 0, "off0a1b"), NOW)))


class DirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def make(self, *names: str) -> None:
        for name in names:
            Path(self.directory, name).touch()

    def test_segments_are_sorted_and_others_left_out(self) -> None:
        self.make("b.segment", "a.segment", "a.segment-wal", "c.segment.damaged", "lock")
        self.assertEqual(segment_files(self.directory), ["a.segment", "b.segment"])

    def test_segment_is_deleted_with_what_is_beside_it(self) -> None:
        path = os.path.join(self.directory, "a.segment")
        self.make(*map(os.path.basename, files_of(path)), "b.segment")
        remove(path)
        self.assertEqual(os.listdir(self.directory), ["b.segment"])
