"""The catalogue: what it lists, and that it is rebuilt from the segments."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.catalogue import Catalogue, read_catalogue
from natproxy.journal.rows import GapRow, Step
from natproxy.journal.schema import CATALOGUE_FILE, CATALOGUE_VERSION
from natproxy.journal.segment import Addition, Segment, seal
from natproxy.journal.summary import SegmentInfo
from natproxy.records.record import Origin
from tests.support.journals import NOW


class CatalogueCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.path = os.path.join(self.directory, CATALOGUE_FILE)
        self.catalogue = Catalogue(self.directory)

    def segment(self, number: int, *, sealed: bool = True) -> SegmentInfo | None:
        """Make a segment."""
        opened = NOW + number
        segment = Segment.create(self.directory, Origin("p", 0, "0a"), NOW, opened, number)
        gap = GapRow(opened, None, None, 7, "disk")
        segment.append(Addition(opened + 1, gaps=[gap], steps=[Step(opened, 9, 8)]))
        segment.close()
        return seal(segment.path, NOW + 50, moved=False) if sealed else None

    def sealed(self, number: int) -> SegmentInfo:
        info = self.segment(number)
        assert info is not None
        return info


class ListTests(CatalogueCase):
    def test_nothing_is_listed_at_first(self) -> None:
        self.assertEqual(self.catalogue.infos(), [])
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)

    def test_segment_is_listed_with_gaps_and_steps_in_order_of_time(self) -> None:
        second, first = self.sealed(2), self.sealed(1)
        self.catalogue.add(second)
        self.catalogue.add(first)
        self.assertEqual(self.catalogue.infos(), [first, second])
        self.assertEqual(read_catalogue(self.directory), [first, second])
        self.assertEqual(first.gaps, (GapRow(NOW + 1, None, None, 7, "disk"),))
        self.assertEqual(first.steps, (Step(NOW + 1, 9, 8),))

    def test_segment_that_is_added_again_is_replaced(self) -> None:
        info = self.sealed(1)
        self.catalogue.add(info)
        changed = info._replace(rows=0, gaps=())
        self.catalogue.add(changed)
        self.assertEqual(self.catalogue.infos(), [changed])

    def test_segment_is_removed(self) -> None:
        first, second = self.sealed(1), self.sealed(2)
        self.catalogue.add(first)
        self.catalogue.add(second)
        self.catalogue.remove(first.file)
        self.assertEqual(self.catalogue.infos(), [second])


class RebuildTests(CatalogueCase):
    def test_missing_catalogue_is_rebuilt(self) -> None:
        infos = [self.sealed(1), self.sealed(2)]
        self.segment(3, sealed=False)
        self.catalogue.refresh()
        self.assertEqual(self.catalogue.infos(), infos)

    def test_damaged_catalogue_is_rebuilt(self) -> None:
        infos = [self.sealed(1), self.sealed(2)]
        self.catalogue.refresh()
        for damage in (b"no database", b"SQLite format 3\0" + b"\xff" * 5000):
            with open(self.path, "wb") as file:
                file.write(damage)
            self.assertEqual(read_catalogue(self.directory), [])
            self.catalogue.refresh()
            self.assertEqual(self.catalogue.infos(), infos)

    def test_catalogue_of_another_version_is_rebuilt(self) -> None:
        infos = [self.sealed(1)]
        self.catalogue.refresh()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(f"pragma user_version = {CATALOGUE_VERSION + 1}")
        self.assertEqual(read_catalogue(self.directory), [])
        self.catalogue.refresh()
        self.assertEqual(self.catalogue.infos(), infos)

    def test_file_that_was_deleted_is_removed(self) -> None:
        first, second = self.sealed(1), self.sealed(2)
        self.catalogue.refresh()
        os.unlink(os.path.join(self.directory, first.file))
        self.catalogue.refresh()
        self.assertEqual(self.catalogue.infos(), [second])

    def test_segment_that_is_damaged_is_not_listed(self) -> None:
        first, second = self.sealed(1), self.sealed(2)
        with open(os.path.join(self.directory, first.file), "wb") as file:
            file.write(b"damaged")
        self.catalogue.refresh()
        self.assertEqual(self.catalogue.infos(), [second])

    def test_segment_that_was_replaced_is_read_again(self) -> None:
        first = self.sealed(1)
        self.catalogue.refresh()
        path = os.path.join(self.directory, first.file)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table more (a)")
            connection.execute("delete from gaps")
            connection.commit()
        self.catalogue.refresh()
        self.assertEqual([info.gaps for info in self.catalogue.infos()], [()])


class ReadTests(CatalogueCase):
    def test_missing_catalogue_is_not_created(self) -> None:
        self.assertEqual(read_catalogue(self.directory), [])
        self.assertEqual(os.listdir(self.directory), [])
