"""Limits against real sockets: each limit of each scope, and the rates of the three relays."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
import pytest_twisted

from natproxy.access import NO_LIMITS, ScopeLimits
from natproxy.fileserver.factory import FileServerFactory
from natproxy.proxy.factory import ProxyFactory
from natproxy.relay import Method
from natproxy.server.factory import CommandFactory
from natproxy.server.gates import LimitGate
from tests.support.loopback import (
    PlayedServer,
    client_of,
    eventually,
    file_server,
    listening,
    proxy_to,
)

ONE = ScopeLimits(commands_per_second=0.001)
SLOW = {
    "commands": (b"STAT a\n", b"STAT a\n"),
    "digests": (b"HASH a\n", b"HASH a\n"),
    "listings": (b"LS\n", b"LIST\n"),
    "packs": (b"PACK a\n", b"PACK b\n"),
}


def limit(
    factory: CommandFactory,
    client: ScopeLimits = NO_LIMITS,
    identity: ScopeLimits = NO_LIMITS,
    total: ScopeLimits = NO_LIMITS,
    max_delay: float = 0.0,
) -> None:
    """Set the limits of a daemon; by default, what is over one is refused at once."""
    LimitGate(factory).set(client, identity, total, max_delay)


@asynccontextmanager
async def both(directory: Path) -> AsyncIterator[tuple[FileServerFactory, ProxyFactory, int]]:
    """Run a file server and a proxy in front of it; yield them and the proxy's port."""
    server = file_server(directory)
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        async with listening(proxy) as port:
            yield server, proxy, port


@pytest.mark.parametrize("limited", ["proxy", "fileserver"])
@pytest_twisted.ensureDeferred
async def test_rate_is_refused_with_the_time_to_wait(tmp_path: Path, limited: str) -> None:
    async with both(tmp_path) as (server, proxy, port), client_of(port) as client:
        limit(proxy if limited == "proxy" else server, ONE)
        client.send(b"STAT a\nSTAT a\nLIST\n")
        expected = (
            b"ERR 404 file not found\n"
            b"ERR 429 too many commands of this client retry-after=1000\n"
            b"ERR too many commands of this client retry-after=1000\n"
        )
        assert await client.takes(len(expected)) == expected
        refused = (proxy if limited == "proxy" else server).counts.refused
        assert refused == {"client.commands-per-second": 2}


@pytest.mark.parametrize("key", SLOW)
@pytest.mark.parametrize("scope", ["client", "identity", "total"])
@pytest_twisted.ensureDeferred
async def test_each_limit_at_a_time_in_each_scope(key: str, scope: str) -> None:
    server = PlayedServer()
    first, second = SLOW[key]
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        async with (
            listening(proxy) as port,
            client_of(port) as one,
            client_of(port) as other,
        ):
            if scope == "identity":
                for connection in proxy.connections:
                    connection.identify("alice")
            limit(proxy, **{scope: ScopeLimits(**{key: 1})}, max_delay=5.0)
            one.send(first)
            peer = await server.asked()
            other.send(second)
            await eventually(lambda proxy=proxy: len(proxy.delays) == 1, "a delayed command")
            # Nothing but the end of the first command lets the second one begin.
            peer.send(b"ERR 404 file not found\n")
            await one.takes(1)
            peer = await server.asked()
            peer.send(b"ERR 404 file not found\n")
            assert await other.takes(23) == b"ERR 404 file not found\n"
            assert proxy.counts.delayed == {f"{scope}.{key}": 1}


@pytest.mark.parametrize("scope", ["client", "total"])
@pytest.mark.parametrize("method", [Method.COPY, Method.KERNEL], ids=["copy", "kernel"])
@pytest.mark.parametrize("limited", ["proxy", "fileserver"])
@pytest_twisted.ensureDeferred
async def test_bytes_a_second(tmp_path: Path, limited: str, method: Method, scope: str) -> None:
    rate, size = 8_000_000, 2_400_000
    body = os.urandom(size)
    (tmp_path / "a").write_bytes(body)
    async with both(tmp_path) as (server, proxy, port), client_of(port) as client:
        (proxy.resources if limited == "proxy" else server.services).relays.use(method)
        limit(
            proxy if limited == "proxy" else server,
            **{scope: ScopeLimits(bytes_per_second=rate)},
        )
        began = monotonic()
        client.send(b"DOWNLOAD a\n")
        received = await client.takes(size + 11)
        elapsed = monotonic() - began
        assert received == b"OK 2400000\n" + body
    # It may be slower on a busy machine, and never faster.
    assert elapsed > size / rate * 0.75
