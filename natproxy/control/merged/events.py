"""``/v1/events`` of a daemon with workers: the events of all of them as one stream."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from natproxy.control.events import EVENT_STREAM, EventsResource
from natproxy.control.json_resource import JSON_LINES, Context, JSONResource
from natproxy.control.merged.errors import NoReply
from natproxy.control.merged.follower import Feed, Follower, Frame, place_of
from natproxy.control.merged.history import target_of
from natproxy.control.merged.lines import TIME, LineStream, State, newest, primed
from natproxy.control.merged.missing import name_missing
from natproxy.control.merged.workers import Fleet, Gathered, Worker
from natproxy.control.parameters import Place, RequestError, interval_of, read_after
from natproxy.records.record import format_time

MOST_LAST = 100_000
"""Events of the past at most that are counted back from the newest one."""


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
            self._get(request, query, values, Frame(for_browser, dict(after or {})))
        )

    async def _get(
        self, request: Request, query: dict[str, Any], values: dict[str, Any], frame: Frame
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
            body = primed(newest(gathered.values, TIME, frame.framed, last))
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
        follower = Follower(self.context, self._fleet, query, feeds, frame, begun)
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
