"""Response bodies that are produced in portions, no faster than the client reads them."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from natproxy.control.interfaces import Pages
from natproxy.control.jobs import JobQueue
from natproxy.control.merged.errors import NoReply
from natproxy.records.record import Record

PORTION = 8 << 10
"""Bytes that are written at once, and that wait in the process for a client that does not read."""

BUFFERED = 64 << 10
"""Bytes that all streams together may have waiting, before each has `PORTION` only.

Few streams write more at once, which costs less.
"""

STALLED = 60.0
"""Seconds after which a client that reads nothing of a response is disconnected."""

Piece = tuple[bytes, int]
"""Bytes of a body, maybe none, and the number of entries that were walked for them."""

Body = Generator["Piece | Deferred[object]", None, None]
"""Yields pieces, and Deferreds that it waits for."""


def paged(pages: Pages, piece_of: Callable[[Record], Piece]) -> Body:
    """Yield the pieces of the records of a search, which ends with the body.

    :param piece_of: returns the piece of a record.
    """
    try:
        for page in pages:
            found: list[Record] = []
            yield page.addCallback(found.extend)
            if not found:
                return
            for record in found:
                yield piece_of(record)
    finally:
        pages.close()


class State(enum.Enum):
    """The states of a `Stream`."""

    RUNNING = "running"
    """The next portion is scheduled."""
    WAITING = "waiting"
    """The body waits for a Deferred."""
    PAUSED = "paused"
    """The client does not read; nothing is scheduled and nothing is waited for."""
    ENDED = "ended"


@implementer(IPushProducer)
class Stream:
    """Writes a body to a request.

    If the body fails before anything is written, the error is passed on; after that the connection
    is aborted, so that the client does not mistake a part for the whole.

    :param body: the pieces; it is closed when the client is gone.
    :param failed: sends the response to an error.
    :param stalled: seconds after which a client that does not read is disconnected; ``None`` for
        never.
    """

    _log = Logger()

    def __init__(
        self,
        request: Request,
        body: Body,
        jobs: JobQueue,
        reactor: IReactorTime,
        failed: Callable[[Failure], object],
        stalled: float | None = STALLED,
    ) -> None:
        self._request = request
        self._transport: Any = request.transport
        self._body = body
        self._jobs = jobs
        self._reactor = reactor
        self._failed = failed
        self._stalled = stalled
        self._state = State.RUNNING
        self._paused = False
        self._waited: Deferred[object] | None = None
        self._timer: IDelayedCall | None = None
        jobs.streams += 1
        request.notifyFinish().addErrback(self._client_gone)
        request.registerProducer(self, True)
        jobs.schedule(self._step)

    # What the transport calls.

    def pauseProducing(self) -> None:
        """Write nothing more until the client has read what is pending."""
        self._paused = True
        if self._stalled is not None and self._timer is None:
            self._timer = self._reactor.callLater(self._stalled, self._expired)

    def resumeProducing(self) -> None:
        """Continue."""
        self._paused = False
        self._cancel_timer()
        if self._state is State.PAUSED:
            self._run()

    def stopProducing(self) -> None:
        """End: the connection is closed."""
        self._end()

    # The states.

    def _run(self) -> None:
        self._state = State.RUNNING
        self._jobs.schedule(self._step)

    def _step(self, limit: int) -> int:
        if self._state is not State.RUNNING:
            return 0
        if self._paused:
            self._state = State.PAUSED
            return 0
        portion = max(PORTION, BUFFERED // self._jobs.streams)
        # The transport pauses this producer when more than that is waiting.
        self._transport.bufferSize = portion
        pieces: list[bytes] = []
        size = walked = 0
        try:
            for item in self._body:
                if isinstance(item, Deferred):
                    self._write(pieces)
                    self._wait(item)
                    return walked
                pieces.append(item[0])
                size += len(item[0])
                walked += item[1]
                if walked >= limit or size >= portion:
                    break
            else:
                self._write(pieces)
                self._finish()
                return walked
        except Exception:
            self._fail(Failure())
            return walked
        self._write(pieces)
        if self._state is State.RUNNING:
            self._jobs.schedule(self._step)
        return walked

    def _write(self, pieces: list[bytes]) -> None:
        if pieces and self._state is not State.ENDED:
            data = b"".join(pieces)
            if data:
                self._request.write(data)

    def _wait(self, deferred: Deferred[object]) -> None:
        if self._state is State.ENDED:
            deferred.addErrback(lambda _: None)
            deferred.cancel()
            return
        self._state = State.WAITING
        self._waited = deferred
        deferred.addCallbacks(self._continue, self._wait_failed)

    def _continue(self, _: object) -> None:
        self._waited = None
        if self._state is State.WAITING:
            self._run()

    def _wait_failed(self, failure: Failure) -> None:
        self._waited = None
        if self._state is State.WAITING:
            self._fail(failure)
        elif not failure.check(CancelledError):
            self._log.failure("a search failed whose client is gone", failure)

    def _finish(self) -> None:
        if self._end():
            self._request.unregisterProducer()
            self._request.finish()

    def _fail(self, failure: Failure) -> None:
        if not self._end():
            return
        self._request.unregisterProducer()
        if self._request.startedWriting:
            if failure.check(NoReply):
                self._log.warn("cannot complete a response: {reason}", reason=failure.value)
            else:
                self._log.failure("cannot complete a response", failure)
            self._transport.abortConnection()
        else:
            self._failed(failure)

    def _client_gone(self, _: Failure) -> None:
        self._end()

    def _expired(self) -> None:
        self._timer = None
        self._transport.abortConnection()

    def _end(self) -> bool:
        """End the body and everything that is pending; return whether it had not ended."""
        if self._state is State.ENDED:
            return False
        self._state = State.ENDED
        self._jobs.streams -= 1
        self._cancel_timer()
        waited, self._waited = self._waited, None
        if waited is not None:
            waited.cancel()
        # It may be running: the write that it caused has found the connection closed.
        with contextlib.suppress(ValueError):
            self._body.close()
        return True

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
