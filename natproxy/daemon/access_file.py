"""The file of the access log: written each 0.1 s, by a thread.

A disk that is slow or full delays no command: what cannot be written is kept up to `KEPT` bytes,
and written later. Lines beyond that are lost; the log and the file have their number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy.server.access_log import AccessLog
from natproxy.server.refusal_log import RefusalLog
from natproxy.server.threads import InThread

FLUSH = 0.1
"""Seconds after which lines are written, at the latest, if they can be."""

RETRY = 1.0
"""Seconds from a failure to the next attempt."""

KEPT = 1 << 20
"""Bytes of lines that are kept while others are written, or while none can be.

The lines that `AccessLog` formats at once are kept even if they are longer, when no others are.
"""

SOON = KEPT // 2
"""Bytes of lines that are written before `FLUSH` has passed: many, or lines with long names."""

STOP = 5.0
"""Seconds that the last write may take."""

_LINE_FEED = 10


class Output(Protocol):
    """Where the lines are written: a file, or standard output."""

    path: str

    def write_some(self, data: memoryview) -> int:
        """Write some of the bytes; return their number.

        :raises OSError: if none can be written.
        """
        ...

    def reopen(self) -> bool:
        """Open the file under its name again; log the result, and return whether it is another."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class State(Enum):
    """What an `AccessFile` does."""

    IDLE = "idle"
    """No line waits."""
    DELAYED = "delayed"
    """Lines wait for the next write, or for the next attempt."""
    WRITING = "writing"
    """A thread writes."""
    STOPPING = "stopping"
    """A thread writes the last lines."""
    STOPPED = "stopped"


class Written(NamedTuple):
    """What has become of some lines.

    :ivar rest: the bytes that were not written.
    :ivar inside: whether the file ends inside a line, which the rest continues.
    :ivar error: why there is a rest; ``None`` if there is none.
    :ivar cut: whether a line was lost because its first part is in the file before.
    """

    rest: bytes
    inside: bool
    error: str | None = None
    cut: bool = False


class AccessFile:
    """Writes the lines of an access log to an output.

    :param clock: for the times of writing.
    :param output: where the lines are written.
    :param in_thread: runs functions in a thread.
    :param wall_clock: returns seconds since the epoch.
    :ivar log: the access log; its commands are written.
    :ivar lost: lines that were lost since the start.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        output: Output,
        in_thread: InThread,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.log = AccessLog(self._line_waits, self._keep, wall_clock)
        self.lost = 0
        self._overflow = RefusalLog(clock.seconds)
        self._clock = clock
        self._output = output
        self._in_thread = in_thread
        self._state = State.IDLE
        self._call: IDelayedCall | None = None
        self._kept: list[bytes] = []
        self._size = 0
        # What a thread writes at present.
        self._writing = b""
        # Lines that were lost since the last one that was kept.
        self._gap = 0
        self._inside = False
        self._error: str | None = None
        self._lost_before = 0
        self._reopen = False
        self._stopped: Deferred[None] = Deferred()

    @property
    def path(self) -> str:
        """The path of the file; ``-`` for standard output."""
        return self._output.path

    def status(self) -> dict[str, Any]:
        """Return the member of ``/v1/status``."""
        return {"path": self.path, "lost": self.lost, "error": self._error}

    def reopen(self) -> None:
        """Write what waits, then open the file under its name again."""
        self._reopen = True
        if self._state in (State.IDLE, State.DELAYED):
            self._write(State.WRITING)

    def stop(self) -> Deferred[None]:
        """Write the lines that are left, and close the file.

        :return: fires when that is done, has failed, or has taken too long.
        """
        if self._state in (State.IDLE, State.DELAYED):
            self._write(State.STOPPING)
        elif self._state is State.WRITING:
            self._state = State.STOPPING
        self._stopped.addTimeout(STOP, self._clock)
        return self._stopped.addCallbacks(self._close, self._too_slow)

    def _line_waits(self) -> None:
        if self._state is State.IDLE:
            self._delay(FLUSH)

    def _keep(self, lines: bytes, count: int) -> None:
        """Keep lines until they are written, if there is space for them."""
        if self._kept and self._size + len(lines) > KEPT:
            self.lost += count
            self._gap += count
            if self._error is None:
                self._overflow.warn(
                    self._log,
                    "the access log {path} is written too slowly: lines are lost",
                    path=self.path,
                )
            return
        self._note_gap()
        self._kept.append(lines)
        self._size += len(lines)
        if self._size > SOON and self._state is State.DELAYED and self._error is None:
            self._write(State.WRITING)

    def _note_gap(self) -> None:
        """Keep a note in the place of the lines that are lost."""
        if self._gap:
            note = b"# %d lines were lost\n" % self._gap
            self._kept.append(note)
            self._size += len(note)
            self._gap = 0

    def _delay(self, seconds: float) -> None:
        self._state = State.DELAYED
        self._call = self._clock.callLater(seconds, self._due)

    def _due(self) -> None:
        self._call = None
        self._write(State.WRITING)

    def _write(self, state: State) -> None:
        """Have a thread write all lines."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._state = state
        self.log.flush()
        if self._error is None:
            # Else once only, when there is space again.
            self._note_gap()
        data, reopen = b"".join(self._kept), self._reopen
        self._kept.clear()
        self._size = 0
        self._reopen = False
        self._writing = data
        work = partial(_write_in_thread, self._output, data, self._inside, reopen)
        self._in_thread(work).addErrback(self._failed).addCallback(self._wrote)

    def _failed(self, failure: Failure) -> Written:
        """Log an unexpected error: the lines of this write are lost."""
        self._log.failure("the access log failed", failure=failure)
        self.lost += self._writing.count(b"\n")
        return Written(b"", False, failure.getErrorMessage())

    def _wrote(self, written: Written) -> None:
        """Decide what follows a write."""
        if self._state is State.STOPPED:
            return
        self._writing = b""
        self._inside = written.inside
        self.lost += written.cut
        if written.rest:
            self._kept.insert(0, written.rest)
            self._size += len(written.rest)
        self._report(written.error)
        waiting = bool(self._kept) or self._gap > 0 or self.log.waiting
        if self._state is State.STOPPING:
            if waiting and written.error is None:
                self._write(State.STOPPING)
            else:
                self._state = State.STOPPED
                self._stopped.callback(None)
        elif self._reopen:
            self._write(State.WRITING)
        elif written.error is not None:
            self._delay(RETRY)
        elif self._size > SOON:
            self._write(State.WRITING)
        elif waiting:
            self._delay(FLUSH)
        else:
            self._state = State.IDLE

    def _report(self, error: str | None) -> None:
        """Log the begin and the end of a series of failures."""
        if error is not None and self._error is None:
            self._lost_before = self.lost
            self._log.error(
                "cannot write the access log {path}: {reason}. Commands are not affected; {size}"
                " KiB of lines are kept until it can be written, and those after them are lost",
                path=self.path,
                reason=error,
                size=KEPT >> 10,
            )
        elif error is None and self._error is not None:
            self._log.info(
                "the access log {path} is written again; lines lost: {count}",
                path=self.path,
                count=self.lost - self._lost_before,
            )
        self._error = error

    def _close(self, _: object) -> None:
        self._output.close()
        self._report_rest()

    def _too_slow(self, failure: Failure) -> None:
        """Leave the thread alone: the disk does not respond."""
        self._state = State.STOPPED
        self._log.error(
            "the access log {path} could not be written within {seconds:g} s",
            path=self.path,
            seconds=STOP,
        )
        self.log.flush()
        # The thread may still write some of what it has.
        self._report_rest("up to ")

    def _report_rest(self, limit: str = "") -> None:
        rest = sum(piece.count(b"\n") for piece in (self._writing, *self._kept))
        if rest or self._gap:
            self.lost += rest
            self._log.error(
                "the end of the access log {path} is lost; lines: {limit}{count}",
                path=self.path,
                limit=limit,
                count=rest + self._gap,
            )


def _write_in_thread(output: Output, data: bytes, inside: bool, reopen: bool) -> Written:
    error = None
    view = memoryview(data)
    try:
        while view:
            written = output.write_some(view)
            inside = view[written - 1] != _LINE_FEED
            view = view[written:]
    except OSError as failure:
        error = failure.strerror or str(failure)
    rest, cut = bytes(view), False
    if reopen and output.reopen() and inside:
        # Another file never begins inside a line.
        rest, inside, cut = rest.partition(b"\n")[2], False, True
    return Written(rest, inside, error, cut)
