"""Short texts for sizes, speeds and durations."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def amount(size: float) -> str:
    """Return a size with its unit, in powers of 1000: ``0 B``, ``9.9 MB``, ``312 GB``."""
    unit = _unit(size)
    return f"{_digits(size, unit)} {_UNITS[unit]}"


def part_of(done: int, size: int | None) -> str:
    """Return a size and the total: ``4.2/10.0 GB``, or ``4.2 GB`` if the total is unknown."""
    if size is None:
        return amount(done)
    unit = _unit(size)
    return f"{_digits(done, unit)}/{_digits(size, unit)} {_UNITS[unit]}"


def speed(per_second: float) -> str:
    """Return bytes per second with their unit: ``312 MB/s``."""
    return f"{amount(per_second)}/s"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``19s``, ``3m20s``, ``2h05m``, ``3d04h``."""
    # Longer durations do not fit into the column.
    whole = int(min(seconds, 999 * 86400))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def elapsed(seconds: float) -> str:
    """Return a duration in the past: below 10 seconds with tenths, ``0.4s``."""
    return f"{seconds:.1f}s" if seconds < 9.95 else duration(seconds)


def percent(done: int, size: int | None) -> str:
    """Return ``42%``; 100 only if nothing is missing, and empty if the size is unknown."""
    if size is None:
        return ""
    return f"{min(100, 100 * done // size)}%" if size else "100%"


def _unit(size: float) -> int:
    unit = 0
    # A number that would be rounded to 1000 gets the next unit.
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return unit


def _digits(size: float, unit: int) -> str:
    scaled = size / 1000**unit
    return f"{scaled:.1f}" if unit and scaled < 99.95 else f"{scaled:.0f}"


def count_of(total: int, more: bool) -> str:
    """Return a total number: ``2000``; ``2000+`` if it may grow."""
    return f"{total}+" if more else str(total)
