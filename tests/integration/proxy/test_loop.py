"""Proxies that are their own upstream, directly or in a circle, with real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import IListeningPort

from natproxy.access.rules import AccessRule, Rules
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.loop import LOOP, SEVERAL, State
from natproxy.proxy.tcp import TCPConnector
from natproxy.server.factory import CommandFactory
from tests.support.loopback import HOST, client_of, eventually, file_server, proxy_to
from tests.support.proxies import sole

REFUSED = f"ERR 508 {LOOP}\n".encode()


@asynccontextmanager
async def listening(*factories: CommandFactory) -> AsyncIterator[list[int]]:
    """Listen with each factory; yield the ports."""
    ports: list[IListeningPort] = [
        reactor.listenTCP(0, each, interface=HOST)  # type: ignore[attr-defined]
        for each in factories
    ]
    try:
        yield [port.getHost().port for port in ports]
    finally:
        for port, factory in zip(ports, factories, strict=True):
            await port.stopListening()
            for connection in list(factory.connections):
                connection.transport.abortConnection()
        for factory in factories:
            await eventually(lambda factory=factory: not factory.connections, "no client is left")
            if isinstance(factory, ProxyFactory):
                factory.loops.stop()


def connect(factory: ProxyFactory, port: int) -> None:
    """Let a proxy send further commands to a port."""
    factory.resources.upstreams.use(sole(TCPConnector(reactor, HOST, port, 5.0)))


@pytest_twisted.ensureDeferred
async def test_proxy_that_is_its_own_upstream() -> None:
    factory = proxy_to(1)
    async with listening(factory) as (port,):
        connect(factory, port)
        async with client_of(port) as client:
            client.send(b"STAT a\n")
            assert await client.takes(len(REFUSED)) == REFUSED
            assert factory.admission.entered == 2
            client.send(b"STAT a\nLIST\n")
            reply = REFUSED + REFUSED.replace(b"508 ", b"")
            assert await client.takes(len(reply)) == reply
        await eventually(lambda: not len(factory.table), "the table is empty")


@pytest_twisted.ensureDeferred
async def test_two_proxies_in_a_circle_with_rules_for_names() -> None:
    first, second = proxy_to(1), proxy_to(1)
    # Unknown verbs are denied, and the probe is not one of them.
    for factory in (first, second):
        factory.use_rules(Rules([AccessRule(False, names=("secret",))]))
    async with listening(first, second) as (port, other):
        connect(first, other)
        connect(second, port)
        for verb in (b"STAT a\n", b"FEAT\n"):
            async with client_of(port) as client:
                client.send(verb)
                assert await client.takes(len(REFUSED)) == REFUSED
        assert first.admission.entered + second.admission.entered < 12 * SEVERAL
        assert State.LOOPED in (first.loops.state, second.loops.state)
        await eventually(lambda: not len(first.table) + len(second.table), "the tables are empty")


@pytest_twisted.ensureDeferred
async def test_busy_proxy_of_a_file_server_is_not_in_a_loop(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    server = file_server(tmp_path)
    factory = proxy_to(1)
    async with listening(server, factory) as (upstream, port):
        connect(factory, upstream)
        factory.loops._send_probes()
        await eventually(lambda: factory.loops.state is State.CLEAR, "the probe is replied to")
        async with client_of(port) as client:
            client.send(b"DOWNLOAD a\n")
            assert await client.takes(6) == b"OK 1\nx"
