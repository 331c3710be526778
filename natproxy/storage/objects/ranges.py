"""Ranges of objects, received in threads, and the memory that all of them may hold."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from natproxy.storage.objects.client import Interrupted, ObjectChanged, StoreError

PIECE = 256 * 1024
"""Bytes that are received, and read, at once."""

LARGEST = 8 << 20
"""Bytes of a range at most."""

MEMORY = 128 << 20
"""Bytes of ranges that are held in memory, for all readers of a storage.

A new range has at most an eighth of what is left of them. If less than a piece is left, the range
that was read least recently is dropped, and received again when its reader continues.
"""

THREADS = 16
"""Ranges that are received at a time."""

TRIES = 2
"""Times that a range is requested, from where it broke off."""

T = TypeVar("T")


class FetchThreads:
    """A pool of threads. They start as they are needed, and do not delay the end of the process.

    :param most: number of threads.
    """

    def __init__(self, most: int = THREADS) -> None:
        self._most = most
        self._queue: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._busy = 0

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Call a function in a thread; one that is cancelled before is not called."""
        future: Future[T] = Future()
        with self._lock:
            self._busy += 1
            starts = self._started < min(self._busy, self._most)
            self._started += starts
        self._queue.put((function, future))
        if starts:
            threading.Thread(target=self._work, name="object", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            function, future = self._queue.get()
            if future.set_running_or_notify_cancel():
                try:
                    result = function()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            with self._lock:
                self._busy -= 1
            # Nothing of it is kept until the next one comes.
            del function, future


class Pieces(Protocol):
    """Receives pieces of one object."""

    @property
    def unit(self) -> int:
        """Bytes in whose multiples ranges begin."""
        ...

    def receive(self, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield the bytes of a range, in pieces of `PIECE` bytes or more or less.

        :raises StoreError: if the store fails; `ObjectChanged` if the object has changed.
        """
        ...


class Memory:
    """The memory that ranges may hold. Threads may share it.

    :param limit: bytes for all of them.
    :ivar held: bytes that they hold, or may still receive.
    """

    def __init__(self, limit: int = MEMORY) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()
        # The one that was used least recently comes first.
        self._ranges: OrderedDict[Range, int] = OrderedDict()

    def grant(self, wanted: int, least: int) -> int:
        """Return how many bytes a new range may have: ``wanted`` at most.

        :param least: bytes that it has in any case.
        """
        with self._lock:
            left = self.limit - self.held
        return min(wanted, max(least, left // 8))

    def is_free(self, size: int) -> bool:
        """Return whether a number of bytes is free, eight times over."""
        with self._lock:
            return (self.limit - self.held) // 8 >= size

    def add(self, one: Range, size: int) -> None:
        """Count a range. Others are dropped until there is space for it."""
        dropped = []
        with self._lock:
            self.held += size
            self._ranges[one] = size
            while self.held > self.limit and len(self._ranges) > 1:
                victim = next(iter(self._ranges))
                if victim is one:
                    break
                self.held -= self._ranges.pop(victim)
                dropped.append(victim)
        for victim in dropped:
            victim.drop()

    def used(self, one: Range, freed: int) -> None:
        """Note that a range was read, and that some of its bytes are no longer held."""
        with self._lock:
            if one in self._ranges:
                self.held -= freed
                self._ranges[one] -= freed
                self._ranges.move_to_end(one)

    def remove(self, one: Range) -> None:
        """Count a range no more."""
        with self._lock:
            self.held -= self._ranges.pop(one, 0)


class Range:
    """A range of an object, while a thread receives it and another one reads it in order.

    :ivar start: offset of its first byte in the object.
    :ivar stop: offset of the byte after its last one.
    """

    def __init__(self, pieces: Pieces, start: int, stop: int, memory: Memory) -> None:
        self.start = start
        self.stop = stop
        self._source = pieces
        self._memory = memory
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        # Offset of the first piece, and of the byte after the last one.
        self._first = self._received = start
        self._error: StoreError | None = None
        self._dropped = False
        memory.add(self, stop - start)

    def receive(self) -> None:
        """Receive the range, in a thread."""
        for tries_left in reversed(range(TRIES)):
            if self._dropped:
                return
            try:
                with closing(self._source.receive(self._received, self.stop)) as pieces:
                    for piece in pieces:
                        if not self._append(piece):
                            return
                if self._received == self.stop:
                    return
                error = StoreError("the object store sent less than the range that was requested")
            except StoreError as failed:
                error = failed
            except Exception as failed:
                error = StoreError(f"a range of an object cannot be read ({failed})")
            if not tries_left or isinstance(error, ObjectChanged):
                break
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def fill(self, data: bytes) -> None:
        """Add all bytes of the range, in place of receiving them."""
        self._append(data)

    def contains(self, offset: int) -> bool:
        """Return whether `read` can return the byte at an offset, now or later."""
        return not self._dropped and self._first <= offset < self.stop

    def ready(self, offset: int) -> bool:
        """Return whether the byte at an offset has been received."""
        return not self._dropped and self._first <= offset < self._received

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an offset on; wait for them. What is before is dropped.

        :return: none if the range was dropped to free its memory for others.
        :raises StoreError: if they cannot be received.
        """
        freed = 0
        with self._changed:
            while not self._dropped and self._received <= offset and self._error is None:
                self._changed.wait()
            if self._dropped:
                return b""
            if self._received <= offset:
                assert self._error is not None
                raise self._error
            while offset >= self._first + len(self._pieces[0]):
                passed = len(self._pieces.popleft())
                self._first += passed
                freed += passed
            piece, skip = self._pieces[0], offset - self._first
        self._memory.used(self, freed)
        return piece if not skip and len(piece) <= size else piece[skip : skip + size]

    def _append(self, piece: bytes) -> bool:
        """Add received bytes; return false if the range was dropped."""
        with self._changed:
            if self._dropped:
                return False
            self._pieces.append(piece)
            self._received += len(piece)
            self._changed.notify_all()
        return True

    def drop(self) -> None:
        """Hold nothing any more, and receive nothing more."""
        with self._changed:
            self._dropped = True
            self._pieces.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Drop the range, and count it no more."""
        self._memory.remove(self)
        self.drop()


class Reader:
    """Reads one object by ranges, with the next one received ahead.

    :param pieces: of the object.
    :param size: of the object, in bytes.
    :param threads: in which ranges are received.
    :param memory: that they hold.
    """

    def __init__(self, pieces: Pieces, size: int, threads: FetchThreads, memory: Memory) -> None:
        self._pieces = pieces
        self._size = size
        self._threads = threads
        self._memory = memory
        self._current: Range | None = None
        self._next: Range | None = None
        self._interrupted = False

    def preload(self, data: bytes) -> None:
        """Keep the first bytes of the object, which have been received already."""
        if data:
            self._current = Range(self._pieces, 0, len(data), self._memory)
            self._current.fill(data)

    def ready(self, offset: int) -> bool:
        """Return whether `read` would return without waiting."""
        return any(one is not None and one.ready(offset) for one in (self._current, self._next))

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an offset on: at least one, unless it is the end.

        :raises StoreError: if the store fails, or the object has changed, or at `interrupt`.
        """
        if offset >= self._size or size <= 0:
            return b""
        while not self._interrupted:
            current = self._range_at(offset)
            data = current.read(offset, size)
            if data:
                self._read_ahead(current)
                return data
        raise Interrupted

    def interrupt(self) -> None:
        """Let a `read` that waits fail, and the next ones."""
        self._interrupted = True
        for one in (self._current, self._next):
            if one is not None:
                one.drop()

    def close(self) -> None:
        """Drop all ranges."""
        current, following = self._current, self._next
        self._current = self._next = None
        for one in (current, following):
            if one is not None:
                one.close()

    def _range_at(self, offset: int) -> Range:
        """Return the range that an offset is in; request it if there is none."""
        if self._current is not None and self._current.contains(offset):
            return self._current
        if self._current is not None:
            self._current.close()
        self._current, self._next = self._next, None
        if self._current is not None and self._current.contains(offset):
            return self._current
        if self._current is not None:
            self._current.close()
        self._current = self._request(offset - offset % self._pieces.unit)
        return self._current

    def _read_ahead(self, current: Range) -> None:
        least = max(PIECE, self._pieces.unit)
        if self._next is None and current.stop < self._size and self._memory.is_free(least):
            self._next = self._request(current.stop)

    def _request(self, start: int) -> Range:
        unit = self._pieces.unit
        granted = self._memory.grant(min(LARGEST, self._size - start), max(PIECE, unit))
        if granted < self._size - start:
            granted = max(unit, granted - granted % unit)
        stop = min(start + granted, self._size)
        found = Range(self._pieces, start, stop, self._memory)
        self._threads.submit(found.receive)
        return found
