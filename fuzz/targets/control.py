"""HTTP of the control socket: queries, bodies, and requests as bytes."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher

from fuzz.oracles import is_safe
from natproxy.address import Address
from natproxy.control.interfaces import Observed
from natproxy.control.json_resource import Context
from natproxy.control.recent import RingHistory
from natproxy.control.site import control_site
from natproxy.control.table import LocalTable
from natproxy.nat import NATTable, Outcome, TranslationKey
from natproxy.nat.ring import EventRing
from natproxy.protocol import parse_command
from natproxy.records.record import Origin
from tests.support.control_resources import ORIGIN, HTTPClient, parse_response, run_turn
from tests.support.doubles import Wire

WALL = 1_700_000_000.0
TURNS = 2000

QUERIES = (
    "/v1/table",
    "/v1/events",
    "/v1/whois",
    "/v1/history",
    "/v1/status",
    "/",
)
"""What a first byte from 0 stands for: ``GET`` with the rest as its query."""

BODIES = ("/v1/kill", "/v1/drain", "/v1/reload", "/v1/whois")
"""What the following bytes stand for: ``POST`` with the rest as its body."""

STREAMED = len(QUERIES) + len(BODIES)
"""``/v1/events`` with the rest as its query, and server-sent events as the reply."""

_PLAIN = re.compile(rb"[^!-~]")
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")

WORDS = (
    *("filter=", "limit=", "since=", "until=", "after=", "boot=", "last=", "follow=1", "port="),
    *('"serial":', '"filter":', '"all":true', '"boot":', '"dry_run":true', '"port":', '"since":'),
    *("now", "-10s", "GET /v1/", "POST /v1/", " HTTP/1.1\r\n", "Content-Length: ", "\r\n\r\n"),
)


def check(data: bytes) -> None:
    """Check a request: its kind is the first byte; any other one begins the bytes themselves."""
    kind = data[0] if data else 255
    if kind > STREAMED:
        check_bytes(data)
        return
    daemon = Daemon()
    daemon.client.send(request_of(kind, data[1:]))
    daemon.run()
    sent = daemon.client.transport.value()
    response = parse_response(sent)
    assert not response.rest
    assert response.status < 500, response
    if response.status >= 400:
        assert response.complete
        assert is_safe(response.json["error"])
        assert b"Traceback" not in response.body
    elif kind == STREAMED:
        check_events(response.body)
    elif response.complete and response.headers["content-type"] == "application/json":
        assert isinstance(response.json, (dict, list))
    else:
        assert all(isinstance(line, dict) for line in response.lines)
    daemon.close()


def request_of(kind: int, rest: bytes) -> bytes:
    """Return the bytes of a request."""
    query = b"?" + _PLAIN.sub(lambda found: b"%%%02X" % found[0][0], rest)
    if kind == STREAMED:
        return b"GET /v1/events%b HTTP/1.1\r\nAccept: text/event-stream\r\n\r\n" % query
    if kind < len(QUERIES):
        return b"GET %b%b HTTP/1.1\r\nHost: a\r\n\r\n" % (QUERIES[kind].encode(), query)
    path = BODIES[kind - len(QUERIES)].encode()
    return b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (path, len(rest), rest)


def check_bytes(data: bytes) -> None:
    """Check bytes that may be several requests, or none."""
    daemon = Daemon()
    for start in range(0, len(data), 1000):
        if daemon.client.connected and not daemon.client.transport.disconnecting:
            daemon.client.send(data[start : start + 1000])
    daemon.run()
    for status in _STATUS.findall(daemon.client.transport.value()):
        assert int(status) < 500, daemon.client.transport.value()
    daemon.close()


def check_events(body: bytes) -> None:
    """Check that a browser receives whole events, each of them one JSON object."""
    assert not body or body.endswith(b"\n\n")
    for event in body.split(b"\n\n")[:-1]:
        *identifier, line = event.split(b"\n")
        assert len(identifier) < 2
        assert all(each.startswith(b"id: ") for each in identifier)
        if line != b":":
            assert isinstance(json.loads(line.removeprefix(b"data: ")), dict)


class Daemon:
    """The resources of a daemon with a few translations, and a connection to them."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._clock.advance(100)
        self._table = NATTable(self._clock.seconds, self._wall)
        self._ring = EventRing(self._table, ORIGIN, 64, wall_clock=self._wall)
        source = LocalTable(self._table, self._ring, self._clock.seconds, self._wall)
        observed = Observed(
            "proxy",
            Origin(*ORIGIN),
            lambda: {"name": "proxy-9000"},
            lambda: None,
            lambda: None,
            source,
            self._ring,
            RingHistory(self._clock, self._ring, source, self._wall),
            reload=self._reload,
        )
        self._context = Context(observed, self._clock, self._wall)
        self._failures: list[Any] = []
        globalLogPublisher.addObserver(cast(ILogObserver, self._observe))
        for port in range(4):
            self._register(50_000 + port)
        self.client = HTTPClient(control_site(self._context))

    def run(self) -> None:
        """Run turns of the reactor until there is nothing to do."""
        for _ in range(TURNS):
            if not run_turn(self._clock):
                return
        raise AssertionError("there is work left")

    def close(self) -> None:
        """Close the connection, and check that nothing of it remains."""
        self.client.disconnect()
        self.run()
        globalLogPublisher.removeObserver(cast(ILogObserver, self._observe))
        assert not self._failures, self._failures
        assert not self._ring.watchers
        assert not self._context.jobs.streams

    def _register(self, port: int) -> None:
        command = parse_command(b"GET a%20b")
        assert command is not None
        entry = self._table.register(
            TranslationKey(Address("10.0.0.1", port), Address("10.0.0.9", 9001)),
            Wire(9000, 43_210),
            Address("10.0.0.5", 43_210),
            command,
            self._clock.seconds(),
            lambda: None,
        )
        if port % 2:
            self._table.relaying(entry, 3)
            self._table.remove(entry, Outcome.COMPLETED)

    def _wall(self) -> float:
        return self._clock.seconds() + WALL - 100

    def _observe(self, event: dict[str, Any]) -> None:
        if "log_failure" in event:
            self._failures.append(event["log_failure"])

    def _reload(self, cause: str, dry_run: bool) -> Deferred[dict[str, Any]]:
        return succeed(
            {"dry_run": dry_run, "reloaded": True, "changed": [], "restart": [], "errors": []}
        )
