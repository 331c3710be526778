"""The cache of blocks: what it keeps, removes and refuses, and what a kill leaves."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Generator

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.storage.cache import (
    BLOCK,
    RESERVE,
    SHARE,
    STALE_AFTER,
    TOUCH_AFTER,
    DiskCache,
)
from natproxy.storage.objects import ranges
from natproxy.storage.objects.location import Location
from natproxy.storage.objects.storage import ObjectStorage
from tests.support.objects import PlayedStore

NOW = 1_700_000_000.0
LIMIT = 64 * 1000


class CacheCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.top = tempfile.mkdtemp()
        self.addCleanup(self.remove)
        self.now = NOW
        self.free, self.total = 1 << 40, 1 << 41
        self.cache = self.another()

    def remove(self) -> None:
        """Remove the directory; threads that receive ahead may still write blocks to it."""
        end = time.monotonic() + 30
        while True:
            try:
                shutil.rmtree(self.top)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
            else:
                return

    def another(self, limit: int = LIMIT) -> DiskCache:
        """Return a cache in the same directory, as of another process."""
        path = os.path.join(self.top, "cache")
        cache = DiskCache(path, limit, lambda: self.now, lambda _: (self.free, self.total))
        cache.open()
        return cache

    def files(self) -> list[str]:
        return sorted(
            os.path.join(directory, name)
            for directory, _, names in os.walk(self.cache.directory)
            for name in names
            if name != "lock"
        )


class DiskCacheTests(CacheCase):
    def test_block_is_kept_for_all_processes(self) -> None:
        self.cache.write("a", 3, b"content")
        for cache in (self.cache, self.another()):
            self.assertTrue(cache.contains("a", 3))
            self.assertEqual(cache.read("a", 3, 7), b"content")
            for identity, number in (("b", 3), ("a", 2)):
                self.assertFalse(cache.contains(identity, number))
                self.assertIsNone(cache.read(identity, number, 7))
        figures = self.cache.figures
        self.assertEqual((figures.hits, figures.misses, figures.hit_bytes), (1, 2, 7))
        self.assertEqual((figures.written_bytes, figures.errors), (7, 0))

    def test_only_the_owner_can_read_it(self) -> None:
        self.cache.write("a", 0, b"secret")
        (path,) = self.files()
        for each, mode in (
            (path, 0o600),
            (os.path.dirname(path), 0o700),
            (self.cache.directory, 0o700),
        ):
            self.assertEqual(os.stat(each).st_mode & 0o777, mode)

    def test_damaged_block_is_removed(self) -> None:
        for damage in (b"", b"conteNt", b"x" * 100):
            self.cache.write("a", 0, b"content")
            (path,) = self.files()
            with open(path, "r+b") as file:
                file.truncate(len(damage) and 19)
                file.write(damage)
            self.assertIsNone(self.cache.read("a", 0, 7))
            self.assertEqual(self.files(), [])
        self.cache.write("a", 0, b"content")
        self.assertIsNone(self.cache.read("a", 0, 6))
        self.assertEqual(self.cache.figures.errors, 4)

    def test_oldest_blocks_are_removed(self) -> None:
        size = LIMIT // SHARE
        for number in range(200):
            self.now += 1
            self.cache.write("a", number, bytes(size))
            path = self.cache._path("a", number)
            os.utime(path, (self.now, self.now))
            self.assertLessEqual(sum(map(os.path.getsize, self.files())), LIMIT)
        self.assertTrue(self.cache.contains("a", 199))
        self.assertFalse(self.cache.contains("a", 0))
        self.assertGreater(self.cache.figures.evicted, 100)

    def test_use_keeps_a_block(self) -> None:
        size = LIMIT // SHARE
        for number in range(50):
            self.cache.write("a", number, bytes(size))
            os.utime(self.cache._path("a", number), (NOW, NOW))
        self.now += TOUCH_AFTER + 1
        self.assertIsNotNone(self.cache.read("a", 0, size))
        for number in range(50, 80):
            self.cache.write("a", number, bytes(size))
        self.assertTrue(self.cache.contains("a", 0))
        self.assertFalse(self.cache.contains("a", 1))

    def test_several_processes_stay_below_the_limit(self) -> None:
        caches = [self.cache, *(self.another() for _ in range(7))]
        for number in range(300):
            caches[number % 8].write("a", number, bytes(LIMIT // SHARE))
            self.assertLessEqual(sum(map(os.path.getsize, self.files())), LIMIT)

    def test_disk_that_is_nearly_full_gets_no_block(self) -> None:
        self.free = RESERVE + 6
        self.cache.write("a", 0, b"content")
        self.assertEqual((self.files(), self.cache.figures.refused), ([], 1))
        self.free = RESERVE + 7
        self.cache.write("a", 0, b"content")
        self.assertEqual(len(self.files()), 1)
        self.total = 1000
        self.free = 56
        self.cache.write("b", 0, b"content")
        self.assertEqual(self.cache.figures.refused, 2)

    def test_disk_that_fails_is_counted(self) -> None:
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        self.patch(os, "write", full)
        self.cache.write("a", 0, b"content")
        self.assertEqual((self.files(), self.cache.figures.errors), ([], 1))

    def test_what_a_killed_process_left_is_removed_later(self) -> None:
        self.cache.write("a", 0, b"content")
        (path,) = self.files()
        left, foreign = f"{path}.1-1.tmp", os.path.join(os.path.dirname(path), "mine")
        for each in (left, foreign):
            with open(each, "wb") as file:
                file.write(b"con")
            os.utime(each, (NOW, NOW))
        self.another()
        self.assertIn(left, self.files())
        self.now += STALE_AFTER + 1
        self.another()
        self.assertEqual(self.files(), sorted((path, foreign)))

    def test_sweep_of_another_process_is_not_waited_for(self) -> None:
        import fcntl

        with open(os.path.join(self.cache.directory, "lock"), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.another()
            for number in range(3):
                self.cache.write("a", number, bytes(LIMIT // 3))
        self.assertEqual(len(self.files()), 3)

    def test_wrong_directory(self) -> None:
        with self.assertRaises(OSError):
            DiskCache(os.path.join(__file__, "x"), 1).open()

    def test_real_space(self) -> None:
        cache = DiskCache(os.path.join(self.top, "other"), LIMIT, time.time)
        cache.open()
        self.assertEqual(cache._space(os.path.join(self.top, "absent")), (0, 0))
        free, total = cache._space(self.top)
        self.assertLess(0, free)
        self.assertLessEqual(free, total)


class CachedObjectsTests(CacheCase):
    def setUp(self) -> None:
        super().setUp()
        self.cache = self.another(1 << 30)
        self.store = PlayedStore()
        self.content = bytes(range(256)) * (9 * BLOCK // 256) + b"end"
        self.store.put("a", self.content)
        self.storage = ObjectStorage(Location("b"), self.store, self.cache)

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        stop = len(self.content) if stop is None else stop
        file = self.storage.open(b"a")
        data = b""
        while start < stop and (piece := file.read_at(start, min(100_000, stop - start))):
            data += piece
            start += len(piece)
        file.close()
        return data

    def test_second_read_needs_no_range(self) -> None:
        self.patch(ranges, "LARGEST", 8 * BLOCK)
        self.assertTrue(self.read() == self.content)
        requested, self.store.ranges = self.store.ranges, []
        self.assertEqual([start for _, start, _ in requested], [0, 8 * BLOCK])
        self.assertTrue(self.read() == self.content)
        self.assertEqual(self.store.ranges, [])
        self.assertEqual(self.cache.figures.hits, 10)

    def test_replaced_object_is_another_one(self) -> None:
        self.read()
        self.store.put("a", b"new")
        self.assertEqual(self.read(0, 3), b"new")
        self.store.put("b", b"new")
        self.storage.open(b"b").close()

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.tuples(st.integers(0, 10 * BLOCK), st.integers(1, 3 * BLOCK)), max_size=4))
    def test_any_ranges_are_read_as_they_are(self, parts: list[tuple[int, int]]) -> None:
        for start, size in parts:
            stop = min(start + size, len(self.content))
            self.assertTrue(self.read(start, stop) == self.content[start:stop])

    def test_blocks_that_break_off_are_not_kept(self) -> None:
        left = [7]

        def breaks() -> None:
            left[0] -= 1
            if not left[0]:
                raise ConnectionResetError("reset")

        self.store.before_read = breaks
        self.assertTrue(self.read() == self.content)
        self.store.before_read = lambda: None
        for number in range(10):
            length = min(BLOCK, len(self.content) - number * BLOCK)
            block = self.cache.read(self.identity(), number, length)
            if block is not None:
                self.assertTrue(block == self.content[number * BLOCK : number * BLOCK + length])
        self.assertTrue(self.read() == self.content)

    def identity(self) -> str:
        return "\0".join(("", "b", "a", self.store.objects["a"][1]))

    def test_reader_that_stops_keeps_whole_blocks_only(self) -> None:
        pieces = self.storage.open(b"a")._reader._pieces.receive(0, 2 * BLOCK)
        assert isinstance(pieces, Generator)
        for _ in range(6):
            next(pieces)
        pieces.close()
        self.assertTrue(self.cache.contains(self.identity(), 0))
        self.assertFalse(self.cache.contains(self.identity(), 1))
