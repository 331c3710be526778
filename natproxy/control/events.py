"""``/v1/events``: the events of the ring, and those that come, as JSON lines or to a browser.

A watcher is a cursor on the ring. It holds no events: while the client does not read, nothing is
read from the ring, and what the ring has lost by then is reported once.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any

from twisted.web.server import Request

from natproxy.control.encoding import encode, encode_lost
from natproxy.control.interfaces import History
from natproxy.control.json_resource import JSON_LINES, Context, JSONResource
from natproxy.control.parameters import (
    Place,
    RequestError,
    interval_of,
    read_after,
    read_boot,
    read_count,
    read_filter,
    read_flag,
    read_moment,
)
from natproxy.control.recent import RingHistory
from natproxy.control.stream import Body, Piece, paged
from natproxy.control.watchers import HEARTBEAT, Watchers
from natproxy.records.event_rows import SEQ, TIME, Lost, Row
from natproxy.records.filter import Filter
from natproxy.records.queries import EventsQuery, windows
from natproxy.records.record import Origin, Record

BATCH = 16
"""Events that a watcher reads from the ring at once."""

EVENT_STREAM = "text/event-stream"

ROUNDS = 8
"""Times that a watcher returns to the journal because the ring was faster than it."""


@dataclass
class Watch:
    """What a watcher receives.

    :ivar cursor: number of the last event that it has, or does not need; ``None`` if its beginning
        is a time that the ring no longer has.
    :ivar stop: number of the first event that it does not need; ``None`` to follow.
    :ivar last: events at most, the newest ones; ``None`` for all.
    :ivar skip: selected events of the journal that are older than those.
    :ivar lost: the line about events of another run of the daemon, if it had seen one.
    :ivar for_browser: whether the lines are server-sent events.
    """

    filter: Filter | None
    since: int | None
    until: int | None
    cursor: int | None
    stop: int | None
    last: int | None
    lost: bytes | None
    for_browser: bool
    skip: int = 0

    def in_time(self, time: int) -> bool:
        """Return whether a time is in the interval."""
        return (self.since is None or time >= self.since) and (
            self.until is None or time < self.until
        )


class EventsResource(JSONResource):
    """Streams events."""

    path = "/v1/events"
    summary = "events: JSON lines, or server-sent events if the client accepts these"
    parameters = {
        "GET": {
            "after": read_after,
            "boot": read_boot,
            "last": read_count,
            "since": read_moment,
            "until": read_moment,
            "filter": read_filter,
            "follow": read_flag,
        }
    }

    def __init__(self, context: Context, watchers: Watchers) -> None:
        super().__init__(context)
        self._ring = watchers.ring
        self._watchers = watchers

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Stream the events.

        :raises RequestError: with 400 if the parameters exclude each other.
        """
        accepted = request.getHeader("accept") or ""
        for_browser = EVENT_STREAM in accepted
        if for_browser and "after" not in values:
            # What a browser sends when it connects again.
            try:
                values["after"] = read_after(request.getHeader("last-event-id") or "", 0)
            except ValueError:
                values.pop("after", None)
        watch = self._watch(values, for_browser)
        kind = EVENT_STREAM if for_browser else JSON_LINES
        # A watcher may be idle, or paused, for as long as it likes.
        self.stream(request, self._counted(watch), kind, stalled=None, at_once=True)

    def _watch(self, values: dict[str, Any], for_browser: bool) -> Watch:
        since, until = interval_of(values, self.context.now())
        follow, after, last = (values.get(name) for name in ("follow", "after", "last"))
        if after is not None and last is not None:
            raise RequestError(400, "after and last exclude each other")
        if follow and until is not None:
            raise RequestError(400, "follow and until exclude each other")
        ring = self._ring
        lost = None
        cursor: int | None = ring.first - 1
        if after is not None:
            cursor, lost = self._resume(after, values.get("boot"))
        elif since is not None:
            if since < ring.complete_from:
                cursor = None
        elif last is None and follow:
            cursor = ring.next - 1
        return Watch(
            values.get("filter") or None,
            since,
            until,
            cursor,
            None if follow else ring.next,
            last,
            lost,
            for_browser,
        )

    def _resume(self, after: dict[int, Place], boot: str | None) -> tuple[int, bytes | None]:
        """Return the cursor of a watcher that comes back, and what it has lost for good."""
        origin = self._ring.origin
        if origin.worker not in after:
            worker = min(after)
            raise RequestError(400, f"after: there is no worker {worker}, only {origin.worker}")
        # The daemon may have had several workers before: the runs of others have ended.
        worker, seq, known = after[origin.worker]
        boot = known or boot
        if boot in (None, origin.boot) and seq < self._ring.next:
            return seq, None
        # Another run of the daemon: its later events cannot be counted.
        members = {
            "event": "lost",
            "proxy": origin.proxy,
            "worker": worker,
            "boot": boot if boot != origin.boot else None,
            "from": seq + 1,
            "to": None,
        }
        return 0, json.dumps(members, separators=(",", ":")).encode("ascii")

    def _counted(self, watch: Watch) -> Body:
        """Stream, and count the watcher while it is connected."""
        follows = watch.stop is None
        self._ring.watchers += follows
        try:
            yield from self._body(watch)
        finally:
            self._ring.watchers -= follows

    def _body(self, watch: Watch) -> Body:
        ring = self._ring
        if watch.lost is not None:
            yield self._framed(watch, watch.lost + b"\n", None), 1
        if watch.last is not None:
            yield from self._seek(watch, watch.last)
        yield from self._past(watch)
        cursor = watch.cursor or 0
        written_at = self.context.reactor.seconds()
        while True:
            rows, lost = ring.read(cursor, BATCH)
            if lost is not None:
                cursor = lost.last
                line = encode_lost(ring.origin, lost) + b"\n"
                yield self._framed(watch, line, cursor), 1
            if rows:
                cursor = rows[-1][SEQ]
            walked = len(rows)
            data = self._lines(watch, rows)
            # While the client does not read, the rows are not held.
            del rows
            if data:
                written_at = self.context.reactor.seconds()
            yield data, walked
            if watch.stop is not None and cursor >= watch.stop - 1:
                return
            if not walked:
                if watch.stop is not None:
                    return
                yield self._watchers.wait()
                idle = self.context.reactor.seconds() - written_at
                if watch.for_browser and idle >= HEARTBEAT and cursor == ring.next - 1:
                    # A comment: it shows a connection whose client is gone.
                    written_at += idle
                    yield b":\n\n", 0

    def _lines(self, watch: Watch, rows: list[Row]) -> bytes:
        now = self.context.now() if watch.filter is not None else 0
        return b"".join(
            [
                self._framed(watch, self._watchers.lines.line_of(row), row[SEQ])
                for row in rows
                if self._selects(watch, row, now)
            ]
        )

    def _selects(self, watch: Watch, row: Row, now: int) -> bool:
        if watch.stop is not None and row[SEQ] >= watch.stop:
            return False
        if not watch.in_time(row[TIME]):
            return False
        if watch.filter is None:
            return True
        return watch.filter.matches(self._watchers.lines.record_of(row), now)

    def _framed(self, watch: Watch, line: bytes, seq: int | None) -> bytes:
        if not watch.for_browser:
            return line
        if seq is None:
            return b"data: %b\n" % line
        origin = self._ring.origin
        return b"id: %d:%d:%b\ndata: %b\n" % (origin.worker, seq, origin.boot.encode(), line)

    def _seek(self, watch: Watch, last: int) -> Body:
        """Place the cursor so that a number of selected events follow it."""
        ring = self._ring
        found, cursor = 0, (watch.stop or ring.next) - 1
        now = self.context.now()
        while cursor >= ring.first and found < last:
            before = max(cursor - BATCH, ring.first - 1)
            rows, _ = ring.read(before, cursor - before)
            for row in reversed(rows):
                found += self._selects(watch, row, now)
                cursor = row[SEQ] - 1
                if found == last:
                    break
            if not rows:
                break
            yield b"", len(rows)
        watch.cursor = cursor
        if found < last and watch.stop is not None:
            # To follow, the whole past need not be searched first.
            yield from self._seek_past(watch, last - found)

    def _seek_past(self, watch: Watch, last: int) -> Body:
        """Make the watcher begin in the journal, so that a number of its events are selected."""
        history = self.context.observed.history
        if history is None or isinstance(history, RingHistory):
            return
        watch.cursor = None
        latest = self.context.now() + 1
        text = "" if watch.filter is None else str(watch.filter)
        for begin, end in windows(watch.since, watch.until or latest):
            found = 0
            query = EventsQuery(text, begin, end, None, self._ring.first, self._ring.origin.boot)
            with contextlib.closing(history.events(query)) as pages:
                for page in pages:
                    records: list[Any] = []
                    yield page.addCallback(records.append)
                    if not records or not records[0]:
                        break
                    found += sum(record.event != "lost" for record in records[0])
                    yield b"", len(records[0])
            watch.since, last = begin, last - found
            if last <= 0:
                watch.skip = -last
                return

    def _past(self, watch: Watch) -> Body:
        """Stream what the ring no longer has, as far as a journal has it."""
        history = self.context.observed.history
        if history is None or isinstance(history, RingHistory):
            return
        for _ in range(ROUNDS):
            first = self._ring.first
            if watch.cursor is not None and watch.cursor + 1 >= first:
                return
            yield from self._round(watch, history, first)
            # The journal has reported its gaps, as far as they are known.
            watch.cursor = first - 1

    def _round(self, watch: Watch, history: History, first: int) -> Body:
        """Stream what a journal has of the events before one."""
        text = "" if watch.filter is None else str(watch.filter)
        boot, seen = self._ring.origin.boot, watch.cursor or 0
        query = EventsQuery(text, watch.since, watch.until, watch.cursor, first, boot)
        known = boot

        def piece_of(record: Record) -> Piece:
            nonlocal known, seen
            number = record.seq or 0
            if record.boot != known:
                known, seen = record.boot, 0
            if watch.skip:
                watch.skip -= record.event != "lost"
                seen = number
                return b"", 1
            if record.event == "lost":
                # Behind a filter, more events than these may be between the two.
                origin = Origin(record.proxy, record.worker, record.boot)
                line = encode_lost(origin, Lost(min(seen + 1, number), number))
            else:
                line = encode(record)
            seen = number
            return self._framed(watch, line + b"\n", number if known == boot else None), 1

        return paged(history.events(query), piece_of)
