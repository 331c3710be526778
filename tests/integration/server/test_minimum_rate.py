"""Clients that read too slowly, with real sockets: whatever moves the body, in both daemons."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionLost

from natproxy.relay import Method
from natproxy.server import minimum_rate
from tests.support.loopback import eventually
from tests.support.relays import Feeder, gets, pause, relaying, reply, serving, sipping

pytestmark = pytest.mark.usefixtures("short_window")

MIB = 1 << 20
SIZE = 2 * MIB
IMPOSSIBLE = 1 << 40

relays = pytest.mark.parametrize("method", [Method.COPY, Method.KERNEL])
file_relays = pytest.mark.parametrize("method", [Method.COPY, Method.KERNEL])


@pytest.fixture
def short_window() -> Iterator[None]:
    with (
        mock.patch.object(minimum_rate, "WINDOW", 0.2),
        mock.patch.object(minimum_rate, "INTERVAL", 0.02),
    ):
        yield


@relays
@pytest_twisted.ensureDeferred
async def test_client_of_the_proxy_that_does_not_read(method: Method) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        proxy.factory.minimum_rate.rate = 1
        upstream = await proxy.send_command(client)
        proxy.shrink_buffers(client, upstream)
        client.stop_reading()
        upstream.send(b"OK %d\n" % (64 * MIB))
        Feeder(upstream, 64 * MIB)
        assert await upstream.end() is ConnectionLost
        client.read_on()
        assert await client.end() is ConnectionLost
        await proxy.ended("timeout")


@relays
@pytest.mark.parametrize("rate", [1000, IMPOSSIBLE])
@pytest_twisted.ensureDeferred
async def test_client_of_the_proxy_that_reads_slowly(method: Method, rate: int) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        proxy.factory.minimum_rate.rate = rate
        upstream = await proxy.send_command(client)
        proxy.shrink_buffers(client, upstream)
        with sipping(client, 0.025):
            upstream.send(b"OK %d\n" % SIZE)
            Feeder(upstream, SIZE)
            if rate == IMPOSSIBLE:
                assert await client.end() is ConnectionLost
            else:
                await gets(client, b"OK %d\n" % SIZE + Feeder.body(SIZE))
        await proxy.ended("timeout" if rate == IMPOSSIBLE else "completed")


@file_relays
@pytest.mark.parametrize("rate", [1000, IMPOSSIBLE])
@pytest_twisted.ensureDeferred
async def test_client_of_the_file_server_that_reads_slowly(
    method: Method, rate: int, tmp_path: Path
) -> None:
    body = os.urandom(SIZE)
    (tmp_path / "file").write_bytes(body)
    async with serving(method, tmp_path) as server, server.client() as client:
        server.factory.minimum_rate.rate = rate
        server.shrink_buffers(client)
        with sipping(client, 0.02):
            client.send(b"DOWNLOAD file\n")
            if rate == IMPOSSIBLE:
                assert await client.end() is ConnectionLost
            else:
                await gets(client, reply(body))
        await server.ended("timeout" if rate == IMPOSSIBLE else "completed")


@relays
@pytest_twisted.ensureDeferred
async def test_slow_upstream_is_not_the_client(method: Method) -> None:
    body = os.urandom(300 * 1024)
    async with relaying(method, reply_timeout=0.6) as proxy, proxy.client() as client:
        proxy.factory.minimum_rate.rate = IMPOSSIBLE
        upstream = await proxy.send_command(client)
        upstream.send(reply(body)[:-1])
        # The time-out of the upstream, not of the client.
        assert await upstream.end() is ConnectionLost
        assert client.count == len(reply(body)) - 1
        await proxy.ended("timeout")


@relays
@pytest.mark.parametrize("rate", [10, IMPOSSIBLE])
@pytest_twisted.ensureDeferred
async def test_upstream_that_drips(method: Method, rate: int) -> None:
    body = bytes(200)
    async with relaying(method, reply_timeout=0.5) as proxy, proxy.client() as client:
        proxy.factory.minimum_rate.rate = rate
        upstream = await proxy.send_command(client)
        upstream.send(b"OK 200\n\0")
        await client.until(lambda: client.count, "the header")
        # The rate is measured over half a second; a busy machine may be silent for longer.
        proxy.factory.resources.replies.change(30.0)
        for _ in range(len(body) - 1):
            if upstream.ended is not None:
                break
            upstream.send(b"\0")
            await pause(0.01)
        if rate == IMPOSSIBLE:
            assert await upstream.end() is ConnectionLost
            assert await client.end() is ConnectionLost
            assert 0 < client.count < len(body)
        else:
            await gets(client, reply(body))
        await proxy.ended("timeout" if rate == IMPOSSIBLE else "completed")


@relays
@pytest_twisted.ensureDeferred
async def test_bytes_that_only_the_own_kernel_has_are_not_taken(method: Method) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        proxy.shrink_buffers(client, upstream)
        client.stop_reading()
        upstream.send(b"OK %d\n" % SIZE)
        Feeder(upstream, SIZE)
        await proxy.stalled()
        outbound = proxy.serving.outbound
        assert 0 < outbound.taken() < outbound.sent
        client.read_on()
        await gets(client, b"OK %d\n" % SIZE + Feeder.body(SIZE))
        assert outbound.sent == SIZE + len(b"OK %d\n" % SIZE)
        await eventually(lambda: outbound.taken() == outbound.sent, "all bytes acknowledged")
        await proxy.ended("completed")
