"""The lines that bars consist of: one for each file and one for all files.

This module only computes lines. Names are never parsed as markup. Every line is narrower than
the terminal: some terminals wrap a full line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from natproxy.cli.display import text
from natproxy.cli.display.tally import Row, View
from natproxy.client.events import Phase
from natproxy.protocol import printable
from natproxy.settings import one_line

KEPT = 3
"""Up to this number of files, the files that have ended stay visible."""
NARROW = 66
"""A terminal with fewer columns shows a bar, the percentage and the time left only."""
LONGEST_BAR = 40
PHASE, BYTES, SPEED, TIME, PERCENT = 10, 13, 8, 10, 4
"""The widths of the columns."""

_STYLES = {
    Phase.RECEIVING: "cyan",
    Phase.HASHING: "blue",
    Phase.VERIFYING: "blue",
    Phase.SAVING: "cyan",
    Phase.WAITING: "yellow",
    Phase.RESTARTING: "yellow",
    Phase.COMPLETE: "green",
    Phase.UNCHANGED: "green",
    Phase.FAILED: "red",
}


@dataclass
class Canvas:
    """The characters of bars, and the width of names.

    :ivar full: a full column of a bar.
    :ivar half: a half column at the end of a bar; empty if there is no such character.
    :ivar gap: the first empty column, unless there is a half column before it.
    :ivar empty: every other empty column.
    :ivar names: columns of the longest name so far; it never shrinks, so that bars do not move
        sideways.
    """

    full: str = "━"
    half: str = "╸"
    gap: str = "╺"
    empty: str = "━"
    names: int = 8

    def lines(self, view: View, width: int, height: int, moving: bool = True) -> list[Text]:
        """Return the lines for the current state.

        :param moving: whether they will be drawn again; the last time, no bar moves.
        """
        several = view.files_total > 1
        if view.files_total <= KEPT:
            shown = [*view.ended, *view.rows]
        else:
            # Only the total stays on the screen.
            shown = view.rows if moving else []
        # Three lines are reserved: the total, the number of hidden files, the cursor.
        most_shown = max(1, height - 3)
        hidden = len(shown) - most_shown
        shown = shown[:most_shown]
        names = {row.name: printable(row.name) for row in shown}
        longest = max(map(cell_len, names.values()), default=0)
        wide = width >= NARROW
        if several:
            # The total also takes the column of the phase.
            longest = max(longest, len(_files(view, wide)) - (PHASE + 1) * wide)
        self.names = max(self.names, longest)
        most = max(4, width // 4 if wide else width * 3 // 10)
        drawing = _Drawing(self, width - 1, min(self.names, most), view.seconds, moving)
        lines = [drawing.file(row, names[row.name]) for row in shown]
        if hidden > 0:
            lines.append(drawing.cut(Text(f"and {hidden} more", "bright_black")))
        if several:
            lines.append(drawing.total(view))
        return lines


class _Progress(NamedTuple):
    """How far a file, or all of them, have got.

    :ivar fraction: between 0 and 1; ``None`` if unknown.
    :ivar done: bytes that have been processed.
    :ivar size: of all bytes; ``None`` if unknown, or if only ``done`` is to be shown.
    :ivar per_second: bytes per second; ``None`` if unknown.
    :ivar time: the text of the time left or taken; ``None`` for no such column.
    """

    fraction: float | None
    done: int
    size: int | None
    per_second: float | None
    time: str | None


@dataclass
class _Drawing:
    """Draws the lines of one state.

    :ivar width: of the lines, in columns.
    :ivar names: columns for the name.
    :ivar seconds: since the tally was created; they move the bars of unknown length.
    """

    canvas: Canvas
    width: int
    names: int
    seconds: float
    moving: bool

    @property
    def _wide(self) -> bool:
        return self.width >= NARROW - 1

    def file(self, row: Row, name: str) -> Text:
        """Return the line of a file."""
        style = _STYLES[row.phase]
        line = Text(middle_cut(name, self.names), no_wrap=True)
        if self._wide or row.phase not in (Phase.RECEIVING, Phase.COMPLETE):
            line.append(" ").append(row.phase.value.ljust(PHASE if self._wide else 0), style)
        if row.phase in (Phase.WAITING, Phase.RESTARTING):
            return self.cut(line.append(" " + one_line(row.message), "yellow"))
        if row.phase in (Phase.FAILED, Phase.UNCHANGED):
            return self.cut(line)
        done, size = row.done, row.size
        fraction: float | None = done / size if size else None
        time: str | None = None
        if row.phase is Phase.RECEIVING:
            time = _eta(row.seconds_left)
        elif row.phase is Phase.COMPLETE:
            fraction, done, size = 1.0, done if size is None else size, None
            time = f"in {text.elapsed(row.seconds)}"
        elif row.phase is Phase.VERIFYING:
            # The server does not report how far it is.
            fraction, done, size = None, done if size is None else size, None
        return self._rest(line, _Progress(fraction, done, size, row.per_second, time), style)

    def total(self, view: View) -> Text:
        """Return the line of all files together."""
        line = Text(no_wrap=True)
        # The numbers are never cut, and the bar does not move while they grow.
        last = _files(view._replace(files_received=view.files_total), self._wide)
        columns = max(self.names + (PHASE + 1 if self._wide else 0), len(last))
        line.append(set_cell_size(_files(view, self._wide), columns), "bold")
        done, size = view.bytes_done, view.bytes_total
        # Without all sizes, the fraction is that of the files.
        ended = view.files_done + view.files_failed
        fraction = None
        if not view.more:
            fraction = done / size if size else ended / view.files_total
        over = ended >= view.files_total and not view.more
        time = f"in {text.elapsed(view.seconds)}" if over else _eta(view.seconds_left)
        per_second = view.per_second
        if not self.moving and view.seconds:
            per_second = view.received / view.seconds
        progress = _Progress(fraction, done, size, per_second, time)
        return self._rest(line, progress, "magenta")

    def cut(self, line: Text) -> Text:
        """Return a line, cut off at the width."""
        line.truncate(max(1, self.width), overflow="crop")
        return line

    def _rest(self, line: Text, progress: _Progress, style: str) -> Text:
        fraction, done, size, per_second, time = progress
        if self._wide:
            speed = "" if per_second is None else text.speed(per_second)
            numbers = f" {text.part_of(done, size):>{BYTES}} {speed:>{SPEED}} {time or '':>{TIME}}"
        else:
            percent = "" if fraction is None else f"{int(100 * min(1, fraction))}%"
            numbers = f" {percent:>{PERCENT}}"
            if time is not None:
                # Otherwise the phase takes these columns.
                numbers += f" {time:>{TIME}}"
        columns = self.width - cell_len(line.plain) - 1 - len(numbers)
        if columns > 1:
            line.append(" ").append_text(self._bar(min(columns, LONGEST_BAR), fraction, style))
        return self.cut(line.append(numbers))

    def _bar(self, columns: int, fraction: float | None, style: str) -> Text:
        canvas = self.canvas
        bar = Text()
        if fraction is None:
            if not self.moving:
                return bar.append(canvas.empty * columns, "bright_black")
            # A part of the bar moves back and forth.
            part = max(1, columns // 4)
            distance = columns - part
            offset = int(self.seconds * 12) % (2 * distance or 1)
            offset = min(offset, 2 * distance - offset)
            bar.append(canvas.empty * offset, "bright_black")
            bar.append(canvas.full * part, style)
            return bar.append(canvas.empty * (distance - offset), "bright_black")
        halves = int(2 * columns * max(0.0, min(1.0, fraction)))
        bar.append(canvas.full * (halves // 2), style)
        if halves % 2 and canvas.half:
            bar.append(canvas.half, style)
        elif halves < 2 * columns:
            bar.append(canvas.gap, "bright_black")
        return bar.append(canvas.empty * (columns - cell_len(bar.plain)), "bright_black")


def middle_cut(name: str, columns: int) -> str:
    """Return a name in exactly this number of columns; a longer one loses its middle."""
    if cell_len(name) <= columns:
        return set_cell_size(name, columns)
    mark = ".." if columns > 6 else ""
    tail = (columns - len(mark)) // 2
    return set_cell_size(
        set_cell_size(name, columns - len(mark) - tail) + mark + _last(name, tail), columns
    )


def _last(name: str, columns: int) -> str:
    start = len(name)
    while start > 0 and cell_len(name[start - 1 :]) <= columns:
        start -= 1
    return name[start:]


def _files(view: View, wide: bool) -> str:
    total = text.count_of(view.files_total, view.more)
    if not wide:
        return f"{view.files_received}/{total}"
    failed = f", {view.files_failed} failed" if view.files_failed else ""
    return f"{view.files_received} of {total} files{failed}"


def _eta(seconds_left: float | None) -> str:
    return "" if seconds_left is None else f"eta {text.duration(seconds_left)}"
