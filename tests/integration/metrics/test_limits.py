"""Each limit and each kind of rule, with real sockets, and what the metrics show of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytest_twisted
from twisted.internet import reactor

from natproxy.access import NO_LIMITS, ScopeLimits
from natproxy.access.networks import Networks
from natproxy.access.rules import AccessRule, Rules
from natproxy.daemon.listening import ListeningEndpoint
from natproxy.metrics.daemon import DaemonMetrics
from natproxy.metrics.fileserver import FileServerMetrics
from natproxy.metrics.proxy import ProxyMetrics
from natproxy.records.record import Origin
from natproxy.server import minimum_rate
from natproxy.server.deadlines import Expiry
from natproxy.server.factory import CommandFactory
from natproxy.server.gates import LimitGate
from natproxy.tokens.entries import Tokens, new_token
from tests.support.doubles import PlayedThread
from tests.support.loopback import (
    HOST,
    PlayedServer,
    client_of,
    eventually,
    file_server,
    listening,
    proxy_to,
)
from tests.support.metrics import value

DAEMONS = pytest.mark.parametrize("kind", ["proxy", "fileserver"])
SCOPES = pytest.mark.parametrize("scope", ["client", "identity", "total"])
ORIGIN = Origin("x", 0, "b00t")
TOO_MANY = b"ERR 429 too many "


class Served:
    """A daemon on a port: a file server, or a proxy in front of one.

    :ivar port: where it listens.
    """

    def __init__(self, factory: Any, metrics: DaemonMetrics, port: int) -> None:
        self.factory: CommandFactory = factory
        self.port = port
        self._metrics = metrics

    def value(self, name: str, *labels: str) -> float:
        """Return a value of one of its families, whose name is without the daemon's prefix."""
        return value(self._metrics.families(), f"{self._metrics.prefix}_{name}", *labels)

    async def becomes(self, expected: float, name: str, *labels: str) -> None:
        await eventually(lambda: self.value(name, *labels) == expected, f"{name} {labels}")

    def limit(self, scope: str, **limits: Any) -> None:
        """Set limits of one scope; a command over one is refused at once."""
        for connection in self.factory.connections:
            connection.identify("alice")  # type: ignore[attr-defined]
        scopes = [ScopeLimits(**limits) if scope == each else NO_LIMITS for each in SCOPE_NAMES]
        LimitGate(self.factory).set(*scopes, 0.0)


SCOPE_NAMES = ("client", "identity", "total")


@asynccontextmanager
async def serving(kind: str, directory: Path) -> AsyncIterator[Served]:
    """Run a daemon with its metrics."""
    server = file_server(directory)
    async with listening(server) as upstream:
        if kind == "fileserver":
            yield Served(server, FileServerMetrics(server, ORIGIN), upstream)
            return
        proxy = proxy_to(upstream)
        async with listening(proxy) as port:
            metrics = ProxyMetrics(proxy, ORIGIN, in_thread=PlayedThread())
            yield Served(proxy, metrics, port)


@DAEMONS
@SCOPES
@pytest_twisted.ensureDeferred
async def test_commands_a_second(tmp_path: Path, kind: str, scope: str) -> None:
    async with serving(kind, tmp_path) as served, client_of(served.port) as client:
        await eventually(lambda: served.factory.connections, "a client")
        served.limit(scope, commands_per_second=0.001, burst=2)
        client.send(b"STAT a\nSTAT a\nSTAT a\n")
        replies = await client.takes(2 * 23 + len(TOO_MANY))
        assert replies.startswith(b"ERR 404 file not found\n" * 2 + TOO_MANY)
        assert served.value("limited", scope, "commands-per-second") == 1


@DAEMONS
@SCOPES
@pytest_twisted.ensureDeferred
async def test_bytes_a_second(tmp_path: Path, kind: str, scope: str) -> None:
    (tmp_path / "a").write_bytes(bytes(40_000))
    async with serving(kind, tmp_path) as served, client_of(served.port) as client:
        await eventually(lambda: served.factory.connections, "a client")
        served.limit(scope, bytes_per_second=1024)
        client.send(b"DOWNLOAD a\n")
        await client.takes(40_009)
        client.send(b"STAT a\n")
        assert (await client.takes(len(TOO_MANY))).startswith(TOO_MANY + b"bytes")
        assert served.value("limited", scope, "bytes-per-second") == 1


@SCOPES
@pytest.mark.parametrize(
    ("limit", "line"),
    [
        ("commands", b"STAT a\n"),
        ("digests", b"HASH a\n"),
        ("listings", b"LS\n"),
        ("packs", b"PACK a\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_at_a_time(limit: str, line: bytes, scope: str) -> None:
    upstream = PlayedServer()
    async with listening(upstream) as upstream_port:
        proxy = proxy_to(upstream_port)
        metrics = ProxyMetrics(proxy, ORIGIN, in_thread=PlayedThread())
        async with (
            listening(proxy) as port,
            client_of(port) as one,
            client_of(port) as other,
        ):
            served = Served(proxy, metrics, port)
            await eventually(lambda: len(proxy.connections) == 2, "two clients")
            served.limit(scope, **{limit: 1})
            one.send(line)
            await upstream.asked()
            other.send(line)
            assert (await other.takes(len(TOO_MANY))).startswith(TOO_MANY)
            assert served.value("limited", scope, limit) == 1


@DAEMONS
@pytest.mark.parametrize(
    ("rule", "line", "label"),
    [
        (AccessRule(False, clients=("127.0.0.0/8",)), b"STAT a\n", "1"),
        (AccessRule(False, identities=("al*",)), b"STAT a\n", "1"),
        (AccessRule(False, verbs=("STAT",)), b"STAT a\n", "1"),
        (AccessRule(False, names=("a",)), b"STAT ./%61/b\n", "1"),
        (AccessRule(True, names=("b",)), b"STAT a\n", "default"),
        (AccessRule(True, names=("b",)), b"STAT ../a\n", "malformed-name"),
        (AccessRule(True, names=("b",)), b"WHO a\n", "unknown-verb"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_rules(tmp_path: Path, kind: str, rule: AccessRule, line: bytes, label: str) -> None:
    async with serving(kind, tmp_path) as served, client_of(served.port) as client:
        await eventually(lambda: served.factory.connections, "a client")
        served.limit("client")
        served.factory.use_rules(Rules([rule], default=label != "default"))
        client.send(line)
        assert b"forbidden" in await client.takes(14)
        assert served.value("denied", label) == 1


@DAEMONS
@pytest.mark.parametrize("reason", ["clients", "host"])
@pytest_twisted.ensureDeferred
async def test_number_of_clients(tmp_path: Path, kind: str, reason: str) -> None:
    async with serving(kind, tmp_path) as served:
        served.factory.admission.limit(1 if reason == "clients" else 10, 1)
        async with client_of(served.port) as one, client_of(served.port) as other:
            one.send(b"STAT a\n")
            await one.takes(23)
            refusal = await other.takes(4)
            assert refusal.startswith(b"ERR ")
            assert b"too many " in refusal
            assert served.value("clients_refused", reason) == 1


@DAEMONS
@pytest_twisted.ensureDeferred
async def test_networks_of_headers(tmp_path: Path, kind: str) -> None:
    async with serving(kind, tmp_path) as served:
        served.factory.trusted_proxies = Networks(["192.0.2.1"])
        endpoint = ListeningEndpoint(reactor, f"haproxy:tcp:0:interface={HOST}")
        port: Any = await endpoint.listen(served.factory)
        try:
            async with client_of(port.getHost().port) as client:
                await client.end()
            assert served.value("clients_refused", "proxy-header") == 1
        finally:
            await port.stopListening()


@DAEMONS
@pytest_twisted.ensureDeferred
async def test_tokens(tmp_path: Path, kind: str) -> None:
    token, entry = new_token("alice")
    late, expired = new_token("bob", expires=1)
    async with serving(kind, tmp_path) as served, client_of(served.port) as client:
        served.factory.accept_tokens(Tokens([entry, expired]), False)
        served.factory.authenticator.delays.change(0.01)
        client.send(f"AUTH {token}\nAUTH x\nAUTH {late}\nAUTH:{token}\n".encode())
        await client.takes(len("OK identity=alice\n") + 34 + 30 + 20)
        for result in ("accepted", "refused", "expired", "unsupported"):
            assert served.value("auth", result) == 1, result


@DAEMONS
@pytest.mark.parametrize("reason", [expiry.value for expiry in Expiry])
@pytest_twisted.ensureDeferred
async def test_time_outs_and_the_minimum_rate(tmp_path: Path, kind: str, reason: str) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(64 << 20)
    with (
        mock.patch.object(minimum_rate, "WINDOW", 0.2),
        mock.patch.object(minimum_rate, "INTERVAL", 0.02),
    ):
        async with serving(kind, tmp_path) as served:
            if reason == "first-command":
                served.factory.first_commands.change(0.02)
            elif reason == "idle":
                served.factory.idle.change(0.02)
            elif reason == "line":
                served.factory.lines.change(0.02)
            elif reason == "body":
                served.factory.bodies.change(0.02)
            else:
                served.factory.minimum_rate = minimum_rate.MinimumRate(served.factory.clock)
                served.factory.minimum_rate.rate = 1 << 40
            async with client_of(served.port) as client:
                if reason == "line":
                    client.send(b"LIST\nGE")
                elif reason in ("body", "min-rate"):
                    client.stop_reading()
                    client.send(b"GET a\n")
                await served.becomes(1, "clients_disconnected", reason)
            for other in Expiry:
                if other.value != reason:
                    assert served.value("clients_disconnected", other.value) == 0
