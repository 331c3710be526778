"""The name of a command that names several files (``PACK``), as one text.

Where a record has one column for the name, it is the first name and the number of the others:
``a.txt and 511 others``; with all names, these follow: ``a.txt and 2 others, b.txt c.txt``. Names
are percent-encoded, so that no name contains a space.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOST = 512
"""Names that a text has at most."""

LONGEST = 16 << 10
"""Characters of all names at most; the number counts those that are left out as well."""

_PACKED = re.compile(r"([^ ]*) and ([0-9]+) others?(?:, (.*))?")


class Named(NamedTuple):
    """The files that a command names.

    :ivar name: the first one, percent-encoded; ``""`` if there is none.
    :ivar files: their number, if they are several; else ``None``.
    :ivar others: the names of the others, percent-encoded, separated by spaces; ``None`` if they
        are not recorded.
    """

    name: str
    files: int | None = None
    others: str | None = None


def format_packed(name: str, files: int, others: list[str] | None = None) -> str:
    """Return the text of several names, percent-encoded all of them.

    :param name: the first one.
    :param files: their number, at least 2.
    :param others: the names of the others, if they are to be in it; those that fit are.
    """
    text = f"{name} and {files - 1} {'other' if files == 2 else 'others'}"
    if not others:
        return text
    words = " ".join(others[: MOST - 1])
    if len(words) > LONGEST:
        words = words[: words.rindex(" ", 0, LONGEST + 1)] if " " in words[: LONGEST + 1] else ""
    return f"{text}, {words}" if words else text


def parse_packed(text: str) -> Named:
    """Return what a text of a column for the name contains, one name or several."""
    # A name has no space.
    found = _PACKED.fullmatch(text) if " " in text else None
    if found is None:
        return Named(text)
    return Named(found[1], int(found[2]) + 1, found[3])
