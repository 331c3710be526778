"""The log of a daemon with workers: the master writes it, and the workers send it their lines.

A worker writes its lines, and what Python prints when it fails, to standard error, which is a
socket to the master. So there is one writer, which rotates the file, whatever the log is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from twisted.internet.protocol import Protocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

LONGEST = 1 << 20
"""Bytes of a line that are kept until its end is received."""

_LINE = re.compile(r"\d{4}-\d\d-\d\dT\S+ \[([^\]#]+)(?:#([a-z]+))?\] (.*)")


class WorkerLog(Protocol):
    """Receives the log of a worker.

    :param write: called with whole lines.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._rest = b""

    def dataReceived(self, data: bytes) -> None:
        """Pass on the lines that are complete."""
        lines, end, rest = (self._rest + data).rpartition(b"\n")
        if len(rest) > LONGEST:
            lines, end, rest = lines + end + rest, b"\n", b""
        self._rest = rest
        if end:
            self._write(lines + end)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Pass on the last line, if it has no end."""
        rest, self._rest = self._rest, b""
        if rest:
            self._write(rest + b"\n")


def log_events(lines: bytes) -> None:
    """Log lines of a worker as events, for a log that is not the daemon's own."""
    for line in lines.decode(errors="backslashreplace").splitlines():
        found = _LINE.fullmatch(line)
        namespace, level, text = found.groups() if found else ("natproxy.daemon", "info", line)
        if level is None:
            # A line of Twisted's own, such as that a port is open: it has a system only.
            Logger("twisted").info("{text}", text=text, log_system=namespace)
            continue
        try:
            constant = LogLevel.levelWithName(level)
        except ValueError:
            constant = LogLevel.info
        Logger(namespace).emit(constant, "{text}", text=text)
