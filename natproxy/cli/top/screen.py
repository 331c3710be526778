"""Draws the state of ``natproxy top`` until the user quits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from natproxy.cli.top.keyboard import Keyboard
from natproxy.cli.top.sampling import INTERVAL
from natproxy.cli.top.view import Line

SHARE = 4
"""A sample may take a quarter of the time: a busy proxy is sampled less often."""


class Shown(Protocol):
    """A state that can be shown."""

    @property
    def ended(self) -> bool:
        """Whether the user has quit."""
        ...

    def update(self) -> None:
        """Renew the state."""
        ...

    def press(self, key: str) -> None:
        """Take a key."""
        ...


def run(top: Shown, lines: Callable[[int, int], Iterable[Line]]) -> None:
    """Show a state until it has ended.

    :param lines: returns the lines of a screen with so many columns and rows.
    """
    console = Console(file=sys.stdout, force_terminal=True, force_interactive=True)
    with (
        Keyboard(sys.stdin.fileno()) as keyboard,
        Live(
            _rendered(lines(*console.size)),
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live,
    ):
        due = time.monotonic()
        while not top.ended:
            if time.monotonic() >= due:
                started = time.monotonic()
                top.update()
                due = time.monotonic() + max(INTERVAL, SHARE * (time.monotonic() - started))
            live.update(_rendered(lines(*console.size)), refresh=True)
            try:
                keys = keyboard.keys(due - time.monotonic())
            except EOFError:
                return
            for key in keys:
                top.press(key)


def _rendered(found: Iterable[Line]) -> Group:
    # Names are never parsed as markup.
    return Group(*(Text(each.text, each.style, no_wrap=True, overflow="crop") for each in found))
