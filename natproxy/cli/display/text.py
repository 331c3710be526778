"""Amounts, times and names, in few characters."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def amount(size: float) -> str:
    """Bytes with their unit, in powers of 1000: ``0 B``, ``9.9 MB``, ``312 GB``."""
    unit = _unit(size)
    return f"{_digits(size, unit)} {_UNITS[unit]}"


def part_of(done: int, size: int | None) -> str:
    """How many bytes of how many: ``4.2/10.0 GB``, or ``4.2 GB`` of who knows how many."""
    if size is None:
        return amount(done)
    unit = _unit(size)
    return f"{_digits(done, unit)}/{_digits(size, unit)} {_UNITS[unit]}"


def speed(per_second: float) -> str:
    """Bytes a second: ``312 MB/s``."""
    return f"{amount(per_second)}/s"


def duration(seconds: float) -> str:
    """A time in its two largest units: ``19s``, ``3m20s``, ``2h05m``, ``3d04h``."""
    # What would not fit is as good as never.
    whole = int(min(seconds, 999 * 86400))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def elapsed(seconds: float) -> str:
    """A time that is over: short ones with a tenth, ``0.4s``."""
    return f"{seconds:.1f}s" if seconds < 9.95 else duration(seconds)


def percent(done: int, size: int | None) -> str:
    """``42%``; 100 only when nothing is missing, and empty if the size isn't known."""
    if size is None:
        return ""
    return f"{min(100, 100 * done // size)}%" if size else "100%"


def one_line(message: str) -> str:
    """A message in which nothing drives a terminal or breaks the line."""
    if message.isprintable():
        return message
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in message
    )


def _unit(size: float) -> int:
    unit = 0
    # What would be rounded to 1000 is said in the next one.
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return unit


def _digits(size: float, unit: int) -> str:
    scaled = size / 1000**unit
    return f"{scaled:.1f}" if unit and scaled < 99.95 else f"{scaled:.0f}"
