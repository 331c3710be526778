"""From a file to a connection by copying: in the reactor's thread, or in another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from natproxy.counts import byte_count
from natproxy.relay.job import FileJob, Relay, SourceChanged, SourceShort
from natproxy.relay.page_cache import PageCache
from natproxy.relay.rotation import SLICE, Rotation

CHUNK = 128 * 1024
"""Bytes copied at once: as many as Twisted's transport passes to the kernel at once."""

BLOCK = 256 * 1024
"""Bytes read at once in a thread."""

T = TypeVar("T")


class Bytes:
    """Bytes in memory, to be sent like a file."""

    blocking = False
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def fileno(self) -> None:
        """Return ``None``: there is no descriptor."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an offset on."""
        return self._data[offset : offset + size]

    def ready(self, offset: int) -> bool:
        """Return true."""
        return True

    def interrupt(self) -> None:
        """Do nothing: no read waits."""

    def close(self) -> None:
        """Do nothing."""


class FileRelay(Relay):
    """Sends a promised number of bytes of a file.

    Subclasses move a slice in `take_turn`, as the rotation admits them. The file is closed at
    the end, however the relay ends, but not while a thread reads it: closing a file of a file
    system that hangs may hang as well, and its descriptor would soon be another file's.

    :param page_cache: reports which bytes can be read without waiting for a disk; ``None`` if
        all can.
    :param rotation: where the relay waits for its turn.
    """

    __slots__ = (
        "_cached_to",
        "_device",
        "_end",
        "_file",
        "_header",
        "_in_thread",
        "_offset",
        "_page_cache",
        "_reading",
        "_rotation",
        "_unchanged",
    )

    def __init__(self, job: FileJob, page_cache: PageCache | None, rotation: Rotation) -> None:
        super().__init__(job.outbound, job.ended)
        self._header = job.header
        self._file = job.file
        self._offset = job.offset
        self._end = job.offset + job.size
        self._unchanged = job.unchanged
        self._device = job.device
        self._page_cache = page_cache
        self._in_thread = False
        self._reading: Deferred[Any] | None = None
        self._cached_to = 0
        self._rotation = rotation

    def take_turn(self) -> None:
        """Send a slice of the file."""
        raise NotImplementedError

    def _ready(self) -> None:
        """Take a turn, at once or in line, as soon as the outbound allows it."""
        if self._outbound.may_move(self._ready):
            self._rotation.enter(self)

    def _release(self) -> None:
        self._detach()
        if not self._in_thread:
            self._close()
        elif self._reading is not None:
            self._reading.cancel()
            self._file.interrupt()

    def _detach(self) -> None:
        self._rotation.leave(self)
        self._outbound.detach()

    def _advance(self, size: int) -> None:
        self._offset += size
        self._count(size)

    def _take_header(self) -> bytes:
        """Return the header, counted as sent, the first time; nothing after that."""
        header, self._header = self._header, b""
        self.begun = True
        self._count(len(header))
        return header

    def _readable(self, most: int) -> int:
        """Return how many of the next bytes can be read at once, up to ``most``.

        If there are none they are read in a thread, and `_ready` is called after that.
        """
        wanted = min(most, self._end - self._offset)
        file = self._file.fileno()
        if self._page_cache is None or file is None:
            return wanted
        # Bytes are loaded once only: if the disk fails or memory is short, a second time fails too.
        if self._offset < self._cached_to:
            return min(wanted, self._cached_to - self._offset)
        if self._page_cache.resident(file, self._offset, wanted):
            return wanted
        self._cached_to = self._offset + wanted
        self._in_thread = True
        loading = self._page_cache.load(file, self._offset, wanted, self._device, self._returned)
        self._await(loading, lambda _: self._ready())
        return 0

    def _await(self, reading: Deferred[T], read: Callable[[T], object]) -> None:
        """Call ``read`` with what a thread reads; fail if the thread fails.

        The reactor's thread does not try the read again: it would stall.
        """

        def done(result: T | Failure) -> None:
            self._reading = None
            if not self._running:
                return
            if isinstance(result, Failure):
                self._fail(cast(Exception, result.value))
            else:
                read(result)

        self._reading = reading
        reading.addBoth(done)

    def _returned(self) -> None:
        """Note that the thread has returned, or will never read."""
        self._in_thread = False
        if not self._running:
            self._close()

    def _check(self) -> None:
        if self._unchanged is not None and not self._unchanged():
            raise SourceChanged

    def _close(self) -> None:
        # All that could be read has been: nothing is lost with an error here.
        with suppress(OSError):
            self._file.close()

    def _fail_short(self) -> None:
        self._fail(SourceShort(byte_count(self._end - self._offset)))


class CopyingFileRelay(FileRelay):
    """Reads a chunk each time that the transport's buffer has become empty.

    So a large file needs no more memory than a small one, and other clients are served
    between two chunks. The header and a small file leave in one write.
    """

    __slots__ = ()

    def start(self) -> None:
        """Write the header and the first chunk."""
        self._outbound.attach(self)
        if self._offset == self._end:
            self._outbound.write(self._take_header())
            self._finish()
        else:
            self._ready()

    def take_turn(self) -> None:
        """Write chunks until the outbound pauses or the slice is used up."""
        left = min(SLICE, self._outbound.budget)
        while not (self._outbound.paused or self._is_over()):
            if left <= 0:
                if not self._outbound.may_move(self._ready) or self._rotation.wait(self):
                    return
                left = min(SLICE, self._outbound.budget)
            wanted = self._readable(min(CHUNK, left))
            if not wanted:
                return
            try:
                chunk = self._file.read_at(self._offset, wanted)
                if chunk and self._offset + len(chunk) == self._end:
                    self._check()
            except (OSError, SourceChanged) as error:
                self._fail(error)
                return
            left -= len(chunk)
            self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        """Write the header, if it has not been, and a chunk; none at the end of the file."""
        data = chunk if self.begun else self._take_header() + chunk
        if data:
            self._outbound.write(data)
        if self._is_over():
            return
        if not chunk:
            self._fail_short()
            return
        self._rotation.count(len(chunk))
        self._advance(len(chunk))
        if self._offset == self._end:
            self._finish()

    def resumeProducing(self) -> None:
        """Write the next chunk: the transport's buffer is empty."""
        if self._reading is None:
            self._ready()


class ThreadedFileRelay(CopyingFileRelay):
    """Reads each block in a thread, unless the file has it in memory.

    For files whose reads may wait for a disk or a network: those about which the page cache
    reports nothing, and blocking ones without a descriptor. The header is written when the first
    block has been read.
    """

    __slots__ = ()

    def start(self) -> None:
        """Read the first block in a thread."""
        self._outbound.attach(self)
        self._ready()

    def take_turn(self) -> None:
        """Read a block in a thread; it is written as soon as it has been read."""
        if self._reading is not None or self._outbound.paused or self._is_over():
            return
        assert self._page_cache is not None
        size = min(BLOCK, self._outbound.budget, self._end - self._offset)
        if self._file.ready(self._offset):
            try:
                block = self._read(self._offset, size)
            except (OSError, SourceChanged) as error:
                self._fail(error)
            else:
                self._received(block)
            return
        self._in_thread = True
        read = partial(self._read, self._offset, size)
        self._await(self._page_cache.read(read, self._device, self._returned), self._received)

    def _read(self, offset: int, size: int) -> bytes:
        """Read a block, in a thread or at once."""
        if self._is_over():
            return b""
        block = self._file.read_at(offset, size)
        if block and offset + len(block) == self._end:
            self._check()
        return block

    def _received(self, block: bytes) -> None:
        self._write(block)
        if not self._is_over():
            self._ready()
