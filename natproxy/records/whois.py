"""The query who was behind a port, and its reply."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from natproxy.records.record import Record, format_time, parse_time

FOUND = "found"
NOBODY = "nobody"
UNKNOWN = "unknown"


class WhoisQuery(NamedTuple):
    """Who was behind a port, at a time or in an interval?

    :ivar port: the proxy's port on the upstream connection, or a stand-in.
    :ivar nat: the proxy's host there; ``None`` for any.
    :ivar upstream: ``HOST`` or ``HOST:PORT`` of the upstream; ``None`` for any.
    :ivar since: begin of the interval, in microseconds since the epoch; ``None`` for now.
    :ivar until: its end, not included unless it equals ``since``; ``None`` for now.
    """

    port: int
    nat: str | None = None
    upstream: str | None = None
    since: int | None = None
    until: int | None = None

    def json(self) -> dict[str, Any]:
        """Return the members that have a value, for JSON and for the query of ``/v1/whois``."""
        members = self._asdict()
        for member in ("since", "until"):
            if members[member] is not None:
                members[member] = format_time(members[member])
        return {name: value for name, value in members.items() if value is not None}


class Ends(NamedTuple):
    """The ends of the upstream connection that a `WhoisQuery` is about, besides the port.

    :ivar nat: the proxy's host, normalized; ``None`` for any.
    :ivar upstream: host of the upstream, normalized; ``None`` for any.
    :ivar upstream_port: its port; ``None`` for any.
    """

    nat: str | None
    upstream: str | None
    upstream_port: int | None

    @classmethod
    def of(cls, query: WhoisQuery) -> Ends:
        """Return the ends of a query."""
        nat = None if query.nat is None else normal_host(query.nat)
        if query.upstream is None:
            return cls(nat, None, None)
        # The command line starts with this module.
        from natproxy.records.filter.hosts import split_port

        try:
            host, port = split_port(query.upstream)
        except ValueError:
            host, port = query.upstream, None
        return cls(nat, normal_host(host), port)

    def match(self, nat: str | None, upstream: str | None, upstream_port: int | None) -> bool:
        """Return whether a translation with these hosts, and this port, has the ends."""
        return (
            (self.nat is None or (nat is not None and normal_host(nat) == self.nat))
            and (
                self.upstream is None
                or (upstream is not None and normal_host(upstream) == self.upstream)
            )
            and self.upstream_port in (None, upstream_port)
        )


class Gap(NamedTuple):
    """A time of which the record is not complete.

    :ivar since: microseconds since the epoch; ``None`` if it has no beginning.
    :ivar until: likewise; ``None`` if it has no end, or a next start has not bounded it.
    :ivar cause: such as ``the daemon was killed``; one phrase for people.
    """

    since: int | None
    until: int | None
    cause: str

    def json(self) -> dict[str, Any]:
        """Return the object for JSON: ``from``, ``to``, ``cause``."""
        since, until = self.since, self.until
        return {
            "from": None if since is None else format_time(since),
            "to": None if until is None else format_time(until),
            "cause": self.cause,
        }

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Gap:
        """Return the gap of an object that `json` returned.

        :raises ValueError: if a time is malformed; ``KeyError`` if a member is missing.
        """
        since, until = members["from"], members["to"]
        return cls(
            None if since is None else parse_time(since),
            None if until is None else parse_time(until),
            str(members["cause"]),
        )


class WhoisReply(NamedTuple):
    """The reply to a `WhoisQuery`.

    :ivar result: `FOUND`, `NOBODY` or `natproxy.records.whois.UNKNOWN`.
    :ivar translations: those that held the port in the interval, the nearest to its middle first.
        With `natproxy.records.whois.UNKNOWN`, those that may have held it: their end is not
        known, or a gap is nearer to the middle than they are.
    :ivar gap: why the reply is unknown, or may be incomplete.
    :ivar last: for `NOBODY`, the last translation of the port before the interval, if one is known.
    """

    result: str
    translations: tuple[Record, ...] = ()
    gap: Gap | None = None
    last: Record | None = None

    def json(self) -> dict[str, Any]:
        """Return the object for JSON."""
        return {
            "result": self.result,
            "translations": [record.json() for record in self.translations],
            "gap": None if self.gap is None else self.gap.json(),
            "last": None if self.last is None else self.last.json(),
        }

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> WhoisReply:
        """Return the reply of an object that `json` returned.

        :raises ValueError: if a time is malformed; ``KeyError`` if a member is missing.
        """
        gap, last = members.get("gap"), members.get("last")
        return cls(
            members["result"],
            tuple(Record.from_json(each) for each in members["translations"]),
            None if gap is None else Gap.from_json(gap),
            None if last is None else Record.from_json(last),
        )


@lru_cache(maxsize=4096)
def normal_host(host: str) -> str:
    """Return one form of an IP address, without a zone; other hosts as they are.

    An IPv6 address that contains an IPv4 address becomes that one.
    """
    from natproxy.records.filter.hosts import address_of

    address = address_of(host.strip("[]").partition("%")[0])
    return host if address is None else address.text()
