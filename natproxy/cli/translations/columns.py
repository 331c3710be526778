"""The columns in which translations are shown, and the orders in which they are sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from natproxy.cli.display.text import speed
from natproxy.cli.translations.texts import (
    NONE,
    address_text,
    bytes_text,
    client_text,
    duration_text,
    name_text,
    number_text,
    promised_text,
    seconds_of,
    shown,
)
from natproxy.client.errors import UsageError
from natproxy.records.formats import TRANSLATION_MEMBERS
from natproxy.records.record import TIMES, Record

DEFAULT = ("port", "client", "verb", "name", "bytes", "age", "state")
"""The columns of the table."""

PAST = ("started", "port", "client", "verb", "name", "bytes", "duration", "outcome")
"""The columns of the history."""

Rates = dict[tuple[str, int, "int | None"], float]
"""Bytes per second between two samples, by `identity_of`."""


class Column(NamedTuple):
    """A column of a table for people.

    :ivar title: its name.
    :ivar text: returns the text of a record, of whatever kind the table has.
    :ivar right: whether it is aligned to the right.
    :ivar short: returns a shorter text, for a narrow terminal; ``None`` if there is none.
    """

    title: str
    text: Callable[[Any], str]
    right: bool = False
    short: Callable[[Any], str] | None = None


NUMBERS = ("serial", "seq", "command", "attempt", "worker", "uid", "pid", "files")

COMPUTED = {
    "port": Column("port", lambda record: shown(record.nat_port), right=True),
    "age": Column("age", duration_text, right=True),
    "duration": Column("duration", duration_text, right=True),
    "bytes": Column("bytes", bytes_text, right=True),
    "client": Column(
        "client",
        client_text,
        short=lambda record: address_text(record.client, record.client_port),
    ),
    "nat": Column("nat", lambda record: address_text(record.nat, record.nat_port)),
    "upstream": Column(
        "upstream", lambda record: address_text(record.upstream, record.upstream_port)
    ),
    # What has not ended has no outcome.
    "promised": Column("promised", promised_text, right=True),
    "outcome": Column("outcome", lambda record: shown(record.outcome or record.state)),
    "name": Column("name", lambda record: name_text(record) or NONE),
}
"""The columns that are not the text of a member."""


def identity_of(record: Record) -> tuple[str, int, int | None]:
    """Return what identifies a translation among those of a table."""
    return record.boot, record.worker, record.serial


def rate_of(record: Record, rates: Rates | None = None) -> float:
    """Return the bytes per second of a translation: between two samples, else since its start."""
    if rates is not None:
        found = rates.get(identity_of(record))
        if found is not None:
            return found
    return (record.bytes or 0) / record.duration if record.duration else 0.0


def names() -> list[str]:
    """Return the names of all columns: the members of JSON, and those that are computed."""
    return ["port", "age", "rate", *TRANSLATION_MEMBERS]


def parse_columns(text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of columns that an option lists.

    :raises UsageError: if one is unknown.
    """
    if text is None:
        return default
    found = tuple(each.strip().replace("-", "_") for each in text.split(","))
    known = names()
    for each in found:
        if each not in known:
            raise UsageError(f"--columns: no column {each!r}; there are: {', '.join(known)}")
    return found


def columns_of(
    selected: Iterable[str], rates: Rates | None = None, several: bool = False
) -> list[Column]:
    """Return the columns of some names.

    :param several: see `number_text`.
    """
    numbers = Column("serial", lambda record: number_text(record, several), right=True)
    return [numbers if name == "serial" else _column(name, rates) for name in selected]


def _column(name: str, rates: Rates | None) -> Column:
    if name == "rate":
        return Column("rate", lambda record: speed(rate_of(record, rates)), right=True)
    if name in COMPUTED:
        return COMPUTED[name]
    if name in TIMES:
        return Column(
            name,
            lambda record: _time(getattr(record, name)),
            short=lambda record: seconds_of(_time(getattr(record, name))),
        )
    right = name in NUMBERS or name.endswith("_port")
    return Column(name, lambda record: shown(getattr(record, name)), right)


def _time(microseconds: int | None) -> str:
    if microseconds is None:
        return NONE
    from natproxy.records.times import show_local

    return show_local(microseconds)


def members_of(
    record: Record, selected: Iterable[str] | None = None, rates: Rates | None = None
) -> dict[str, Any]:
    """Return the members of a record for JSON and CSV.

    :param selected: names of columns; by default, all members.
    """
    members = record.json()
    if selected is None:
        return members
    computed = {
        "port": record.nat_port,
        "age": record.duration,
        "rate": round(rate_of(record, rates), 3),
    }
    # Not every record has each of the members.
    return {name: computed[name] if name in computed else members.get(name) for name in selected}


SORTS = ("age", "bytes", "rate", "client")
"""The orders of the table; keep in step with the option ``--sort``."""


def ordered(
    records: Iterable[Record], order: str | None, rates: Rates | None = None
) -> list[Record]:
    """Return records in an order: the largest first, clients by their addresses.

    :param order: one of `SORTS`; ``None`` for the order in which they were registered.
    """
    found = list(records)
    if order == "age":
        found.sort(key=lambda record: -(record.duration or 0.0))
    elif order == "bytes":
        found.sort(key=lambda record: -(record.bytes or 0))
    elif order == "rate":
        found.sort(key=lambda record: -rate_of(record, rates))
    elif order == "client":
        found.sort(key=_client)
    return found


def _client(record: Record) -> tuple[int, int, str, int]:
    from ipaddress import ip_address

    host = record.client or ""
    port = record.client_port or 0
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        # The path of a UNIX socket, or none.
        return 9, 0, host, port
    return address.version, int(address), host, port
