"""From one socket to another inside the kernel: ``splice(2)``, through a pipe."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorFDSet
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.relay.copy import Sink
from natproxy.relay.descriptors import WatchedDescriptor
from natproxy.relay.errors import SinkGone, SourceShort
from natproxy.relay.outbound import SocketOutbound, Transport
from natproxy.relay.pipes import Pipe, PipePool

TURN = 2 << 20
"""Bytes that all relays together move in one turn of the reactor, about."""

SLICE = 256 * 1024
"""Bytes that each of them moves at the least: less, and the calls cost more than they do."""

# Not SPLICE_F_MORE: when nothing more comes at once, the rest waits for 200 ms.
_FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)


class SizedBody(Protocol):
    """Knows how much of a body is to come; see `natproxy.protocol.CountedBody`."""

    remaining: int

    def advance(self, size: int) -> None:
        """Count bytes of the body that did not pass through `take`."""
        ...

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split received bytes into the body's own and the surplus."""
        ...


@implementer(IPushProducer)
class SpliceRelay:
    """Moves one counted body from a TCP transport to an `Outbound`.

    What was read along with the header comes by `deliver` and goes out first. When all
    of it has left the transport's buffer, the rest is moved beside the two transports:
    the pipe is filled from the one socket and emptied into the other, and whichever
    socket is not ready is waited for. The pipe is always empty before it is filled, so
    that EAGAIN from the source can mean only one thing.

    :param reactor: watches the two sockets.
    :param pool: the pipe goes back to it.
    :param pipe: an empty one.
    :param header: is sent along with the first bytes, or by `start`.
    :param body: counts the body.
    :param source: the transport that the bytes come from; it is paused for good.
    :param outbound: where they go.
    :param sink: counts them.
    :param progress: called whenever bytes have come from the source, and when it is the
        source's turn again after the sink's.
    :ivar finished: fires with `None` when the whole body is in the sink's socket, or with
        `SourceShort` or `SinkGone`; never after `stop`.
    :raises OSError: if there are no descriptors for it; the pipe is still the caller's.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        pool: PipePool,
        pipe: Pipe,
        header: bytes,
        body: SizedBody,
        source: Transport,
        outbound: SocketOutbound,
        sink: Sink,
        progress: Callable[[], object],
    ) -> None:
        self.finished: Deferred[None] = Deferred()
        self._pool = pool
        self._pipe = pipe
        self._in_pipe = 0
        self._header = header
        self._body = body
        self._outbound = outbound
        self._account = sink
        self._progress = progress
        self._running = True
        self._source = WatchedDescriptor(reactor, source.fileno(), self._move)
        try:
            self._sink = WatchedDescriptor(reactor, outbound.descriptor(), self._move)
        except OSError:
            self._source.close()
            raise
        source.pauseProducing()

    def start(self) -> None:
        """Move the rest, as soon as what was delivered has been sent."""
        if self._running:
            self._send(b"")
            self._outbound.lend(self, self._begin)

    def deliver(self, data: bytes) -> None:
        """Relay what the transport had read; what comes after the body's end is dropped."""
        if not self._running:
            return
        body, _ = self._body.take(data)
        self._send(body)
        if self._running and not self._body.remaining:
            self._complete()

    def _send(self, body: bytes) -> None:
        header, self._header = self._header, b""
        if header or body:
            self._account.write(header + body)

    def source_lost(self) -> None:
        """There will be no more bytes."""
        if self._running:
            self._fail(SourceShort(f"{self._body.remaining} bytes"))

    def stop(self) -> None:
        """Relay nothing from now on."""
        if self._running:
            self._running = False
            self._source.close()
            self._sink.close()
            self._pool.give_back(self._pipe, empty=not self._in_pipe)
            self._outbound.take_back()

    def pauseProducing(self) -> None:
        """Nothing to do: the sink's socket says by itself when it is full."""

    def resumeProducing(self) -> None:
        """Nothing to do: see `pauseProducing`."""

    def stopProducing(self) -> None:
        """The client is gone."""
        self.stop()

    def _begin(self) -> None:
        if self._running:
            self._progress()
            self._source.wait_readable()

    def _move(self) -> None:
        if self._in_pipe:
            before = self._in_pipe
            if not self._empty_pipe(self._sink.fileno()):
                if self._in_pipe < before and not self._over():
                    # It reads, if slowly: its time begins anew.
                    self._outbound.stalled(True)
                return
            self._sink.rest()
            self._outbound.stalled(False)
            self._source.wait_readable()
        body, pipe = self._body, self._pipe
        source, sink = self._source.fileno(), self._sink.fileno()
        # A large slice is cheap, and makes a short command beside it wait.
        budget = max(SLICE, TURN // self._pool.lent)
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
            if not self._empty_pipe(sink):
                break
        if not self._running:
            return
        self._progress()
        if self._in_pipe:
            self._source.rest()
            self._sink.wait_writable()
            self._outbound.stalled(True)
        elif not body.remaining:
            self._complete()

    def _empty_pipe(self, sink: int) -> bool:
        """Move what is in the pipe on; tell whether all of it has gone."""
        while self._in_pipe:
            try:
                moved = os.splice(self._pipe.reader, sink, self._in_pipe, flags=_FLAGS)
            except BlockingIOError:
                return False
            except OSError:
                self._sink_gone()
                return False
            self._in_pipe -= moved
            self._account.count(moved)
        return True

    def _over(self) -> bool:
        return not self._running

    def _complete(self) -> None:
        self.stop()
        self.finished.callback(None)

    def _sink_gone(self) -> None:
        if self._running:
            self._fail(SinkGone("the client is gone"))

    def _fail(self, error: Exception) -> None:
        self.stop()
        self.finished.errback(Failure(error))
