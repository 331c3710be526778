"""The displays: what people, logs and programs get to see of transfers under way.

All of them take the same events and write to standard error alone; standard output is
the caller's. What a display needs is imported when it is chosen. None of them prints
errors or a summary, and none lets a broken terminal or pipe end a transfer.

=========  ==============================================================================
``auto``   bars on a terminal; elsewhere messages only
``always`` bars on a terminal; elsewhere a line every few seconds and one per fetched file
``never``  messages only
``json``   an object a line, once a second and at each turn of a transfer
=========  ==============================================================================

Messages are what is said for people, and why a file is fetched afresh or tried again.
Where the bars cannot be drawn, on a dumb terminal or without rich, lines stand in.
Quiet, there is neither progress nor message; but JSON that was asked for stays, and only
the messages that are no event go.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from types import TracebackType

    from natproxy.client.events import Event

HOWS = ("auto", "always", "never", "json")


class Display(Protocol):
    """Shows transfers from where it is entered to where it is closed.

    All of it may be called from several threads at once. Standard output that goes to
    the same terminal should be written when the display is closed.
    """

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def __call__(self, event: Event) -> None:
        """Take a step of a transfer.

        The first event of a phase tells where that phase begins: bytes before it, such
        as those of a transfer that is resumed, do not count as speed.
        """

    def expect(self, files: int, size: int | None) -> None:
        """Take the totals, of all the files there will be events for; the last ones count.

        :param size: of all of them, in bytes; `None` if it isn't known.
        """

    def say(self, message: str) -> None:
        """Show people one line, unless quiet."""

    def report(self, facts: dict[str, object]) -> None:
        """Show programs what became of the whole command; people are told in other ways."""

    def close(self) -> None:
        """Show the last state and stop; a second time, do nothing."""


def display_for(
    how: str,
    quiet: bool = False,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Display:
    """Choose a display.

    :param how: one of `HOWS`.
    :param stream: where it is written; standard error if it isn't given.
    :param clock: seconds, from any origin.
    :raises ValueError: for any other ``how``.
    """
    if how not in HOWS:
        raise ValueError(f"{how}: not one of {', '.join(HOWS)}")
    stream = sys.stderr if stream is None else stream
    if how == "json":
        from natproxy.cli.display.json_lines import JsonLines

        return JsonLines(stream, quiet, clock)
    from natproxy.cli.display.lines import Lines, Messages

    terminal = _is_terminal(stream)
    if quiet or how == "never" or (how == "auto" and not terminal):
        return Messages(stream, quiet)
    if terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
        try:
            from natproxy.cli.display.bars import Bars
        except ImportError:
            # It comes with an extra, and saying so each time would be a nuisance.
            return Lines(stream, clock)
        return Bars(stream, clock)
    return Lines(stream, clock)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        # It is closed.
        return False
