"""The lines of a worker's reply, received no faster than they are used."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from natproxy.control.merged.errors import NoReply
from natproxy.control.stream import Body

BUFFERED = 128 << 10
"""Bytes of lines that are held of one worker; while there are more, nothing is received."""

LONGEST_LINE = 1 << 20
"""Bytes of a line; a record with the longest name has a tenth of them."""

SILENT = 2.0
"""Seconds that a worker may be silent before it is checked whether it still replies."""

FRAME = frozenset((b"", b"[", b"]", b"[]"))
"""Lines of a JSON list that have no record."""


class State(Enum):
    """What a `LineStream` does."""

    OPEN = "open"
    ENDED = "ended"
    FAILED = "failed"


class LineStream(Protocol):
    """The lines of one reply, each a JSON object; of a JSON list, its elements.

    While a caller waits for a line and none arrives, the worker is checked: if it does not reply
    any more, the stream fails.

    :param reactor: for the time.
    :param check: fires if the worker replies, and fails with `NoReply` if it does not.
    :ivar worker: its number.
    :ivar lines: those that have arrived and are not used yet.
    :ivar reason: why it has failed.
    """

    def __init__(
        self, reactor: IReactorTime, worker: int, check: Callable[[], Deferred[object]]
    ) -> None:
        self.worker = worker
        self.lines: deque[bytes] = deque()
        self.state = State.OPEN
        self.reason = ""
        self._reactor = reactor
        self._check = check
        self._rest = b""
        self._size = 0
        self._paused = False
        self._waiting: list[Deferred[object]] = []
        self._timer: IDelayedCall | None = None

    def wait(self) -> Deferred[object]:
        """Wait for a line, or for the end.

        :return: fires at once if there is one; it can be cancelled.
        """
        if self.lines or self.state is not State.OPEN:
            return succeed(None)
        waiting: Deferred[object] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        if self._timer is None:
            self._timer = self._reactor.callLater(SILENT, self._silent)
        return waiting

    def take(self) -> bytes:
        """Return the first line, and remove it."""
        line = self.lines.popleft()
        self._size -= len(line)
        if self._paused and self._size < BUFFERED // 2 and self.state is State.OPEN:
            self._paused = False
            self._producer.resumeProducing()
        return line

    def fail(self, reason: str) -> None:
        """End it because the worker does not reply; it has no effect if it has ended."""
        if self.state is State.OPEN:
            self.reason = reason
            self._end(State.FAILED)
            self._close()

    def close(self) -> None:
        """Receive nothing more."""
        if self.state is State.OPEN:
            self._end(State.ENDED)
            self._close()
        self.lines.clear()

    # What the HTTP client calls.

    def dataReceived(self, data: bytes) -> None:
        """Receive a part of the body."""
        if self.state is not State.OPEN:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            record = line.rstrip(b",")
            if record not in FRAME:
                self.lines.append(record)
                self._size += len(record)
        if len(self._rest) > LONGEST_LINE:
            self.fail("it has sent a line that is too long")
            return
        if self._size > BUFFERED and not self._paused:
            self._paused = True
            self._producer.pauseProducing()
        if self.lines:
            self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End: the reply is complete, or the connection is lost."""
        if self.state is State.OPEN:
            complete = reason.check(ResponseDone) is not None
            self.reason = "" if complete else "it has closed the connection"
            self._end(State.ENDED if complete else State.FAILED)

    # The rest.

    @property
    def _producer(self) -> Any:
        return self.transport

    def _end(self, state: State) -> None:
        self.state = state
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def _close(self) -> None:
        if self.transport is not None:
            with suppress(AttributeError):
                self._producer.loseConnection()

    def _silent(self) -> None:
        self._timer = None
        if not self.lines and self.state is State.OPEN:
            self._check().addCallbacks(self._replies, self._does_not_reply)

    def _replies(self, _: object) -> None:
        if self._waiting and self._timer is None and self.state is State.OPEN:
            self._timer = self._reactor.callLater(SILENT, self._silent)

    def _does_not_reply(self, failure: Failure) -> None:
        self.fail(failure.getErrorMessage())


def time_of(member: bytes) -> Callable[[bytes], bytes]:
    """Return what finds a time in the line of a record, as text whose order is that of the times.

    The members before it contain nothing that could be mistaken for it.

    :param member: its name.
    """
    begin = b'"%b":"' % member

    def find(line: bytes) -> bytes:
        _, found, rest = line.partition(begin)
        return rest[:27] if found else b""

    return find


STARTED = time_of(b"started")
TIME = time_of(b"time")


def primed(body: Body) -> Body:
    """Return a body that has begun with a piece of nothing.

    Closed before its first step, a generator would not close what it uses.
    """
    next(body)
    return body


def newest(
    streams: Sequence[LineStream],
    key: Callable[[bytes], bytes],
    frame: Callable[[bytes], bytes],
    most: int | None,
) -> Body:
    """Yield the lines of several streams in the order of a key, or only the last ones.

    :param frame: returns what is sent of a line.
    :param most: how many at most; ``None`` for all.
    :raises NoReply: as `merge`.
    """
    kept: deque[bytes] | None = None if most is None else deque(maxlen=most)
    lines = primed(merge(streams, key))
    try:
        yield b"", 0
        for item in lines:
            if isinstance(item, Deferred):
                yield item
            elif not item[0]:
                continue
            elif kept is None:
                yield frame(item[0]), item[1]
            else:
                kept.append(item[0])
                yield b"", item[1]
    finally:
        lines.close()
    for line in kept or ():
        yield frame(line), 1


def merge(streams: Sequence[LineStream], key: Callable[[bytes], bytes]) -> Body:
    """Yield the lines of several streams, in the order of a key in which each of them is.

    :raises NoReply: if a stream fails: what is sent would not be complete.
    """

    def first(stream: LineStream) -> Iterator[Deferred[object]]:
        while not stream.lines and stream.state is State.OPEN:
            yield stream.wait()
        if not stream.lines:
            if stream.state is State.FAILED:
                raise NoReply(f"worker {stream.worker}: {stream.reason}")
            return
        heapq.heappush(heap, (key(stream.lines[0]), stream.worker, stream))

    heap: list[tuple[bytes, int, LineStream]] = []
    try:
        yield b"", 0
        for stream in streams:
            yield from first(stream)
        while heap:
            stream = heapq.heappop(heap)[2]
            yield stream.take(), 1
            yield from first(stream)
    finally:
        for stream in streams:
            stream.close()
