"""From a file to a transport: by copying, and by ``sendfile(2)``."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorFDSet
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.relay.descriptors import WatchedDescriptor
from natproxy.relay.errors import SinkGone, SourceChanged, SourceShort
from natproxy.relay.outbound import Outbound, SocketOutbound
from natproxy.relay.page_cache import Warmth

CHUNK = 128 * 1024
"""Bytes copied in one turn: what Twisted's transport hands to the kernel at once."""

T = TypeVar("T")

BLOCK = 256 * 1024
"""Bytes read at once in a thread."""

STRETCH = 1 << 20
"""Bytes that are sent by one ``sendfile``, and looked for in the page cache, at most."""


Unchanged = Callable[[], bool]
"""Tells whether a source is still what its header says."""

_FILE_ERRORS = frozenset((errno.EIO, errno.ESTALE, errno.EINVAL, errno.ENOMEM))


class Source(Protocol):
    """Something with bytes in it: a raw file, or bytes in memory."""

    def read(self, size: int, /) -> bytes | None:
        """Give up to ``size`` bytes; none at the end."""
        ...

    def seek(self, offset: int, /) -> int:
        """Read from here on."""
        ...

    def fileno(self) -> int:
        """Give the file's descriptor; `OSError` if there is none."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@implementer(IPushProducer)
class FileRelay:
    """Moves a promised number of bytes from a file to an `Outbound`.

    Subclasses move one piece after the other in `_move`. The source is closed at the
    end, whichever end it is, but not while a thread reads it: closing a file of a file
    system that hangs may hang as well, and its descriptor would be another file's soon.
    A file that has grown is sent up to its promised size.

    :param header: bytes to send first.
    :param size: bytes promised.
    :param warmth: asked before each piece is read; `None` for bytes in memory.
    :param offset: of the first byte in the source.
    :param unchanged: asked when all has been read, and the last of it not yet sent.
    :param device: that the source is on, ``st_dev``.
    :ivar sent: bytes handed on so far, header included.
    :ivar finished: fires with `None` when all bytes have been handed on, with
        `SourceShort` if the file has shrunk, with `SourceChanged`, with `SinkGone`, or
        with the `OSError` of a read; never after `stop`.
    """

    def __init__(
        self,
        header: bytes,
        source: Source,
        size: int,
        outbound: Outbound,
        warmth: Warmth | None,
        offset: int = 0,
        unchanged: Unchanged | None = None,
        device: int = 0,
    ) -> None:
        self.finished: Deferred[None] = Deferred()
        self.sent = len(header)
        self._header = header
        self._source = source
        self._offset = offset
        self._end = offset + size
        self._unchanged = unchanged
        self._device = device
        self._outbound = outbound
        self._warmth = warmth
        self._running = True
        self._in_thread = False
        self._reading: Deferred[Any] | None = None
        self._warm_to = 0

    @property
    def begun(self) -> bool:
        """Whether the header has been written: an error can no longer be sent instead."""
        return not self._header

    def start(self) -> None:
        """Begin to send."""
        raise NotImplementedError

    def stop(self) -> None:
        """Send nothing from now on."""
        if self._running:
            self._running = False
            self._let_go()
            if not self._in_thread:
                self._close()
            elif self._reading is not None:
                self._reading.cancel()

    def pauseProducing(self) -> None:
        """Nothing to do: the outbound is looked at before each piece."""

    def resumeProducing(self) -> None:
        """The transport has become empty."""

    def stopProducing(self) -> None:
        """The client is gone."""
        self.stop()

    def _move(self) -> None:
        raise NotImplementedError

    def _let_go(self) -> None:
        raise NotImplementedError

    def _over(self) -> bool:
        return not self._running

    def _advance(self, size: int) -> None:
        self._offset += size
        self.sent += size

    def _readable(self, most: int) -> int:
        """Tell how many of the next bytes can be read at once, up to ``most``.

        If there are none they are read in a thread, and `_move` is called after that.
        """
        wanted = min(most, self._end - self._offset)
        if self._warmth is None:
            return wanted
        # Once is enough: what a disk cannot give, or memory not hold, is not asked for again.
        if self._offset < self._warm_to:
            return min(wanted, self._warm_to - self._offset)
        file = self._source.fileno()
        if self._warmth.resident(file, self._offset, wanted):
            return wanted
        self._warm_to = self._offset + wanted
        self._in_thread = True
        reading = self._warmth.warm(file, self._offset, wanted, self._device, self._returned)
        self._await(reading, lambda _: self._move())
        return 0

    def _await(self, reading: Deferred[T], read: Callable[[T], object]) -> None:
        """Go on with what a thread reads; fail if it cannot: here it would stall the reactor."""

        def ended(result: T | Failure) -> None:
            self._reading = None
            if not self._running:
                return
            if isinstance(result, Failure):
                self._fail_with(result)
            else:
                read(result)

        self._reading = reading
        reading.addBoth(ended)

    def _returned(self) -> None:
        """The thread has returned, or will never read."""
        self._in_thread = False
        if not self._running:
            self._close()

    def _check(self) -> None:
        if self._unchanged is not None and not self._unchanged():
            raise SourceChanged

    def _close(self) -> None:
        # All that could be read has been: nothing is lost with an error here.
        with suppress(OSError):
            self._source.close()

    def _complete(self) -> None:
        self.stop()
        self.finished.callback(None)

    def _fail(self, error: Exception) -> None:
        self._fail_with(Failure(error))

    def _fail_with(self, failure: Failure) -> None:
        self.stop()
        self.finished.errback(failure)

    def _short(self) -> None:
        self._fail(SourceShort(f"{self._end - self._offset} bytes"))


class CopyingFileRelay(FileRelay):
    """Reads a chunk each time that the transport has become empty.

    So a large file costs no more memory than a small one, and leaves other clients
    their turn. The header and a small file leave in one write.
    """

    def start(self) -> None:
        """Begin to send."""
        self._outbound.attach(self)
        if self._offset:
            self._source.seek(self._offset)
        if self._offset == self._end:
            self._outbound.write(self._header)
            self._complete()
        else:
            self._move()

    def _move(self) -> None:
        while not (self._outbound.paused or self._over()):
            wanted = self._readable(CHUNK)
            if not wanted:
                return
            try:
                chunk = self._source.read(wanted)
                if chunk and self._offset + len(chunk) == self._end:
                    self._check()
            except (OSError, SourceChanged) as error:
                self._fail(error)
                return
            self._write(chunk or b"")

    def _write(self, chunk: bytes) -> None:
        """Write the header, if it has not been, and a chunk; none at the end of the file."""
        header, self._header = self._header, b""
        if header or chunk:
            self._outbound.write(header + chunk if chunk else header)
        if self._over():
            return
        if not chunk:
            self._short()
            return
        self._advance(len(chunk))
        if self._offset == self._end:
            self._complete()

    def resumeProducing(self) -> None:
        """The transport has become empty: the next chunk."""
        if self._reading is None:
            self._move()

    def _let_go(self) -> None:
        self._outbound.detach()


class ThreadedFileRelay(CopyingFileRelay):
    """Reads each block in a thread.

    For files of which nobody can say whether a read will wait. The header is written when
    the first block has been read.
    """

    def start(self) -> None:
        """Begin to send."""
        self._outbound.attach(self)
        self._move()

    def _move(self) -> None:
        if self._reading is not None or self._outbound.paused or self._over():
            return
        assert self._warmth is not None
        self._in_thread = True
        size = min(BLOCK, self._end - self._offset)
        read = partial(self._read, self._source.fileno(), self._offset, size)
        self._await(self._warmth.read(read, self._device, self._returned), self._got)

    def _read(self, file: int, offset: int, size: int) -> bytes:
        """Read a block, in a thread."""
        if self._over():
            return b""
        block = os.pread(file, size, offset)
        if block and offset + len(block) == self._end:
            self._check()
        return block

    def _got(self, block: bytes) -> None:
        self._write(block)
        self._move()


class SendfileRelay(FileRelay):
    """Hands the file to the kernel, a stretch each time that the socket can take one.

    :raises OSError: if there is no descriptor for it; the source is still the caller's.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        header: bytes,
        source: Source,
        size: int,
        outbound: SocketOutbound,
        warmth: Warmth | None,
        offset: int = 0,
        unchanged: Unchanged | None = None,
        device: int = 0,
    ) -> None:
        super().__init__(header, source, size, outbound, warmth, offset, unchanged, device)
        # The last byte is kept back, to be sent when all the others have been read.
        self._by_kernel = self._end - (unchanged is not None)
        self._socket = outbound
        self._sink = WatchedDescriptor(reactor, outbound.descriptor(), self._move)

    def start(self) -> None:
        """Begin to send."""
        header, self._header = self._header, b""
        self._outbound.write(header)
        self._socket.lend(self, self._move)

    def _move(self) -> None:
        if self._reading is not None:
            # An event of a descriptor that had this number before: nothing is warm yet.
            return
        wanted = self._readable(STRETCH)
        if self._over():
            return
        if not wanted:
            # Not the client's turn but the disk's.
            self._sink.rest()
            self._socket.stalled(False)
            return
        try:
            moved = self._send(wanted)
        except BlockingIOError:
            moved = -1
        except SourceChanged as error:
            self._fail(error)
            return
        except OSError as error:
            self._broken(error)
            return
        if not moved:
            self._short()
            return
        if moved > 0:
            self._advance(moved)
            if self._offset == self._end:
                self._complete()
                return
        # Whatever has moved, it is the client's turn again, and its time begins anew.
        self._socket.stalled(True)
        self._sink.wait_writable()

    def _send(self, size: int) -> int:
        """Give what the socket has taken; 0 if the file has no more."""
        sink, source = self._sink.fileno(), self._source.fileno()
        if self._offset < self._by_kernel:
            most = min(size, self._by_kernel - self._offset)
            return os.sendfile(sink, source, self._offset, most)
        last = os.pread(source, size, self._offset)
        self._check()
        return os.write(sink, last) if last else 0

    def _broken(self, error: OSError) -> None:
        # Reading fails for few reasons; all others are the socket's.
        if error.errno in _FILE_ERRORS:
            self._fail(error)
        else:
            self._sink_gone()

    def _sink_gone(self) -> None:
        if self._running:
            self._fail(SinkGone("the client is gone"))

    def _let_go(self) -> None:
        self._sink.close()
        self._socket.take_back()
