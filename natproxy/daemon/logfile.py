"""The log of a daemon: lines with the time in UTC, in a file of bounded size.

A log that fails must not stop the daemon: a line that cannot be written is discarded and
counted. The next line that can be written is preceded by one with the number of lost lines.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEventAsClassicLogText,
)
from zope.interface import implementer

from natproxy.records.record import format_time as format_microseconds
from natproxy.records.record import microseconds_of

SIZE = 10
"""MiB that a log file may have before it is rotated."""

KEPT = 9
"""Rotated files that are kept, ``FILE.1`` the newest of them."""

MIB = 1 << 20

DELAY = 0.1
"""Seconds that a line which is noted may wait to be written with others; see `LogWriter.note`."""

MOST = 64
"""Lines that wait at most."""

LEVELS = ("error", "warn", "info", "debug")
"""The names of the levels that a log may begin at."""

LEVEL = "info"
"""The level by default."""

_UNUSUAL = ("log_failure", "log_system", "log_flattened")
"""Fields of events whose line has more than their text, or comes from elsewhere."""


class Destination(Protocol):
    """A place that lines are written to."""

    def write(self, data: bytes) -> None:
        """Write all the bytes.

        :raises OSError: if they cannot be written.
        """
        ...


def format_time(when: float | None) -> str:
    """Format seconds since the epoch as UTC with microseconds."""
    return "-" if when is None else format_microseconds(microseconds_of(when))


def format_line(event: LogEvent) -> str | None:
    """Format an event as one line of text, or several if it has a traceback."""
    plain = event.get("log_format") == "{text}" and "text" in event
    if plain and event.keys().isdisjoint(_UNUSUAL):
        # Twisted parses the format, which takes far longer.
        text = str(event["text"]).replace("\n", "\n\t")
        namespace, level = event["log_namespace"], event["log_level"].name
        return f"{format_time(event['log_time'])} [{namespace}#{level}] {text}\n"
    return formatEventAsClassicLogText(event, format_time)


@implementer(ILogObserver)
class LogWriter:
    """Writes events to a destination; an error of the destination loses lines, nothing else.

    The ends of commands need no events: their lines are noted, formatted and written together,
    which takes a fraction of the time.

    :param destination: where the lines are written.
    :param report: called with the reason when the first line of a series is lost.
    :param formatted: returns the line of an event; ``None`` leaves the event out.
    :ivar level: events of a lower level are left out.
    """

    def __init__(
        self,
        destination: Destination,
        report: Callable[[str], object] | None = None,
        formatted: Callable[[LogEvent], str | None] = format_line,
    ) -> None:
        self.level: Any = LogLevel.debug
        self._destination = destination
        self._report = report or _report
        self._formatted = formatted
        self._lost = 0
        self._reason = ""
        self._clock: IReactorTime | None = None
        # Threads of the reactor log, too.
        self._lock = Lock()
        # Namespace, time, what formats the text, and its arguments.
        self._noted: list[tuple[str, float, Callable[..., str], tuple[Any, ...]]] = []
        self._scheduled = False

    def delay(self, clock: IReactorTime) -> None:
        """Write noted lines each `DELAY`, or before an event, so that the order remains.

        The caller calls `flush` at the end.
        """
        self._clock = clock

    def __call__(self, event: LogEvent) -> None:
        """Write an event, after the lines that wait."""
        if event.get("log_level", LogLevel.critical) < self.level:
            return
        with self._lock:
            lines = self._taken()
            line = self._formatted(event)
            if line is not None:
                lines.append(line)
            self._write(lines)

    def note(
        self, namespace: str, when: float, text_of: Callable[..., str], *arguments: Any
    ) -> None:
        """Write a line of the level info; see `natproxy.server.command_log.Note`.

        It is called in the reactor's thread only. The text is formatted when the line is written.
        """
        if self.level > LogLevel.info:
            return
        with self._lock:
            self._noted.append((namespace, when, text_of, arguments))
            if len(self._noted) >= MOST or self._clock is None:
                self._write(self._taken())
        if not self._scheduled and self._clock is not None:
            self._scheduled = True
            self._clock.callLater(DELAY, self._due)

    def flush(self) -> None:
        """Write the lines that wait."""
        with self._lock:
            self._write(self._taken())

    def write_lines(self, lines: bytes) -> None:
        """Write whole lines that another process has formatted."""
        with self._lock:
            self._write([*self._taken(), lines.decode("utf-8", "backslashreplace")])

    def _due(self) -> None:
        self._scheduled = False
        self.flush()

    def _taken(self) -> list[str]:
        noted, self._noted = self._noted, []
        return [
            f"{format_time(when)} [{namespace}#info] {text_of(*arguments)}\n"
            for namespace, when, text_of, arguments in noted
        ]

    def _write(self, texts: list[str]) -> None:
        if not texts:
            return
        text = "".join(texts)
        data = text.encode("utf-8", "backslashreplace")
        if self._lost:
            lost = f"natproxy: {self._lost} log entries were lost: {self._reason}\n"
            # The last write may have ended inside a line.
            data = b"\n" + lost.encode() + data
        try:
            self._destination.write(data)
        except (OSError, ValueError) as error:
            self._reason = getattr(error, "strerror", None) or str(error)
            if not self._lost:
                self._report(f"natproxy: cannot write the log: {self._reason}\n")
            self._lost += len(texts)
        else:
            self._lost = 0


class Stream:
    """Writes lines to standard output or standard error.

    :param descriptor: of the stream; it is never closed.
    """

    path = "-"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        """Write all the bytes; see `Destination`."""
        _write_all(self._descriptor, data)

    def write_some(self, data: memoryview) -> int:
        """Write some of the bytes; see `natproxy.daemon.access_file.Output`."""
        return os.write(self._descriptor, data)

    def reopen(self) -> bool:
        """Do nothing: a stream has no name."""
        return False

    def close(self) -> None:
        """Do nothing: others may use the stream."""


class SharedStream(Stream):
    """A stream to which other processes write lines, too.

    A pipe takes up to ``PIPE_BUF`` bytes undivided: longer writes of two processes are mixed.
    """

    def write_some(self, data: memoryview) -> int:
        """Write whole lines, as many as a pipe takes undivided; see `Stream.write_some`."""
        begin = bytes(data[: select.PIPE_BUF])
        end = begin.rfind(b"\n") + 1
        return super().write_some(data[:end] if end else data)


class RotatingFile:
    """A log file that is rotated when it is large, and can be opened again under its name.

    ``FILE`` becomes ``FILE.1``, that ``FILE.2``, and so on; the oldest is deleted. A rotation
    takes at most ``kept`` renames. A file that cannot be rotated is written to all the same;
    only a regular file is renamed.

    :param path: of the file; relative to the working directory.
    :param size: bytes from which the file is rotated; 0 for never.
    :param kept: rotated files that are kept.
    :param blocking: whether a write may wait for the reader of a pipe: in a thread only.
    :raises OSError: if the file cannot be opened.
    """

    _log = Logger()

    def __init__(
        self, path: str, size: int = SIZE * MIB, kept: int = KEPT, blocking: bool = False
    ) -> None:
        self.path = os.path.abspath(path)
        self._blocking = blocking
        self._limit = size
        self._kept = kept
        self._descriptor = -1
        self._size = 0
        # Threads of the reactor log, too.
        self._lock = Lock()
        self._open()

    def limit(self, size: int, kept: int) -> None:
        """Change the bytes at which it is rotated, and the rotated files that are kept from then.

        :param size: 0 for no rotation.
        """
        self._limit = size
        self._kept = kept

    def write(self, data: bytes) -> None:
        """Write all the bytes, from any thread; see `Destination`."""
        with self._lock:
            if self._limit and self._size and self._size + len(data) > self._limit:
                self._rotate()
            # The size grows after the write: a full disk must not cause rotations.
            _write_all(self._descriptor, data)
            self._size += len(data)

    def write_some(self, data: memoryview) -> int:
        """Write some of the bytes, without a rotation; return their number.

        :raises OSError: if none can be written.
        """
        with self._lock:
            written = os.write(self._descriptor, data)
            self._size += written
            return written

    def reopen(self) -> bool:
        """Open the file under its name again, after another program has renamed it.

        If that fails, the file that is open stays in use, and an error is logged.

        :return: whether it was opened.
        """
        try:
            with self._lock:
                self._open()
        except OSError as error:
            self._log.error(
                "cannot open the log {path} again: {reason}; the one that is open is used",
                path=self.path,
                reason=error.strerror,
            )
            return False
        self._log.info("the log {path} has been opened again", path=self.path)
        return True

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open(self) -> None:
        # A pipe that is full, or has no reader, must not stop the daemon.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o640)
        os.set_blocking(descriptor, self._blocking)
        self.close()
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def _can_be_renamed(self) -> bool:
        """Return whether the path names a regular file, and not a device or ``/dev/stdout``."""
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            return False
        try:
            kind = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return True
        except OSError:
            return False
        place = os.path.realpath(os.path.dirname(self.path)) + os.sep
        system = place.startswith(("/dev/", "/proc/"))
        return stat.S_ISREG(kind) or (stat.S_ISLNK(kind) and not system)

    def _is_replaced(self) -> bool:
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(named, os.fstat(self._descriptor))

    def _rotate(self) -> None:
        if not self._can_be_renamed():
            self._size = 0
            return
        try:
            if self._is_replaced():
                # Another process has rotated it: a second daemon, or ``logrotate``.
                self._open()
                return
            if self._kept:
                for number in range(self._kept - 1, 0, -1):
                    with suppress(FileNotFoundError):
                        os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
                with suppress(FileNotFoundError):
                    os.replace(self.path, f"{self.path}.1")
            else:
                with suppress(FileNotFoundError):
                    os.unlink(self.path)
            self._open()
        except OSError:
            # Try again after as many bytes.
            self._size = 0


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _report(text: str) -> None:
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError):
            sys.__stderr__.write(text)
            sys.__stderr__.flush()
