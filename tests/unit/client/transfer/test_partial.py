"""Partial downloads: resumed, or discarded if the record is invalid."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.client.errors import LocalError
from natproxy.client.transfer.partial import CHECKPOINT, PartialDownload, is_partial
from natproxy.client.transfer.record import Segment, mark_missing
from tests.support.partials import PartialCase, full, kill

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-3, 20) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


class KeepingTests(PartialCase):
    def test_received_bytes_are_kept(self) -> None:
        self.keep(b"01234")
        part = self.open()
        self.assertEqual((part.kept, part.discard_reason, part.trusted), (5, "", True))
        buffer = memoryview(bytearray(10))
        self.assertEqual((part.read(0, buffer), bytes(buffer[:5])), (5, b"01234"))
        self.assertFalse(os.path.exists(self.path))

    def test_recorded_segments_take_precedence_over_the_requested_number(self) -> None:
        with (
            mock.patch("natproxy.client.transfer.record.SMALLEST_SEGMENT", 1),
            self.open(segments=3) as part,
        ):
            self.assertEqual([(s.start, s.end) for s in part.segments], [(0, 3), (3, 6), (6, 10)])
            part.write(part.segments[2], memoryview(b"67"))
            part.write(part.segments[0], memoryview(b"012"))
        part = self.open(segments=7)
        self.assertEqual([s.done for s in part.segments], [3, 3, 8])
        self.assertEqual(self.content(self.part), b"012\0\0\x0067")

    def test_hole_needs_space_and_received_bytes_do_not(self) -> None:
        part = self.open(size=3 << 20, segments=3)
        part.write(part.segments[-1], memoryview(bytes(4096)))
        needed = (3 << 20) - 4096
        with mock.patch("natproxy.client.transfer.space.free_space", return_value=needed):
            part.require_space()
        with mock.patch("natproxy.client.transfer.space.free_space", return_value=needed - 1):
            error = self.assertRaises(LocalError, part.require_space)
        self.assertIn(f"{needed} bytes are needed", str(error))

    def test_damaged_bytes_have_their_space(self) -> None:
        part = self.open(size=1 << 20)
        part.write(part.segments[0], memoryview(bytes(1 << 20)))
        part.mark_damaged([(0, 1 << 20)])
        with mock.patch("natproxy.client.transfer.space.free_space", return_value=0):
            part.require_space()

    def test_small_files_are_not_divided(self) -> None:
        self.assertEqual(len(self.open(size=(2 << 20) - 1, segments=64).segments), 1)

    def test_empty_file_is_one_empty_segment(self) -> None:
        for _ in range(2):
            with self.open(0) as part:
                self.assertEqual([(s.start, s.done, s.end) for s in part.segments], [(0, 0, 0)])

    def test_killed_process_loses_bytes_after_the_last_checkpoint(self) -> None:
        part = self.open(size=3 * CHECKPOINT)
        for size in (CHECKPOINT, CHECKPOINT - 1):
            part.write(part.segments[0], memoryview(bytes(size)))
        kill(part)
        self.assertEqual(self.open(size=3 * CHECKPOINT).kept, CHECKPOINT)

    def test_record_of_many_segments_and_a_long_name_fits_into_a_page(self) -> None:
        # The kernel writes a page at once, even if the process is killed meanwhile.
        part = self.open(size=10**13, segments=64, name=b"\xf0\x9f\x90\x9f\xff\n" * 700)
        self.assertEqual(len(part.segments), 64)
        for segment in part.segments:
            segment.done = segment.end
        part.save()
        self.assertLess(os.path.getsize(self.record), 4096)

    def test_shorter_record_replaces_a_longer_one(self) -> None:
        self.keep(size=10**12)
        self.open(size=1).close()
        self.assertEqual(self.content(self.record).count(b"\n"), 1)
        json.loads(self.content(self.record))

    def test_failed_checkpoint_is_ignored(self) -> None:
        part = self.open(size=2 * CHECKPOINT)
        with mock.patch.object(part, "save", full):
            part.write(part.segments[0], memoryview(bytes(CHECKPOINT)))
        self.assertEqual(part.kept, CHECKPOINT)

    def test_names_of_partial_downloads_are_recognized(self) -> None:
        for name, expected in (
            *((name, True) for name in (b".a.part", b".a.part.json", b"..part", b"..part.json")),
            *((name, False) for name in (b"a.part", b".a.json", b".part.a", b"a", b"")),
        ):
            self.assertEqual(is_partial(name), expected, name)

    def test_longest_names_can_be_kept(self) -> None:
        for length in range(240, 256):
            for last in (b"x", b"y"):
                self.path = os.path.join(self.directory, b"n" * (length - 1) + last)
                self.keep(last * 5)
                part = self.open()
                self.assertEqual((part.kept, part.discard_reason), (5, ""))
                self.assertTrue(all(is_partial(n) for n in self.files() if n.startswith(b".")))
                part.write(part.segments[0], memoryview(last * 5))
                part.finish()
                part.close()
                self.assertEqual(self.content(self.path), last * 10)
        self.assertEqual(len(self.files()), 32)


class InvalidRecordTests(PartialCase):
    """An invalid record discards the received bytes, and never raises or mixes versions."""

    def afresh(self, **options: Any) -> PartialDownload:
        part = self.open(**options)
        self.assertEqual((part.kept, part.trusted, self.content(self.part)), (0, True, b""))
        return part

    def test_other_version_on_the_server(self) -> None:
        for options in ({"etag": "f"}, {"size": 11}, {"size": 0}, {"name": b"d/b"}):
            self.keep()
            part = self.afresh(**options)
            self.assertEqual(part.discard_reason, "changed on the server")
            part.close()

    def test_fewer_bytes_than_recorded_are_kept_and_not_trusted(self) -> None:
        for size in (4, 0):
            self.keep(b"01234", etag=f"e{size}")
            os.truncate(self.part, size)
            with self.open(etag=f"e{size}") as part:
                self.assertEqual((part.kept, part.trusted, part.discard_reason), (size, False, ""))

    def test_bytes_with_an_empty_record(self) -> None:
        self.put(self.part, b"01234")
        self.put(self.record, b"")
        self.assertEqual(
            self.afresh().discard_reason, "the record of the received bytes is missing or damaged"
        )

    def test_record_without_bytes(self) -> None:
        self.keep()
        os.unlink(self.part)
        self.assertEqual(self.afresh().discard_reason, "the partial file is missing")

    def damage(self, change: Callable[[dict[str, Any]], object]) -> None:
        self.keep()
        record = json.loads(self.content(self.record))
        change(record)
        self.put(self.record, json.dumps(record).encode() + b"\n")
        self.afresh().close()

    def test_segments_that_do_not_cover_the_file(self) -> None:
        for segments in (
            [],
            None,
            {"abc": 1},
            "abc",
            [[0, 5]],
            [[0, 5, 10, 10]],
            [[0, 11, 10]],
            [[0, -1, 10]],
            [[1, 5, 10]],
            [[0, 5, 9]],
            [[0, 5, 11]],
            [[0, 5, 6], [5, 6, 10]],
            [[0, 5, 5], [6, 6, 10]],
            [[0, 5, 10], [10, 5, 10]],
            [[0, 5.0, 10]],
            [[0.0, 5, 10]],
            [[0, 5, 10.0]],
            [[0, True, 10]],
            [[0, "5", 10]],
            [[0, float("nan"), 10]],
        ):
            self.damage(lambda record: record.update(segments=segments))  # noqa: B023

    def test_values_of_wrong_types(self) -> None:
        for key in ("etag", "name", "size", "boot", "segments"):
            for value in (None, 1.5, [], {}):
                self.damage(lambda record: record.update({key: value}))  # noqa: B023
            self.damage(lambda record: record.pop(key))  # noqa: B023

    def test_deeply_nested_json(self) -> None:
        self.keep()
        self.put(self.record, b"[" * (1 << 20))
        self.afresh()

    @settings(deadline=None)
    @given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
    def test_random_bytes_instead_of_a_record(self, garbage: bytes) -> None:
        self.put(self.part, b"01234")
        self.put(self.record, garbage)
        self.afresh().close()

    @settings(deadline=None)
    @given(st.data())
    def test_damaged_record_is_used_only_if_its_content_is_the_same(
        self, data: st.DataObject
    ) -> None:
        self.put(self.part, b"")
        self.put(self.record, b"")
        self.keep(b"01234")
        record = self.content(self.record)
        kind = data.draw(st.sampled_from(("cut", "flip", "insert")))
        place = data.draw(st.integers(0, len(record) - 1))
        if kind == "cut":
            damaged = record[:place]
        else:
            byte = bytes([data.draw(st.integers(0, 255))])
            damaged = record[:place] + byte + record[place + (kind == "flip") :]
        self.put(self.record, damaged)
        with self.open() as part:
            # Never more bytes than exist, and the segments cover the whole file.
            self.assertLessEqual(part.segments[0].done, len(self.content(self.part)))
            self.assertEqual((part.segments[0].start, part.segments[-1].end), (0, 10))

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(-2, 12), st.integers(-2, 12), st.integers(-2, 12))))
    def test_random_segments_cover_the_whole_file_or_are_rejected(
        self, segments: list[Any]
    ) -> None:
        self.put(self.part, b"")
        self.put(self.record, b"")
        self.keep(b"01234")
        record = json.loads(self.content(self.record)) | {"segments": segments}
        self.put(self.record, json.dumps(record).encode())
        with self.open() as part:
            covered = [n for s in part.segments for n in range(s.start, s.end)]
            self.assertEqual(covered, list(range(10)))
            self.assertTrue(all(s.done == s.start or s.done <= 5 for s in part.segments))


class DamageTests(PartialCase):
    """Damaged ranges are marked as missing, and no others."""

    @settings(deadline=None)
    @given(st.data())
    def test_only_the_range_becomes_missing(self, data: st.DataObject) -> None:
        marks = sorted(data.draw(st.sets(st.integers(1, 19), max_size=3)) | {0, 20})
        segments = [
            Segment(start, data.draw(st.integers(start, end)), end)
            for start, end in pairwise(marks)
        ]
        there = {n for each in segments for n in range(each.start, each.done)}
        start = data.draw(st.integers(0, 19))
        end = data.draw(st.integers(start + 1, 20))
        left = mark_missing(segments, start, end)
        self.assertEqual(
            {n for each in left for n in range(each.start, each.done)},
            there - set(range(start, end)),
        )
        self.assertEqual([n for s in left for n in range(s.start, s.end)], list(range(20)))
        # The missing bytes of a segment are at its end.
        within = [s for s in left if s.start < end and start < s.end]
        self.assertEqual([n for s in within for n in range(s.start, s.end)], [*range(start, end)])

    def test_complete_neighbours_are_joined(self) -> None:
        segments = [Segment(0, 3, 3), Segment(3, 6, 6), Segment(6, 8, 9), Segment(9, 9, 9)]
        left = mark_missing(segments, 1, 2)
        self.assertEqual(
            [(s.start, s.done, s.end) for s in left],
            [(0, 1, 1), (1, 1, 2), (2, 6, 6), (6, 8, 9), (9, 9, 9)],
        )

    def test_damaged_ranges_are_recorded(self) -> None:
        with self.open() as part:
            part.write(part.segments[0], memoryview(b"0123456789"))
            part.mark_damaged([(3, 5), (7, 8)])
            self.assertEqual([(s.start, s.end) for s in part.missing], [(3, 5), (7, 8)])
            part.write(part.missing[1], memoryview(b"7"))
        with self.open() as part:
            self.assertEqual((part.kept, [s.done for s in part.segments]), (8, [3, 3, 7, 8, 10]))
            part.write(part.segments[1], memoryview(b"34"))
            part.finish()
        self.assertEqual(self.content(self.path), b"0123456789")


class RestartedSystemTests(PartialCase):
    """After a power failure the record may be on the disk although the bytes are not."""

    def test_bytes_of_an_earlier_boot_are_not_trusted(self) -> None:
        for before, now in (("one", "two"), ("", ""), ("one", ""), ("", "one")):
            with self.boot(before):
                self.keep(b"01234", etag=f"{before}-{now}")
            with self.boot(now), self.open(etag=f"{before}-{now}") as part:
                self.assertEqual((part.kept, part.trusted), (5, False))

    def test_empty_partial_file_is_trusted(self) -> None:
        with self.boot("one"):
            self.open().close()
        with self.boot("two"):
            self.assertTrue(self.open().trusted)

    def test_closing_does_not_change_trust(self) -> None:
        with self.boot("one"):
            self.keep()
        with self.boot("two"):
            self.open().close()
            part = self.open()
            self.assertEqual((part.kept, part.trusted), (5, False))

    def test_compared_bytes_are_trusted(self) -> None:
        with self.boot("one"):
            self.keep()
        with self.boot("two"):
            with self.open() as part:
                part.trusted = True
            self.assertTrue(self.open().trusted)

    def test_bytes_after_the_end_are_truncated(self) -> None:
        self.keep(b"0123456789")
        self.put(self.part, b"0123456789 and more")
        with self.open() as part:
            part.finish()
        self.assertEqual(self.content(self.path), b"0123456789")

    def test_system_without_a_boot_identifier(self) -> None:
        with mock.patch("natproxy.client.transfer.record._BOOT_ID", "/nowhere"):
            self.keep()
            self.assertFalse(self.open().trusted)
