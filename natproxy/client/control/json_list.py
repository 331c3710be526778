"""A parser of a JSON list of objects that returns each object as soon as it has arrived."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

LONGEST = 1 << 20
"""Characters of an object."""

_BLANK = re.compile(r"[ \t\r\n]*")


class State(Enum):
    """What may come next, besides white space."""

    LIST = "the opening bracket"
    FIRST = "an object or the closing bracket"
    OBJECT = "an object"
    AFTER_OBJECT = "a comma or the closing bracket"
    END = "nothing"


class JSONListParser:
    """Parses a list that arrives in pieces.

    :ivar state: what may come next; `State.END` after the whole list.
    """

    def __init__(self) -> None:
        self.state = State.LIST
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parser = json.JSONDecoder()
        self._text = ""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that these bytes complete.

        :raises ValueError: if the text is not a list of objects, or an object is too long.
        """
        text = self._text + self._decoder.decode(data)
        place = _after_blank(text, 0)
        while place < len(text):
            if self.state in (State.FIRST, State.OBJECT) and text[place] == "{":
                try:
                    found, place = self._parser.raw_decode(text, place)
                except ValueError:
                    # The object has not arrived as a whole.
                    break
                except RecursionError:
                    raise ValueError("an object with too many levels") from None
                self.state = State.AFTER_OBJECT
                yield found
            else:
                self.state = self._after(text[place])
                place += 1
            place = _after_blank(text, place)
        self._text = text[place:]
        if len(self._text) > LONGEST:
            raise ValueError("an object is too long or malformed")

    def _after(self, character: str) -> State:
        try:
            return _AFTER[self.state, character]
        except KeyError:
            raise ValueError(f"{character!r} in place of {self.state.value}") from None


_AFTER = {
    (State.LIST, "["): State.FIRST,
    (State.FIRST, "]"): State.END,
    (State.AFTER_OBJECT, ","): State.OBJECT,
    (State.AFTER_OBJECT, "]"): State.END,
}


def _after_blank(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    assert match
    return match.end()
