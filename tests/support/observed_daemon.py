"""Command lines against the control socket of a daemon with a table and a past of its own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from natproxy.records.filter import parse
from natproxy.records.record import Record
from natproxy.records.whois import FOUND, NOBODY, WhoisReply
from tests.support.commands import CommandCase
from tests.support.control_server import ControlServer, Request, document, lines
from tests.support.recorded_upstreams import RecordedUpstreams

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
"""2023-11-14T22:13:20Z."""


def entry(serial: int, **members: Any) -> Record:
    """Return a translation that relays a reply."""
    default = Record(
        proxy="proxy-9000",
        worker=0,
        boot="boot",
        seq=10 * serial,
        serial=serial,
        command=serial,
        attempt=1,
        started=START + serial * SECOND,
        client=f"10.0.0.{serial}",
        client_port=50_000 + serial,
        nat="127.0.0.1",
        nat_port=40_000 + serial,
        upstream="127.0.0.1",
        upstream_port=9001,
        verb="GET",
        name=f"images/{serial}.iso",
        promised=10_000_000,
        bytes=serial * 1_000_000,
        state="relaying",
        duration=10.0 - serial,
    )
    return default._replace(**members)


class FakeDaemon:
    """The resources of a proxy, without a proxy.

    :ivar table: translations that exist now.
    :ivar past: translations of the history.
    :ivar events: members of events, in order.
    :ivar follow: yields the members of the events that follow them.
    :ivar answers: of ``/v1/whois`` by port.
    :ivar status: members of ``/v1/status``.
    :ivar upstreams: of ``/v1/upstreams``.
    :ivar reloaded: members of the reply to ``/v1/reload``.
    :ivar before: called with each request.
    :ivar path: of its socket, if a test sets it.
    """

    def __init__(self) -> None:
        self.path = ""
        self.table: list[Record] = []
        self.past: list[Record] = []
        self.events: list[dict[str, Any]] = []
        self.follow: Callable[[], Iterator[dict[str, Any]]] = lambda: iter(())
        self.answers: dict[int, WhoisReply] = {}
        self.status: dict[str, Any] = {"kind": "proxy", "name": "proxy-9000", "boot": "boot"}
        self.upstreams = RecordedUpstreams()
        self.reloaded: dict[str, Any] = {
            "changed": [],
            "restart": [],
            "replaced": [],
            "errors": [],
        }
        self.before: Callable[[Request], object] = lambda request: None

    def reply(self, request: Request) -> Iterable[bytes]:
        """Return the reply to a request."""
        self.before(request)
        method = getattr(self, f"_{request.path.removeprefix('/v1/')}", None)
        if method is None:
            return document(
                {"error": f"{request.path}: there is no such resource"}, "404 Not Found"
            )
        found: Iterable[bytes] = method(request)
        return found

    def _selected(self, records: list[Record], text: str) -> list[Record]:
        selected = parse(text)
        return [record for record in records if selected.matches(record, START)]

    def _status(self, request: Request) -> Iterable[bytes]:
        return document(self.status)

    def _table(self, request: Request) -> Iterable[bytes]:
        found = self._selected(self.table, request.query.get("filter", ""))
        return document([record.json() for record in found])

    def _history(self, request: Request) -> Iterable[bytes]:
        found = self._selected(self.past, request.query.get("filter", ""))
        return lines(record.json() for record in found)

    def _events(self, request: Request) -> Iterable[bytes]:
        def each() -> Iterator[dict[str, Any]]:
            last = request.query.get("last")
            yield from self.events if last is None else self.events[-int(last) :]
            if request.query.get("follow") == "1":
                yield from self.follow()

        return lines(each())

    def _whois(self, request: Request) -> Iterable[bytes]:
        if request.method == "GET":
            return document(self._found(int(request.query["port"])))
        return lines(self._found(json.loads(line)["port"]) for line in request.body.splitlines())

    def _found(self, port: int) -> dict[str, Any]:
        live = tuple(record for record in self.table if record.nat_port == port)
        default = WhoisReply(FOUND, live) if live else WhoisReply(NOBODY)
        return self.answers.get(port, default).json()

    def _kill(self, request: Request) -> Iterable[bytes]:
        members = json.loads(request.body)
        if "serial" in members:
            found = [record for record in self.table if record.serial == members["serial"]]
        else:
            found = self._selected(self.table, members["filter"])
        if not members.get("dry_run"):
            self.table = [record for record in self.table if record not in found]
        return document({"translations": [record.json() for record in found]})

    def _reload(self, request: Request) -> Iterable[bytes]:
        status = "422 Unprocessable Content" if self.reloaded["errors"] else "200 OK"
        return document(self.reloaded, status)

    def _upstreams(self, request: Request) -> Iterable[bytes]:
        if request.method == "POST":
            members = json.loads(request.body)
            self.upstreams.set_mode(members["upstream"], members["mode"])
        return document(self.upstreams.now.json())

    def _drain(self, request: Request) -> Iterable[bytes]:
        self.status["draining"] = True
        return document({"draining": True})


class ObservedCase(CommandCase):
    """Runs command lines against a `FakeDaemon`, in a zone that is an hour ahead of UTC.

    :ivar daemon: what it replies.
    :ivar server: its socket.
    """

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        environment = mock.patch.dict(os.environ, {"TZ": "<+01>-1"})
        environment.start()
        time.tzset()
        self.addCleanup(time.tzset)
        self.addCleanup(environment.stop)
        self.daemon = FakeDaemon()
        self.control = ControlServer(self.directory / "proxy-9000.sock", self.daemon.reply)
        self.addCleanup(self.control.close)
        os.environ["NATPROXY_CONTROL"] = self.control.path

    def out(self, *arguments: str, status: int = 0) -> list[str]:
        """Return the lines that a command line writes to standard output, and only there."""
        found, out, err = self.main(*arguments)
        self.assertEqual((found, err), (status, ""), out)
        return out.decode().splitlines()

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests of a resource."""
        return [json.loads(each.body) for each in self.control.requests if each.path == path]

    def queries(self, path: str) -> list[dict[str, str]]:
        """Return the queries of the requests of a resource."""
        return [each.query for each in self.control.requests if each.path == path]
