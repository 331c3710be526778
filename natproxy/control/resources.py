"""The resources of a daemon, for the control socket and, without actions, for the web endpoint."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.web.resource import Resource
from twisted.web.server import Request

from natproxy.control.actions import DrainResource, KillResource, NoteResource, ReloadResource
from natproxy.control.encoding import encode
from natproxy.control.events import EventsResource
from natproxy.control.interfaces import Pages
from natproxy.control.json_resource import (
    JSON,
    JSON_LINES,
    Context,
    JSONResource,
    UnknownResource,
    listed,
    object_of,
)
from natproxy.control.parameters import (
    RequestError,
    interval_of,
    parse_members,
    read_count,
    read_filter,
    read_moment,
)
from natproxy.control.stream import Body, Piece, paged
from natproxy.control.upstreams import UpstreamModesResource, UpstreamsResource
from natproxy.control.whois import WhoisResource
from natproxy.extras import missing
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import Record, format_time

INDEX = "/v1/"


class IndexResource(JSONResource):
    """The list of paths."""

    path = INDEX
    summary = "this list"

    def __init__(self, context: Context, resources: list[JSONResource]) -> None:
        super().__init__(context)
        self._resources = resources

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return the paths with their methods and parameters."""
        return {"daemon": self.context.observed.origin.proxy, "paths": [*listed(self._resources)]}


class StatusResource(JSONResource):
    """What the daemon is, and its counters."""

    path = "/v1/status"
    summary = "the daemon, its counters, its ring and its journal"

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return the members of the status."""
        return self.context.observed.status()


class HealthResource(JSONResource):
    """Replies as long as the reactor runs."""

    path = "/healthz"
    summary = "200 as long as the daemon replies at all"

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return that the daemon replies."""
        return {"healthy": True}


class ReadinessResource(JSONResource):
    """Whether new clients should be sent to the daemon."""

    path = "/readyz"
    summary = "200 if the daemon accepts clients, else 503"

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return that the daemon is ready.

        :raises RequestError: with 503 and the reason if it is not.
        """
        reason = self.context.observed.ready()
        if reason is not None:
            raise RequestError(503, reason)
        return {"ready": True}


class MetricsResource(JSONResource):
    """The metrics in Prometheus's format."""

    path = "/metrics"
    summary = "counters in the text format of Prometheus"

    def render(self, request: Request) -> Any:
        """Send the metrics.

        :raises RequestError: with 404 if the library is not installed.
        """
        metrics = self.context.observed.metrics
        if metrics is not None and request.method in (b"GET", b"HEAD"):
            return metrics.render(request)
        return super().render(request)

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Refuse: the library is not installed."""
        raise RequestError(404, missing(self.path, "prometheus_client", "metrics"))


class OpenAPIResource(JSONResource):
    """The description of the paths for programs."""

    path = "/v1/openapi.json"
    summary = "the description of all paths as OpenAPI 3.1"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # Now, since the daemon may not be able to read it after it has changed its user.
        self._text = files("natproxy.control").joinpath("openapi.json").read_bytes()

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Send the document as it is in its file."""

        def body() -> Body:
            yield self._text, 0

        self.stream(request, body(), JSON)


class TableResource(JSONResource):
    """The translations that exist now."""

    path = "/v1/table"
    summary = "the translations that exist now, oldest first: a JSON list"
    parameters = {"GET": {"filter": read_filter, "limit": read_count}}

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Stream the list."""
        self.stream(request, self._body(values.get("filter"), values.get("limit")), JSON)

    def _body(self, selected: Any, limit: int | None) -> Body:
        table = self.context.observed.table
        assert table is not None
        separator = b"[\n"
        now = self.context.now()
        for record in table.records():
            if selected and not selected.matches(record, now):
                yield b"", 1
                continue
            yield separator + encode(record), 1
            separator = b",\n"
            if limit is not None:
                limit -= 1
                if not limit:
                    break
        yield (b"[]\n" if separator == b"[\n" else b"\n]\n"), 0


class HistoryResource(JSONResource):
    """The translations of the past."""

    path = "/v1/history"
    summary = "the translations of the past, oldest first: JSON lines"
    parameters = {
        "GET": {
            "filter": read_filter,
            "since": read_moment,
            "until": read_moment,
            "limit": read_count,
        }
    }

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Stream the records, a page of the search after the other."""
        history = self.context.observed.history
        assert history is not None
        self.send_pages(request, history.pages(self.query_of(values)))

    def query_of(self, values: dict[str, Any]) -> HistoryQuery:
        """Return what the values of the parameters select.

        :raises RequestError: with 400 if they exclude each other.
        """
        since, until = interval_of(values, self.context.now())
        selected = values.get("filter")
        return HistoryQuery(str(selected) if selected else "", since, until, values.get("limit"))

    def send_pages(self, request: Request, pages: Pages) -> None:
        """Stream the records of pages."""
        self.stream(request, paged(pages, _line), JSON_LINES)


def _line(record: Record) -> Piece:
    return encode(record) + b"\n", 1


class ReconcileResource(JSONResource):
    """The table against the process's own sockets."""

    path = "/v1/reconcile"
    summary = "the table compared with the sockets of the process"

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return what differs."""
        reconcile = self.context.observed.reconcile
        assert reconcile is not None
        return maybeDeferred(reconcile)


class FlushResource(JSONResource):
    """Writes the journal of a worker."""

    path = "/v1/flush"
    summary = "of a worker, for its master: write the journal now"
    parameters = {"POST": {}}

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """Write what is new, and return until when the journal is complete."""
        parse_members(object_of(request), self.members, self.context.now())
        flush = self.context.observed.flush
        assert flush is not None
        return flush().addCallback(lambda moment: {"complete_to": format_time(moment)})


class FamiliesResource(JSONResource):
    """What a worker has counted."""

    path = "/v1/families"
    summary = "of a worker, for its master: what it has counted"

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return the families of its metrics, and its counters."""
        counted = self.context.observed.counted
        assert counted is not None
        return counted()


def resources_of(context: Context, actions: bool) -> list[JSONResource]:
    """Return the resources that a daemon has.

    :param actions: whether those that change something are among them.
    """
    observed = context.observed
    found: list[JSONResource] = [
        StatusResource(context),
        HealthResource(context),
        ReadinessResource(context),
        MetricsResource(context),
        OpenAPIResource(context),
    ]
    if observed.table is not None:
        found.append(TableResource(context))
    if context.watchers is not None:
        found.append(EventsResource(context, context.watchers))
    if observed.history is not None:
        found += [WhoisResource(context), HistoryResource(context)]
    if observed.reconcile is not None:
        found.append(ReconcileResource(context))
    if observed.upstreams is not None:
        found.append(UpstreamModesResource(context) if actions else UpstreamsResource(context))
    if actions:
        if observed.table is not None and observed.ring is not None:
            found.append(KillResource(context))
        found.append(DrainResource(context))
        if observed.reload is not None:
            found.append(ReloadResource(context))
        if observed.flush is not None:
            found.append(FlushResource(context))
        if observed.counted is not None:
            found.append(FamiliesResource(context))
            if observed.ring is not None:
                found.append(NoteResource(context))
    return found


def tree_of(resources: list[JSONResource], context: Context) -> Resource:
    """Return the root of resources by their paths, with the list of paths at ``/`` and ``/v1/``."""
    index = IndexResource(context, resources)
    resources = [*resources, index]
    unknown = UnknownResource(context, INDEX)
    root = _Directory(index, unknown)
    version = _Directory(index, unknown)
    root.putChild(b"v1", version)
    for resource in resources:
        *directory, name = resource.path.strip("/").split("/")
        if resource is not index:
            (version if directory else root).putChild(name.encode("ascii"), resource)
    return root


class _Directory(Resource):
    """A part of a path: its index, its children, and 404 for the rest."""

    def __init__(self, index: Resource, unknown: Resource) -> None:
        super().__init__()
        self._unknown = unknown
        self.putChild(b"", index)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return the resource of an unknown path."""
        return self._unknown

    def render(self, request: Request) -> Any:
        """Reply to the path without its last slash as to the path with it."""
        return self.children[b""].render(request)
