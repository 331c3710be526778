"""The targets, one module each, with a function ``check(data: bytes) -> None``.

A module may have ``WORDS``, of which inputs are composed as well.

An ``AssertionError``, or any exception that the documentation of the code does not name, is a
fault. Nothing here needs atheris.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module

Check = Callable[[bytes], None]

NAMES = (
    "commands",
    "framing",
    "replies",
    "listings",
    "packs",
    "proxy_headers",
    "filters",
    "times",
    "urls",
    "patterns",
    "rules",
    "tokens",
    "config",
    "control",
    "control_client",
    "journal",
)


def load(name: str) -> Check:
    """Return the function of a target.

    :param name: one of `NAMES`.
    """
    check: Check = import_module(f"fuzz.targets.{name}").check
    return check


def words_of(name: str) -> list[bytes]:
    """Return the words that inputs of a target are likely to have; there may be none."""
    words: Iterable[str] = getattr(import_module(f"fuzz.targets.{name}"), "WORDS", ())
    return sorted({word.encode() for word in words if word})
