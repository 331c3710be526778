"""The resources of a daemon with workers; their paths and parameters are those of one process."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from natproxy.control.actions import DrainResource, ReloadResource
from natproxy.control.json_resource import JSON, JSON_LINES, Context, JSONResource
from natproxy.control.merged.actions import MergedKill
from natproxy.control.merged.errors import Missing
from natproxy.control.merged.events import MergedEvents
from natproxy.control.merged.history import Found, MergedJournal, Past, target_of
from natproxy.control.merged.lines import STARTED, LineStream, merge, newest, primed
from natproxy.control.merged.missing import name_missing
from natproxy.control.merged.status import Tally, reason_not_ready
from natproxy.control.merged.upstreams import MergedUpstreamModes, MergedUpstreams
from natproxy.control.merged.workers import Fleet, Worker
from natproxy.control.parameters import RequestError, interval_of
from natproxy.control.resources import (
    HealthResource,
    HistoryResource,
    MetricsResource,
    OpenAPIResource,
    ReadinessResource,
    ReconcileResource,
    StatusResource,
    TableResource,
)
from natproxy.control.stream import Body
from natproxy.control.whois import WhoisResource
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import format_time
from natproxy.records.whois import WhoisQuery, WhoisReply

RECONCILE = 5.0
"""Seconds for a comparison, which looks twice if something differs."""


class MergedStatus(StatusResource):
    """What the daemon is, and its counters: those of all workers."""

    def __init__(self, context: Context, tally: Tally) -> None:
        super().__init__(context)
        self._tally = tally

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return the members of the status."""
        return Deferred.fromCoroutine(self._tally.status())


class MergedReadiness(ReadinessResource):
    """Whether new clients should be sent to the daemon: whether a worker accepts them."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        super().__init__(context)
        self._fleet = fleet

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return that the daemon is ready.

        :raises RequestError: with 503 and the reason if it is not.
        """
        super().get(request, values)
        return Deferred.fromCoroutine(self._ready())

    async def _ready(self) -> dict[str, bool]:
        reason = await reason_not_ready(self._fleet)
        if reason is not None:
            raise RequestError(503, reason)
        return {"ready": True}


class MergedTable(TableResource):
    """The translations of all workers."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        super().__init__(context)
        self._fleet = fleet

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Stream the list, in the order of the registrations."""
        return Deferred.fromCoroutine(self._get(request, values))

    async def _get(self, request: Request, values: dict[str, Any]) -> None:
        limit = values.get("limit")
        target = target_of(self.path, filter=_text(values.get("filter")), limit=limit)
        gathered = await self._fleet.lines(lambda _: target)
        name_missing(request, gathered.missing)
        self.stream(request, primed(_listed(gathered.values, limit)), JSON)


def _listed(streams: list[LineStream], limit: int | None) -> Body:
    """Yield the elements of streams as one JSON list."""
    separator = b"[\n"
    lines = primed(merge(streams, STARTED))
    try:
        yield b"", 0
        for item in lines:
            if isinstance(item, Deferred):
                yield item
                continue
            if not item[0]:
                continue
            yield separator + item[0], item[1]
            separator = b",\n"
            if limit is not None:
                limit -= 1
                if not limit:
                    break
    finally:
        lines.close()
    yield (b"[]\n" if separator == b"[\n" else b"\n]\n"), 0


class MergedWhois(WhoisResource):
    """Searches the present and the past of ports, of all workers."""

    def __init__(self, context: Context, past: Past) -> None:
        super().__init__(context)
        self._past = past

    def search(
        self, lookups: list[WhoisQuery], request: Request | None = None
    ) -> Deferred[list[WhoisReply]]:
        """Return what lookups find; name the workers that are missing in the header."""

        def named(found: Found) -> list[WhoisReply]:
            if request is not None:
                name_missing(request, found.missing)
            return found.replies

        return self._past.search(lookups).addCallback(named)


class MergedHistory(HistoryResource):
    """The translations of the past in the journal of all workers."""

    def __init__(self, context: Context, past: MergedJournal) -> None:
        super().__init__(context)
        self._past = past

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Have the workers write what is new, then stream the records."""
        return Deferred.fromCoroutine(self._get(request, self.query_of(values)))

    async def _get(self, request: Request, query: HistoryQuery) -> None:
        missing = await self._past.flush()
        name_missing(request, missing)
        self.send_pages(request, self._past.pages(query, missing))


class RecentHistory(HistoryResource):
    """The translations of the past that the workers remember, without a journal."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        super().__init__(context)
        self._fleet = fleet

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Stream the records of all workers."""
        interval_of(values, self.context.now())
        return Deferred.fromCoroutine(self._get(request, values))

    async def _get(self, request: Request, values: dict[str, Any]) -> None:
        limit = values.get("limit")
        since, until = (
            None if (time := values.get(name)) is None else format_time(time)
            for name in ("since", "until")
        )
        target = target_of(
            self.path, filter=_text(values.get("filter")), since=since, until=until, limit=limit
        )
        gathered = await self._fleet.lines(lambda _: target)
        name_missing(request, gathered.missing)
        self.stream(request, primed(newest(gathered.values, STARTED, _line, limit)), JSON_LINES)


def _line(record: bytes) -> bytes:
    return record + b"\n"


class MergedReconcile(ReconcileResource):
    """The tables of all workers against their sockets."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        super().__init__(context)
        self._fleet = fleet

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return what differs."""
        return Deferred.fromCoroutine(self._get(request))

    async def _get(self, request: Request) -> dict[str, Any]:
        async def call(worker: Worker) -> dict[str, Any]:
            await worker.check()
            return await worker.read(self.path, timeout=RECONCILE)

        gathered = await self._fleet.gather(call)
        name_missing(request, gathered.missing)
        return merged_comparison(
            [(worker.number, found) for worker, found in gathered.results], gathered.missing
        )


def merged_comparison(
    found: list[tuple[int, dict[str, Any]]], missing: list[Missing]
) -> dict[str, Any]:
    """Return the comparison of a daemon, from those of its workers by their numbers.

    It is ``same`` only if that of every worker is.
    """
    reasons = [f"worker {number}: {each['reason']}" for number, each in found if each.get("reason")]
    reasons += [str(one) for one in missing]
    differences = sum(each.get("differences") or 0 for _, each in found)
    return {
        "result": "differs" if differences else "unknown" if reasons or not found else "same",
        "reason": "; ".join(reasons) or None,
        **{
            name: sum(each.get(name) or 0 for _, each in found)
            for name in ("rows", "sockets", "left_out")
        },
        "differences": differences,
        **{
            name: [
                {"worker": number, **one} for number, each in found for one in each.get(name) or ()
            ]
            for name in ("rows_without_socket", "sockets_without_row")
        },
        "missing": [one.json() for one in missing],
    }


class MergedMetrics(MetricsResource):
    """The metrics of all workers."""

    def __init__(self, context: Context, tally: Tally) -> None:
        super().__init__(context)
        self._tally = tally

    def render(self, request: Request) -> Any:
        """Send the metrics; see `JSONResource.render`."""
        return JSONResource.render(self, request)

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Send the metrics.

        :raises RequestError: with 404 if the library is not installed.
        """
        try:
            import prometheus_client  # noqa: F401
        except ImportError:
            return super().get(request, values)
        return Deferred.fromCoroutine(self._get(request))

    async def _get(self, request: Request) -> None:
        from natproxy.metrics.resource import encode

        families = await self._tally.families()
        headers = request.requestHeaders.getRawHeaders("accept") or []
        kind, body = encode(families, ",".join(headers))

        def whole() -> Body:
            yield body, 0

        self.stream(request, whole(), kind)


def merged_resources(
    context: Context,
    fleet: Fleet,
    tally: Tally,
    past: Past | None,
    actions: bool,
) -> list[JSONResource]:
    """Return the resources that a daemon with workers has.

    :param past: ``None`` for a file server, which has no table either.
    :param actions: whether those that change something are among them.
    """
    found: list[JSONResource] = [
        MergedStatus(context, tally),
        HealthResource(context),
        MergedReadiness(context, fleet),
        MergedMetrics(context, tally),
        OpenAPIResource(context),
    ]
    if past is not None:
        found += [
            MergedTable(context, fleet),
            MergedEvents(context, fleet),
            MergedWhois(context, past),
            MergedHistory(context, past)
            if isinstance(past, MergedJournal)
            else RecentHistory(context, fleet),
            MergedReconcile(context, fleet),
            MergedUpstreamModes(context, fleet) if actions else MergedUpstreams(context, fleet),
        ]
    if actions:
        if past is not None:
            found.append(MergedKill(context, fleet))
        found.append(DrainResource(context))
        if context.observed.reload is not None:
            found.append(ReloadResource(context))
    return found


def _text(selected: Any) -> str | None:
    """Return the text of a filter; ``None`` if there is none, or it selects everything."""
    return str(selected) if selected else None
