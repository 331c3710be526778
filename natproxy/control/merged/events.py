"""``/v1/events`` of a daemon with workers: the events of all of them as one stream.

The events of each worker are in their order, and those of several nearly in the order of their
times: a worker that is slower than the others is waited for only for `PATIENCE`.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from natproxy.control.events import EVENT_STREAM, EventsResource
from natproxy.control.json_resource import JSON_LINES, Context, JSONResource
from natproxy.control.merged.errors import Missing, NoReply
from natproxy.control.merged.history import target_of
from natproxy.control.merged.lines import TIME, LineStream, State, merge, primed
from natproxy.control.merged.missing import name_missing
from natproxy.control.merged.workers import Fleet, Gathered, Worker
from natproxy.control.parameters import Place, RequestError, interval_of, read_after
from natproxy.control.stream import Body
from natproxy.control.watchers import HEARTBEAT
from natproxy.records.record import format_time

PATIENCE = 0.1
"""Seconds that the event of one worker waits for earlier ones of others."""

RETRY = 1.0
"""Seconds between two attempts to reach a worker that does not reply."""

MOST_LAST = 100_000
"""Events of the past at most that are counted back from the newest one."""


@dataclass
class Feed:
    """The events of one worker, whose process may be replaced.

    :ivar worker: its client.
    :ivar query: what is requested; without ``after``.
    :ivar place: the last event that was sent; ``None`` if there is none.
    :ivar stream: ``None`` while it is not connected.
    :ivar connecting: whether that is under way.
    :ivar due: when it is tried again, in seconds of the reactor's clock.
    :ivar missing: whether it was reported that the worker does not reply.
    :ivar notices: lines of the master about the worker, which have not been sent yet.
    """

    worker: Worker
    query: dict[str, Any]
    place: Place | None = None
    stream: LineStream | None = None
    connecting: bool = False
    due: float = 0.0
    missing: bool = False
    notices: deque[bytes] = field(default_factory=deque)


class MergedEvents(JSONResource):
    """Streams the events of all workers."""

    path = EventsResource.path
    summary = EventsResource.summary
    parameters = EventsResource.parameters

    def __init__(self, context: Context, fleet: Fleet) -> None:
        super().__init__(context)
        self._fleet = fleet

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Stream the events.

        :raises RequestError: with 400 if the parameters exclude each other.
        """
        for_browser = EVENT_STREAM in (request.getHeader("accept") or "")
        if for_browser and "after" not in values:
            # What a browser sends when it connects again.
            try:
                values["after"] = read_after(request.getHeader("last-event-id") or "", 0)
            except ValueError:
                values.pop("after", None)
        since, until = interval_of(values, self.context.now())
        follow, after, last = (values.get(name) for name in ("follow", "after", "last"))
        if after is not None and last is not None:
            raise RequestError(400, "after and last exclude each other")
        if follow and until is not None:
            raise RequestError(400, "follow and until exclude each other")
        if last is not None and last > MOST_LAST:
            raise RequestError(400, f"last: at most {MOST_LAST} of several workers")
        selected = values.get("filter")
        query = {
            "filter": str(selected) if selected else None,
            "since": None if since is None else format_time(since),
            "until": None if until is None else format_time(until),
        }
        return Deferred.fromCoroutine(
            self._get(request, query, values, _Frame(for_browser, dict(after or {})))
        )

    async def _get(
        self, request: Request, query: dict[str, Any], values: dict[str, Any], frame: _Frame
    ) -> None:
        after: dict[int, Place] = values.get("after") or {}
        boot, last, follow = (values.get(name) for name in ("boot", "last", "follow"))
        if boot is not None:
            after = {n: place._replace(boot=place.boot or boot) for n, place in after.items()}

        def beginning(worker: Worker) -> str | None:
            place = after.get(worker.number)
            return None if place is None else str(place)

        kind = EVENT_STREAM if frame.for_browser else JSON_LINES
        if not follow:
            gathered = await self._fleet.lines(
                lambda worker: target_of(self.path, **query, after=beginning(worker), last=last)
            )
            name_missing(request, gathered.missing)
            body = primed(_past(gathered.values, frame, last))
            self.stream(request, body, kind, stalled=None)
            return
        feeds: dict[str, Feed] = {}
        past: list[bytes] = []
        if last is not None:
            past = await self._last(query, last, feeds)
        else:
            for worker in self._fleet:
                feeds[worker.path] = Feed(worker, query, after.get(worker.number))
        # What a worker has while it is not reached for the first time is not left out.
        begun = format_time(self.context.now())
        follower = Follower(self, self._fleet, query, feeds, frame, begun)
        self.stream(request, follower.body(past), kind, stalled=None, at_once=True)

    async def _last(self, query: dict[str, Any], last: int, feeds: dict[str, Feed]) -> list[bytes]:
        """Return the newest events of all workers, and make the feeds that continue after them."""

        async def call(worker: Worker) -> tuple[Place, list[bytes]]:
            status = await worker.read("/v1/status")
            ring = status.get("ring") or {}
            place = Place(worker.number, int(ring.get("next", 1)) - 1, str(status.get("boot")))
            stream = await worker.lines(target_of(self.path, **query, last=last))
            lines = [line async for line in _all(stream)]
            for line in lines:
                found = place_of(line)
                if found is not None and found.boot == place.boot and found.seq > place.seq:
                    place = found
            return place, lines

        gathered: Gathered[tuple[Place, list[bytes]]] = await self._fleet.gather(call)
        for worker in self._fleet:
            feeds[worker.path] = Feed(worker, query)
        for worker, (place, _) in gathered.results:
            if worker.path in feeds:
                feeds[worker.path].place = place
        lines = [line for _, lines in gathered.values for line in lines]
        return sorted(lines, key=TIME)[-last:]


async def _all(stream: LineStream) -> Any:
    """Yield the lines of a stream to its end.

    :raises NoReply: if it fails.
    """
    try:
        while True:
            await stream.wait()
            while stream.lines:
                yield stream.take()
            if stream.state is State.FAILED:
                raise NoReply(stream.reason)
            if stream.state is State.ENDED:
                return
    finally:
        stream.close()


_PLACE = re.compile(rb'"worker":(\d+),"boot":"([^"]+)",(?:"from":\d+,"to"|"seq"):(\d+)')


def place_of(line: bytes) -> Place | None:
    """Return the place of an event, or of the last one that was lost; ``None`` if it has none."""
    # The members before these contain nothing that could be mistaken for them.
    match = _PLACE.search(line)
    return None if match is None else Place(int(match[1]), int(match[3]), match[2].decode("ascii"))


class _Frame:
    """How the lines are sent: as they are, or as server-sent events.

    :param for_browser: whether they are server-sent events.
    :param places: of the last event of each worker; what a browser sends when it connects again.
    """

    def __init__(self, for_browser: bool, places: dict[int, Place]) -> None:
        self.for_browser = for_browser
        self._places = places

    def framed(self, line: bytes) -> bytes:
        """Return what is sent of a line."""
        if not self.for_browser:
            return line + b"\n"
        place = place_of(line)
        if place is None:
            return b"data: %b\n\n" % line
        self._places[place.worker] = place
        identifier = ",".join(map(str, self._places.values())).encode("ascii")
        return b"id: %b\ndata: %b\n\n" % (identifier, line)


def _past(streams: list[LineStream], frame: _Frame, last: int | None) -> Body:
    """Yield the events of streams that end; the last ones of them if they are limited."""
    newest: deque[bytes] | None = None if last is None else deque(maxlen=last)
    lines = primed(merge(streams, TIME))
    try:
        yield b"", 0
        for item in lines:
            if isinstance(item, Deferred):
                yield item
            elif not item[0]:
                continue
            elif newest is None:
                yield frame.framed(item[0]), item[1]
            else:
                newest.append(item[0])
                yield b"", item[1]
    finally:
        lines.close()
    for line in newest or ():
        yield frame.framed(line), 1


class Follower:
    """One client that follows the events of all workers.

    A worker that does not reply is reported with one event ``missing``; when it does again, its
    events continue where they were interrupted, and what it no longer has is reported as lost.

    :param resource: of the events.
    :param fleet: the workers.
    :param query: what the client has selected.
    :param feeds: of the workers that there are, by the paths of their control sockets.
    :param frame: how lines are sent.
    :param begun: when the client began, as text.
    """

    _log = Logger()

    def __init__(
        self,
        resource: MergedEvents,
        fleet: Fleet,
        query: dict[str, Any],
        feeds: dict[str, Feed],
        frame: _Frame,
        begun: str,
    ) -> None:
        self._context = resource.context
        self._path = resource.path
        self._fleet = fleet
        self._clock = fleet.reactor
        self._query = query
        self._feeds = feeds
        self._frame = frame
        self._begun = begun
        self._first = True
        self._attend_at = 0.0
        self._wake: Deferred[object] | None = None
        self._ended = False

    def body(self, past: list[bytes]) -> Body:
        """Yield the events, those of the past first, for as long as the client is there."""
        for line in past:
            yield self._frame.framed(line), 1
        written_at = self._clock.seconds()
        oldest: float | None = None
        try:
            while True:
                self._attend()
                ready = [feed for feed in self._feeds.values() if feed.stream and feed.stream.lines]
                notices = list(self._notices())
                if notices:
                    yield b"".join(map(self._frame.framed, notices)), len(notices)
                    written_at = self._clock.seconds()
                now = self._clock.seconds()
                if ready and oldest is None:
                    oldest = now
                silent = any(
                    feed.connecting or (feed.stream is not None and not feed.stream.lines)
                    for feed in self._feeds.values()
                )
                if ready and not (silent and oldest is not None and now < oldest + PATIENCE):
                    feed = min(ready, key=_first_time)
                    yield self._frame.framed(self._take(feed)), 1
                    written_at, oldest = now, now if len(ready) > 1 else None
                    continue
                if self._frame.for_browser and now - written_at >= HEARTBEAT:
                    # A comment: it shows a connection whose client is gone.
                    written_at = now
                    yield b":\n\n", 0
                yield self._wait(PATIENCE if ready else RETRY)
        finally:
            self._ended = True
            for feed in self._feeds.values():
                if feed.stream is not None:
                    feed.stream.close()

    def _take(self, feed: Feed) -> bytes:
        assert feed.stream is not None
        line = feed.stream.take()
        place = place_of(line)
        if place is not None:
            feed.place = place
        return line

    def _notices(self) -> Iterator[bytes]:
        for feed in self._feeds.values():
            while feed.notices:
                yield feed.notices.popleft()

    def _attend(self) -> None:
        """Connect to the workers that are not connected, those that have come as well."""
        now = self._clock.seconds()
        if now < self._attend_at and not any(map(_has_ended, self._feeds.values())):
            return
        self._attend_at = now + RETRY
        present: set[str] = set()
        for worker in self._fleet:
            present.add(worker.path)
            feed = self._feeds.get(worker.path)
            if feed is None:
                # All events of a new process are new.
                feed = self._feeds[worker.path] = Feed(worker, self._query, Place(worker.number, 0))
            stream = feed.stream
            if stream is not None and _has_ended(feed):
                feed.stream = None
                if stream.state is State.FAILED:
                    self._report(feed, stream.reason)
                feed.due = now
            if feed.stream is None and not feed.connecting and now >= feed.due:
                self._connect(feed)
        for path in self._feeds.keys() - present:
            if self._feeds[path].stream is None or _has_ended(self._feeds[path]):
                del self._feeds[path]
        self._first = False

    def _connect(self, feed: Feed) -> None:
        feed.connecting = True
        query = dict(feed.query)
        if feed.place is not None:
            query["after"] = str(feed.place)
        elif not self._first and query["since"] is None:
            query["since"] = self._begun
        target = target_of(self._path, **query, follow=1)
        Deferred.fromCoroutine(feed.worker.lines(target)).addCallbacks(
            lambda stream: self._connected(feed, stream), lambda why: self._failed(feed, why)
        )

    def _connected(self, feed: Feed, stream: LineStream) -> None:
        feed.connecting = False
        if self._ended:
            stream.close()
            return
        feed.stream = stream
        feed.missing = False
        self._fire()

    def _failed(self, feed: Feed, failure: Failure) -> None:
        feed.connecting = False
        if failure.check(NoReply) is None:
            self._log.failure("cannot read the events of a worker", failure)
        feed.due = self._clock.seconds() + RETRY
        self._report(feed, failure.getErrorMessage())
        self._fire()

    def _report(self, feed: Feed, reason: str) -> None:
        """Report once that a worker does not reply."""
        if not feed.missing:
            feed.missing = True
            members = {
                "event": "missing",
                "time": format_time(self._context.now()),
                "proxy": self._context.observed.origin.proxy,
                **Missing(feed.worker.number, reason).json(),
            }
            feed.notices.append(json.dumps(members, separators=(",", ":")).encode("ascii"))

    def _wait(self, seconds: float) -> Deferred[object]:
        """Wait for an event, or for some time."""
        wake: Deferred[object] = Deferred()
        self._wake = wake
        timer = self._clock.callLater(seconds, self._fire)
        waits = [
            feed.stream.wait()
            for feed in self._feeds.values()
            if feed.stream is not None and not feed.stream.lines and feed.stream.state is State.OPEN
        ]
        for each in waits:
            each.addCallbacks(lambda _: self._fire(), lambda _: None)

        def ended(result: object) -> object:
            self._wake = None
            if timer.active():
                timer.cancel()
            for each in waits:
                each.cancel()
            return result

        return wake.addBoth(ended)

    def _fire(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.called:
            wake.callback(None)


def _has_ended(feed: Feed) -> bool:
    """Return whether the stream of a worker has ended, and all of it has been used."""
    stream = feed.stream
    return stream is not None and stream.state is not State.OPEN and not stream.lines


def _first_time(feed: Feed) -> bytes:
    assert feed.stream is not None
    return TIME(feed.stream.lines[0])
