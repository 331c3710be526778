"""Names of a directory that are kept between pages, and when they are not."""

from __future__ import annotations

import heapq
import os
import threading
from random import Random
from types import SimpleNamespace
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.protocol import EntryLines
from natproxy.storage import LocalStorage, RacyTimestamps
from natproxy.storage.interface import RUN, in_runs
from natproxy.storage.local import scans
from natproxy.storage.local.scans import Scans, keys_after
from tests.support.storage import ServedCase, page_of

SECOND = 10**9
MANY = 60


class ScansCase(ServedCase):
    """A large directory, a clock that stands still, and a count of the scans."""

    def setUp(self) -> None:
        super().setUp()
        self.scanned = 0
        scandir = os.scandir

        def counting(directory: int) -> object:
            self.scanned += 1
            return scandir(directory)

        self.fill(b"large")
        self.patch(os, "scandir", counting)
        self.set_clock(b"large", SECOND)

    def fill(self, name: bytes) -> None:
        os.mkdir(self.path(name))
        for number in range(MANY):
            os.close(os.open(self.path(b"%b/%05d" % (name, number)), os.O_CREAT | os.O_WRONLY))

    def set_clock(self, name: bytes, age: int) -> None:
        """Make it so long, in nanoseconds, after the directory has last changed."""
        result = os.stat(self.path(name))
        self.now = max(result.st_mtime_ns, result.st_ctime_ns) + age

    def keep(self, most: int = 10**6) -> LocalStorage:
        return LocalStorage(self.served, None, self.scans(most))

    def scans(self, most: int = 10**6) -> Scans:
        """Keep scans by one clock, which is the file system's as well."""
        racy = RacyTimestamps(lambda: self.now / SECOND, lambda: self.now / SECOND, lambda _: True)
        return Scans(lambda: self.now / SECOND, racy, most, MANY)

    def names(self, storage: LocalStorage, name: bytes = b"large", limit: int = 7) -> list[bytes]:
        names: list[bytes] = []
        more = True
        while more:
            lines = EntryLines()
            after = names[-1] if names else b""
            names += [
                entry.name for entry in lines.feed(page_of(storage, name, 1, after, limit).body)
            ]
            more = lines.more
        return names


class ScansTests(ScansCase):
    def test_many_pages_take_one_scan(self) -> None:
        storage = self.keep()
        whole = [b"large/%05d" % number for number in range(MANY)]
        for _ in range(3):
            self.assertEqual(self.names(storage), whole)
        self.assertEqual(self.scanned, 1)

    def test_small_directory_is_not_kept(self) -> None:
        storage = self.keep()
        self.names(storage, b"sub")
        self.names(storage, b"sub")
        self.assertEqual(self.scanned, 2)

    def test_changes_between_pages_are_listed(self) -> None:
        storage = self.keep()
        first = page_of(storage, b"large", 1, b"", 7)
        self.put(b"large/00050-new", b"")
        os.unlink(self.path(b"large/00055"))
        self.assertIn(b"large/00050-new", self.names(storage))
        self.assertNotIn(b"large/00055", self.names(storage))
        os.mkdir(self.path(b"large/00055"))
        self.set_clock(b"large", SECOND)
        self.assertIn(b"large/00055", self.names(storage))
        self.assertEqual(page_of(storage, b"large", 1, b"", 7), first)

    def test_replaced_directory_is_scanned_again(self) -> None:
        storage = self.keep()
        self.names(storage)
        os.rename(self.path(b"large"), self.path(b"old"))
        os.mkdir(self.path(b"large"))
        self.assertEqual(self.names(storage), [])

    def test_scan_within_a_granule_of_the_last_change_is_not_kept(self) -> None:
        storage = self.keep()
        for age in (0, SECOND // 100, -SECOND):
            self.set_clock(b"large", age)
            self.scanned = 0
            self.names(storage, limit=MANY // 2)
            self.assertEqual(self.scanned, 2)
        self.set_clock(b"large", SECOND // 5)
        self.names(storage)
        self.assertEqual(self.scanned, 3)

    def test_granule_is_two_seconds_where_timestamps_are_whole_seconds(self) -> None:
        whole = SimpleNamespace(
            st_dev=1, st_ino=1, st_mtime_ns=50 * SECOND, st_ctime_ns=50 * SECOND
        )
        for fraction, age, kept in ((0, 2, False), (0, 3, True), (1, 2, False), (1, 3, True)):
            # A fraction in one of the two may have been set by `touch`.
            whole.st_mtime_ns = 50 * SECOND - fraction
            self.scanned = 0
            self.now = (50 + age) * SECOND
            scans = self.scans()
            directory = os.open(self.path(b"large"), os.O_RDONLY)
            patched = self.patch(os, "fstat", lambda _: whole)
            scans.of(directory)
            scans.of(directory)
            patched.restore()
            os.close(directory)
            self.assertEqual(self.scanned, 1 if kept else 2)

    def test_scan_is_used_for_half_a_minute(self) -> None:
        storage = self.keep()
        self.names(storage)
        self.now += 29 * SECOND
        self.names(storage)
        self.assertEqual(self.scanned, 1)
        self.now += 2 * SECOND
        self.names(storage)
        self.assertEqual(self.scanned, 2)

    def test_scan_is_kept_after_a_granule_with_any_wall_clock(self) -> None:
        # The storage's clock is a day ahead of this machine's, or a day behind it.
        changed = self.now
        for skew, local in ((-86_400, True), (-86_400, False), (86_400, False)):
            passed = [0.0]
            racy = RacyTimestamps(
                lambda passed=passed: passed[0],
                lambda skew=skew: changed / SECOND + skew,
                lambda device, local=local: local,
            )
            scans = Scans(lambda passed=passed: passed[0], racy, least=MANY)
            storage = LocalStorage(self.served, None, scans)
            self.scanned = 0
            self.names(storage, limit=MANY // 2)
            self.assertEqual(self.scanned, 2, skew)
            passed[0] += 3
            self.names(storage)
            self.assertEqual(self.scanned, 3, skew)

    def test_least_recently_used_is_dropped_when_there_are_too_many_names(self) -> None:
        for name in (b"second", b"third"):
            self.fill(name)
        self.set_clock(b"third", SECOND)
        storage = self.keep(most=2 * MANY)
        for name in (b"large", b"second", b"large", b"third", b"large"):
            self.names(storage, name)
        self.assertEqual(self.scanned, 3)
        self.names(storage, b"second")
        self.assertEqual(self.scanned, 4)

    def test_last_scan_is_kept_however_large(self) -> None:
        storage = self.keep(most=10)
        self.names(storage)
        self.assertEqual(self.scanned, 1)

    def test_pages_are_made_in_several_threads(self) -> None:
        storage = self.keep(most=10)
        self.fill(b"second")
        found: dict[int, list[bytes]] = {}

        def read(number: int) -> None:
            found[number] = self.names(storage, (b"large", b"second")[number % 2])

        threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(6):
            top = (b"large", b"second")[number % 2]
            self.assertEqual(found[number], [b"%b/%05d" % (top, n) for n in range(MANY)])

    def test_directory_that_cannot_be_read_is_not_kept(self) -> None:
        scans = self.scans()
        directory = os.open(self.path(b"a.txt"), os.O_RDONLY)
        self.assertRaises(OSError, scans.of, directory)
        os.close(directory)


class KeysTests(ServedCase):
    @settings(deadline=None, derandomize=True)
    @given(
        st.sets(st.text("a/-0", min_size=1, max_size=3).map(str.encode), max_size=12),
        st.text("a/-0b\0", max_size=4).map(str.encode),
        st.integers(1, 4),
        st.integers(1, 6),
    )
    def test_keys_after_are_those_that_lead_further(
        self, keys: set[bytes], rest: bytes, size: int, most: int
    ) -> None:
        keys = {key for key in keys if b"/" not in key[:-1] and key != b"/"}
        mixed = list(keys)
        runs = tuple(tuple(sorted(mixed[at : at + size])) for at in range(0, len(mixed), size))
        expected = [
            key for key in keys if key > rest or (key[-1:] == b"/" and rest[: len(key)] == key)
        ]
        with patch.object(scans, "RUN", most):
            batches = list(keys_after(runs, rest))
        self.assertEqual([key for batch in batches for key in batch], sorted(expected))

    def test_batches_are_short_and_few(self) -> None:
        keys = [b"%06d" % number for number in range(40_000)]
        mixed = Random(1).sample(keys, len(keys))
        # Runs that overlap, runs that don't, and both.
        for order in (mixed, keys, keys[:20_000] + mixed[20_000:], keys[20_000:] + keys[:20_000]):
            runs = tuple(tuple(sorted(run)) for run in in_runs(order))
            batches = list(keys_after(runs, b""))
            self.assertEqual([key for batch in batches for key in batch], sorted(order))
            self.assertLessEqual(max(map(len, batches)), 2 * RUN)
            self.assertLess(len(batches), 60)

    def test_runs_are_short_and_lose_nothing(self) -> None:
        runs = list(in_runs(range(10_000)))
        self.assertEqual(list(heapq.merge(*runs)), list(range(10_000)))
        self.assertLessEqual(max(map(len, runs)), 4096)
        self.assertEqual(list(in_runs([])), [])
