"""What a check has found."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Level(Enum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What a check has found.

    :ivar check: the check, in one or two words.
    :ivar level: how serious it is.
    :ivar text: what was found, in one line.
    :ivar remedy: what to do; empty if there is nothing to do.
    """

    check: str
    level: Level
    text: str
    remedy: str = ""

    def json(self) -> dict[str, str]:
        """Return the object for JSON."""
        return {**self._asdict(), "level": self.level.value}


def ok(check: str, text: str) -> Finding:
    """Return a finding with nothing to do."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """Return a finding about a limit that may be met."""
    return Finding(check, Level.WARNING, text, remedy)


def problem(check: str, text: str, remedy: str) -> Finding:
    """Return a finding about something that does not work."""
    return Finding(check, Level.PROBLEM, text, remedy)


def read_line(path: str) -> str | None:
    """Return the first line of a file; ``None`` if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(4096).strip()
    except OSError:
        return None


def read_number(path: str) -> int | None:
    """Return the number in the first line of a file; ``None`` if there is none."""
    line = read_line(path)
    try:
        return None if line is None else int(line)
    except ValueError:
        return None
