"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 line``, ``1,500 lines``.

    :param plural: if it is not the noun with an ``s``.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def byte_count(number: int) -> str:
    """Return an exact number of bytes, without separators: ``1 byte``, ``1500 bytes``."""
    return f"{number} {'byte' if number == 1 else 'bytes'}"
