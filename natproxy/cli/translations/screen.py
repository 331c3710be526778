"""A terminal whose content is replaced at an interval, by ``--watch``."""

from __future__ import annotations

import os
import sys

from natproxy.cli.translations.query import now
from natproxy.cli.translations.tables import terminal_columns
from natproxy.cli.translations.texts import fitted, width

HOME, TO_END_OF_LINE, TO_END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
CLEAR = "\x1b[2J"


def clear() -> None:
    """Remove what the terminal shows."""
    sys.stdout.write(CLEAR)


def draw(lines: list[str]) -> None:
    """Replace what the terminal shows by these lines, as far as there is space."""
    height = max(4, _lines_of_terminal() - 1)
    if len(lines) > height:
        hidden = len(lines) - height + 1
        lines[height - 1 :] = [f"and {hidden} more"]
    sys.stdout.write(HOME)
    columns = terminal_columns()
    for line in lines:
        # A line that is wrapped would move those above it out of the screen.
        shown = line if columns is None or width(line) <= columns else fitted(line, columns)
        sys.stdout.write(shown + TO_END_OF_LINE + "\n")
    sys.stdout.write(TO_END_OF_SCREEN)
    sys.stdout.flush()


def time_text() -> str:
    """Return the local time."""
    from natproxy.records.times import show_local

    return show_local(now())


def _lines_of_terminal() -> int:
    """Return the lines of the terminal, as ``shutil.get_terminal_size`` does."""
    lines = os.environ.get("LINES", "")
    if lines.isdecimal() and int(lines) > 0:
        return int(lines)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).lines or 24  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        return 24
