"""From one socket to another inside the kernel: ``splice(2)``, through a pipe."""

from __future__ import annotations

import os
from typing import Protocol, cast

from twisted.internet.interfaces import IReactorFDSet

from natproxy.relay.descriptors import WatchedDescriptor
from natproxy.relay.job import PeerGone, SocketJob, SocketRelay, SourceShort
from natproxy.relay.outbound import SocketOutbound
from natproxy.relay.pipes import Pipe, PipePool

TURN = 2 << 20
"""Bytes that all relays together move in one turn of the reactor, in equal shares."""

SLICE = 256 * 1024
"""Bytes that a share has at least: with less, the system calls cost more than the copying."""

# Not SPLICE_F_MORE: when nothing more comes at once, the rest waits for 200 ms.
_FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)


class SizedBody(Protocol):
    """Counts a body of known size; see `natproxy.protocol.CountedBody`."""

    remaining: int

    def advance(self, size: int) -> None:
        """Count bytes of the body that did not pass through ``take``."""
        ...


class SpliceRelay(SocketRelay):
    """Moves one counted body from a TCP connection to another.

    When the header has left the transport's buffer, the body is moved beside the two
    transports: the pipe is filled from the one socket and emptied into the other, and the
    relay waits for whichever socket is not ready. The pipe is always empty before it is
    filled, so that EAGAIN from the source means only that there is nothing to read.

    The source's transport stays paused. ``job.progress`` is called whenever bytes have
    come from the source, and when the source is to send again after the outbound was full.

    :param reactor: watches the two sockets.
    :param pool: where the pipe is returned.
    :param pipe: an empty one.
    :raises OSError: if there are no descriptors for it; the pipe is still the caller's.
    """

    __slots__ = (
        "_account",
        "_body",
        "_header",
        "_in_pipe",
        "_pipe",
        "_pool",
        "_progress",
        "_receiver",
        "_socket",
        "_source",
    )

    def __init__(self, reactor: IReactorFDSet, pool: PipePool, pipe: Pipe, job: SocketJob) -> None:
        super().__init__(job.outbound, job.ended)
        self._pool = pool
        self._pipe = pipe
        self._in_pipe = 0
        self._header = job.header
        self._body = cast(SizedBody, job.body)
        self._account = job.account
        self._progress = job.progress
        self._socket = cast(SocketOutbound, job.outbound)
        self._source = WatchedDescriptor(reactor, job.transport.fileno(), self._move)
        try:
            self._receiver = WatchedDescriptor(reactor, self._socket.descriptor(), self._move)
        except OSError:
            self._source.close()
            raise
        job.transport.pauseProducing()

    def start(self) -> None:
        """Write the header, and move the body as soon as the header has been sent."""
        # With it came up to 64 KiB of the body: they must not be held until the end.
        header, self._header = self._header, b""
        self.begun = True
        self._count(len(header))
        self._account.write(header)
        if self._running:
            self._socket.lend(self, self._begin)

    def deliver(self, data: bytes) -> None:
        """Raise ``AssertionError``: the source's transport has been paused."""
        raise AssertionError("a paused transport has delivered bytes")

    def source_lost(self) -> None:
        """Fail, because no more bytes will be received."""
        if self._running:
            self._fail(SourceShort(f"{self._body.remaining} bytes"))

    def _release(self) -> None:
        self._source.close()
        self._receiver.close()
        self._pool.take_back(self._pipe, empty=not self._in_pipe)
        self._socket.take_back()

    def _begin(self) -> None:
        if self._running:
            self._progress()
            self._source.wait_readable()

    def _move(self) -> None:
        if self._in_pipe:
            before = self._in_pipe
            if not self._empty_pipe(self._receiver.fileno()):
                if self._in_pipe < before and not self._is_over():
                    # The peer reads slowly: its time-out begins again.
                    self._socket.set_paused(True)
                return
            self._receiver.stop_waiting()
            self._socket.set_paused(False)
            self._source.wait_readable()
        body, pipe = self._body, self._pipe
        source, receiver = self._source.fileno(), self._receiver.fileno()
        # A larger share costs less per byte, but delays short commands on other connections.
        budget = min(self._outbound.budget, max(SLICE, TURN // self._pool.lent))
        while body.remaining and budget > 0:
            try:
                moved = os.splice(
                    source, pipe.writer, min(body.remaining, budget, pipe.size), flags=_FLAGS
                )
            except BlockingIOError:
                break
            except OSError as error:
                self._fail(SourceShort(f"{body.remaining} bytes ({error.strerror or error})"))
                return
            if not moved:
                self.source_lost()
                return
            body.advance(moved)
            budget -= moved
            self._in_pipe = moved
            if not self._empty_pipe(receiver):
                break
        if not self._running:
            return
        self._progress()
        if self._in_pipe:
            self._source.stop_waiting()
            self._receiver.wait_writable()
            self._socket.set_paused(True)
        elif not body.remaining:
            self._finish()

    def _empty_pipe(self, receiver: int) -> bool:
        """Move the pipe's bytes to the receiver; return whether all of them have gone."""
        while self._in_pipe:
            try:
                moved = os.splice(self._pipe.reader, receiver, self._in_pipe, flags=_FLAGS)
            except BlockingIOError:
                return False
            except OSError:
                self._fail(PeerGone("the client is gone"))
                return False
            self._in_pipe -= moved
            self._count(moved)
            self._account.count(moved)
        return True
