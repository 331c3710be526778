"""Listening sockets: what is set on them, and what accepted connections inherit."""

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
    Dismissal,
    DismissingEndpoint,
    DismissingFactory,
    endpoint_from,
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
    port = await endpoint_from(reactor, f"{prefix}tcp:0:interface={HOST}").listen(factory)
    keep_alive(port)
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
    port = await endpoint_from(reactor, f"unix:{tmp_path}/socket:mode=660").listen(Accepting())
    try:
        keep_alive(port)
        assert os.stat(tmp_path / "socket").st_mode & 0o777 == 0o660
    finally:
        await maybeDeferred(port.stopListening)


class NoRoom(Factory):
    """Makes no protocol."""

    noisy = False

    def buildProtocol(self, addr: object) -> None:
        return None


def test_wrapping_endpoint_closes_a_connection_that_gets_no_protocol() -> None:
    memory = MemoryReactorClock()
    DismissingEndpoint(endpoint_from(memory, "tcp:9000")).listen(NoRoom())
    (_, factory, _, _) = memory.tcpServers[0]
    assert isinstance(factory, DismissingFactory)
    dismissal = factory.buildProtocol(None)
    assert isinstance(dismissal, Dismissal)
    transport = StringTransport()
    dismissal.makeConnection(transport)
    assert transport.disconnected


def test_header_endpoint_makes_no_protocol_either() -> None:
    assert HeaderFactory(NoRoom()).buildProtocol(None) is None
