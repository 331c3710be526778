"""Rules for the values of a daemon's settings that no other program has: times, sizes, networks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address

from natproxy.access.networks import Networks
from natproxy.access.patterns import NamePattern
from natproxy.access.rule_table import parse_rules, rule_tables
from natproxy.access.rules import AccessRule
from natproxy.records.places import NAME, NAME_RULE
from natproxy.settings import Rule, Text, Texts
from natproxy.storage.objects.location import check_endpoint
from natproxy.toml_values import to_toml

SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""Seconds of the units of a `TimeSpan`."""

SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
"""Bytes of the units of a `Size`."""


AUTO = "auto"
"""A `WorkerNumber`: one process for each core that the daemon may use."""

MOST_WORKERS = 256
"""Processes of one daemon."""


class TimeSpan(Rule[float]):
    """A time in seconds, or as text with a unit of `SPANS`: ``90d``, ``12h``, ``0.5h``.

    :param least: the shortest time that is valid, in seconds.
    """

    unit = "seconds, or with s, m, h, d, w"

    def __init__(self, least: float = 1.0) -> None:
        self.least = least

    def check(self, value: object) -> float:
        """Return a number or a text as seconds; see `Rule`."""
        if isinstance(value, str):
            value = _quantity(value, SPANS)
        # The limit keeps times of the calendar in the range that a date can have.
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and self.least <= value <= 1000 * 366 * SPANS["d"]
        ):
            return float(value)
        raise ValueError(f"must be a time of at least {self.least:g} seconds, such as 90d or 12h")

    def show(self, value: float) -> str:
        """Return a time with its largest unit that divides it: ``"90d"``; see `Rule`."""
        return _shown_quantity(value, SPANS)


class Size(Rule[int]):
    """A number of bytes, or a text with a unit of `SIZES`: ``10G``, ``512M``.

    :param least: the smallest size that is valid, in bytes.
    """

    unit = "bytes, or with K, M, G, T"

    def __init__(self, least: int = 0) -> None:
        self.least = least

    def check(self, value: object) -> int:
        """Return a number or a text as bytes; see `Rule`."""
        if isinstance(value, str):
            value = _quantity(value, SIZES)
            value = None if value is None else int(value)
        if isinstance(value, int) and not isinstance(value, bool) and self.least <= value < 1 << 63:
            return value
        least = _shown_quantity(self.least, SIZES).strip('"')
        raise ValueError(f"must be a size of at least {least} bytes, such as 10G or 512M")

    def show(self, value: int) -> str:
        """Return a size with its largest unit that divides it: ``"10G"``; see `Rule`."""
        return _shown_quantity(value, SIZES)


class WorkerNumber(Rule["int | str"]):
    """A number of processes, or `AUTO`."""

    unit = "processes, or auto"

    def parse(self, text: str) -> int | str:
        """Convert ASCII digits, or return `AUTO`; see `Rule`."""
        digits = text.isascii() and text.isdigit() and len(text) < 10
        return self.check(int(text) if digits else text)

    def check(self, value: object) -> int | str:
        """Return a number in the range, or `AUTO`; see `Rule`."""
        if value == AUTO or (type(value) is int and 1 <= value <= MOST_WORKERS):
            return value
        raise ValueError(f"must be a number from 1 to {MOST_WORKERS}, or auto")


def worker_count(workers: int | str) -> int:
    """Return the number of processes of a `WorkerNumber`: for `AUTO`, the cores it may use."""
    if isinstance(workers, int):
        return workers
    # Not every system can limit a process to some of the cores.
    limited = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if limited else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


class AccessRules(Rule[tuple[AccessRule, ...]]):
    """The rules by which commands are allowed or denied: see `natproxy.access.rule_table`."""

    def check(self, value: object) -> tuple[AccessRule, ...]:
        """Return the rules of an array of tables; see `Rule`."""
        return parse_rules(value)

    def plain(self, value: tuple[AccessRule, ...]) -> object:
        """Return rules as an array of tables; see `Rule`."""
        return rule_tables(value)


class NetworkTexts(Texts):
    """Networks of clients: see `natproxy.access.networks`."""

    def __init__(self) -> None:
        super().__init__(least=0)

    def check(self, value: object) -> tuple[str, ...]:
        """Return networks as they are written; see `Rule`."""
        texts = super().check(value)
        Networks(texts)
        return texts


class LocalAddresses(Texts):
    """Numeric addresses of this machine, of IPv4 or IPv6."""

    def __init__(self) -> None:
        super().__init__(least=0)

    def check(self, value: object) -> tuple[str, ...]:
        """Return addresses as they are written; see `Rule`."""
        texts = super().check(value)
        for each in texts:
            try:
                unspecified = ip_address(each).is_unspecified
            except ValueError:
                unspecified = True
            if unspecified:
                raise ValueError("must be addresses of this machine, such as 10.0.0.2 or fd00::2")
        if len(set(texts)) < len(texts):
            raise ValueError("must not name an address twice")
        return texts


class NamePatternTexts(Texts):
    """Patterns of file names: see `natproxy.access.patterns`."""

    def __init__(self) -> None:
        super().__init__(least=0)

    def check(self, value: object) -> tuple[str, ...]:
        """Return patterns as they are written; see `Rule`."""
        texts = super().check(value)
        for each in texts:
            NamePattern(each)
        return texts


class Name(Rule[str]):
    """The name of a daemon, which is part of the names of its files: `NAME_RULE`."""

    def check(self, value: object) -> str:
        """Return a name; see `Rule`."""
        if isinstance(value, str) and NAME.fullmatch(value):
            return value
        raise ValueError(NAME_RULE)


class UpstreamName(Rule[str]):
    """The name of an upstream, which commands and metrics name it by."""

    def check(self, value: object) -> str:
        """Return a name of printable ASCII without white space; see `Rule`."""
        if isinstance(value, str) and re.fullmatch("[!-~]{1,128}", value):
            return value
        raise ValueError("must be 1 to 128 printable ASCII characters without white space")


def _quantity(text: str, units: Mapping[str, int]) -> float | None:
    """Return a decimal number times the unit after it; ``None`` if the text is malformed."""
    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)([A-Za-z]?)", text)
    if found is None or (found[2] and found[2] not in units):
        return None
    unit = units.get(found[2], 1)
    return float(found[1]) * unit if "." in found[1] else int(found[1]) * unit


def _shown_quantity(value: float, units: Mapping[str, int]) -> str:
    for unit, number in sorted(units.items(), key=lambda one: -one[1]):
        if value and not value % number:
            return f'"{int(value // number)}{unit}"'
    return to_toml(value)


class ServiceURL(Rule[str]):
    """The URL of an S3 service."""

    def check(self, value: object) -> str:
        """Return a URL, if it has a scheme and a host, and no password; see `Rule`."""
        return check_endpoint(Text().check(value))
