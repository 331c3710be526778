"""Bars on a terminal.

An event only updates the tally; a thread draws the bars a few times per second. Text that is
written to standard error meanwhile appears above the bars.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from natproxy.cli.display.drawing import Canvas
from natproxy.cli.display.lines import message_of
from natproxy.cli.display.tally import Tally
from natproxy.client.context import Closing
from natproxy.client.events import Event, Phase
from natproxy.settings import one_line

PER_SECOND = 8
"""How often the bars are drawn, per second."""

ECHO = "^C"
"""Text that a terminal adds to the last bar on an interrupt; each bar leaves space for it."""

_WITH_MESSAGE = (Phase.RESTARTING, Phase.WAITING)


class Bars(Closing):
    """Draws bars from the first event on.

    :param stream: the terminal, to which the bars are written.
    :param clock: returns seconds since any origin.
    :param console: to draw on; by default, one for the stream.
    """

    def __init__(
        self, stream: TextIO, clock: Callable[[], float], console: Console | None = None
    ) -> None:
        self._console = console or Console(
            # The stream is a terminal: variables of the environment must not override that.
            file=stream,
            force_terminal=True,
            force_interactive=True,
            force_jupyter=False,
        )
        self._tally = Tally(clock)
        self._frame = _Frame(self._tally, self._console)
        self._live = _Live(self._frame, self._console, stream)
        self._lock = threading.Lock()
        self._drawing = False
        self._closed = False

    def __call__(self, event: Event) -> None:
        changed = self._tally.add(event)
        if not self._drawing:
            self._start()
        if changed is not None and changed.phase in _WITH_MESSAGE and event.message:
            # The bar of the file has no space for the message.
            self.show_message(message_of(event))

    def expect(self, files: int, size: int | None, more: bool = False) -> None:
        self._tally.expect(files, size, more)

    def show_message(self, message: str) -> None:
        with suppress(OSError, ValueError):
            self._console.print(Text(one_line(message)), soft_wrap=True)

    def report(self, facts: dict[str, object]) -> None:
        """Ignore the result: it is for programs."""

    def close(self) -> None:
        """Draw the last state, and place the cursor below it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self._drawing:
                return
        self._frame.moving = False
        # If there are no bars, erase the empty line that was drawn instead.
        self._live.transient = not self._frame.lines(self._console.options)
        with suppress(OSError, ValueError):
            self._live.stop()

    def _start(self) -> None:
        with self._lock:
            if self._drawing or self._closed:
                return
            self._drawing = True
            with suppress(OSError, ValueError):
                self._live.start()
                # rich hides the cursor; a process that is killed could not show it again.
                self._console.show_cursor(True)


class _Frame:
    """Renders the current state of a tally.

    :ivar moving: whether the bars are animated; false for the last state.
    """

    def __init__(self, tally: Tally, console: Console) -> None:
        self.moving = True
        self._tally = tally
        self._canvas = Canvas()
        if console.options.ascii_only:
            self._canvas = Canvas("#", "", ".", ".")
        elif console.color_system is None or console.no_color:
            self._canvas = Canvas(gap=" ", empty=" ")

    def lines(self, options: ConsoleOptions) -> list[Text]:
        """Return the lines to draw; none if there is nothing to show."""
        height = options.size.height
        width = max(1, options.max_width - len(ECHO))
        return self._canvas.lines(self._tally.view(), width, height, self.moving)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return self._rendered(options)

    def _rendered(self, options: ConsoleOptions) -> Iterator[Text]:
        # rich can erase an empty line, but not zero lines.
        yield from self.lines(options) or [Text("")]


class _Live(Live):
    """Draws only in the foreground: in the background, another process has the terminal."""

    def __init__(self, frame: _Frame, console: Console, stream: TextIO) -> None:
        super().__init__(
            frame,
            console=console,
            refresh_per_second=PER_SECOND,
            # Standard output may be redirected.
            redirect_stdout=False,
            redirect_stderr=stream is sys.stderr,
        )
        self._stream = stream

    def refresh(self) -> None:
        if not self._in_background():
            super().refresh()

    def _in_background(self) -> bool:
        try:
            return os.tcgetpgrp(self._stream.fileno()) != os.getpgrp()
        except (OSError, ValueError):
            # The stream is not the controlling terminal.
            return False
