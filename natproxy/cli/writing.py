"""What is told to people on a stream that may be gone."""

from __future__ import annotations

from typing import TextIO


def write_line(stream: TextIO, line: str) -> None:
    """Write a line; or not, if nobody can read it."""
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        # Nothing ends, or ends otherwise, because it cannot be told. A stream that is
        # closed, or that cannot write a character, raises a ValueError.
        pass
