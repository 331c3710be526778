"""Displays of the progress of downloads, for people, logs and programs.

Every display takes the same events and writes to standard error only. What a display needs
is imported when it is selected. A display writes neither errors nor a summary, and a broken
terminal or pipe does not end a download.

==========  ===============================================================================
``auto``    bars on a terminal; elsewhere messages only
``always``  bars on a terminal; elsewhere a line every few seconds and one per downloaded file
``never``   messages only
``json``    a JSON object per line, once a second and at certain changes of phase
==========  ===============================================================================

Messages are notes for people, and the reasons why a download is retried or restarted.
Lines replace bars on a dumb terminal, and if rich is not installed. A quiet display shows
nothing; as JSON, it omits only the messages that belong to no file.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from natproxy.cli.options import PROGRESS
from natproxy.cli.output import is_terminal

if TYPE_CHECKING:
    from types import TracebackType

    from natproxy.client.events import Event


class Display(Protocol):
    """Shows downloads, from the time it is entered until it is closed.

    All methods may be called from several threads at once. Output on the same terminal
    should be written after the display has been closed.
    """

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def __call__(self, event: Event) -> None:
        """Take a step of a download.

        The first event of a phase has the offset at which the phase starts: bytes before it,
        such as those of a resumed download, do not count as speed.
        """

    def expect(self, files: int, size: int | None, more: bool = False) -> None:
        """Take the totals of all files that will have events; they replace earlier totals.

        :param size: of all files together, in bytes; ``None`` if unknown.
        :param more: whether they may grow: further files are still being listed.
        """

    def show_message(self, message: str) -> None:
        """Show a line for people, unless quiet."""

    def report(self, facts: dict[str, object]) -> None:
        """Show the result of the whole command to programs; displays for people ignore it."""

    def close(self) -> None:
        """Show the last state and stop; do nothing if closed already."""


def display_for(
    progress: str,
    quiet: bool = False,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Display:
    """Return a display.

    :param progress: one of `natproxy.cli.options.PROGRESS`.
    :param stream: to write to; standard error by default.
    :param clock: returns seconds since any origin.
    :raises ValueError: for any other ``progress``.
    """
    if progress not in PROGRESS:
        raise ValueError(f"{progress}: not one of {', '.join(PROGRESS)}")
    stream = sys.stderr if stream is None else stream
    if progress == "json":
        from natproxy.cli.display.json_lines import JsonLines

        return JsonLines(stream, quiet, clock)
    from natproxy.cli.display.lines import Lines, Messages

    terminal = is_terminal(stream)
    if quiet or progress == "never" or (progress == "auto" and not terminal):
        return Messages(stream, quiet)
    if terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
        try:
            from natproxy.cli.display.bars import Bars
        except ImportError:
            # rich comes with the extra "cli", which is optional.
            return Lines(stream, clock)
        return Bars(stream, clock)
    return Lines(stream, clock)
