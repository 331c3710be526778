"""What is in the spool of a process that has ended: rows of events, as the ring has them."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from natproxy.journal.spool_format import (
    HEADER,
    MAGIC,
    NAMED,
    OTHER,
    PREFIX,
    RECORDS,
    REGISTERED,
    REGISTRATION,
    RELAY,
    RELAYING,
    REMOVAL,
    ROW,
    VERSION,
    Description,
)
from natproxy.journal.validity import check_times
from natproxy.protocol import parse_command
from natproxy.records.command_texts import LONG_NAME, CommandTexts
from natproxy.records.event_rows import EARLIER, ROUTE, STARTED, Row
from natproxy.records.record import microseconds_of

_NUMBER = struct.Struct("<Q")
_BEGINNING = struct.Struct("<IB")

_WHOLE, _WHOLE_OR_NONE, _TEXT_OR_NONE = (int,), (int, type(None)), (str, type(None))
_ROW = (
    *(_WHOLE, (str,), _WHOLE_OR_NONE, _WHOLE, _WHOLE_OR_NONE, (list, type(None))),
    *(_WHOLE_OR_NONE, _WHOLE_OR_NONE, _TEXT_OR_NONE, _TEXT_OR_NONE, (int, float)),
    *(_WHOLE_OR_NONE, _WHOLE_OR_NONE),
)
"""Types of the values of a row of the ring."""
_ROUTE = (
    *((str,), _WHOLE, _TEXT_OR_NONE, _WHOLE_OR_NONE, _TEXT_OR_NONE, _WHOLE_OR_NONE),
    *((str,), (str,), _TEXT_OR_NONE, (list, type(None))),
)
_EARLIER = (_WHOLE, _WHOLE, _WHOLE)

_MALFORMED = (ValueError, KeyError, OverflowError, TypeError, struct.error, sqlite3.DatabaseError)


class MalformedSpool(Exception):
    """A file is not a spool that this program can read. Its text is the reason."""


class Place(NamedTuple):
    """A record.

    :ivar seq: number of the event.
    :ivar kind: see `natproxy.journal.spool_format`.
    :ivar at: where it begins.
    :ivar stop: where it ends.
    """

    seq: int
    kind: int
    at: int
    stop: int


class Events(NamedTuple):
    """The events that no segment has.

    :ivar rows: in the order of their numbers, without a gap.
    :ivar complete: whether these are all.
    """

    rows: list[Row]
    complete: bool


class Spooled:
    """The content of a spool.

    :param data: all bytes of the file.
    :raises MalformedSpool: see there.
    :ivar description: whose it is.
    :ivar places: of its records.
    """

    def __init__(self, data: bytes) -> None:
        try:
            magic, version, complete, _, length = PREFIX.unpack_from(data)
            if magic != MAGIC:
                raise MalformedSpool("it is not a spool")
            if version != VERSION:
                raise MalformedSpool(f"it has version {version}, and this program reads {VERSION}")
            self.description = Description.parse(data[PREFIX.size : PREFIX.size + length])
        except _MALFORMED as error:
            raise MalformedSpool(f"its header is malformed: {error}") from None
        size = self.description.region
        if len(data) != HEADER + 2 * size:
            raise MalformedSpool(f"it has {len(data)} bytes in place of {HEADER + 2 * size}")
        self._data = data
        self._complete = complete == 1
        self.places = sorted(
            place for start in (HEADER, HEADER + size) for place in _places(data, start, size)
        )
        self._texts = CommandTexts(self.description.every_name, LONG_NAME)

    def events(self, last: int, known: Mapping[int, Row]) -> Events:
        """Return the events after the last one that a segment has.

        :param last: its number.
        :param known: the registrations of the translations that are open in the segment.
        """
        firsts = dict(known)
        rows: list[Row] = []
        newest: Place | None = None
        for place in self.places:
            expected = last + len(rows) + 1
            if place.seq < expected:
                continue
            if place.seq > expected:
                return Events(rows, False)
            try:
                rows.append(self._row(place, firsts))
            except _MALFORMED:
                return Events(rows, False)
            newest = place
        following = last + len(rows) + 1
        beyond = self._find(following) or self._find(following + 1)
        if newest is not None and beyond is not None and newest.at < beyond.at < newest.stop:
            # The size of the last one is damaged: it would include what follows.
            rows.pop()
        return Events(rows, self._complete and beyond is None)

    def _find(self, seq: int) -> Place | None:
        """Return the record of an event, also if it follows one that is damaged."""
        number = _NUMBER.pack(seq)
        found = self._data.find(number, HEADER)
        while found >= 0:
            for kind, fixed in RECORDS.items():
                place = _place(self._data, found + _NUMBER.size - fixed.size, len(self._data))
                if place is not None and place.kind == kind:
                    return place
            found = self._data.find(number, found + 1)
        return None

    def _row(self, place: Place, firsts: dict[int, Row]) -> Row:
        """Return the row of a record.

        :param firsts: the registrations of translations that are open; changed by it.
        """
        if place.kind in (REGISTERED, NAMED):
            row = self._registration(place)
            assert row[2] is not None
            firsts[row[2]] = row
            return row
        if place.kind == OTHER:
            row = self._other(place)
            if row[1] == "registered" and row[2] is not None:
                firsts[row[2]] = row
            return row
        outcome: str | None = None
        reason: str | None = None
        sent = 0
        if place.kind == RELAYING:
            _, _, serial, wall, promised, duration, _ = RELAY.unpack_from(self._data, place.at)
            event = "relaying"
        else:
            _, _, serial, wall, promised, sent, duration, text, has_reason, _ = REMOVAL.unpack_from(
                self._data, place.at
            )
            event, outcome = "removed", text.rstrip(b"\0").decode("ascii") or None
            if has_reason:
                reason = _decoded(self._data[place.at + REMOVAL.size : place.stop])
        first = firsts[serial] if event == "relaying" else firsts.pop(serial)
        return (
            place.seq,
            event,
            serial,
            _micros(wall),
            first[STARTED],
            first[ROUTE],
            None if promised < 0 else promised,
            sent,
            outcome,
            reason,
            duration,
            None,
            None,
        )

    def _registration(self, place: Place) -> Row:
        _, _, serial, wall, duration, port, nat_port, upstream_port, length, seq = (
            REGISTRATION.unpack_from(self._data, place.at)
        )
        start = place.at + REGISTRATION.size
        rest = start + length
        if rest > place.stop:
            raise ValueError("a text is too long")
        client, nat, upstream, identity, *numbers = _decoded(self._data[start:rest]).split("\0")
        earlier = None
        if numbers:
            attempted, attempts, sent = map(int, " ".join(numbers).split(" "))
            earlier = attempted, attempts, sent
        line = self._data[rest : place.stop]
        if place.kind == NAMED:
            verb, _, name = _decoded(line).partition("\0")
        else:
            command = parse_command(line)
            if command is None:
                raise ValueError("there is no command")
            verb, name = self._texts.find(command)
        started = _micros(wall)
        route = (
            *(client, port, nat, nat_port, upstream, upstream_port),
            *(verb, name, identity or None, earlier),
        )
        return (
            *(seq, "registered", serial, started, started, route),
            *(None, 0, None, None, duration, None, None),
        )

    def _other(self, place: Place) -> Row:
        row = json.loads(self._data[place.at + ROW.size : place.stop])
        _check(row, _ROW)
        if row[0] != place.seq:
            raise ValueError("a row has another number")
        if row[ROUTE] is not None:
            route = row[ROUTE]
            _check(route, _ROUTE)
            if route[EARLIER] is not None:
                _check(route[EARLIER], _EARLIER)
                route[EARLIER] = tuple(route[EARLIER])
            row[ROUTE] = tuple(route)
        check_times(row[3])
        if row[STARTED] is not None:
            check_times(row[STARTED])
        found: Row = tuple(row)
        return found


def _places(data: bytes, at: int, size: int) -> Iterator[Place]:
    """Yield the records of a region up to one that was not finished."""
    stop, expected = at + size, None
    while (place := _place(data, at, stop)) is not None and expected in (None, place.seq):
        yield place
        at, expected = place.stop, place.seq + 1


def _place(data: bytes, at: int, end: int) -> Place | None:
    """Return the record that begins at a place; ``None`` if there is none.

    :param end: of the region.
    """
    if at < HEADER or end - at < _BEGINNING.size:
        return None
    size, kind = _BEGINNING.unpack_from(data, at)
    fixed = RECORDS.get(kind)
    if fixed is None or not fixed.size <= size <= end - at:
        return None
    (seq,) = _NUMBER.unpack_from(data, at + fixed.size - _NUMBER.size)
    return Place(seq, kind, at, at + size) if seq else None


def _micros(seconds: float) -> int:
    time = microseconds_of(seconds)
    check_times(time)
    return time


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


def _check(values: Any, expected: tuple[tuple[type, ...], ...]) -> None:
    if not isinstance(values, list) or len(values) != len(expected):
        raise ValueError("a row has other columns")
    for value, types in zip(values, expected, strict=True):
        if type(value) not in types:
            raise ValueError("a row has a value of another type")
