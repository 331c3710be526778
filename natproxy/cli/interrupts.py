"""What Ctrl-C does: the first ends a command, the next one ends the process.

Python raises `KeyboardInterrupt` wherever the main thread is, at each Ctrl-C. What it would
break off the second time is what puts things in order after the first.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType
from typing import NoReturn


def interrupt_once() -> None:
    """Let the next SIGINT raise `KeyboardInterrupt`, and the one after it end the process.

    Where SIGINT is ignored or others handle it, nothing is changed.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):
            # In a thread, no handler can be set.
            signal.signal(signal.SIGINT, _interrupt)


def rearm() -> None:
    """Let the next SIGINT raise `KeyboardInterrupt` again, after one that has ended a command."""
    if _interrupt.raised:
        _interrupt.raised = False
        signal.signal(signal.SIGINT, _interrupt)


def end_at_interrupt() -> None:
    """Let the next SIGINT end the process: there is nothing left to be put in order."""
    with suppress(KeyboardInterrupt):
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Interrupt:
    """A handler that raises `KeyboardInterrupt` once.

    :ivar raised: whether it has.
    """

    def __init__(self) -> None:
        self.raised = False

    def __call__(self, _: int, __: FrameType | None) -> NoReturn:
        self.raised = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt


_interrupt = _Interrupt()
