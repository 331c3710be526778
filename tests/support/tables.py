"""A setting that only a file has: the rule, the value and a config with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from natproxy.daemon.config_fields import setting
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.settings import Choice, Rule, Table, unknown_keys


class Visit(NamedTuple):
    """A frozen value of a table."""

    action: str
    hours: Mapping[str, int] | None = None


class Visits(Rule[tuple[Visit, ...]]):
    """A list of tables with a table inside."""

    def check(self, value: object) -> tuple[Visit, ...]:
        """Return visits; see `Rule`."""
        if not isinstance(value, (list, tuple)):
            raise ValueError("visits: must be a list of tables, [[proxy.visits]]")
        return tuple(self._visit(one, f"visits[{index}]") for index, one in enumerate(value))

    def _visit(self, value: Any, name: str) -> Visit:
        if isinstance(value, Visit):
            return value
        for message in unknown_keys(Table("", name, value), Visit._fields):
            raise ValueError(message)
        try:
            return Visit(Choice("come", "go").check(value["action"]), value.get("hours"))
        except ValueError as error:
            raise ValueError(f"{name}.action {value['action']}: {error}") from None

    def plain(self, value: tuple[Visit, ...]) -> object:
        """Return tables; see `Rule`."""
        return [
            {"action": one.action, **({} if one.hours is None else {"hours": one.hours})}
            for one in value
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitedConfig(ProxyConfig):
    """The settings of a proxy, and one that only a file has."""

    visits: tuple[Visit, ...] = setting((), Visits(), "Visits.", table_only=True)
