r"""Objects in JSON, one a line, for a program that watches.

Each line has these members; a number that isn't known is ``null``::

    {"time": 2.0,
     "files": {"done": 1, "unchanged": 0, "failed": 0, "total": 3},
     "bytes": {"done": 5000, "total": 9000, "fetched": 4000, "per_second": 2000},
     "seconds_left": 2.0,
     "current": [{"name": "b.iso", "phase": "receiving", "done": 2000, "size": 5000}]}

``time`` is in seconds since the display was made. ``fetched`` counts what came from the
server, even if it was thrown away; ``done`` what is here, and was perhaps before. What
people would be told stands in ``message``, of a file under way or of the whole line. A
line that tells of a turn has also ``event``, of the members of a file; the last line of
all has ``"ended": true``. A ``sync`` that is through adds a line with ``sync``, of what
became of it.

Phases are those of `natproxy.client.events.Phase`. All is ASCII. A name's byte that is not
UTF-8, ``0xNN``, is a lone surrogate ``\udcNN``, as ``os.fsencode`` wants it.

The command's own errors are plain text on the same stream: they don't begin with ``{``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TextIO

from natproxy.cli.display.tally import ENDS, Row, Tally
from natproxy.cli.display.ticker import Ticker
from natproxy.cli.output import write_line
from natproxy.client.context import Closing
from natproxy.client.events import Event, Phase
from natproxy.client.requests import name_text

INTERVAL = 1.0
"""Seconds between two lines if there are no turns."""
TURNS = ENDS | {Phase.RESTARTING, Phase.WAITING}
"""The phases that are told at once."""


class JsonLines(Closing):
    """Writes a line at an interval, whatever the transfers do, and at each turn.

    Quiet, messages that belong to no file are left out.
    """

    def __init__(
        self,
        stream: TextIO,
        quiet: bool,
        clock: Callable[[], float],
        interval: float = INTERVAL,
    ) -> None:
        self._stream = stream
        self._quiet = quiet
        self._tally = Tally(clock)
        self._ticker = Ticker(interval, self.tick)
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> JsonLines:
        self._ticker.start()
        return self

    def __call__(self, event: Event) -> None:
        turned = self._tally.note(event)
        if turned is not None and turned.phase in TURNS:
            self._write({"event": _members(turned)})

    def expect(self, files: int, size: int | None) -> None:
        self._tally.expect(files, size)

    def say(self, message: str) -> None:
        if not self._quiet:
            self._write({"message": message})

    def report(self, facts: dict[str, object]) -> None:
        """Write facts as members of a line."""
        self._write(facts)

    def tick(self) -> None:
        """Write how far it is."""
        self._write({})

    def close(self) -> None:
        self._ticker.stop()
        self._write({"ended": True})

    def _write(self, more: dict[str, object]) -> None:
        # One at a time, so that time doesn't go back and nothing follows the last line.
        with self._lock:
            if not self._closed:
                self._closed = "ended" in more
                write_line(self._stream, json.dumps(self._line() | more))

    def _line(self) -> dict[str, object]:
        view = self._tally.look()
        return {
            "time": round(view.seconds, 3),
            "files": {
                "done": view.files_done,
                "unchanged": view.files_unchanged,
                "failed": view.files_failed,
                "total": view.files_total,
            },
            "bytes": {
                "done": view.bytes_done,
                "total": view.bytes_total,
                "fetched": view.fetched,
                "per_second": None if view.per_second is None else round(view.per_second),
            },
            "seconds_left": None if view.seconds_left is None else round(view.seconds_left, 1),
            "current": [_members(row) for row in view.rows],
        }


def _members(row: Row) -> dict[str, object]:
    members: dict[str, object] = {
        "name": name_text(row.name),
        "phase": row.phase.value,
        "done": row.done,
        "size": row.size,
    }
    if row.message:
        members["message"] = row.message
    return members
