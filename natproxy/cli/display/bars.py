"""Bars on a terminal, that are drawn again and again while the transfers go on.

The events are only counted; the bars are drawn in a thread of their own, some times a
second. What others write to standard error meanwhile appears above the bars.
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

from natproxy.cli.display import text
from natproxy.cli.display.drawing import Canvas
from natproxy.cli.display.lines import about
from natproxy.cli.display.tally import Tally
from natproxy.client.context import Closing
from natproxy.client.events import Event, Phase

PER_SECOND = 8
"""How often the bars are drawn."""

ECHO = "^C"
"""What a terminal writes after the last bar when it is interrupted: it is not to wrap."""

_SAID = (Phase.RESTARTING, Phase.WAITING)


class Bars(Closing):
    """Draws bars, from the first event on; before, there is nothing to see.

    :param console: to draw on, in place of one for the stream.
    """

    def __init__(
        self, stream: TextIO, clock: Callable[[], float], console: Console | None = None
    ) -> None:
        self._console = console or Console(
            # That it is a terminal is settled; the environment is not to gainsay it.
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
        turned = self._tally.note(event)
        if not self._drawing:
            self._start()
        if turned is not None and turned.phase in _SAID and event.message:
            # Its line is soon overwritten, and too short for a reason.
            self.say(about(event))

    def expect(self, files: int, size: int | None) -> None:
        self._tally.expect(files, size)

    def say(self, message: str) -> None:
        with suppress(OSError, ValueError):
            self._console.print(Text(text.one_line(message)), soft_wrap=True)

    def report(self, facts: dict[str, object]) -> None:
        """Show nothing: this is for programs."""

    def close(self) -> None:
        """Leave the bars as they stand, and the cursor below them."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self._drawing:
                return
        self._frame.moving = False
        # Without anything to see, there shall be no empty line either.
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
                # Who is killed, or suspended, couldn't bring it back.
                self._console.show_cursor(True)


class _Frame:
    """The bars at the time at which they are drawn."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self.moving = True
        self._tally = tally
        self._canvas = Canvas()
        if console.options.ascii_only:
            self._canvas = Canvas("#", "", ".", ".")
        elif console.color_system is None or console.no_color:
            self._canvas = Canvas(gap=" ", empty=" ")

    def lines(self, options: ConsoleOptions) -> list[Text]:
        height = options.size.height
        width = max(1, options.max_width - len(ECHO))
        return self._canvas.lines(self._tally.look(), width, height, self.moving)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return self._rendered(options)

    def _rendered(self, options: ConsoleOptions) -> Iterator[Text]:
        # A line that is empty can be taken back, but none at all can't.
        yield from self.lines(options) or [Text("")]


class _Live(Live):
    """Is drawn only in the foreground: in the background, the terminal is somebody else's."""

    def __init__(self, frame: _Frame, console: Console, stream: TextIO) -> None:
        super().__init__(
            frame,
            console=console,
            refresh_per_second=PER_SECOND,
            # Standard output may well go elsewhere.
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
            # It is no terminal of ours.
            return False
