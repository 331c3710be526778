"""The total times of phases, with real sockets: of lines and of bodies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionLost

from natproxy.relay import Method
from tests.support.loopback import Peer, client_of, file_server, listening, proxy_to
from tests.support.relays import Feeder, pause, relaying, serving, sipping

MIB = 1 << 20
SIZE = 2 * MIB

methods = pytest.mark.parametrize("method", [Method.COPY, Method.KERNEL])


async def drip(peer: Peer, data: bytes) -> None:
    """Send bytes one by one until the other end closes."""
    for position in range(len(data)):
        if peer.ended is not None:
            return
        peer.send(data[position : position + 1])
        await pause(0.01)


@pytest.mark.parametrize("kind", ["proxy", "file server"])
@pytest_twisted.ensureDeferred
async def test_line_that_arrives_byte_by_byte(kind: str, tmp_path: Path) -> None:
    async with listening(file_server(tmp_path)) as upstream:
        factory = file_server(tmp_path) if kind == "file server" else proxy_to(upstream)
        async with listening(factory) as port, client_of(port) as client:
            client.send(b"LIST\n")
            assert await client.takes(7) == b"OK\nEND\n"
            factory.lines.change(0.3)
            await drip(client, b"DOWNLOAD " + b"a" * 300)
            # A byte that it sends after the close causes a reset.
            assert await client.end() in (ConnectionDone, ConnectionLost)
            assert client.count == 7


@pytest_twisted.ensureDeferred
async def test_line_in_time(tmp_path: Path) -> None:
    factory = file_server(tmp_path)
    factory.lines.change(30.0)
    async with listening(factory) as port, client_of(port) as client:
        await drip(client, b"LIST\n")
        assert await client.takes(7) == b"OK\nEND\n"


@methods
@pytest_twisted.ensureDeferred
async def test_body_of_an_upstream_that_never_ends(method: Method) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        proxy.factory.bodies.change(0.3)
        upstream = await proxy.send_command(client)
        upstream.send(b"OK 1000\n")
        await drip(upstream, bytes(999))
        assert await upstream.end() is ConnectionLost
        assert await client.end() is ConnectionLost
        assert client.count > len(b"OK 1000\n")
        await proxy.ended("timeout")


@methods
@pytest_twisted.ensureDeferred
async def test_body_that_the_client_of_the_proxy_reads_slowly(method: Method) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        proxy.factory.bodies.change(0.3)
        upstream = await proxy.send_command(client)
        proxy.shrink_buffers(client, upstream)
        with sipping(client, 0.05):
            upstream.send(b"OK %d\n" % SIZE)
            Feeder(upstream, SIZE)
            assert await client.end() is ConnectionLost
        await proxy.ended("timeout")


@methods
@pytest_twisted.ensureDeferred
async def test_body_that_the_client_of_the_file_server_reads_slowly(
    method: Method, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(SIZE))
    async with serving(method, tmp_path) as server, server.client() as client:
        server.factory.bodies.change(0.3)
        server.shrink_buffers(client)
        with sipping(client, 0.05):
            client.send(b"DOWNLOAD file\n")
            assert await client.end() is ConnectionLost
        await server.ended("timeout")
