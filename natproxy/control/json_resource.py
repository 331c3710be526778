"""`JSONResource`: a resource that checks its requests and replies in JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from natproxy.control.interfaces import Observed
from natproxy.control.jobs import JobQueue
from natproxy.control.merged.errors import NoReply
from natproxy.control.parameters import RequestError, parse_query
from natproxy.control.stream import STALLED, Body, Stream
from natproxy.control.watchers import Watchers
from natproxy.journal.directory import JournalError
from natproxy.records.record import microseconds_of
from natproxy.server.threads import WorkRefused

JSON = "application/json"
JSON_LINES = "application/x-ndjson"

MOST_OBJECT = 64 << 10
"""Bytes of a JSON object in a request."""

Readers = Mapping[str, Callable[[Any, int], Any]]
"""Parameters or members, and what reads the value of each."""


@dataclass
class Context:
    """What all resources of a daemon share, those of the control socket and of the web resource.

    :ivar reactor: schedules the turns of streams, and their time-outs.
    :ivar wall_clock: returns seconds since the epoch.
    :ivar jobs: limits the work of a turn, for all clients together.
    :ivar watchers: those of the ring; ``None`` for a file server, which has none.
    """

    observed: Observed
    reactor: IReactorTime
    wall_clock: Callable[[], float] = time.time
    jobs: JobQueue = field(init=False)
    watchers: Watchers | None = field(init=False)

    def __post_init__(self) -> None:
        ring = self.observed.ring
        self.jobs = JobQueue(self.reactor)
        self.watchers = None if ring is None else Watchers(ring, self.reactor)

    def now(self) -> int:
        """Return microseconds since the epoch."""
        return microseconds_of(self.wall_clock())


class JSONResource(Resource):
    """A resource without children.

    A subclass has a method for each HTTP method: ``get``, ``post``. It returns the object of the
    response, a Deferred that fires with it, or ``None`` if a stream sends the response; so may the
    Deferred. It raises `RequestError`, or fails with it.

    :cvar path: where it is, from the root.
    :cvar summary: one phrase, for the list of paths.
    :cvar parameters: of the query, by HTTP method; these are the methods that are allowed.
    :cvar members: of the JSON object in the body of ``POST``.
    """

    isLeaf = True
    path = ""
    summary = ""
    parameters: Mapping[str, Readers] = {"GET": {}}
    members: Readers = {}

    _log = Logger()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Reply to ``GET``."""
        raise NotImplementedError

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """Reply to ``POST``."""
        raise NotImplementedError

    def render(self, request: Request) -> Any:
        """Send the response, or begin to."""
        try:
            if any(request.postpath or ()):
                raise RequestError(404, f"there is no such path; {self.path} has none below it")
            method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
            readers = self.parameters.get(method)
            if readers is None:
                allowed = ", ".join(self.parameters)
                raise RequestError(
                    405, f"{self.path} allows {allowed} only", headers={"Allow": allowed}
                )
            query = request.uri.partition(b"?")[2]
            values = parse_query(query, readers, self.context.now())
            reply = (self.get if method == "GET" else self.post)(request, values)
        except Exception:
            self.send_error(request, Failure())
            return NOT_DONE_YET
        if isinstance(reply, Deferred):
            gone = request.notifyFinish()
            reply.addCallbacks(
                # Without members, a stream sends the response.
                lambda members: None if members is None else self.send(request, members),
                lambda failure: self.send_error(request, failure),
            )
            # A client that is gone waits for nothing; without it, the response has been sent.
            gone.addErrback(lambda _: reply.cancel())
        elif reply is not None:
            self.send(request, reply)
        return NOT_DONE_YET

    def stream(
        self,
        request: Request,
        body: Body,
        kind: str,
        stalled: float | None = STALLED,
        at_once: bool = False,
    ) -> None:
        """Begin to send a body; to ``HEAD``, only the header.

        :param kind: its media type.
        :param stalled: see `Stream`.
        :param at_once: whether the header is sent before there is anything of the body.
        """
        if _is_over(request):
            body.close()
            return
        _prepare(request, kind)
        if request.method == b"HEAD":
            body.close()
            request.finish()
            return
        if at_once:
            request.write(b"")
        Stream(
            request,
            body,
            self.context.jobs,
            self.context.reactor,
            lambda failure: self.send_error(request, failure),
            stalled,
        )

    def send(self, request: Request, members: Any, status: int = 200) -> None:
        """Send an object as JSON."""
        if _is_over(request):
            return
        body = json.dumps(members, separators=(",", ":")).encode("ascii") + b"\n"
        request.setResponseCode(status)
        _prepare(request, JSON)
        request.setHeader("Content-Length", str(len(body)))
        request.write(body)
        request.finish()

    def send_error(self, request: Request, failure: Failure) -> None:
        """Send the sentence of an error; log one that is unexpected."""
        error = failure.value
        if isinstance(error, (WorkRefused, JournalError, NoReply)):
            error = RequestError(503, str(error))
        if not isinstance(error, RequestError):
            if not _is_over(request):
                self._log.failure("cannot reply to {path}", failure, path=self.path)
            error = RequestError(500, "an unexpected error, which the daemon has logged")
        members: dict[str, Any] = {"error": str(error)}
        if error.position is not None:
            members["position"] = error.position
        if not _is_over(request):
            for name, value in error.headers.items():
                request.setHeader(name, value)
        self.send(request, members, error.status)


class UnknownResource(JSONResource):
    """The response to every path that does not exist."""

    def __init__(self, context: Context, index: str) -> None:
        super().__init__(context)
        self._index = index

    def render(self, request: Request) -> Any:
        """Send 404."""
        error = RequestError(404, f"there is no such path; {self._index} lists those that exist")
        self.send_error(request, Failure(error))
        return NOT_DONE_YET

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return itself: nothing is below it."""
        return self


def listed(resources: Iterable[JSONResource]) -> Iterator[dict[str, Any]]:
    """Yield what the list of paths has of each resource."""
    for resource in resources:
        yield {
            "path": resource.path,
            "methods": list(resource.parameters),
            "parameters": sorted({name for each in resource.parameters.values() for name in each}),
            "summary": resource.summary,
        }


def object_of(request: Request) -> bytes:
    """Return the body of a request that is one JSON object.

    :raises RequestError: with 413 if it is too long: an object is parsed in one turn.
    """
    content: Any = request.content
    body = bytes(content.read(MOST_OBJECT + 1))
    if len(body) > MOST_OBJECT:
        raise RequestError(413, f"the body exceeds {MOST_OBJECT} bytes")
    return body


def _is_over(request: Request) -> bool:
    """Return whether the client is gone, or the response complete."""
    return getattr(request, "channel", None) is None


def _prepare(request: Request, kind: str) -> None:
    request.setHeader("Content-Type", kind)
    request.setHeader("Cache-Control", "no-store")
    request.setHeader("X-Content-Type-Options", "nosniff")
