"""Plain lines: messages for people, and the progress of downloads for a log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TextIO

from natproxy.cli.display import text
from natproxy.cli.display.tally import ENDS, Row, Tally, Ticker, View
from natproxy.cli.output import write_line
from natproxy.client.context import Closing
from natproxy.client.events import Event, Phase
from natproxy.protocol import printable
from natproxy.settings import one_line

INTERVAL = 5.0
"""Seconds between two lines of progress."""


class Messages(Closing):
    """Shows messages; if quiet, nothing."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._lock = threading.Lock()
        self._last: dict[bytes, str] = {}

    def __call__(self, event: Event) -> None:
        """Show why a download is retried or restarted; do not repeat the same reason."""
        phase = event.phase
        if phase is Phase.RECEIVING:
            return
        if phase in ENDS:
            if self._last:
                with self._lock:
                    self._last.pop(event.name, None)
        elif phase in (Phase.WAITING, Phase.RESTARTING) and event.message:
            with self._lock:
                known = self._last.get(event.name) == event.message
                self._last[event.name] = event.message
            if not known:
                self.show_message(message_of(event))

    def expect(self, files: int, size: int | None, more: bool = False) -> None:
        """Ignore the totals."""

    def show_message(self, message: str) -> None:
        if not self._quiet:
            self._write(one_line(message))

    def report(self, facts: dict[str, object]) -> None:
        """Ignore the result: it is for programs."""

    def close(self) -> None:
        """Do nothing."""

    def _write(self, line: str) -> None:
        with self._lock:
            write_line(self._stream, line)


class Lines(Messages):
    """Shows messages, a line of progress every few seconds, and one per downloaded file.

    Unchanged files are only counted.
    """

    def __init__(
        self, stream: TextIO, clock: Callable[[], float], interval: float = INTERVAL
    ) -> None:
        super().__init__(stream, quiet=False)
        self._tally = Tally(clock)
        self._ticker = Ticker(interval, self.tick)
        self._received = 0

    def __enter__(self) -> Lines:
        self._ticker.start()
        return self

    def __call__(self, event: Event) -> None:
        ended = self._tally.add(event)
        super().__call__(event)
        if ended is not None and ended.phase is Phase.COMPLETE:
            self._write(_complete(ended))

    def expect(self, files: int, size: int | None, more: bool = False) -> None:
        self._tally.expect(files, size, more)

    def tick(self) -> None:
        """Write a line of progress if a file is in progress, or bytes have been received."""
        view = self._tally.view()
        remaining = view.files_total - view.files_done - view.files_failed
        if view.rows or (remaining and view.received > self._received):
            several = view.files_total > 1 or not view.rows
            self._write(_several(view) if several else _one(view.rows[0]))
        self._received = view.received

    def close(self) -> None:
        self._ticker.stop()


def message_of(event: Event) -> str:
    """Return the name of the file and the message of an event."""
    return f"{printable(event.name)}: {event.message}"


def _complete(row: Row) -> str:
    size = text.amount(row.done if row.size is None else row.size)
    facts = [
        f"complete, {size} in {text.elapsed(row.seconds)}" if row.seconds else f"complete, {size}"
    ]
    if row.per_second is not None:
        facts.append(text.speed(row.per_second))
    return f"{printable(row.name)}: {', '.join(facts)}"


def _one(row: Row) -> str:
    if row.phase is Phase.RECEIVING:
        facts = [text.percent(row.done, row.size), text.part_of(row.done, row.size)]
        facts += _pace(row.per_second, row.seconds_left)
    elif row.phase is Phase.HASHING:
        facts = ["hashing", text.part_of(row.done, row.size), *_pace(row.per_second, None)]
    else:
        facts = [row.phase.value]
    return f"{printable(row.name)}: {', '.join(filter(None, facts))}"


def _several(view: View) -> str:
    facts = [f"{view.files_received} of {text.count_of(view.files_total, view.more)} files"]
    if view.files_failed:
        facts.append(f"{view.files_failed} failed")
    facts.append(text.percent(view.bytes_done, view.bytes_total))
    facts.append(text.part_of(view.bytes_done, view.bytes_total))
    if not view.rows or any(row.phase is Phase.RECEIVING for row in view.rows):
        facts += _pace(view.per_second, view.seconds_left)
    else:
        # Nothing is received: name what takes the time instead.
        facts.append(f"{view.rows[0].phase.value} {printable(view.rows[0].name)}")
    return ", ".join(filter(None, facts))


def _pace(per_second: float | None, seconds_left: float | None) -> list[str]:
    pace = [] if per_second is None else [text.speed(per_second)]
    if seconds_left is not None:
        pace.append(f"eta {text.duration(seconds_left)}")
    return pace
