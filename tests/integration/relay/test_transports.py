"""Connections that are no bare TCP sockets: everything is copied, whichever method is set."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.threads import deferToThreadPool

from natproxy.daemon.listening import ListeningEndpoint
from natproxy.fileserver.factory import FileServerFactory
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.relay import Method, outbound_of
from natproxy.relay.copy import CopyRelay
from natproxy.relay.files import CopyingFileRelay
from natproxy.relay.outbound import UNSENT
from natproxy.storage import LocalStorage
from natproxy.tls.openssl import ClientTLS
from natproxy.tls.options import TLSOptions
from tests.support.certificates import Authority
from tests.support.doubles import SocketWire
from tests.support.files import open_descriptors
from tests.support.loopback import HOST, Peer, PlayedServer, all_ended
from tests.support.relays import MIB, Feeder, RecordingRelays, gets, reply


class UNIX:
    """Connections over UNIX sockets."""

    def __init__(self, directory: Path) -> None:
        self._path = os.fspath(directory / "socket")

    def server(self) -> Any:
        return UNIXServerEndpoint(reactor, self._path)

    def client(self, _: Any) -> Any:
        return UNIXClientEndpoint(reactor, self._path)


class TLS:
    """Connections by TLS, with the endpoints of the daemons."""

    def __init__(self, directory: Path) -> None:
        self._authority = Authority(directory)
        self._pair = self._authority.issue("natproxy")

    def server(self) -> Any:
        cert, key = self._pair
        return ListeningEndpoint(reactor, f"ssl:0:interface={HOST}:privateKey={key}:certKey={cert}")

    def client(self, port: Any) -> Any:
        tls = ClientTLS(TLSOptions(self._authority.ca), "natproxy")
        return wrapClientTLS(tls, TCP4ClientEndpoint(reactor, HOST, port.getHost().port))


class TCP:
    """Plain TCP, for the other side."""

    def __init__(self, _: Path) -> None:
        pass

    def server(self) -> Any:
        return TCP4ServerEndpoint(reactor, 0, interface=HOST)

    def client(self, port: Any) -> Any:
        return TCP4ClientEndpoint(reactor, HOST, port.getHost().port)


@asynccontextmanager
async def listening(kind: Any, factory: Any) -> AsyncIterator[Any]:
    """Listen with a factory, and return an endpoint that connects to it."""
    port = await kind.server().listen(factory)
    try:
        yield kind.client(port)
    finally:
        await maybeDeferred(port.stopListening)
        await all_ended(factory)


@asynccontextmanager
async def client_of(endpoint: Any) -> AsyncIterator[Peer]:
    peer = Peer()
    await connectProtocol(endpoint, peer)
    try:
        yield peer
    finally:
        if peer.ended is None:
            peer.kill()
        await peer.end()


@pytest.mark.parametrize(
    ("clients", "upstreams"), [(UNIX, TCP), (TCP, UNIX), (TLS, TCP), (TCP, TLS)]
)
@pytest_twisted.ensureDeferred
async def test_replies_are_copied(tmp_path: Path, clients: Any, upstreams: Any) -> None:
    bodies = [os.urandom(size) for size in (5, 20 * MIB, MIB + 7, 1)]
    relays = RecordingRelays(Method.KERNEL)
    server = PlayedServer()
    async with listening(upstreams(tmp_path), server) as upstream_endpoint:
        before = open_descriptors()
        connector = EndpointConnector(upstream_endpoint, reactor, 5.0)
        proxy = ProxyFactory(reactor, connector, relays=relays)
        listen = listening(clients(tmp_path), proxy)
        async with listen as endpoint, client_of(endpoint) as client:
            for body in bodies:
                client.send(b"DOWNLOAD a\n")
                upstream = await server.asked()
                upstream.send(reply(body))
                await gets(client, reply(body))
            # The client does not wait for the end of this one.
            client.send(b"DOWNLOAD a\n")
            upstream = await server.asked()
            client.stop_reading()
            upstream.send(b"OK %d\n" % (1 << 40))
            feeder = Feeder(upstream, 1 << 40)
            await feeder.stalled()
            assert feeder.fed < 32 * MIB
            client.kill()
            await upstream.end()
        assert open_descriptors() <= before
    assert {type(relay) for relay in relays.made} == {CopyRelay}
    assert len(proxy.table) == 0


@pytest.mark.parametrize("clients", [UNIX, TLS])
@pytest_twisted.ensureDeferred
async def test_files_are_copied(tmp_path: Path, clients: Any) -> None:
    bodies = [os.urandom(size) for size in (5, 20 * MIB, MIB + 7, 1)]
    files = tmp_path / "files"
    files.mkdir()
    relays = RecordingRelays(Method.KERNEL)
    factory = FileServerFactory(
        reactor,
        LocalStorage(os.fspath(files)),
        partial(deferToThreadPool, reactor, reactor.getThreadPool()),
        600.0,
        relays,
    )
    async with listening(clients(tmp_path), factory) as endpoint, client_of(endpoint) as client:
        for number, body in enumerate(bodies):
            (files / str(number)).write_bytes(body)
            client.send(b"DOWNLOAD %d\n" % number)
            await gets(client, reply(body))
    assert {type(relay) for relay in relays.made} == {CopyingFileRelay}


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system has no limit")
def test_kernel_buffers_no_more_than_a_megabyte_that_it_has_not_sent() -> None:
    wire = SocketWire(9000, 1)
    with (
        socket.create_server((HOST, 0)) as listener,
        socket.create_connection(listener.getsockname()) as connected,
    ):
        wire.getHandle = lambda: connected
        outbound_of(wire, lambda: None)
        limit = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    wire.socket.close()
    assert limit == UNSENT
