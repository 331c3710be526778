r"""JSON objects, one per line, for programs.

Each line has these members; an unknown number is ``null``::

    {"time": 2.0,
     "files": {"done": 1, "unchanged": 0, "failed": 0, "total": 3},
     "bytes": {"done": 5000, "total": 9000, "fetched": 4000, "per_second": 2000},
     "seconds_left": 2.0,
     "current": [{"name": "b.iso", "phase": "receiving", "done": 2000, "size": 5000}]}

``time`` is in seconds since the display was created. While the server is still listing, there are
no totals, and ``"files"`` has ``"listed"``, the number that is known so far. ``"fetched"`` counts
the bytes received from the server, including discarded ones; ``done`` the bytes that are on the
disk, including those from before. A message for people is the member ``message`` of a file or the
whole line. A line about a change of phase also has ``event``, with the members of a file. A small
file that is received with others has no line but that of its end, whose totals may be those of
0.1 seconds before. The last line has ``"ended": true``. ``sync`` adds a line whose member ``sync``
is its result.

Phases are those of `natproxy.client.events.Phase`. Everything is ASCII. A byte of a name that
is not UTF-8, ``0xNN``, is a lone surrogate ``\udcNN``, as ``os.fsencode`` expects it.

Errors are plain text on the same stream: they do not begin with ``{``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TextIO

from natproxy.cli.display.tally import ENDS, Row, Tally, Ticker
from natproxy.cli.output import write_line
from natproxy.client.context import Closing
from natproxy.client.events import Event, Phase
from natproxy.client.requests import name_text

INTERVAL = 1.0
"""Seconds between two lines if no phase changes."""
OLDEST = 0.1
"""Seconds that the totals in a line about the end of a small file may be old."""
REPORTED = ENDS | {Phase.RESTARTING, Phase.WAITING}
"""The phases that have a line of their own when they start."""


class JsonLines(Closing):
    """Writes a line at intervals, and when a phase of `REPORTED` starts.

    If quiet, it omits messages that belong to no file.
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
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        # The members of the last line, without those of its event, and when they were computed.
        self._last = ""
        self._last_at = 0.0

    def __enter__(self) -> JsonLines:
        self._ticker.start()
        return self

    def __call__(self, event: Event) -> None:
        changed = self._tally.add(event)
        if changed is not None and changed.phase in REPORTED:
            # Thousands of small files may end together.
            age = OLDEST if changed.phase in ENDS and not changed.seconds else 0.0
            self._write({"event": _members(changed)}, age)

    def expect(self, files: int, size: int | None, more: bool = False) -> None:
        self._tally.expect(files, size, more)

    def show_message(self, message: str) -> None:
        if not self._quiet:
            self._write({"message": message})

    def report(self, facts: dict[str, object]) -> None:
        """Write a line that has these members."""
        self._write(facts)

    def tick(self) -> None:
        """Write a line of progress."""
        self._write({})

    def close(self) -> None:
        self._ticker.stop()
        self._write({"ended": True})

    def _write(self, more: dict[str, object], age: float = 0.0) -> None:
        """Write a line.

        :param age: seconds that its totals may be old.
        """
        # Under the lock, times do not decrease and nothing follows the last line.
        with self._lock:
            if self._closed:
                return
            self._closed = "ended" in more
            now = self._clock()
            if not self._last or now - self._last_at >= age:
                self._last, self._last_at = json.dumps(self._line())[:-1], now
            rest = f", {json.dumps(more)[1:]}" if more else "}"
            write_line(self._stream, self._last + rest)

    def _line(self) -> dict[str, object]:
        view = self._tally.view()
        total = view.files_total
        return {
            "time": round(view.seconds, 3),
            "files": {
                "done": view.files_done,
                "unchanged": view.files_unchanged,
                "failed": view.files_failed,
                **({"total": None, "listed": total} if view.more else {"total": total}),
            },
            "bytes": {
                "done": view.bytes_done,
                "total": view.bytes_total,
                "fetched": view.received,
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
