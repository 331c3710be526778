"""Records the calls of natproxy's functions for one command."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import FrameType

import natproxy
from natproxy.server.connection import CommandReceiver

PACKAGE = os.path.dirname(natproxy.__file__) + os.sep


class CommandTrace:
    """Records the calls in `natproxy` for one command, for `sys.setprofile`.

    :param last: the function at the return of which the recording ends.
    :ivar calls: module and function, from ``lineReceived`` on.
    """

    def __init__(self, last: Callable[..., object]) -> None:
        self.calls: list[tuple[str, str]] = []
        self._active = False
        self._first = CommandReceiver.lineReceived.__code__
        self._last = last.__code__

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code is self._first:
            self._active = True
        if self._active and event == "call" and code.co_filename.startswith(PACKAGE):
            # Up to Python 3.11, a comprehension is a call.
            if code.co_name not in ("<listcomp>", "<genexpr>"):
                self.calls.append((code.co_filename.removeprefix(PACKAGE), code.co_name))
        elif event == "return" and code is self._last:
            self._active = False

    @property
    def modules(self) -> set[str]:
        return {module for module, _ in self.calls}
