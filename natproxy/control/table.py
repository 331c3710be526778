"""The translations of this process, as records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from natproxy.nat.entry import NATEntry
from natproxy.nat.ring import EventRing
from natproxy.nat.table import NATTable
from natproxy.nat.translation import EntryState, Outcome
from natproxy.records.event_rows import ROUTE, SEQ, STARTED
from natproxy.records.packed import parse_packed
from natproxy.records.record import Record, microseconds_of


class LocalTable:
    """The table of one process; a `natproxy.control.interfaces.TableSource`.

    :param ring: the recorder of the table, which has the wall clock's time of each registration.
    :param clock: returns seconds of the table's clock.
    :param wall_clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        table: NATTable,
        ring: EventRing,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._ring = ring
        self._clock = clock
        self._wall_clock = wall_clock

    def __len__(self) -> int:
        return len(self._table)

    def records(self) -> Iterator[Record]:
        """Return the entries of this moment, oldest first; see `TableSource`."""
        entries = iter(self._table)
        return (self._record_of(entry) for entry in entries if entry.state is not EntryState.GONE)

    def holding(self, port: int) -> tuple[Record, ...]:
        """Return the entries with a local port of the proxy, usually none or one."""
        return tuple(map(self._record_of, self._table.lookup(port)))

    def kill(self, records: list[Record], reason: str) -> list[Record]:
        """End the commands of these entries; return the records of those that existed.

        A command that has begun another attempt since its record was taken is ended as well.

        :param reason: for the events of their removal.
        """
        killed: list[Record] = []
        for record in records:
            waiting = self._table.waiting.get(record.command or 0)
            if waiting is not None:
                entry, end = waiting
                end(Outcome.KILLED, reason)
                killed.append(self._killed(entry, reason))
                continue
            for entry in self._entries_of(record):
                self._table.cancel(entry, Outcome.KILLED, reason)
                killed.append(self._killed(entry, reason))
        return killed

    def waiting(self) -> list[Record]:
        """Return the last translations of the commands that are between two attempts."""
        return [
            self._record_of(entry)._replace(
                state="removed", outcome=Outcome.RETRIED.value, reason=entry.reason
            )
            for entry, _ in self._table.waiting.values()
        ]

    def _entries_of(self, record: Record) -> list[NATEntry]:
        """Return the entry of a record, or that of a later attempt of its command."""
        found = self._table.lookup(record.nat_port or 0)
        same = [entry for entry in found if entry.serial == record.serial]
        return same or [
            entry
            for entry in self._table
            if entry.earlier is not None and entry.earlier.command == record.command
        ]

    def _killed(self, entry: NATEntry, reason: str) -> Record:
        return self._record_of(entry)._replace(
            ended=microseconds_of(self._wall_clock()),
            state="removed",
            outcome=Outcome.KILLED.value,
            reason=reason,
        )

    def _record_of(self, entry: NATEntry) -> Record:
        now = self._clock()
        first = self._ring.first_row(entry, self._wall_clock(), now)
        route = first[ROUTE]
        assert route is not None
        client, client_port, nat, nat_port, upstream, upstream_port, verb, text, identity, _ = route
        name, files, others = parse_packed(text)
        proxy, worker, boot = self._ring.origin
        # By position: with `_replace` of the row's record it takes three times as long.
        return Record(
            None,
            None,
            proxy,
            worker,
            boot,
            first[SEQ] or None,
            entry.serial,
            entry.serial if entry.earlier is None else entry.earlier.command,
            1 if entry.earlier is None else entry.earlier.attempts + 1,
            first[STARTED],
            None,
            client,
            client_port,
            identity,
            nat,
            nat_port,
            upstream,
            upstream_port,
            verb,
            name,
            entry.promised,
            entry.relayed,
            entry.state.value,
            None,
            None,
            round(now - entry.started_at, 6),
            None,
            None,
            files,
            others,
        )
