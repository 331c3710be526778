"""The query who was behind a port, and its reply."""

from __future__ import annotations

from typing import Any, NamedTuple

from natproxy.records.record import Record, format_time

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


class WhoisReply(NamedTuple):
    """The reply to a `WhoisQuery`.

    :ivar result: `FOUND`, `NOBODY` or `UNKNOWN`.
    :ivar translations: those that held the port in the interval, the nearest to its middle first.
        With `UNKNOWN`, those that may have held it: their end is not known.
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
