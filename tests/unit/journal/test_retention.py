"""Retention: which segments are deleted, and that nothing else is."""

from __future__ import annotations

import os
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal import retention
from natproxy.journal.catalogue import Catalogue
from natproxy.journal.retention import expired, retain
from natproxy.journal.segment import Addition, Segment, seal
from natproxy.journal.summary import SegmentInfo
from natproxy.records.record import Origin
from tests.support.journals import NOW

DAY = 86_400 * 1_000_000


def info(day: int, size: int = 100, max_ended: int | None = None) -> SegmentInfo:
    """Return what is known of the segment of a day."""
    opened = NOW + day * DAY
    return SegmentInfo(
        f"{day}", "p", 0, "0a", 1, NOW, opened, opened + DAY, None, 1, None, max_ended, 0, size
    )


def days(infos: list[SegmentInfo]) -> list[str]:
    return [info.file for info in infos]


class ExpiredTests(SynchronousTestCase):
    def test_age_is_that_of_the_end(self) -> None:
        infos = [info(day) for day in range(4)]
        now = NOW + 10 * DAY
        self.assertEqual(days(expired(infos, 0, now, 8 * 86_400, 10**9)), ["0"])
        self.assertEqual(days(expired(infos, 0, now, 9 * 86_400, 10**9)), [])
        self.assertEqual(days(expired(infos, 0, now, 1, 10**9)), ["0", "1", "2", "3"])

    def test_size_counts_the_live_segment(self) -> None:
        infos = [info(day) for day in range(4)]
        self.assertEqual(days(expired(infos, 0, NOW, 86_400, 400)), [])
        self.assertEqual(days(expired(infos, 1, NOW, 86_400, 400)), ["0"])
        self.assertEqual(days(expired(infos, 101, NOW, 86_400, 400)), ["0", "1"])

    def test_last_entry_counts_if_it_is_later(self) -> None:
        late = info(0, max_ended=NOW + 5 * DAY)
        self.assertEqual(days(expired([late], 0, NOW + 10 * DAY, 6 * 86_400, 10**9)), [])

    @given(
        st.lists(st.tuples(st.integers(0, 20), st.integers(1, 100)), max_size=8).map(sorted),
        st.integers(0, 100),
        st.integers(0, 30),
        st.integers(0, 500),
    )
    def test_oldest_go_and_no_more_than_needed(
        self, segments: list[tuple[int, int]], live: int, keep: int, limit: int
    ) -> None:
        infos = [info(day, size) for day, size in segments]
        now = NOW + 25 * DAY
        deleted = expired(infos, live, now, keep * 86_400, limit)
        self.assertEqual(deleted, infos[: len(deleted)])
        kept = infos[len(deleted) :]
        if kept:
            self.assertLessEqual(live + sum(info.bytes for info in kept), limit)
            self.assertGreaterEqual(kept[0].complete_to, now - keep * DAY)
        if deleted:
            last = deleted[-1]
            self.assertTrue(
                last.complete_to < now - keep * DAY
                or live + last.bytes + sum(info.bytes for info in kept) > limit
            )


class RetainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.catalogue = Catalogue(self.directory)
        for number in range(3):
            segment = self.create(number)
            segment.append(Addition(NOW + number * DAY))
            segment.close()
            self.catalogue.add(seal(segment.path, NOW, moved=False))
        self.live = self.create(3)
        self.addCleanup(self.live.close)

    def create(self, number: int) -> Segment:
        return Segment.create(
            self.directory, Origin("p", 0, "0a"), NOW, NOW + number * DAY, number + 1
        )

    def test_files_and_their_entries_in_the_catalogue_are_deleted(self) -> None:
        first, second, third = self.catalogue.infos()
        now = NOW + 2 * DAY
        self.assertEqual(retain(self.directory, now, 3600, 10**9), [first, second])
        self.assertEqual(self.catalogue.infos(), [third])
        self.assertFalse(os.path.exists(os.path.join(self.directory, first.file)))
        self.assertTrue(os.path.exists(os.path.join(self.directory, third.file)))
        self.assertEqual(retain(self.directory, now, 3600, 10**9), [])

    def test_live_segment_is_never_deleted(self) -> None:
        self.assertEqual(len(retain(self.directory, NOW + 99 * DAY, 1, 1)), 3)
        self.assertTrue(os.path.exists(self.live.path))

    def test_file_that_is_gone_already_is_no_error(self) -> None:
        first = self.catalogue.infos()[0]
        os.unlink(os.path.join(self.directory, first.file))
        self.assertIn(first, retain(self.directory, NOW + 99 * DAY, 1, 10**9))

    def test_interrupted_deletion_leaves_a_catalogue_that_is_corrected(self) -> None:
        with patch.object(retention.Catalogue, "remove", side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, retain, self.directory, NOW + 99 * DAY, 1, 10**9)
        self.assertEqual(len(self.catalogue.infos()), 3)
        self.catalogue.refresh()
        self.assertEqual(len(self.catalogue.infos()), 2)
