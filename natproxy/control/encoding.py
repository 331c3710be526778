"""Records as JSON: what `Record.json` returns, written without a dictionary and quickly.

A watcher of everything receives three records for each command, so the encoding is a part of the
cost of a command. Each event is encoded once for all watchers that are at the same place.
"""

from __future__ import annotations

from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted

from natproxy.nat.ring import EventRing
from natproxy.records.event_rows import EARLIER, ENDS, SEQ, Lost, Route, Row, total_of
from natproxy.records.packed import parse_packed
from natproxy.records.record import Origin, Record, format_time

CACHED = 512
"""Events of which the JSON is cached."""

LONGEST_CACHED = 1024
"""Bytes of the JSON of an event up to which it is cached: at most 512 KiB in all."""


def encode(record: Record) -> bytes:
    """Return the JSON object of a record, on one line, without a line feed."""
    (
        event,
        time,
        proxy,
        worker,
        boot,
        seq,
        serial,
        command,
        attempt,
        started,
        ended,
        client,
        client_port,
        identity,
        nat,
        nat_port,
        upstream,
        upstream_port,
        verb,
        name,
        promised,
        sent,
        state,
        outcome,
        reason,
        duration,
        uid,
        pid,
        files,
        others,
        total,
    ) = record
    head = "" if event is None else f'"event":{_text(event)},"time":{_time(time)},'
    tail = "" if uid is None else f',"uid":{uid},"pid":{_number(pid)}'
    if files is not None:
        tail += _several(files, others)
    tail += _total(total)
    return (
        f'{{{head}"proxy":{_text(proxy)},"worker":{worker},"boot":{_text(boot)}'
        f',"seq":{"null" if seq is None else seq},"serial":{"null" if serial is None else serial}'
        f',"command":{"null" if command is None else command}'
        f',"attempt":{"null" if attempt is None else attempt}'
        f',"started":{_time(started)},"ended":{_time(ended)}'
        f',"client":{"null" if client is None else _text(client)}'
        f',"client_port":{"null" if client_port is None else client_port}'
        f',"identity":{"null" if identity is None else quoted(identity)}'
        f',"nat":{"null" if nat is None else _text(nat)}'
        f',"nat_port":{"null" if nat_port is None else nat_port}'
        f',"upstream":{"null" if upstream is None else _text(upstream)}'
        f',"upstream_port":{"null" if upstream_port is None else upstream_port}'
        f',"verb":{"null" if verb is None else quoted(verb)}'
        f',"name":{"null" if name is None else quoted(name)}'
        f',"promised":{"null" if promised is None else promised}'
        f',"bytes":{"null" if sent is None else sent}'
        f',"state":{"null" if state is None else quoted(state)}'
        f',"outcome":{"null" if outcome is None else quoted(outcome)}'
        f',"reason":{"null" if reason is None else quoted(reason)}'
        f',"duration":{"null" if duration is None else repr(duration)}{tail}}}'
    ).encode("ascii")


def encode_lost(origin: Origin, lost: Lost) -> bytes:
    """Return the JSON object of events that a reader has lost."""
    return (
        f'{{"event":"lost","proxy":{_text(origin.proxy)},"worker":{origin.worker}'
        f',"boot":{_text(origin.boot)},"from":{lost.first},"to":{lost.last}}}'
    ).encode("ascii")


class EventLines:
    """The JSON of the events of a ring, encoded once for all watchers at its newest end.

    The caches have a fixed number of places. They fill only while there are watchers.
    """

    def __init__(self, ring: EventRing) -> None:
        self._ring = ring
        proxy, worker, boot = ring.origin
        self._origin = f'"proxy":{quoted(proxy)},"worker":{worker},"boot":{quoted(boot)}'
        self._lines: list[tuple[int, bytes] | None] = [None] * CACHED
        self._records: list[Record | None] = [None] * CACHED
        # What the events of one translation share: its start, its addresses and file, its files.
        self._shared: dict[int, tuple[str, str, str]] = {}

    def record_of(self, row: Row) -> Record:
        """Return the record of an event."""
        place = row[SEQ] % CACHED
        record = self._records[place]
        if record is None or record.seq != row[SEQ]:
            record = self._ring.record_of(row)
            if len(record.name or "") + len(record.others or "") <= LONGEST_CACHED:
                self._records[place] = record
        return record

    def line_of(self, row: Row) -> bytes:
        """Return the JSON object of an event and a line feed."""
        seq = row[SEQ]
        found = self._lines[seq % CACHED]
        if found is not None and found[0] == seq:
            return found[1]
        line = self._encoded(row)
        if len(line) <= LONGEST_CACHED:
            self._lines[seq % CACHED] = seq, line
        return line

    def _encoded(self, row: Row) -> bytes:
        seq, event, serial, time, started, route, promised, sent, outcome, reason, duration = row[
            :11
        ]
        if route is None or serial is None or started is None:
            return encode(self._ring.record_of(row)) + b"\n"
        moment = _time(time)
        shared = self._shared.get(serial)
        if shared is None:
            shared = self._share(serial, started, route)
        last = event in ENDS
        if last:
            self._shared.pop(serial, None)
        earlier, total = route[EARLIER], total_of(row)
        command, attempt = (serial, 1) if earlier is None else (earlier[0], earlier[1] + 1)
        return (
            f'{{"event":"{event}","time":{moment},{self._origin},"seq":{seq},"serial":{serial}'
            f',"command":{command},"attempt":{attempt},"started":{shared[0]}'
            f',"ended":{moment if last else "null"},{shared[1]}'
            f',"promised":{"null" if promised is None else promised},"bytes":{sent}'
            f',"state":"{event}","outcome":{"null" if outcome is None else _text(outcome)}'
            f',"reason":{"null" if reason is None else quoted(reason)}'
            f',"duration":{round(duration, 6)!r}{shared[2]}'
            f"{_total(total)}}}\n"
        ).encode("ascii")

    def _share(self, serial: int, started: int, route: Route) -> tuple[str, str, str]:
        client, client_port, nat, nat_port, upstream, upstream_port, verb, text, identity, _ = route
        name, files, others = parse_packed(text)
        shared = (
            _time(started),
            f'"client":{_text(client)},"client_port":{client_port}'
            f',"identity":{"null" if identity is None else quoted(identity)}'
            f',"nat":{"null" if nat is None else _text(nat)}'
            f',"nat_port":{_number(nat_port)}'
            f',"upstream":{"null" if upstream is None else _text(upstream)}'
            f',"upstream_port":{_number(upstream_port)}'
            f',"verb":{quoted(verb)},"name":{quoted(name)}',
            "" if files is None else _several(files, others),
        )
        if len(text) <= LONGEST_CACHED:
            if len(self._shared) >= CACHED:
                self._shared.clear()
            self._shared[serial] = shared
        return shared


def _several(files: int, others: str | None) -> str:
    return f',"files":{files},"others":{"null" if others is None else quoted(others)}'


def _total(total: int | None) -> str:
    return "" if total is None else f',"total":{total}'


def _number(number: int | None) -> str:
    return "null" if number is None else str(number)


def _time(microseconds: int | None) -> str:
    return "null" if microseconds is None else f'"{format_time(microseconds)}"'


# Hosts, states and the daemon's own name: few, and short.
@lru_cache(maxsize=256)
def _text(text: str) -> str:
    return quoted(text)
