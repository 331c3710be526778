"""The limits of what clients may take, as settings that only a file has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from natproxy.access import NO_LIMITS, ScopeLimits
from natproxy.daemon.rules import Size
from natproxy.settings import Rule, Table, WholeNumber, unknown_keys
from natproxy.toml_values import to_toml

LEAST_BYTES = 1024
"""Bytes a second that a limit allows at least."""

FASTEST = 1_000_000_000
"""Commands a second that a limit may allow."""


class LimitSettings(NamedTuple):
    """The limits of all scopes.

    :ivar client: of each client's host.
    :ivar identity: of each identity.
    :ivar total: of all clients together.
    """

    client: ScopeLimits = NO_LIMITS
    identity: ScopeLimits = NO_LIMITS
    total: ScopeLimits = NO_LIMITS


class Frequency(Rule[float]):
    """A number of events in one second, such as 0.5 or 100."""

    unit = "a second"

    def check(self, value: object) -> float:
        """Return a number as a float; see `Rule`."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and 0.001 <= value <= FASTEST:  # type: ignore[operator]
            return float(value)  # type: ignore[arg-type]
        raise ValueError(f"must be a number from 0.001 to {FASTEST}")


_RULES: dict[str, Rule[Any]] = {
    "commands": WholeNumber(1, unit="commands"),
    "commands-per-second": Frequency(),
    "burst": WholeNumber(1, unit="commands"),
    "bytes-per-second": Size(LEAST_BYTES),
    "digests": WholeNumber(1, unit="commands"),
    "listings": WholeNumber(1, unit="commands"),
    "packs": WholeNumber(1, unit="commands"),
}
"""The rules of the keys of each scope. To forbid a verb is the matter of access rules."""


class LimitTables(Rule[LimitSettings]):
    """The tables ``limits.client``, ``limits.identity`` and ``limits.total``."""

    def check(self, value: object) -> LimitSettings:
        """Return the limits of parsed tables; see `Rule`."""
        if isinstance(value, LimitSettings):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("limits: must be tables: limits.client, limits.identity, limits.total")
        for message in unknown_keys(Table("", "limits", value), LimitSettings._fields):
            raise ValueError(message)
        return LimitSettings(**{scope: _scope(scope, table) for scope, table in value.items()})

    def plain(self, value: LimitSettings) -> object:
        """Return the tables of the scopes that have limits; see `Rule`."""
        return {
            scope: {
                key.replace("_", "-"): limit
                for key, limit in limits._asdict().items()
                if limit is not None
            }
            for scope, limits in value._asdict().items()
            if limits != NO_LIMITS
        }


def divided(limits: ScopeLimits, workers: int) -> ScopeLimits:
    """Return the limits of one of several processes: a share of each, rounded up.

    Together, the processes never exceed a limit by more than their number less one. A rate of
    commands is not rounded.
    """
    if workers == 1:
        return limits
    shares: dict[str, Any] = {
        name: limit / workers if isinstance(limit, float) else -(-limit // workers)
        for name, limit in limits._asdict().items()
        if limit is not None
    }
    return ScopeLimits(**shares)


def _scope(scope: str, table: object) -> ScopeLimits:
    if not isinstance(table, Mapping):
        raise ValueError(f"limits.{scope}: must be a table, such as commands = 100")
    for message in unknown_keys(Table("", f"limits.{scope}", table), _RULES):
        raise ValueError(message)
    limits: dict[str, Any] = {}
    for key, value in table.items():
        try:
            limits[key.replace("-", "_")] = _RULES[key].check(value)
        except ValueError as error:
            raise ValueError(f"limits.{scope}.{key} {to_toml(value)}: {error}") from None
    return ScopeLimits(**limits)
