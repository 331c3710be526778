"""The parameters of requests: query strings and JSON bodies, which are not trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import timezone
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from natproxy.records import filter as filters
from natproxy.records.filter import FilterError
from natproxy.records.filter.hosts import check_host
from natproxy.records.times import TimeError, parse_moment
from natproxy.records.upstreams import MODES
from natproxy.records.whois import WhoisQuery

MOST = 1 << 40
"""The largest number in a parameter."""

PORTS = 1 << 32
"""Ports and their stand-ins are below it."""

LONGEST = 1024
"""Characters of a host."""


class RequestError(Exception):
    """A request is refused; the text of the exception is one sentence.

    :ivar status: of the response.
    :ivar position: of the wrong word of a filter, in characters.
    :ivar headers: of the response.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        position: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.position = position
        self.headers = dict(headers or {})


def parse_query(query: bytes, readers: Mapping[str, Callable[[str, int], Any]], now: int) -> Any:
    """Return the values of a query string by parameter.

    :param readers: the parameters that are allowed.
    :param now: microseconds since the epoch.
    :raises RequestError: with 400 if one is unknown, repeated or malformed.
    """
    values: dict[str, Any] = {}
    for part in query.split(b"&") if query else ():
        name_part, _, value_part = part.partition(b"=")
        try:
            name = unquote_to_bytes(name_part.replace(b"+", b" ")).decode("utf-8")
            text = unquote_to_bytes(value_part.replace(b"+", b" ")).decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError(400, "a parameter of the query is not UTF-8") from None
        if name not in readers:
            raise RequestError(400, unknown("parameter", name, readers))
        if name in values:
            raise RequestError(400, f"the parameter {name} is repeated")
        if text:
            values[name] = read_value(name, text, readers[name], now)
    return values


def parse_members(body: bytes, readers: Mapping[str, Callable[[Any, int], Any]], now: int) -> Any:
    """Return the values of a JSON object by member; the empty body is an empty object.

    :raises RequestError: with 400 if it is none, or if a member is unknown or malformed.
    """
    if not body.strip():
        return {}
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not JSON") from None
    if not isinstance(members, dict):
        raise RequestError(400, "the body is not a JSON object")
    values: dict[str, Any] = {}
    for name, value in members.items():
        if name not in readers:
            raise RequestError(400, unknown("member", name, readers))
        if value is not None:
            values[name] = read_value(name, value, readers[name], now)
    return values


def read_value(name: str, value: Any, reader: Callable[[Any, int], Any], now: int) -> Any:
    """Return the value of a parameter.

    :raises RequestError: with 400 if it is malformed.
    """
    try:
        return reader(value, now)
    except FilterError as error:
        raise RequestError(400, f"filter: {error}", error.position) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(400, f"{name}: {error}") from None


def unknown(kind: str, name: str, known: Mapping[str, object]) -> str:
    """Return the sentence about a name that is not known."""
    there = f"there are {', '.join(known)}" if known else "there are none here"
    return f"unknown {kind} {name[:80]!r}; {there}"


def read_filter(text: Any, now: int) -> filters.Filter:
    """Return a filter; times without a zone are UTC.

    :raises FilterError: if it is malformed.
    :raises ValueError: if it is no text.
    """
    return filters.parse(_text(text), now, timezone.utc)


def read_moment(text: Any, now: int) -> int:
    """Return microseconds since the epoch of an ISO time, UTC unless it has an offset.

    :raises ValueError: if it is malformed.
    """
    try:
        return parse_moment(_text(text), now, timezone.utc).since
    except TimeError as error:
        raise ValueError(str(error)) from None


def read_count(text: Any, now: int) -> int:
    """Return a whole number from 1.

    :raises ValueError: if it is malformed.
    """
    return _whole(text, 1, MOST)


def read_worker(text: Any, now: int) -> int:
    """Return the number of a worker, from 0.

    :raises ValueError: if it is malformed.
    """
    return _whole(text, 0, MOST)


def read_port(text: Any, now: int) -> int:
    """Return a port, or a stand-in for one.

    :raises ValueError: if it is malformed.
    """
    return _whole(text, 1, PORTS)


def read_host(text: Any, now: int) -> str:
    """Return an address, optionally with a port, or what is shown of a UNIX socket.

    :raises ValueError: if it is neither: no translation could have it.
    """
    host = _text(text)
    if not 0 < len(host) <= LONGEST:
        raise ValueError(f"a host has 1 to {LONGEST} characters")
    check_host(host)
    return host


def read_flag(text: Any, now: int) -> bool:
    """Return whether a flag is set: ``1`` or ``0``, ``true`` or ``false``.

    :raises ValueError: if it is neither.
    """
    if isinstance(text, bool):
        return text
    if text in ("1", "true", "0", "false"):
        return text in ("1", "true")
    raise ValueError("neither true nor false")


def read_action(text: Any, now: int) -> str:
    """Return an action of an administrator that concerns a whole daemon.

    :raises ValueError: if it is none.
    """
    if text not in ("drain", "reload"):
        raise ValueError("neither drain nor reload")
    return str(text)


def read_name(text: Any, now: int) -> str:
    """Return the name of an upstream.

    :raises ValueError: if it is no text, or too long for one.
    """
    name = _text(text)
    if not 0 < len(name) <= LONGEST:
        raise ValueError(f"a name has 1 to {LONGEST} characters")
    return name


def read_mode(text: Any, now: int) -> str:
    """Return the mode of an upstream.

    :raises ValueError: if there is no such mode.
    """
    if text not in MODES:
        raise ValueError(f"neither {' nor '.join(MODES)}")
    return str(text)


def read_boot(text: Any, now: int) -> str:
    """Return the identifier of a run of a daemon.

    :raises ValueError: if it is malformed.
    """
    if not re.fullmatch(r"[0-9A-Za-z_-]{1,64}", _text(text)):
        raise ValueError("not an identifier of a boot")
    return str(text)


class Place(NamedTuple):
    """The last event of a worker that is not wanted.

    :ivar worker: its number.
    :ivar seq: number of the event.
    :ivar boot: the run of the worker; ``None`` for the present one.
    """

    worker: int
    seq: int
    boot: str | None = None

    def __str__(self) -> str:
        """Return the text that `read_after` parses."""
        return f"{self.worker}:{self.seq}" + (f":{self.boot}" if self.boot else "")


MOST_WORKERS = 1024
"""Workers in one parameter at most."""


def read_after(text: Any, now: int) -> dict[int, Place]:
    """Return the places of ``WORKER:SEQ`` or ``WORKER:SEQ:BOOT``, several separated by commas.

    :return: by the number of the worker.
    :raises ValueError: if one is malformed, or a worker is named twice.
    """
    places: dict[int, Place] = {}
    for part in _text(text).split(",", MOST_WORKERS):
        match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,18})(?::([0-9A-Za-z_-]{1,64}))?", part)
        if match is None:
            raise ValueError("WORKER:SEQ is needed")
        place = Place(int(match[1]), int(match[2]), match[3])
        if place.worker in places:
            raise ValueError(f"worker {place.worker} is named twice")
        places[place.worker] = place
    return places


WHOIS = {
    "port": read_port,
    "nat": read_host,
    "upstream": read_host,
    "since": read_moment,
    "until": read_moment,
}
"""Parameters and members of a lookup of a port."""


def lookup_of(values: dict[str, Any], now: int) -> WhoisQuery:
    """Return what a lookup of a port searches.

    :raises RequestError: with 400 if the port is missing, or the time is in the future or reversed.
    """
    if "port" not in values:
        raise RequestError(400, "the port is missing: port=PORT")
    since, until = interval_of(values, now)
    if since is None and until is not None:
        raise RequestError(400, "until needs since")
    if since is not None:
        until = now if until is None else min(until, now)
    return WhoisQuery(values["port"], values.get("nat"), values.get("upstream"), since, until)


def interval_of(values: dict[str, Any], now: int) -> tuple[int | None, int | None]:
    """Return ``since`` and ``until``.

    :raises RequestError: with 400 if ``since`` is in the future or after ``until``.
    """
    since, until = values.get("since"), values.get("until")
    if since is not None and since > now:
        raise RequestError(400, "since is in the future")
    if since is not None and until is not None and until < since:
        raise RequestError(400, "until is before since")
    return since, until


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is needed")
    # JSON can contain halves of surrogate pairs, which cannot be written as UTF-8.
    value.encode("utf-8")
    return value


def _whole(value: Any, least: int, most: int) -> int:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < most:
        raise ValueError(f"a whole number from {least} is needed")
    return value
