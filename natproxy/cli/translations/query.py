"""What a command line selects: filters, times, ports."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from natproxy.client.errors import UsageError
from natproxy.records.whois import WhoisQuery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.records.times import Moment

MOST_PORT = 2**53
"""Greater than every stand-in for a port."""


class Interval(NamedTuple):
    """An interval of time, in microseconds since the epoch.

    :ivar since: ``None`` for the oldest record.
    :ivar until: not included; ``None`` for now.
    """

    since: int | None
    until: int | None


def now() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


def filter_text(words: Sequence[str]) -> str:
    """Return the filter that the words of a command line are, checked.

    :raises UsageError: if it is wrong; the text has a line that points at the word.
    """
    text = " ".join(words)
    if text.strip():
        from natproxy.records.filter import FilterError, parse

        try:
            parse(text)
        except FilterError as error:
            raise UsageError(error.explained()) from None
    return text


def explain(words: Sequence[str]) -> int:
    """Write how a filter was understood, and return the exit status.

    :raises UsageError: see `filter_text`.
    """
    from natproxy.records.filter import parse

    sys.stdout.write(parse(filter_text(words)).explain().rstrip("\n") + "\n")
    return 0


def moment_of(option: str, text: str) -> Moment:
    """Return the time that the value of an option stands for.

    :raises UsageError: if it is no time.
    """
    from natproxy.records.times import TimeError, parse_moment

    try:
        return parse_moment(text, now())
    except TimeError as error:
        raise UsageError(f"{option}: {error}" if option else str(error)) from None


def interval_of(since: str | None, until: str | None) -> Interval:
    """Return the interval of ``--since`` and ``--until``; the end is that of the last unit.

    :raises UsageError: if one is no time, or the interval is empty.
    """
    begin = None if since is None else moment_of("--since", since).since
    end = None if until is None else moment_of("--until", until).until
    if begin is not None and end is not None and begin >= end:
        raise UsageError(f"--until {until}: is before --since {since}")
    return Interval(begin, end)


def query_of(
    place: str, at: str | None = None, upstream: str | None = None, within: float = 0.0
) -> WhoisQuery:
    """Return a `WhoisQuery` who held a port.

    :param place: ``PORT`` or ``ADDRESS:PORT``.
    :param at: a time; ``None`` for now.
    :param upstream: ``HOST`` or ``HOST:PORT``.
    :param within: seconds before and after the time.
    :raises UsageError: if one is malformed, or the time is in the future.
    """
    nat, port = parse_port(place)
    for option, host in (("", nat), ("--upstream: ", upstream)):
        if host is not None:
            _check_host(option, host)
    if at is None:
        return WhoisQuery(port, nat, upstream)
    moment = moment_of("", at)
    latest = now()
    if moment.since > latest:
        earlier = f"; 'yesterday {at}' is not" if ":" in at and len(at) <= len("14:03:07") else ""
        raise UsageError(f"'{at}' is in the future{earlier}")
    around = round(within * 1_000_000)
    since = max(0, moment.since - around)
    # The minute that has not passed yet is one until now.
    until = max(since, min(moment.until + around, latest))
    return WhoisQuery(port, nat, upstream, since, until)


def query_in(place: str, interval: Interval, upstream: str | None = None) -> WhoisQuery:
    """Return a `WhoisQuery` who held a port at any time of an interval.

    :param place: ``PORT`` or ``ADDRESS:PORT``.
    :param interval: its begin must not be ``None``.
    :param upstream: ``HOST`` or ``HOST:PORT``.
    :raises UsageError: if one is malformed, or the begin is in the future.
    """
    query = query_of(place, upstream=upstream)
    latest = now()
    since, until = interval
    if since is None:
        raise UsageError("--until needs --since: the begin of the interval")
    if since > latest:
        raise UsageError("--since is in the future")
    until = latest if until is None else min(until, latest)
    return query._replace(since=since, until=until)


def _check_host(option: str, host: str) -> None:
    """Refuse a host that no translation can have: it would seem that no client held the port."""
    from natproxy.records.filter.hosts import check_host

    try:
        check_host(host)
    except ValueError as error:
        raise UsageError(f"{option}'{host}': {error}") from None


def parse_port(place: str) -> tuple[str | None, int]:
    """Return host and port of ``PORT``, ``ADDRESS:PORT`` or ``[IPV6]:PORT``.

    :raises UsageError: if it is malformed.
    """
    host, colon, port = place.rpartition(":")
    valid = port.isascii() and port.isdigit() and 0 < int(port[:20]) < MOST_PORT
    bracketed = host.startswith("[") and host.endswith("]")
    if not valid or (colon and not host) or (":" in host and not bracketed):
        raise UsageError(f"'{place}': must be [ADDRESS:]PORT, such as 40001 or [::1]:40001")
    if bracketed:
        host = host[1:-1]
    return host or None, int(port)
