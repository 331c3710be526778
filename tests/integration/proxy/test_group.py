"""A proxy with several upstreams, over real sockets: checks, deaths, the queue, names, reloads."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString

from natproxy.daemon.endpoints import upstream_targets
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.fileserver.factory import FileServerFactory
from natproxy.nat import Registered
from natproxy.protocol import VERSION_1
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.resolution import AddressCache
from natproxy.proxy.upstreams import Health, State
from natproxy.server.proxy_header import HeaderFactory
from tests.support import version1
from tests.support.loopback import (
    HOST,
    PlayedServer,
    client_of,
    eventually,
    file_server,
    free_port,
    listening,
)
from tests.support.resolver import PlayedResolver

HEALTH = Health(interval=0.05, timeout=2.0, rise=2, fall=2, failures=3)

EMPTY = b"OK\nEND\n"


def proxy_of(*endpoints: str, names: AddressCache | None = None, **settings: Any) -> ProxyFactory:
    """Return the factory of a proxy in front of these endpoints."""
    config = ProxyConfig(upstream=endpoints, **settings)  # type: ignore[arg-type]
    targets = upstream_targets(reactor, config, names)
    proxy = ProxyFactory(reactor, targets[0].connector)
    proxy.resources.upstreams.use(targets)
    proxy.resources.upstreams.set_health(HEALTH)
    return proxy


@asynccontextmanager
async def started(proxy: ProxyFactory) -> AsyncIterator[int]:
    """Listen with a proxy that checks its upstreams."""
    async with listening(proxy) as port:
        proxy.start()
        yield port


async def reply_to(port: int, command: bytes, expected: bytes) -> None:
    """Check the reply to a command."""
    async with client_of(port) as client:
        client.send(command)
        assert await client.takes(len(expected)) == expected


@pytest_twisted.ensureDeferred
async def test_commands_are_spread_over_the_upstreams() -> None:
    servers = PlayedServer(), PlayedServer()
    async with listening(servers[0]) as first, listening(servers[1]) as second:
        proxy = proxy_of(f"tcp:{HOST}:{first}", f"tcp:{HOST}:{second}")
        async with listening(proxy) as port, client_of(port) as one, client_of(port) as other:
            for client in (one, other):
                client.send(b"LIST\n")
            for server in servers:
                (await server.asked()).send(EMPTY)
            for client in (one, other):
                assert await client.takes(len(EMPTY)) == EMPTY
        assert [each.active for each in proxy.resources.upstreams] == [0, 0]
        assert [each.commands for each in proxy.resources.upstreams] == [1, 1]


@pytest_twisted.ensureDeferred
async def test_upstream_that_dies_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    port_of_second = free_port()
    async with listening(file_server(tmp_path / "a")) as first:
        proxy = proxy_of(f"tcp:{HOST}:{first}", f"tcp:{HOST}:{port_of_second}")
        upstream = [*proxy.resources.upstreams][1]
        changes: list[State] = []
        proxy.resources.upstreams.subscribe(lambda change: changes.append(change.state))
        async with started(proxy) as port:
            await eventually(lambda: upstream.state is State.DOWN, "the second one is down")
            assert upstream.last_error == "the server refuses connections"
            for _ in range(4):
                await reply_to(port, b"LIST\n", EMPTY)
            assert upstream.commands == 0
            # A file server, for which the port is free.
            server = file_server(tmp_path / "a")
            listener = reactor.listenTCP(port_of_second, server, interface=HOST)
            try:
                await eventually(lambda: upstream.state is State.UP, "the second one is up")
                for _ in range(2):
                    await reply_to(port, b"LIST\n", EMPTY)
                assert upstream.commands == 1
            finally:
                await listener.stopListening()
                server.abort()
                await server.drain()
            await eventually(lambda: upstream.state is State.DOWN, "the second one is down again")
        assert changes == [State.DOWN, State.UP, State.DOWN]


@pytest_twisted.ensureDeferred
async def test_checks_leave_no_trace(tmp_path: Path) -> None:
    server = file_server(tmp_path)
    events: list[object] = []
    async with listening(server) as behind:
        proxy = proxy_of(f"tcp:{HOST}:{behind}")
        proxy.table.subscribe(events.append)
        (upstream,) = proxy.resources.upstreams
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        proxy.start()
        await eventually(lambda: upstream.checks >= 5, "checks")
        assert upstream.failed_checks == 0
        assert upstream.abilities is not None
        assert upstream.abilities.supports(b"HASH")
        proxy.resources.upstreams.stop()
        await eventually(lambda: not server.connections, "the server has no connection left")
        if before:
            await eventually(
                lambda: len(os.listdir("/proc/self/fd")) <= before + 1, "no descriptor is left"
            )
    assert events == []


@pytest_twisted.ensureDeferred
async def test_checks_of_other_endpoints(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    path = tmp_path / "socket"
    server: FileServerFactory = file_server(tmp_path / "files")
    unix = await serverFromString(reactor, f"unix:{path}").listen(server)
    behind_header = reactor.listenTCP(0, HeaderFactory(server), interface=HOST)
    try:
        with version1.Server(str(tmp_path / "files")) as old:
            header_port = behind_header.getHost().port
            proxy = proxy_of(f"unix:{path}", f"tcp:{HOST}:{old.port}")
            config = ProxyConfig(
                upstream=(f"tcp:{HOST}:{header_port}",),  # type: ignore[arg-type]
                upstream_proxy_protocol=True,
            )
            upstreams = proxy.resources.upstreams
            upstreams.use(
                [
                    *upstream_targets(reactor, ProxyConfig(upstream=(f"unix:{path}",))),  # type: ignore[arg-type]
                    *upstream_targets(reactor, ProxyConfig(upstream=(f"tcp:{HOST}:{old.port}",))),  # type: ignore[arg-type]
                    *upstream_targets(reactor, config),
                ]
            )
            proxy.start()
            members = [*upstreams]
            await eventually(lambda: all(each.checks >= 2 for each in members), "checks of all")
            upstreams.stop()
            assert [each.last_error for each in members] == [None] * 3
            assert members[1].abilities == VERSION_1
            assert members[0].abilities == members[2].abilities != VERSION_1
            common = upstreams.common
            assert common is not None
            assert common.version == 1
    finally:
        await unix.stopListening()
        await behind_header.stopListening()
        server.abort()
        await server.drain()


@pytest_twisted.ensureDeferred
async def test_feat_has_what_all_support(tmp_path: Path) -> None:
    servers = PlayedServer(), PlayedServer()
    replies = (
        b"OK\nNATPROXY 2\nGET offset length\nSTAT\nEND\n",
        b"OK\nNATPROXY 2\nGET length if-match\nHASH\nEND\n",
    )
    async with listening(servers[0]) as first, listening(servers[1]) as second:
        proxy = proxy_of(f"tcp:{HOST}:{first}", f"tcp:{HOST}:{second}")
        upstreams = proxy.resources.upstreams
        upstreams.set_health(HEALTH._replace(interval=600.0))
        async with started(proxy) as port:
            for server, reply in zip(servers, replies, strict=True):
                (await server.asked()).send(reply)
            await eventually(lambda: all(each.abilities for each in upstreams), "both are known")
            async with client_of(port) as client:
                client.send(b"FEAT\n")
                await eventually(lambda: any(each.active for each in upstreams), "FEAT is sent on")
                asked = next(each for each in upstreams if each.active)
                number = [*upstreams].index(asked)
                (await servers[number].asked()).send(replies[number])
                expected = b"OK\nNATPROXY 2\nGET length\nVIA natproxy/2.1\nEND\n"
                assert await client.takes(len(expected)) == expected


@pytest.mark.parametrize(
    ("command", "prefix"),
    [(b"STAT a\n", b"ERR 503 proxy error: "), (b"LIST\n", b"ERR proxy error: ")],
)
@pytest_twisted.ensureDeferred
async def test_queue(command: bytes, prefix: bytes) -> None:
    server = PlayedServer()
    async with listening(server) as behind:
        proxy = proxy_of(f"tcp:{HOST}:{behind}", upstream_connections=1)
        queue = proxy.resources.upstreams.queue
        queue.limit(2, 60.0)
        async with (
            listening(proxy) as port,
            client_of(port) as served,
            client_of(port) as gone,
            client_of(port) as waiting,
        ):
            served.send(b"LIST\n")
            first = await server.asked()
            gone.send(b"LIST\n")
            await eventually(lambda: len(queue) == 1, "one waits")
            waiting.send(b"LIST\n")
            await eventually(lambda: len(queue) == 2, "two wait")
            text = prefix + b"the servers are busy, and 2 commands wait for them\n"
            await reply_to(port, command, text)
            gone.kill()
            await eventually(lambda: len(queue) == 1, "the one that has gone has left the queue")
            assert len(server.connections) == 1
            first.send(EMPTY)
            assert await served.takes(len(EMPTY)) == EMPTY
            (await server.asked()).send(EMPTY)
            assert await waiting.takes(len(EMPTY)) == EMPTY
            assert (len(queue), queue.waited, queue.full, queue.expired) == (0, 2, 1, 0)
            queue.limit(2, 0.05)
            served.send(b"LIST\n")
            held = await server.asked()
            await reply_to(port, command, prefix + b"the servers were busy for 0.05 s\n")
            held.send(EMPTY)
            assert await served.takes(len(EMPTY)) == EMPTY


@pytest_twisted.ensureDeferred
async def test_name_is_looked_up_once_and_its_new_addresses_are_used() -> None:
    server = PlayedServer()
    seconds = 0.0
    lookups: list[str] = []
    resolver = PlayedResolver("127.0.0.2", HOST)
    resolve = resolver.resolveHostName

    def counted(receiver: Any, name: str, portNumber: int = 0, **others: object) -> Any:
        lookups.append(name)
        return resolve(receiver, name, portNumber, **others)

    resolver.resolveHostName = counted  # type: ignore[method-assign]
    names = AddressCache(lambda: resolver, lambda: seconds)
    async with listening(server) as behind:
        proxy = proxy_of(f"tcp:files.example:{behind}", names=names)
        registered: list[Registered] = []
        proxy.table.subscribe(registered.append, (Registered,))  # type: ignore[arg-type]
        async with listening(proxy) as port, client_of(port) as client:

            async def command() -> None:
                client.send(b"LIST\n")
                (await server.asked()).send(EMPTY)
                assert await client.takes(len(EMPTY)) == EMPTY

            for _ in range(3):
                await command()
            assert lookups == ["files.example"]
            assert {each.key.upstream.host for each in registered} == {HOST}
            # The address that has worked is tried first.
            assert next(iter(names._names.values())).addresses[0].host == HOST
            seconds = 45.0
            await command()
            assert len(lookups) == 2


@pytest_twisted.ensureDeferred
async def test_upstream_is_removed_while_it_executes_a_command() -> None:
    servers = PlayedServer(), PlayedServer()
    async with listening(servers[0]) as first, listening(servers[1]) as second:
        proxy = proxy_of(f"tcp:{HOST}:{first}")
        async with listening(proxy) as port, client_of(port) as client:
            client.send(b"LIST\n")
            peer = await servers[0].asked()
            removed = next(iter(proxy.resources.upstreams))
            config = ProxyConfig(upstream=(f"tcp:{HOST}:{second}",))  # type: ignore[arg-type]
            proxy.resources.upstreams.use(upstream_targets(reactor, config))
            peer.send(EMPTY)
            assert await client.takes(len(EMPTY)) == EMPTY
            assert removed.active == 0
            client.send(b"LIST\n")
            (await servers[1].asked()).send(EMPTY)
            assert await client.takes(len(EMPTY)) == EMPTY
