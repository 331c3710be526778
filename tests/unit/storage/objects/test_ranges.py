"""Ranges of objects: one ahead, in bounded memory, resumed, interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from natproxy.storage.objects.client import Interrupted, ObjectChanged, StoreError
from natproxy.storage.objects.ranges import (
    LARGEST,
    MEMORY,
    PIECE,
    FetchThreads,
    Memory,
    Range,
    Reader,
)

SIZE = 3 * LARGEST + 5
PATIENCE = 30.0


class AtOnce:
    """Threads that receive a range at once."""

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        function()
        return Future()


class Later(AtOnce):
    """Threads that receive nothing until `run` is called."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        self.waiting.append(function)
        return Future()

    def run(self) -> None:
        self.waiting.pop(0)()


class PlayedPieces:
    """An object whose bytes are their offsets.

    :ivar requested: the ranges that were requested.
    :ivar errors: raised after the first piece of each request.
    """

    def __init__(self, unit: int = 1) -> None:
        self.unit = unit
        self.requested: list[tuple[int, int]] = []
        self.errors: list[Exception] = []

    def receive(self, start: int, stop: int) -> Generator[bytes, None, None]:
        self.requested.append((start, stop))
        while start < stop:
            size = min(PIECE, stop - start)
            yield bytes([start // PIECE % 256]) * size
            start += size
            if self.errors:
                raise self.errors.pop(0)


class ReaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pieces = PlayedPieces()
        self.memory = Memory()

    def reader(self, size: int = SIZE, threads: AtOnce | FetchThreads | None = None) -> Reader:
        return Reader(self.pieces, size, threads or AtOnce(), self.memory)  # type: ignore[arg-type]

    def read_all(self, reader: Reader, size: int = SIZE) -> int:
        offset = 0
        while data := reader.read(offset, PIECE):
            self.assertEqual(data[0], offset // PIECE % 256)
            offset += len(data)
        return offset

    def test_whole_object_is_read_by_ranges_with_one_ahead(self) -> None:
        reader = self.reader()
        reader.read(0, 10)
        self.assertEqual(self.pieces.requested, [(0, LARGEST), (LARGEST, 2 * LARGEST)])
        self.assertTrue(reader.ready(0))
        self.assertTrue(reader.ready(LARGEST))
        self.assertFalse(reader.ready(2 * LARGEST))
        self.assertEqual(self.read_all(reader), SIZE)
        starts = [start for start, _ in self.pieces.requested]
        self.assertEqual(starts, [0, LARGEST, 2 * LARGEST, 3 * LARGEST])
        self.assertEqual(self.pieces.requested[-1], (3 * LARGEST, SIZE))
        reader.close()
        self.assertEqual(self.memory.held, 0)

    def test_what_was_read_is_not_held(self) -> None:
        reader = self.reader(LARGEST)
        for offset in range(0, LARGEST, PIECE):
            reader.read(offset, PIECE)
            self.assertEqual(self.memory.held, LARGEST - offset)
        reader.close()

    def test_read_somewhere_else_drops_what_was_received(self) -> None:
        reader = self.reader()
        reader.read(0, 10)
        self.assertEqual(reader.read(2 * LARGEST + 7, 10), bytes([2 * LARGEST // PIECE % 256]) * 10)
        self.assertEqual(reader.read(3, 1), b"\0")
        self.assertEqual(reader.read(SIZE, 1), b"")
        self.assertEqual(reader.read(0, 0), b"")
        reader.close()
        self.assertEqual(self.memory.held, 0)

    def test_slow_readers_share_the_memory(self) -> None:
        readers = [self.reader() for _ in range(200)]
        for _ in range(2):
            for number, reader in enumerate(readers):
                reader.read(number % 3 * PIECE, PIECE)
                self.assertLessEqual(self.memory.held, MEMORY)
        held = sum(
            len(piece)
            for reader in readers
            for one in (reader._current, reader._next)
            if one is not None
            for piece in one._pieces
        )
        self.assertLessEqual(held, MEMORY)
        for reader in readers:
            self.assertEqual(self.read_all(reader), SIZE)
            reader.close()
        self.assertEqual(self.memory.held, 0)

    def test_range_that_breaks_off_is_resumed_once(self) -> None:
        reader = self.reader(LARGEST)
        self.pieces.errors = [StoreError("reset")]
        self.assertEqual(self.read_all(reader), LARGEST)
        self.assertEqual(self.pieces.requested, [(0, LARGEST), (PIECE, LARGEST)])
        reader.close()
        reader = self.reader(LARGEST)
        self.pieces.errors = [StoreError("reset"), StoreError("reset again")]
        self.assertEqual(len(reader.read(0, PIECE)), PIECE)
        self.assertEqual(len(reader.read(PIECE, PIECE)), PIECE)
        with self.assertRaisesRegex(StoreError, "reset again"):
            reader.read(2 * PIECE, PIECE)
        reader.close()

    def test_replaced_object_is_not_requested_again(self) -> None:
        reader = self.reader(LARGEST)
        self.pieces.errors = [ObjectChanged()]
        reader.read(0, PIECE)
        with self.assertRaises(ObjectChanged):
            reader.read(PIECE, PIECE)
        self.assertEqual(len(self.pieces.requested), 1)
        reader.close()

    def test_unexpected_exception_is_an_error_of_the_read(self) -> None:
        self.pieces.errors = [ValueError("x"), ValueError("y")]
        reader = self.reader(LARGEST)
        with self.assertRaisesRegex(StoreError, "cannot be read .y."):
            self.read_all(reader)
        reader.close()

    def test_range_that_begins_in_a_unit_begins_with_it(self) -> None:
        self.pieces.unit = 4 * PIECE
        reader = self.reader()
        reader.read(5 * PIECE + 3, 1)
        self.assertEqual(self.pieces.requested[0], (4 * PIECE, 4 * PIECE + LARGEST))
        reader.close()

    def test_waiting_read_is_interrupted(self) -> None:
        threads = Later()
        reader = self.reader(threads=threads)
        ended: list[BaseException] = []

        def read() -> None:
            try:
                reader.read(0, 1)
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        while not threads.waiting:
            pass
        reader.interrupt()
        thread.join(PATIENCE)
        self.assertIsInstance(ended[0], Interrupted)
        threads.run()
        self.assertEqual(self.pieces.requested, [])
        reader.close()
        self.assertEqual(self.memory.held, 0)

    def test_preloaded_bytes_need_no_request(self) -> None:
        reader = self.reader(100)
        reader.preload(b"\0" * 100)
        self.assertTrue(reader.ready(0))
        self.assertEqual(reader.read(0, 200), b"\0" * 100)
        self.assertEqual(self.pieces.requested, [])
        reader.close()
        self.assertEqual(self.memory.held, 0)

    def test_real_threads(self) -> None:
        reader = self.reader(threads=FetchThreads(2))
        self.assertEqual(self.read_all(reader), SIZE)
        reader.close()


class MemoryTests(SynchronousTestCase):
    def test_grants_become_smaller(self) -> None:
        memory = Memory(8 * LARGEST)
        pieces = PlayedPieces()
        ranges = []
        for _ in range(100):
            granted = memory.grant(LARGEST, PIECE)
            ranges.append(Range(pieces, 0, granted, memory))
            self.assertLessEqual(memory.held, memory.limit)
        self.assertEqual(ranges[0].stop, LARGEST)
        self.assertEqual(ranges[-1].stop, PIECE)
        # The range that was used least recently had to go.
        self.assertFalse(ranges[0].contains(0))
        self.assertTrue(ranges[-1].contains(0))

    def test_range_larger_than_the_memory_is_alone(self) -> None:
        memory = Memory(PIECE)
        first, second = (Range(PlayedPieces(), 0, 2 * PIECE, memory) for _ in range(2))
        self.assertFalse(first.contains(0))
        self.assertTrue(second.contains(0))
        second.close()
        self.assertEqual(memory.held, 0)


class FetchThreadsTests(SynchronousTestCase):
    def test_errors_and_cancelled_work(self) -> None:
        threads = FetchThreads(1)
        gate = threading.Event()
        blocked = threads.submit(lambda: gate.wait(PATIENCE))
        cancelled = threads.submit(self.fail)
        failing = threads.submit(lambda: 1 // 0)
        last = threads.submit(lambda: 5)
        cancelled.cancel()
        gate.set()
        self.assertTrue(blocked.result(PATIENCE))
        self.assertIsInstance(failing.exception(PATIENCE), ZeroDivisionError)
        self.assertEqual(last.result(PATIENCE), 5)
