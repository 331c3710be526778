"""The upstreams of a proxy, as settings: endpoint strings, or tables with a name and more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from natproxy.daemon.rules import UpstreamName
from natproxy.settings import Flag, Rule, Table, Text, WholeNumber, shortened, unknown_keys
from natproxy.toml_values import to_toml

MOST_UPSTREAMS = 256
"""Upstreams of one proxy."""

_HOST_AND_PORT = re.compile(
    r"(?:tcp|tls|ssl):(?:host=)?((?:[^:\\=]|\\:)+):(?:port=)?(\d+)(?=:|$)", re.IGNORECASE
)


class UpstreamSettings(NamedTuple):
    """One upstream, as the settings state it.

    :ivar endpoint: the endpoint's string.
    :ivar name: unique; by default, host and port of the endpoint.
    :ivar proxy_protocol: whether its connections begin with a PROXY header; ``None`` for the
        setting ``upstream-proxy-protocol``.
    :ivar connections: commands that it may have at the same time, 0 for no limit; ``None`` for the
        setting ``upstream-connections``.
    """

    endpoint: str
    name: str
    proxy_protocol: bool | None = None
    connections: int | None = None


_RULES: dict[str, Rule[Any]] = {
    "endpoint": Text(),
    "name": UpstreamName(),
    "proxy-protocol": Flag(),
    "connections": WholeNumber(0, unit="commands"),
}
"""The rules of the keys of a table."""


class UpstreamList(Rule[tuple[UpstreamSettings, ...]]):
    """One upstream or several: endpoint strings or tables.

    In an option or a variable there are endpoint strings only, which white space separates.
    """

    def parse(self, text: str) -> tuple[UpstreamSettings, ...]:
        """Split a text at white space; see `Rule`."""
        return self.check(text.split())

    def check(self, value: object) -> tuple[UpstreamSettings, ...]:
        """Return the upstreams of a string, or of a list of strings and tables; see `Rule`."""
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("must be an endpoint, or a list of endpoints and tables")
        if len(value) > MOST_UPSTREAMS:
            raise ValueError(f"must be at most {MOST_UPSTREAMS} upstreams")
        upstreams = tuple(_upstream(one, number) for number, one in enumerate(value, 1))
        names = [one.name for one in upstreams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"must not have two upstreams with the name {shortened(name)};"
                    " set name in a table for each"
                )
        return upstreams

    def plain(self, value: tuple[UpstreamSettings, ...]) -> object:
        """Return the only endpoint, or a list of endpoints and tables; see `Rule`."""
        shown = [_plain(one) for one in value]
        return shown[0] if len(shown) == 1 and isinstance(shown[0], str) else shown


def default_name(endpoint: str) -> str:
    """Return the name of an upstream that has no other: host and port, or the whole endpoint."""
    found = _HOST_AND_PORT.match(endpoint)
    if found is None:
        return endpoint.removeprefix("unix:")
    host = found[1].replace("\\:", ":")
    return f"[{host}]:{found[2]}" if ":" in host else f"{host}:{found[2]}"


def _upstream(value: object, number: int) -> UpstreamSettings:
    if isinstance(value, UpstreamSettings):
        return value
    if isinstance(value, str):
        endpoint = Text().check(value)
        return UpstreamSettings(endpoint, default_name(endpoint))
    if not isinstance(value, Mapping):
        raise ValueError("must be an endpoint, or a list of endpoints and tables")
    place = f"upstream {number}"
    for message in unknown_keys(Table("", place, value), _RULES):
        raise ValueError(message)
    if "endpoint" not in value:
        raise ValueError(f"must have an endpoint in each table; {place} has none")
    found: dict[str, Any] = {}
    for key, one in value.items():
        try:
            found[key.replace("-", "_")] = _RULES[key].check(one)
        except ValueError as error:
            raise ValueError(f"{place}.{key} {shortened(to_toml(one))}: {error}") from None
    return UpstreamSettings(**{"name": default_name(found["endpoint"]), **found})


def _plain(one: UpstreamSettings) -> object:
    table: dict[str, object] = {}
    if one.name != default_name(one.endpoint):
        table["name"] = one.name
    table["endpoint"] = one.endpoint
    if one.proxy_protocol is not None:
        table["proxy-protocol"] = one.proxy_protocol
    if one.connections is not None:
        table["connections"] = one.connections
    return table if len(table) > 1 else one.endpoint
