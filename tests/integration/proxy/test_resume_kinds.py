"""Bodies that are continued for every kind of client and upstream, and ``DOWNLOAD`` in them."""

from __future__ import annotations

import os
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.ssl import Certificate, optionsForClientTLS

from natproxy.access.rules import AccessRule, Rules
from natproxy.daemon.certificates import upstream_tls
from natproxy.nat import Outcome, Removed
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.tcp import TCPConnector
from natproxy.relay import Method, Relays
from tests.support.certificates import Authority
from tests.support.loopback import (
    HOST,
    Peer,
    PlayedServer,
    all_ended,
    client_of,
    eventually,
    file_server,
    listening,
    proxy_to,
)
from tests.support.proxies import sole
from tests.support.secure import listening_tls

reactor: Any = installed_reactor

CONTENT = random.Random(15).randbytes(3 << 20)
STAT = b"OK type=file size=1 mtime=1.0 etag=tag\n"


def header(offset: int, content: bytes = CONTENT) -> bytes:
    promise = b"OK %d offset=%d size=%d mtime=1.0 etag=tag\n"
    return promise % (len(content) - offset, offset, len(content))


def offset_of(peer: Peer) -> int:
    """Return the offset that a command requests."""
    found = re.search(rb"offset=(\d+)", bytes(peer.received))
    return int(found[1]) if found else 0


async def interrupt_twice(server: PlayedServer, client: Peer) -> None:
    """Send a command whose body is interrupted twice, and one behind it; check what is received."""
    client.send(b"GET a\nSTAT a\n")
    for size in (100_000, 900_000):
        peer = await server.asked()
        offset, begun = offset_of(peer), client.count
        peer.send(header(offset) + CONTENT[offset : offset + size])
        await client.until(lambda begun=begun: client.count > begun + 50_000, "bytes")
        peer.kill()
    peer = await server.asked()
    offset = offset_of(peer)
    assert offset > 0
    peer.send(header(offset) + CONTENT[offset:])
    peer = await server.asked()
    assert b"STAT a\n" in peer.received
    peer.send(STAT)
    expected = header(0) + CONTENT + STAT
    assert await client.takes(len(expected)) == expected


@asynccontextmanager
async def connected(endpoint: Any) -> AsyncIterator[Peer]:
    peer = Peer()
    await connectProtocol(endpoint, peer)
    try:
        yield peer
    finally:
        peer.kill()
        await peer.end()


@pytest.mark.parametrize("header_before", [False, True], ids=["bare", "header"])
@pytest_twisted.ensureDeferred
async def test_upstream_by_tcp(header_before: bool) -> None:
    server = PlayedServer()
    async with listening(server) as behind:
        proxy = proxy_to(behind, resume_for=30.0)
        connector = TCPConnector(reactor, HOST, behind, 5.0)
        proxy.resources.upstreams.use(sole(connector, header_before))
        # Neither the rate at which an upstream must send, nor the clock of the body, ends it.
        proxy.minimum_rate.rate = 1000
        async with listening(proxy) as port, client_of(port) as client:
            await interrupt_twice(server, client)
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    assert {peer.received.startswith(signature) for peer in server.connections} == {header_before}


@pytest_twisted.ensureDeferred
async def test_upstream_by_tls(tmp_path: Path) -> None:
    authority, server = Authority(tmp_path), PlayedServer()
    async with listening_tls(server, authority.issue("localhost", HOST)) as (behind, _):
        endpoint = upstream_tls(reactor, f"tls:localhost:{behind}:trustRoots={authority.ca}")
        proxy = ProxyFactory(reactor, EndpointConnector(endpoint, reactor, 5.0), resume_for=30.0)
        async with listening(proxy) as port, client_of(port) as client:
            await interrupt_twice(server, client)


@pytest_twisted.ensureDeferred
async def test_client_by_tls(tmp_path: Path) -> None:
    authority, server = Authority(tmp_path), PlayedServer()
    async with listening(server) as behind:
        proxy = proxy_to(behind, resume_for=30.0)
        async with listening_tls(proxy, authority.issue("localhost", HOST)) as (port, _):
            root = Certificate.loadPEM(Path(authority.ca).read_bytes())
            options = optionsForClientTLS("localhost", trustRoot=root)
            endpoint = wrapClientTLS(options, TCP4ClientEndpoint(reactor, HOST, port))
            async with connected(endpoint) as client:
                await interrupt_twice(server, client)


@pytest_twisted.ensureDeferred
async def test_client_by_unix_socket(tmp_path: Path) -> None:
    server, path = PlayedServer(), os.path.relpath(tmp_path / "socket")
    async with listening(server) as behind:
        proxy = proxy_to(behind, resume_for=30.0)
        port = reactor.listenUNIX(path, proxy)
        try:
            async with connected(UNIXClientEndpoint(reactor, path)) as client:
                await interrupt_twice(server, client)
        finally:
            await maybeDeferred(port.stopListening)
            await all_ended(proxy)


@pytest.mark.parametrize("method", [Method.AUTO, Method.COPY], ids=str)
@pytest_twisted.ensureDeferred
async def test_loss_while_the_client_does_not_read(method: Method) -> None:
    content = CONTENT * 8
    server = PlayedServer()
    async with listening(server) as behind:
        proxy = proxy_to(behind, relays=Relays(reactor, method), resume_for=30.0)
        removed: list[Removed] = []
        proxy.table.subscribe(removed.append, (Removed,))
        async with listening(proxy) as port, client_of(port) as client:
            client.stop_reading()
            client.send(b"GET a\n")
            peer = await server.asked()
            peer.send(header(0, content) + content)
            (connection,) = proxy.connections
            await eventually(lambda: connection.outbound.paused, "a client that holds up")
            peer.kill()
            # Only then is the loss noticed: nothing is read from the server before.
            client.read_on()
            peer = await server.asked()
            offset = offset_of(peer)
            assert 0 < offset < len(content)
            peer.send(header(offset, content) + content[offset:])
            expected = header(0, content) + content
            assert await client.takes(len(expected)) == expected
            await eventually(lambda: len(removed) == 2, "the end")
    assert [event.outcome for event in removed] == [Outcome.RETRIED, Outcome.COMPLETED]
    assert sum(event.sent for event in removed) == len(expected)


UNKNOWN = b"ERR unknown command\n"


async def replies_to(names: list[bytes], port: int) -> list[bytes]:
    """Return the replies to ``DOWNLOAD`` commands, each followed by one that is known."""
    replies = []
    async with client_of(port) as client:
        client.send(b"FEAT\n")
        await client.until(lambda: client.received.endswith(b"END\n"), "a reply")
        for name in names:
            client.received.clear()
            client.send(b"DOWNLOAD " + name + b"\nNOTHING\n")
            await client.until(lambda: client.received.endswith(UNKNOWN), "a reply")
            replies.append(bytes(client.received))
    return replies


@pytest.mark.parametrize("denied", ["", "GET"])
@pytest_twisted.ensureDeferred
async def test_download_is_the_same_as_without_a_proxy(denied: str, tmp_path: Path) -> None:
    names = {b"a": CONTENT, b"name with spaces": b"x" * 70_000, b"a%20b": b"", b"\xc3\xa9": b"e"}
    for name, content in names.items():
        (tmp_path / os.fsdecode(name)).write_bytes(content)
    (tmp_path / "directory").mkdir()
    others = [b"missing", b"directory", b".", b"..", b"../a", b"/a", b"a/", b"\xff"]
    server = file_server(tmp_path)
    if denied:
        server.use_rules(Rules([AccessRule(False, verbs=(denied,))]))
    commands: list[bytes] = []
    server.subscribe(lambda event: commands.append(event.command.verb))
    async with listening(server) as behind:
        proxy = proxy_to(behind, resume_for=30.0)
        async with listening(proxy) as port:
            received = [await replies_to([*names, *others], each) for each in (behind, port)]
    assert received[0] == received[1]
    assert b"GET" in commands
