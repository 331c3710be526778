"""A master's resources over fakes of its workers, without a socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from natproxy.control.interfaces import Observed
from natproxy.control.json_resource import Context
from natproxy.control.merged.errors import NoReply, Refusal
from natproxy.control.merged.history import MergedRings
from natproxy.control.merged.lines import LineStream
from natproxy.control.merged.resources import merged_resources
from natproxy.control.merged.status import Tally
from natproxy.control.merged.workers import Fleet
from natproxy.control.site import control_site
from natproxy.records.record import Origin, Record, format_time
from tests.support.control_resources import WALL, HTTPClient, Response, run_turn
from tests.support.logged_errors import LoggedErrorsCase

ORIGIN = Origin("proxy-9000", 0, "master")
NOW = round(WALL * 1e6)
SILENT = "it has not replied within 2 s"


class Call(NamedTuple):
    """A request that a worker has received."""

    target: str
    members: dict[str, Any] | None
    peer: Any = None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Paused:
    """The transport of a reply.

    :ivar paused: whether nothing is to be received.
    """

    paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def loseConnection(self) -> None:
        """Do nothing: the stream has ended."""


class FakeWorker:
    """A worker as its master's client of it.

    :ivar replies: objects, bodies and lines by the paths of the resources; a function is called
        with the request.
    :ivar hangs: whether it does not reply.
    :ivar streams: the streams that are open, by path.
    """

    def __init__(self, clock: Clock, number: int, boot: str | None = None) -> None:
        self.number = number
        self.boot = boot or f"boot{number}"
        self.path = self.control = f"/run/a.w{number}.sock"
        self.clock = clock
        self.replies: dict[str, Any] = {"/healthz": {"healthy": True}}
        self.hangs = False
        self.calls: list[Call] = []
        self.streams: dict[str, LineStream] = {}

    def _reply(self, call: Call) -> Any:
        self.calls.append(call)
        if self.hangs:
            raise NoReply(SILENT)
        reply = self.replies.get(call.path)
        if reply is None:
            raise Refusal(404, "there is no such path")
        return reply(call) if callable(reply) else reply

    async def read(
        self,
        target: str,
        members: dict[str, Any] | None = None,
        peer: Any = None,
        timeout: float = 2,
    ) -> dict[str, Any]:
        found = self._reply(Call(target, members, peer))
        assert isinstance(found, dict)
        return found

    async def post(self, target: str, body: bytes, timeout: float = 2) -> bytes:
        found = self._reply(Call(target, {"lines": body.splitlines()}))
        return b"".join(json.dumps(each).encode() + b"\n" for each in found)

    async def lines(self, target: str) -> LineStream:
        call = Call(target, None)
        found = self._reply(call)
        stream = LineStream(self.clock, self.number, self.check)  # type: ignore[arg-type]
        stream.transport = Paused()  # type: ignore[assignment]
        self.streams[call.path] = stream
        for line in found:
            self.send(stream, line)
        if "follow=1" not in target:
            stream.connectionLost(Failure(ResponseDone()))
        return stream

    def send(self, stream: LineStream, line: Any) -> None:
        """Send a line of a stream."""
        stream.dataReceived(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def check(self) -> Deferred[object]:
        return fail(NoReply(SILENT)) if self.hangs else succeed(None)

    def record(self, seconds: float, serial: int = 1, **members: Any) -> dict[str, Any]:
        """Return the object of a translation that was registered at a time of the test."""
        started = NOW + round(seconds * 1e6)
        record = Record(
            proxy="proxy-9000",
            worker=self.number,
            boot=self.boot,
            seq=serial,
            serial=serial,
            started=started,
            client="10.0.0.5",
            nat_port=50_000 + serial,
            state="relaying",
        )
        return record._replace(**members).json()

    def event(self, seconds: float, seq: int, event: str = "registered") -> dict[str, Any]:
        """Return the object of an event at a time of the test."""
        time = NOW + round(seconds * 1e6)
        return self.record(seconds, seq, event=event, time=time)


class MergedCase(LoggedErrorsCase):
    """Two workers, a master's resources, and turns that are run by hand."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.workers = [FakeWorker(self.clock, 0), FakeWorker(self.clock, 1)]
        make: Callable[..., Any] = lambda _, handle: handle  # noqa: E731
        self.fleet = Fleet(self.clock, self.workers, make)
        self.unready: str | None = None
        self.observed = Observed("proxy", ORIGIN, self.own, lambda: self.unready, lambda: None)
        self.context = Context(self.observed, self.clock, self.wall)  # type: ignore[arg-type]
        self.tally = Tally(self.fleet, "natproxy", self.own)
        self.past: Any = MergedRings(self.fleet, self.wall)
        self.make_site()

    def make_site(self) -> None:
        resources = merged_resources(self.context, self.fleet, self.tally, self.past, actions=True)
        self.site = control_site(self.context, resources)

    def own(self) -> dict[str, Any]:
        return {"name": "proxy-9000", "boot": "master", "pid": 1}

    def wall(self) -> float:
        return WALL + self.clock.seconds() - 100

    def each(self, path: str, *replies: Any) -> None:
        """Set what each worker replies with."""
        for worker, reply in zip(self.workers, replies, strict=True):
            worker.replies[path] = reply

    def turns(self, number: int = 1000) -> None:
        """Run turns of the reactor, in which no time passes, until nothing is due."""
        for _ in range(number):
            if not run_turn(self.clock):
                return
        raise AssertionError("there is work left")

    def request(
        self, target: str, method: str = "GET", body: bytes = b"", headers: str = ""
    ) -> HTTPClient:
        client = HTTPClient(self.site)
        self.addCleanup(client.disconnect)
        client.send(
            f"{method} {target} HTTP/1.1\r\nHost: natproxy\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self.turns()
        return client

    def get(self, target: str, headers: str = "") -> Response:
        response = self.request(target, headers=headers).received()
        self.assertTrue(response.complete)
        return response

    def post(self, target: str, members: Any) -> Response:
        response = self.request(target, "POST", json.dumps(members).encode()).received()
        self.assertTrue(response.complete)
        return response

    def missing(self, response: Response) -> list[int]:
        """Return the workers that a reply names as missing."""
        found = json.loads(response.headers.get("natproxy-missing", "[]"))
        return [each["worker"] for each in found]


def time_text(seconds: float) -> str:
    """Return a time of the test as a record has it."""
    return format_time(NOW + round(seconds * 1e6))
