"""Handling of Ctrl-C: the first one cancels the command, the second one ends the process.

Python raises ``KeyboardInterrupt`` in the main thread at each Ctrl-C. A second exception would
interrupt the clean-up after the first.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def interrupt_once() -> None:
    """Make the next SIGINT raise ``KeyboardInterrupt``, and the one after it end the process.

    Do nothing if SIGINT is ignored, or has another handler than Python's.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):
            # Only the main thread can set a handler.
            signal.signal(signal.SIGINT, _interrupt)


def rearm() -> None:
    """Make the next SIGINT raise ``KeyboardInterrupt`` again, after one has cancelled a command."""
    if _interrupt.raised:
        _interrupt.raised = False
        signal.signal(signal.SIGINT, _interrupt)


def stopped() -> int:
    """Return the exit status of a command that runs until the user stops it with Ctrl-C.

    There is no message: the user has had what was wanted.
    """
    from natproxy.cli.output import is_terminal, write_line
    from natproxy.client.errors import Interrupted

    if is_terminal(sys.stderr):
        # The terminal has shown ^C; what follows begins on a line of its own.
        write_line(sys.stderr, "")
    return Interrupted.exit_status


def end_at_interrupt() -> None:
    """Make the next SIGINT end the process: there is no clean-up left."""
    with suppress(KeyboardInterrupt):
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Interrupt:
    """A handler that raises ``KeyboardInterrupt`` once.

    :ivar raised: whether it has raised the exception.
    """

    def __init__(self) -> None:
        self.raised = False

    def __call__(self, _: int, __: FrameType | None) -> NoReturn:
        self.raised = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt


_interrupt = _Interrupt()
