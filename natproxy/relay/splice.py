"""From one socket to another inside the kernel: ``splice(2)``, through a pipe."""

from __future__ import annotations

import enum
import os
from typing import NamedTuple, Protocol, cast

from twisted.internet.interfaces import IReactorFDSet

from natproxy.relay.descriptors import WatchedDescriptor
from natproxy.relay.job import PeerGone, SocketJob, SocketRelay, SourceShort
from natproxy.relay.low_water import LowWater
from natproxy.relay.outbound import DIRECT, SocketOutbound
from natproxy.relay.pipes import Pipe, PipePool
from natproxy.relay.rotation import SLICE, Rotation

WORTHWHILE = 256 * 1024
"""Bytes of space in the receiving socket for which a move need not wait until it is writable.

The kernel reports it as writable when a third of its buffer is free.
"""

LEAST_MOVE = 4096
"""Bytes that are moved to a socket that is writable, even if the kernel reports less space."""

# Not SPLICE_F_MORE: when nothing more comes at once, the rest waits for 200 ms.
_FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)


class SizedBody(Protocol):
    """Counts a body of known size; see `natproxy.protocol.CountedBody`."""

    remaining: int

    def advance(self, size: int) -> None:
        """Count bytes of the body that did not pass through ``take``."""
        ...


class Waiting(enum.Enum):
    """What a `SpliceRelay` waits for; when that has happened, it waits for its turn in line."""

    FLUSH = "the transport has to send what was written to it"
    SOURCE = "the source has to send"
    SPACE = "the receiver has to read"
    PIPE = "the receiver has to read, and bytes for it are in a pipe"


class Shared(NamedTuple):
    """What the spliced bodies of one daemon share.

    :ivar reactor: watches their sockets.
    """

    reactor: IReactorFDSet
    pool: PipePool
    rotation: Rotation
    low_water: LowWater


class SpliceRelay(SocketRelay):
    """Moves one counted body from a TCP connection to another.

    When the header has left the transport's buffer, the body is moved beside the two transports:
    slice by slice through a pipe, as the `Rotation` admits it. A slice is no larger than the
    receiver has space for: so the pipe is empty after the move, and the next relay borrows it. If
    the receiver takes less than that, the relay keeps the pipe until the rest has been taken.
    When there is no pipe to borrow, up to `DIRECT` bytes are copied.

    The source's transport stays paused. ``job.progress`` is called whenever bytes have
    come from the source, and when the source is to send again after the outbound was full.

    :raises OSError: if there are no descriptors for it.
    """

    __slots__ = (
        "_account",
        "_body",
        "_header",
        "_in_pipe",
        "_mark",
        "_pipe",
        "_pool",
        "_progress",
        "_receiver",
        "_rotation",
        "_socket",
        "_source",
        "_waiting",
    )

    def __init__(self, shared: Shared, job: SocketJob) -> None:
        super().__init__(job.outbound, job.ended)
        self._rotation = shared.rotation
        self._pool = shared.pool
        self._pipe: Pipe | None = None
        self._in_pipe = 0
        self._waiting = Waiting.FLUSH
        self._header = job.header
        self._body = cast(SizedBody, job.body)
        self._account = job.account
        self._progress = job.progress
        self._socket = cast(SocketOutbound, job.outbound)
        reactor = shared.reactor
        self._source = WatchedDescriptor(reactor, job.transport.fileno(), self._ready)
        try:
            self._receiver = WatchedDescriptor(reactor, self._socket.descriptor(), self._ready)
        except OSError:
            self._source.close()
            raise
        self._mark = shared.low_water.of(job.transport.getHandle())
        job.transport.pauseProducing()

    def start(self) -> None:
        """Write the header, and move the body as soon as the header has been sent."""
        # With it came up to 64 KiB of the body: they must not be held until the end.
        header, self._header = self._header, b""
        self.begun = True
        self._write(header)

    def deliver(self, data: bytes) -> None:
        """Raise ``AssertionError``: the source's transport has been paused."""
        raise AssertionError("a paused transport has delivered bytes")

    def source_lost(self) -> None:
        """Fail, because no more bytes will be received; all that were received are handed on."""
        if self._running:
            self.stop()
            self._ended(SourceShort(f"{self._body.remaining} bytes"))

    def stop(self) -> None:
        """Hand on what is in the pipe, and end as by `cancel`."""
        held = b""
        if self._pipe is not None and self._in_pipe:
            # No more than `SLICE` bytes; the outbound holds what the receiver does not take.
            held = os.read(self._pipe.reader, self._in_pipe)
            self._in_pipe -= len(held)
        self.cancel()
        if held:
            self._count(len(held))
            self._account.write(held)

    def take_turn(self) -> None:
        """Empty the pipe, if one is held; else move a slice."""
        if self._waiting is not Waiting.PIPE:
            self._move()
        elif self._empty_pipe():
            self._continue()

    def _release(self) -> None:
        self._rotation.leave(self)
        self._mark.close()
        self._source.close()
        self._receiver.close()
        if self._pipe is not None:
            self._pool.take_back(self._pipe, empty=not self._in_pipe)
        self._socket.take_back()

    def _ready(self) -> None:
        """Take a turn, at once or in line: the socket that was waited for is ready."""
        if self._waiting is Waiting.FLUSH:
            # The event is for an earlier descriptor with the same number.
            return
        if self._waiting is Waiting.SOURCE:
            self._mark.reached()
        if self._waiting is not Waiting.PIPE and not self._socket.may_move(self._allowed):
            self._source.stop_waiting()
            self._receiver.stop_waiting()
            return
        taken = self._rotation.enter(self, first=self._waiting is Waiting.PIPE)
        if not taken and len(self._rotation) > 1:
            # A relay that is alone in line has its turn before the sockets are looked at again.
            self._source.stop_waiting()
            self._receiver.stop_waiting()

    def _allowed(self) -> None:
        """Wait for the socket again: the meter allows bytes. A source has many, by its mark."""
        if self._waiting is Waiting.SOURCE:
            self._mark.wait(self._body.remaining)
            self._source.wait_readable()
        else:
            self._receiver.wait_writable()

    def _continue(self) -> None:
        """Wait for the source, or finish."""
        if self._socket.paused:
            self._socket.set_paused(False)
            if self._is_over():
                return
        self._progress()
        if not self._body.remaining:
            self._finish()
            return
        if self._waiting is not Waiting.SOURCE:
            self._waiting = Waiting.SOURCE
            self._receiver.stop_waiting()
        self._mark.wait(self._body.remaining)
        self._source.wait_readable()

    def _wait_for_receiver(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._source.stop_waiting()
        self._receiver.wait_writable()
        self._socket.set_paused(True)

    def _move(self) -> None:
        """Move a slice, as large as the receiver has space for."""
        body = self._body
        wanted = min(body.remaining, SLICE, self._outbound.budget)
        space = self._socket.space()
        if space < wanted:
            if space < WORTHWHILE and self._waiting is Waiting.SOURCE:
                self._wait_for_receiver(Waiting.SPACE)
                return
            # A writable socket takes something, whatever the kernel reports.
            wanted = min(wanted, max(space, LEAST_MOVE))
        pipe = self._pool.lend()
        if pipe is None:
            self._copy(min(wanted, DIRECT))
            return
        try:
            size = min(wanted, pipe.size)
            moved = os.splice(self._source.fileno(), pipe.writer, size, flags=_FLAGS)
        except OSError as error:
            self._pool.take_back(pipe, empty=True)
            self._not_received(error)
            return
        self._pipe, self._in_pipe = pipe, moved
        if self._received(moved) and self._empty_pipe():
            self._continue()

    def _copy(self, size: int) -> None:
        """Write bytes from the source to the outbound, which holds what the receiver leaves."""
        try:
            data = os.read(self._source.fileno(), size)
        except OSError as error:
            self._not_received(error)
            return
        if self._received(len(data)):
            self._waiting = Waiting.FLUSH
            self._source.stop_waiting()
            self._receiver.stop_waiting()
            if self._socket.paused:
                self._socket.set_paused(False)
            if not self._is_over():
                self._write(data)

    def _write(self, data: bytes) -> None:
        """Write bytes, and continue when the transport has sent them."""
        self._count(len(data))
        self._account.write(data)
        if self._running:
            self._socket.lend(self, self._flushed)

    def _flushed(self) -> None:
        if self._running:
            self._continue()

    def _received(self, size: int) -> bool:
        """Count bytes that came from the source; return false if it has ended."""
        self._body.advance(size)
        self._rotation.count(size)
        self._mark.moved(size)
        if not size:
            self.source_lost()
        return size > 0

    def _not_received(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            self._continue()
        else:
            # Nothing is in a pipe: it was empty before.
            missing = f"{self._body.remaining} bytes ({error.strerror or error})"
            self._fail(SourceShort(missing))

    def _empty_pipe(self) -> bool:
        """Move the pipe's bytes to the receiver; return whether all of them have gone."""
        pipe = cast(Pipe, self._pipe)
        try:
            moved = os.splice(pipe.reader, self._receiver.fileno(), self._in_pipe, flags=_FLAGS)
        except BlockingIOError:
            moved = 0
        except OSError:
            self._fail(PeerGone("the client is gone"))
            return False
        self._in_pipe -= moved
        self._socket.moved(moved)
        self._count(moved)
        self._account.count(moved)
        if not self._in_pipe:
            self._pipe = None
            self._pool.take_back(pipe, empty=True)
            return self._running
        if self._running and (moved or self._waiting is not Waiting.PIPE):
            # The peer reads slowly: its time-out begins again.
            self._wait_for_receiver(Waiting.PIPE)
        elif self._running:
            self._receiver.wait_writable()
        return False
