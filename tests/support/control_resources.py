"""A daemon's resources without a socket: a table, its ring, and connections in memory."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from natproxy.address import Address
from natproxy.control.interfaces import Observed
from natproxy.control.json_resource import Context
from natproxy.control.recent import RingHistory
from natproxy.control.site import control_site
from natproxy.control.table import LocalTable
from natproxy.nat import NATEntry, NATTable, Outcome, TranslationKey
from natproxy.nat.ring import EventRing
from natproxy.protocol import parse_command
from natproxy.records.record import Origin
from tests.support.doubles import Wire
from tests.support.logged_errors import LoggedErrorsCase

ORIGIN = Origin("proxy-9000", 0, "0123abcd")
WALL = 1_700_000_000.0
UPSTREAM = Address("10.0.0.9", 9001)


def run_turn(clock: Clock) -> int:
    """Run the calls that are due, as one turn of a reactor does; return their number.

    ``Clock.advance`` would run those as well that they schedule for the next turn.
    """
    due = [call for call in clock.calls if call.getTime() <= clock.seconds()]
    for call in due:
        if call.active():
            clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
    return len(due)


class Response(NamedTuple):
    """One response of HTTP.

    :ivar rest: bytes that follow it.
    :ivar complete: whether the body has its end.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    rest: bytes
    complete: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


def parse_response(data: bytes, head: bool = False) -> Response:
    """Return the first response in what a server has sent."""
    header, found, rest = data.partition(b"\r\n\r\n")
    assert found, data
    first, *lines = header.decode("ascii").split("\r\n")
    headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}
    status = int(first.split()[1])
    if head:
        return Response(status, headers, b"", rest, True)
    if "content-length" in headers:
        length = int(headers["content-length"])
        return Response(status, headers, rest[:length], rest[length:], len(rest) >= length)
    body = b""
    while True:
        size, found, after = rest.partition(b"\r\n")
        if not found:
            return Response(status, headers, body, rest, False)
        length = int(size, 16)
        body += after[:length]
        rest = after[length + 2 :]
        if not length:
            return Response(status, headers, body, rest, True)


class HTTPClient:
    """A connection to a site, in memory.

    :ivar transport: of the server's side.
    """

    def __init__(self, site: Any) -> None:
        self.transport = StringTransport()
        self.channel = site.buildProtocol(None)
        self.transport.protocol = self.channel  # type: ignore[attr-defined]
        self.transport.abortConnection = self.disconnect  # type: ignore[method-assign]
        self.connected = True
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def disconnect(self) -> None:
        if self.connected:
            self.connected = False
            self.channel.connectionLost(Failure(ConnectionDone()))

    def pause(self) -> None:
        """Make the server's buffer full."""
        self.transport.producer.pauseProducing()

    def resume(self) -> None:
        self.transport.producer.resumeProducing()

    def received(self, head: bool = False) -> Response:
        return parse_response(self.transport.value(), head)


class ControlCase(LoggedErrorsCase):
    """A table, its ring and the site of its control socket; turns are run by hand."""

    size = 65_536
    """Events of the ring."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.offset = WALL - 100
        self.table = NATTable(self.clock.seconds, self.wall)
        self.ring = EventRing(self.table, ORIGIN, self.size, wall_clock=self.wall)
        self.source = LocalTable(self.table, self.ring, self.clock.seconds, self.wall)
        self.port = 50_000
        self.cancelled: list[int] = []
        self.drained = 0
        self.unready: str | None = None
        self.reloads: list[tuple[str, bool]] = []
        self.reloaded: dict[str, Any] = {
            "dry_run": False,
            "reloaded": True,
            "changed": [{"setting": "proxy.drain", "old": 1.0, "new": 2.0, "source": "default"}],
            "restart": [],
            "replaced": [{"daemon": "proxy", "workers": 2, "reasons": ["the code has changed"]}],
            "errors": [],
        }
        self.observed = Observed(
            "proxy",
            ORIGIN,
            lambda: {"name": "proxy-9000", "table": len(self.table)},
            lambda: self.unready,
            self.drain,
            self.source,
            self.ring,
            RingHistory(self.clock, self.ring, self.source, self.wall),
            reload=self.reload,
        )
        self.context = self.make_context()
        self.site = control_site(self.context)

    def reload(self, cause: str, dry_run: bool) -> Deferred[dict[str, Any]]:
        self.reloads.append((cause, dry_run))
        return succeed(self.reloaded)

    def make_context(self) -> Context:
        """Return the context of what `observed` is now."""
        return Context(self.observed, self.clock, self.wall)  # type: ignore[arg-type]

    def wall(self) -> float:
        return self.clock.seconds() + self.offset

    def drain(self) -> None:
        self.drained += 1

    def register(
        self,
        line: bytes = b"GET a",
        client: str = "10.0.0.5",
        port: int | None = None,
        upstream: Address = UPSTREAM,
    ) -> NATEntry:
        if port is None:
            port = self.port = self.port + 1
        command = parse_command(line)
        assert command is not None
        return self.table.register(
            TranslationKey(Address("10.0.0.1", port), upstream),
            Wire(9000, 43_210),
            Address(client, 43_210),
            command,
            self.clock.seconds(),
            lambda: self.cancelled.append(port),
        )

    def execute(self, line: bytes = b"GET a", port: int | None = None) -> None:
        """Add the three events of one translation."""
        entry = self.register(line, port=port)
        self.table.relaying(entry, 3)
        self.table.remove(entry, Outcome.COMPLETED)

    def connect(self) -> HTTPClient:
        client = HTTPClient(self.site)
        self.addCleanup(client.disconnect)
        return client

    def turns(self, number: int = 1000) -> None:
        """Run turns of the reactor, in which no time passes, until nothing is due."""
        for _ in range(number):
            if not run_turn(self.clock):
                return
        raise AssertionError("there is work left")

    def request(
        self, target: str, method: str = "GET", body: bytes = b"", headers: str = ""
    ) -> HTTPClient:
        """Send a request on a new connection, and let the daemon work."""
        client = self.connect()
        client.send(
            f"{method} {target} HTTP/1.1\r\nHost: natproxy\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self.turns()
        return client

    def get(self, target: str, headers: str = "") -> Response:
        """Return the complete response to ``GET``."""
        response = self.request(target, headers=headers).received()
        self.assertTrue(response.complete)
        return response

    def post(self, target: str, members: Any) -> Response:
        """Return the complete response to ``POST`` of a JSON object, or of bytes."""
        body = members if isinstance(members, bytes) else json.dumps(members).encode()
        response = self.request(target, "POST", body).received()
        self.assertTrue(response.complete)
        return response

    def assert_refused(self, response: Response, status: int, reason: str) -> None:
        """Assert that a response is one sentence, as JSON."""
        self.assertEqual(
            (response.status, response.headers["content-type"]), (status, "application/json")
        )
        self.assertIn(reason, response.json["error"])
        self.assertNotIn(b"Traceback", response.body)
        self.assertNotIn(b"<", response.body)
