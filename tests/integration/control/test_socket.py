"""The control socket over a real UNIX socket, with clients that are not ours."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed
from twisted.internet.threads import deferToThread

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
from tests.support.doubles import Wire

ORIGIN = Origin("proxy-9000", 0, "0123abcd")

reactor: Any = installed


class Daemon:
    """A table with a control socket.

    :ivar path: of the socket.
    :ivar site: its server.
    """

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "proxy-9000.sock")
        self.table = NATTable(reactor.seconds)
        self.ring = EventRing(self.table, ORIGIN, size=3000)
        source = LocalTable(self.table, self.ring, reactor.seconds)
        history = RingHistory(reactor, self.ring, source)
        self.observed = Observed(
            "proxy", ORIGIN, dict, lambda: None, lambda: None, source, self.ring, history
        )
        self.site: Any = control_site(Context(self.observed, reactor))

    def execute(self, times: int) -> None:
        for number in range(times):
            self.table.remove(self.register(60_000 + number), Outcome.COMPLETED)

    def register(self, port: int) -> Any:
        command = parse_command(b"GET " + b"n" * 200)
        assert command is not None
        return self.table.register(
            TranslationKey(Address("10.0.0.1", port), Address("10.0.0.9", 9001)),
            Wire(9000, 43_210),
            Address("10.0.0.5", 43_210),
            command,
            reactor.seconds(),
            lambda: None,
        )

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection; called in a thread."""
        connection = http.client.HTTPConnection("natproxy", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(self.path)
        return connection


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(directory)
    port = reactor.listenUNIX(daemon.path, daemon.site)
    try:
        yield daemon
    finally:
        await port.stopListening()
        await until(lambda: not daemon.site.channels)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    for _ in range(1000):
        if condition():
            return
        await pause(0.005)
    raise AssertionError("the condition does not hold")


def pause(seconds: float) -> Any:
    from twisted.internet.task import deferLater

    return deferLater(reactor, seconds)


@pytest_twisted.ensureDeferred
async def test_http_client_reads_the_table_and_kills(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        for port in range(1, 2001):
            daemon.register(port)

        def work() -> tuple[list[Any], Any]:
            connection = daemon.connect()
            connection.request("GET", "/v1/table")
            table = json.load(connection.getresponse())
            # The connection is kept.
            connection.request("POST", "/v1/kill", json.dumps({"filter": "nat-port 7"}))
            killed = json.load(connection.getresponse())
            connection.close()
            return table, killed

        table, killed = await deferToThread(work)
        assert [entry["nat_port"] for entry in table] == list(range(1, 2001))
        (ended,) = killed["translations"]
        reason = f"killed by uid {os.getuid()} (pid {os.getpid()})"
        assert (ended["nat_port"], ended["reason"]) == (7, reason)
        (action,) = [row for row in daemon.ring.read(0, 3000)[0] if row[1] == "kill"]
        assert action[11:] == (os.getuid(), os.getpid())


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest_twisted.ensureDeferred
async def test_curl(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.register(7)
        command = ["curl", "-sS", "--unix-socket", daemon.path, "http://natproxy/v1/whois?port=7"]
        done = await deferToThread(
            lambda: subprocess.run(command, capture_output=True, timeout=20, check=True)
        )
        assert json.loads(done.stdout)["result"] == "found"


@pytest_twisted.ensureDeferred
async def test_watcher_that_does_not_read_loses_events_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        connection = await deferToThread(daemon.connect)
        connection.request("GET", "/v1/events?follow=1")
        response = await deferToThread(connection.getresponse)
        await until(lambda: bool(daemon.ring._waiting))
        # More than the kernel holds for it.
        for _ in range(20):
            daemon.execute(200)
            await pause(0.03)
        last = daemon.ring.next - 1
        assert daemon.ring._waiting == []

        def read() -> list[Any]:
            found = []
            while not found or found[-1].get("seq") != last:
                found.append(json.loads(response.readline()))
            connection.close()
            return found

        lines = await deferToThread(read)
        lost = [line for line in lines if line["event"] == "lost"]
        assert len(lost) == 1
        seqs = [line["seq"] for line in lines if line["event"] != "lost"]
        missing = set(range(1, last + 1)) - set(seqs)
        assert missing == set(range(lost[0]["from"], lost[0]["to"] + 1))
        assert seqs == sorted(seqs)


@pytest_twisted.ensureDeferred
async def test_client_that_is_gone_is_released(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        for target in ("/v1/events?follow=1", "/v1/table", "/v1/history"):
            for port in range(1, 2001):
                daemon.register(port)
            connection = await deferToThread(daemon.connect)
            connection.request("GET", target)
            await until(lambda: bool(daemon.site.channels))
            connection.close()
            await until(lambda: not daemon.site.channels)
            assert daemon.ring._waiting == []
            for entry in list(daemon.table):
                daemon.table.remove(entry, Outcome.COMPLETED)
