"""Keys of the terminal, one by one and without an echo."""

from __future__ import annotations

import codecs
import os
import select
import termios
from typing import Any

from natproxy.client.context import Closing

NAMES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1bOH": "home",
    "\x1bOF": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "clear",
    "\x04": "q",
}
"""Names of what terminals send for keys that are no characters; Ctrl-D ends as ``q`` does."""

RECEIVED = 1024


class Keyboard(Closing):
    """The terminal of standard input, until it is closed.

    Ctrl-C still interrupts the program. Ctrl-Z does not stop it: it would leave the terminal as
    it is.

    :param descriptor: of the terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before: list[Any] = termios.tcgetattr(descriptor)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        changed: list[Any] = termios.tcgetattr(descriptor)
        changed[3] &= ~(termios.ICANON | termios.ECHO)
        changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
        changed[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(descriptor, termios.TCSADRAIN, changed)

    def close(self) -> None:
        """Restore the terminal."""
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def keys(self, seconds: float) -> list[str]:
        """Return the keys that are pressed within a time; it returns at the first ones.

        :raises EOFError: if the terminal is gone.
        """
        if not select.select([self._descriptor], [], [], max(0.0, seconds))[0]:
            return []
        try:
            data = os.read(self._descriptor, RECEIVED)
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return keys_of(self._decoder.decode(data))


def keys_of(text: str) -> list[str]:
    """Return characters and names of keys for what a terminal sent.

    An unknown sequence is skipped; an escape character alone is the key ``escape``.
    """
    found = []
    place = 0
    while place < len(text):
        size = _length(text, place)
        sequence = text[place : place + size]
        place += size
        if sequence in NAMES:
            found.append(NAMES[sequence])
        elif sequence == "\x1b":
            found.append("escape")
        elif size == 1:
            found.append(sequence)
    return found


def _length(text: str, place: int) -> int:
    """Return the number of characters of the key at a place."""
    if text[place] != "\x1b" or text[place + 1 : place + 2] not in ("[", "O"):
        return 1
    end = place + 2
    while end < len(text) and not "@" <= text[end] <= "~":
        end += 1
    return end + 1 - place
