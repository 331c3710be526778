"""Samples of a proxy: its table, and what has finished since the last sample.

Most commands begin and end between two samples: the events have them. What a sample requests is
bounded, whatever the load.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from natproxy.cli.translations.columns import Rates, identity_of
from natproxy.client.control.daemon import Daemon, Event, LostEvents, MissingWorker
from natproxy.client.control.position import Position
from natproxy.records.record import Record

INTERVAL = 1.0
"""Seconds between two samples, if they take little of it."""

WINDOW = 5.0
"""Seconds over which what has finished is counted."""

MOST_ENTRIES = 10_000
MOST_EVENTS = 5000

COMPLETED = "completed"

RETRIED = "retried"
"""The outcome of an attempt of which another one follows: the command has not ended."""


class Finished(NamedTuple):
    """A command that has ended since the last sample.

    :ivar sent: bytes since that sample.
    """

    record: Record
    sent: int


@dataclass
class Sample:
    """The state of a proxy at one time.

    :ivar table: translations that exist, `MOST_ENTRIES` at most.
    :ivar status: members of ``/v1/status``.
    :ivar rates: bytes per second of each since the last sample.
    :ivar finished: what has ended since then.
    :ivar lost: events that are not in it, since there were too many.
    :ivar seconds: since the last sample; 0 for the first one.
    """

    table: list[Record]
    status: dict[str, Any]
    rates: Rates = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    lost: int = 0
    seconds: float = 0.0


class Sampler:
    """Requests samples, one after the other.

    :param clock: returns seconds since any origin.
    """

    def __init__(self, daemon: Daemon, clock: Callable[[], float] = time.monotonic) -> None:
        self._daemon = daemon
        self._clock = clock
        self._sent: dict[tuple[str, int, int | None], int] = {}
        self._at: float | None = None
        self._boot: str | None = None
        self._newest = Position()

    def restart(self) -> None:
        """Make the next sample the first one: another filter selects others."""
        self._at = None

    def sample(self, text: str) -> Sample:
        """Return a sample of what a filter selects.

        :raises ClientError: on failure.
        """
        at = self._clock()
        status = self._daemon.status()
        table = list(self._daemon.table(text, MOST_ENTRIES))
        sample = Sample(table, status)
        if self._at is not None and status.get("boot") == self._boot:
            sample.seconds = max(at - self._at, 0.001)
            self._count(sample, self._events(text) if status.get("position") else ())
        else:
            self._newest = Position(status.get("position") or "")
        self._sent = {identity_of(record): record.bytes or 0 for record in table}
        self._at, self._boot = at, status.get("boot")
        return sample

    def _events(self, text: str) -> Iterable[Event]:
        return self._daemon.events(text, after=str(self._newest))

    def _count(self, sample: Sample, events: Iterable[Event]) -> None:
        for number, event in enumerate(events):
            if number == MOST_EVENTS:
                # The rest is not read: the next sample begins with what follows it.
                newest = Position(sample.status["position"])
                sample.lost += self._newest.until(newest)
                self._newest.skip(newest)
                break
            if isinstance(event, MissingWorker):
                continue
            self._newest.advance(event)
            if isinstance(event, LostEvents):
                sample.lost += event.number
                continue
            if event.event in ("removed", "failed"):
                before = self._sent.pop(identity_of(event), 0)
                sample.finished.append(Finished(event, max(0, (event.bytes or 0) - before)))
        ended = {identity_of(each.record) for each in sample.finished}
        # What has ended after the table was read is counted once.
        sample.table = [record for record in sample.table if identity_of(record) not in ended]
        for record in sample.table:
            key = identity_of(record)
            sent = max(0, (record.bytes or 0) - self._sent.get(key, 0))
            sample.rates[key] = sent / sample.seconds


@dataclass
class Row:
    """A group of commands: those in flight, and those that have finished within the window.

    :ivar key: what they have in common.
    :ivar in_flight: number of translations.
    :ivar sent: bytes of the translations in flight, so far.
    :ivar finished: per second.
    :ivar failed: of these, per second: any other outcome than ``completed``.
    :ivar rate: bytes per second.
    """

    key: str
    in_flight: int = 0
    sent: int = 0
    finished: float = 0.0
    failed: float = 0.0
    rate: float = 0.0


class Window:
    """The last samples, summed up."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        """Add a sample; the first of a daemon discards those before it."""
        if not sample.seconds:
            self._samples.clear()
        self._samples.append(sample)
        while sum(each.seconds for each in self._samples) - self._samples[0].seconds >= WINDOW:
            self._samples.popleft()

    def clear(self) -> None:
        """Discard all samples."""
        self._samples.clear()

    def groups(self, key: Callable[[Record], str]) -> list[Row]:
        """Return the groups of what a key makes of the records, in no order."""
        rows: dict[str, Row] = {}

        def row_of(record: Record) -> Row:
            name = key(record)
            return rows.setdefault(name, Row(name))

        if not self._samples:
            return []
        last = self._samples[-1]
        for record in last.table:
            row = row_of(record)
            row.in_flight += 1
            row.sent += record.bytes or 0
        seconds = sum(each.seconds for each in self._samples)
        for sample in self._samples:
            share = sample.seconds / seconds if seconds else 0.0
            for record in sample.table:
                row_of(record).rate += share * sample.rates.get(identity_of(record), 0.0)
            for each in sample.finished:
                row = row_of(each.record)
                outcome = each.record.outcome
                row.finished += (outcome != RETRIED) / seconds
                row.failed += (outcome not in (COMPLETED, RETRIED)) / seconds
                row.rate += each.sent / seconds
        return list(rows.values())

    def rates(self) -> Rates:
        """Return the bytes per second of each translation that exists.

        One sample is too short for a slow transfer, of which bytes move at intervals. A translation
        that is younger than the samples has its rate since its start.
        """
        if not self._samples or not self._samples[-1].seconds:
            return {}
        sent: dict[tuple[str, int, int | None], float] = {}
        for sample in self._samples:
            for key, rate in sample.rates.items():
                sent[key] = sent.get(key, 0.0) + rate * sample.seconds
        seconds = sum(each.seconds for each in self._samples)
        found: Rates = {}
        for record in self._samples[-1].table:
            key = identity_of(record)
            age = seconds if record.duration is None else max(record.duration, 0.001)
            found[key] = sent.get(key, 0.0) / min(seconds, age)
        return found

    def total(self) -> Row:
        """Return the sum of all groups."""
        (total,) = self.groups(lambda record: "") or [Row("")]
        return total
