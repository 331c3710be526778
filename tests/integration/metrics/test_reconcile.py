"""The NAT table against the real sockets of this process."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from natproxy.address import Address
from natproxy.kernel.sockets import ESTABLISHED, connections_to
from natproxy.metrics import reconcile
from natproxy.metrics.reconcile import Reconciler, own_listener_is_listed
from natproxy.nat import Outcome, TranslationKey
from natproxy.protocol import parse_command
from natproxy.proxy.factory import ProxyFactory
from tests.support.loopback import (
    HOST,
    PlayedServer,
    all_ended,
    client_of,
    eventually,
    listening,
    proxy_to,
)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "APART", 0.05)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[PlayedServer, ProxyFactory, Reconciler, int]]:
    """A proxy, its upstream, and the comparison of its table."""
    server = PlayedServer()
    async with listening(server) as upstream:
        factory = proxy_to(upstream)
        reconciler = Reconciler(
            factory.table,
            lambda: [Address(HOST, upstream)],
            lambda function: deferToThread(function),
            reactor,
        )
        async with listening(factory) as port:
            yield server, factory, reconciler, port
        await all_ended(factory)


@pytest_twisted.ensureDeferred
async def test_commands_in_flight_have_sockets() -> None:
    async with proxied() as (server, _, reconciler, port):
        assert (await reconciler.compare()).json()["result"] == "same"
        async with client_of(port) as client:
            client.send(b"LIST\n")
            await server.asked()
            result = await reconciler.compare()
            assert (result.rows, result.sockets, result.differences) == (1, 1, 0)


@pytest_twisted.ensureDeferred
async def test_row_without_a_socket_is_found() -> None:
    async with proxied() as (server, factory, reconciler, port), client_of(port) as client:
        client.send(b"LIST\n")
        peer = await server.asked()
        upstream = peer.transport.getHost()
        key = TranslationKey(Address(HOST, 1), Address(HOST, upstream.port))
        command = parse_command(b"LIST")
        assert command is not None
        entry = factory.table.register(
            key, client.transport, Address(HOST, 2), command, 0.0, lambda: None
        )
        result = await reconciler.compare()
        assert result.differences == 1
        assert result.without_socket == ((entry.serial, ((HOST, 1), (HOST, upstream.port))),)
        factory.table.remove(entry, Outcome.ERROR)
        assert (await reconciler.compare()).differences == 0


@pytest_twisted.ensureDeferred
async def test_socket_without_a_row_is_found() -> None:
    async with proxied() as (server, _, reconciler, port), client_of(port) as client:
        client.send(b"LIST\n")
        peer = await server.asked()
        upstream = peer.transport.getHost().port
        with socket.create_connection((HOST, upstream), 5.0) as leaked:
            result = await reconciler.compare()
            assert result.without_row == ((leaked.getsockname(), (HOST, upstream)),)
            shown = result.json()
            assert shown["result"] == "differs"
            assert shown["sockets_without_row"][0]["nat_port"] == leaked.getsockname()[1]
        await eventually(lambda: len(server.connections) == 2, "the second connection")


@pytest_twisted.ensureDeferred
async def test_traffic_causes_no_differences() -> None:
    async with proxied() as (server, _, reconciler, port), client_of(port) as client:
        reply = b"OK\nEND\n"
        results = []
        for _ in range(3):
            comparing = reconciler.compare()
            comparing.addCallback(results.append)
            sent = 0
            while not comparing.called:
                client.send(b"LIST\n")
                (await server.asked()).send(reply)
                sent += 1
                await client.takes(len(reply))
            assert sent
        assert [result.differences for result in results] == [0, 0, 0]


def test_sockets_of_this_process_are_listed() -> None:
    assert own_listener_is_listed()


def test_kernel_lists_what_the_process_has() -> None:
    with socket.create_server((HOST, 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as client:
            # A server that had the port before may have left connections in TIME_WAIT.
            found = {each.local: each.state for each in connections_to([address])}
            assert found[client.getsockname()] == ESTABLISHED
