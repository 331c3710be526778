"""The events of all workers for one client that follows them.

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

from natproxy.control.events import EventsResource
from natproxy.control.json_resource import Context
from natproxy.control.merged.errors import Missing, NoReply
from natproxy.control.merged.history import target_of
from natproxy.control.merged.lines import TIME, LineStream, State
from natproxy.control.merged.workers import Fleet, Worker
from natproxy.control.parameters import Place
from natproxy.control.stream import Body
from natproxy.control.watchers import HEARTBEAT
from natproxy.records.record import format_time

PATIENCE = 0.1
"""Seconds that the event of one worker waits for earlier ones of others."""

RETRY = 1.0
"""Seconds between two attempts to reach a worker that does not reply."""


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


_PLACE = re.compile(rb'"worker":(\d+),"boot":"([^"]+)",(?:"from":\d+,"to"|"seq"):(\d+)')


def place_of(line: bytes) -> Place | None:
    """Return the place of an event, or of the last one that was lost; ``None`` if it has none."""
    # The members before these contain nothing that could be mistaken for them.
    match = _PLACE.search(line)
    return None if match is None else Place(int(match[1]), int(match[3]), match[2].decode("ascii"))


class Frame:
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


class Follower:
    """One client that follows the events of all workers.

    A worker that does not reply is reported with one event ``missing``; when it does again, its
    events continue where they were interrupted, and what it no longer has is reported as lost.

    :param context: of the daemon.
    :param fleet: the workers.
    :param query: what the client has selected.
    :param feeds: of the workers that there are, by the paths of their control sockets.
    :param frame: how lines are sent.
    :param begun: when the client began, as text.
    """

    _log = Logger()

    def __init__(
        self,
        context: Context,
        fleet: Fleet,
        query: dict[str, Any],
        feeds: dict[str, Feed],
        frame: Frame,
        begun: str,
    ) -> None:
        self._context = context
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
        target = target_of(EventsResource.path, **query, follow=1)
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
