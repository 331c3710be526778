"""Listening sockets: how they are wrapped, and which options accepted connections inherit."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport

from natproxy.daemon.listening import (
    ClosingFactory,
    ClosingProtocol,
    ListeningEndpoint,
    keep_alive,
)
from natproxy.kernel.keepalive import IDLE, INTERVAL, PROBES
from natproxy.server.proxy_header import HeaderFactory
from tests.support.loopback import HOST, eventually


class Accepted(Protocol):
    """A connection that notes its end."""

    ended = False

    def connectionLost(self, reason: object = None) -> None:
        self.ended = True


class Accepting(Factory):
    """Keeps the connections that are made."""

    noisy = False

    def __init__(self) -> None:
        self.made: list[Accepted] = []

    def buildProtocol(self, addr: object) -> Accepted:
        self.made.append(Accepted())
        return self.made[-1]


@pytest.mark.parametrize("prefix", ["", "haproxy:"])
@pytest_twisted.ensureDeferred
async def test_accepted_connections_are_probed(prefix: str) -> None:
    factory = Accepting()
    port = await ListeningEndpoint(reactor, f"{prefix}tcp:0:interface={HOST}").listen(factory)
    try:
        with socket.create_connection((HOST, port.getHost().port)):
            await eventually(lambda: factory.made and factory.made[0].transport, "the connection")
            accepted = factory.made[0].transport.getHandle()
            options = [
                accepted.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ]
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert options == [IDLE, INTERVAL, PROBES] == [60, 15, 4]
        await eventually(lambda: factory.made[0].ended, "the end")
    finally:
        await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_socket_that_was_handed_over_is_set_as_well() -> None:
    with socket.create_server((HOST, 0)) as listener:
        listener.setblocking(False)
        port = reactor.adoptStreamPort(os.dup(listener.fileno()), socket.AF_INET, Accepting())
        try:
            keep_alive(port)
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        finally:
            await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_unix_socket_is_left_alone(tmp_path: Path) -> None:
    endpoint = ListeningEndpoint(reactor, f"unix:{tmp_path}/socket:mode=660")
    port = await endpoint.listen(Accepting())
    try:
        assert os.stat(tmp_path / "socket").st_mode & 0o777 == 0o660
    finally:
        await maybeDeferred(port.stopListening)


class NoProtocol(Factory):
    """Makes no protocol."""

    noisy = False

    def buildProtocol(self, addr: object) -> None:
        return None


def test_wrapping_factory_closes_a_connection_that_gets_no_protocol() -> None:
    protocol = ClosingFactory(NoProtocol()).buildProtocol(None)
    assert isinstance(protocol, ClosingProtocol)
    transport = StringTransport()
    protocol.makeConnection(transport)
    assert transport.disconnected


def test_factory_of_a_bare_socket_is_not_wrapped() -> None:
    factory = NoProtocol()
    assert ListeningEndpoint(MemoryReactorClock(), "tcp:9000").wrap(factory) is factory


def test_socket_is_opened_with_a_factory_that_reads_the_header() -> None:
    memory = MemoryReactorClock()
    factory = NoProtocol()
    ListeningEndpoint(memory, "haproxy:tcp:9000").listen(factory)
    (_, opened, _, _) = memory.tcpServers[0]
    assert isinstance(opened, HeaderFactory)
    assert opened.wrappedFactory is factory


def test_header_factory_makes_no_protocol_either() -> None:
    assert HeaderFactory(NoProtocol()).buildProtocol(None) is None
