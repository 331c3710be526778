"""Many bodies in rotation over real sockets: few pipes, slow ends, and no byte held back."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_twisted

from natproxy.relay import Method, low_water
from natproxy.relay.low_water import LEAST, MARK
from natproxy.relay.outbound import BUDGET, SocketOutbound
from natproxy.relay.pipes import PipePool
from natproxy.relay.splice import SpliceRelay, Waiting
from tests.support.loopback import Peer, eventually
from tests.support.relays import (
    KIB,
    MIB,
    Feeder,
    RecordingRelays,
    Relaying,
    both_methods,
    gets,
    pause,
    relaying,
    reply,
    serving,
)

needs_splice = pytest.mark.skipif(not hasattr(os, "splice"), reason="no splice on this system")

ENDLESS = 1 << 40


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Allow as many descriptors as hundreds of connections in one process need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def stalled_clients(proxy: Relaying, stack: AsyncExitStack, count: int) -> list[Peer]:
    """Connect clients that do not read, and fill everything between their servers and them."""
    clients = []
    for _ in range(count):
        client = await stack.enter_async_context(proxy.client())
        client.stop_reading()
        clients.append(client)
        upstream = await proxy.send_command(client)
        upstream.send(b"OK %d\n" % ENDLESS)
        Feeder(upstream, ENDLESS)
    connections = list(proxy.factory.connections)
    assert len(connections) == count
    calm = 0
    while calm < 3:
        stalled = all(connection.outbound.paused for connection in connections)
        calm = calm + 1 if stalled else 0
        await pause(0.005)
    return clients


@needs_splice
@pytest_twisted.ensureDeferred
async def test_hundreds_of_bodies_are_spliced_through_few_pipes(
    monkeypatch: pytest.MonkeyPatch, descriptors: None
) -> None:
    body = os.urandom(160 * KIB)
    count = 520
    lent = []
    lend = PipePool.lend

    def recorded_lend(self: PipePool) -> object:
        pipe = lend(self)
        lent.append(self.lent)
        return pipe

    monkeypatch.setattr(PipePool, "lend", recorded_lend)
    async with relaying(Method.KERNEL) as proxy, AsyncExitStack() as stack:
        clients, upstreams = [], []
        for _ in range(count):
            clients.append(await stack.enter_async_context(proxy.client()))
            upstreams.append(await proxy.send_command(clients[-1]))
        for upstream in upstreams:
            upstream.send(reply(body)[: 40 * KIB])
        await eventually(lambda: len(proxy.relays.made) == count, "all of them are relayed")
        for upstream in upstreams:
            upstream.send(reply(body)[40 * KIB :])
        for client in clients:
            await gets(client, reply(body))
        relays = proxy.relays
        assert all(type(relay) is SpliceRelay for relay in relays.made)
        assert (relays.pool.lent, relays.pool.refused) == (0, 0)
        assert max(lent) <= PipePool.KEPT


@both_methods
@pytest_twisted.ensureDeferred
async def test_bytes_of_a_slow_upstream_are_not_held_back(method: Method) -> None:
    # The first bytes come fast enough for a low-water mark; each piece after that is below it.
    begun = os.urandom(2 * MIB)
    async with relaying(method, reply_timeout=0.8) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        header = b"OK %d\n" % ENDLESS
        upstream.send(header + begun)
        sent = len(header + begun)
        for _ in range(9):
            await client.until(lambda sent=sent: client.count == sent, "every byte that was sent")
            await pause(0.1)
            upstream.send(b"x" * KIB)
            sent += KIB
        # For longer than its time-out, the upstream has sent only a little.
        assert proxy.outcomes == []


@both_methods
@pytest.mark.parametrize("rest", [1, LEAST, LEAST + 1, MARK - 1, MARK, MARK + 1])
@pytest_twisted.ensureDeferred
async def test_last_bytes_of_a_body_do_not_wait_for_more(
    monkeypatch: pytest.MonkeyPatch, method: Method, rest: int
) -> None:
    # A mark that is above the rest would be lowered too late.
    monkeypatch.setattr(low_water, "DELAY", 600.0)
    body = os.urandom(MIB + rest)
    async with relaying(method) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        upstream.send(reply(body)[:-rest])
        await pause(0.01)
        upstream.send(body[-rest:])
        await gets(client, reply(body))


@needs_splice
@pytest_twisted.ensureDeferred
async def test_body_is_moved_from_a_socket_that_holds_less_than_the_mark() -> None:
    body = os.urandom(4 * MIB)
    async with relaying(Method.KERNEL) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        upstream.send(reply(body)[:KIB])
        await eventually(lambda: proxy.relays.made, "the relay")
        (relay,) = proxy.relays.made
        assert isinstance(relay, SpliceRelay)
        relay._mark._source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * KIB)
        upstream.send(reply(body)[KIB:])
        await gets(client, reply(body))


@needs_splice
@pytest_twisted.ensureDeferred
async def test_clients_that_do_not_read_hold_no_pipe_and_delay_nobody() -> None:
    body = os.urandom(4 * MIB)
    async with relaying(Method.KERNEL) as proxy, AsyncExitStack() as stack:
        await stalled_clients(proxy, stack, 12)
        relays = list(proxy.relays.made)
        assert {relay._waiting for relay in relays} == {Waiting.SPACE}
        assert (proxy.relays.pool.lent, len(proxy.relays.rotation)) == (0, 0)
        client = await stack.enter_async_context(proxy.client())
        (await proxy.send_command(client)).send(reply(body))
        await gets(client, reply(body))


@needs_splice
@pytest_twisted.ensureDeferred
async def test_clients_whose_sockets_take_less_than_reported_hold_few_pipes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SocketOutbound, "space", lambda self: BUDGET)
    body = os.urandom(4 * MIB)
    relays = RecordingRelays(Method.KERNEL)
    relays.pool = PipePool(8)
    assert relays._shared is not None
    relays._shared = relays._shared._replace(pool=relays.pool)
    async with relaying(Method.KERNEL, relays=relays) as proxy, AsyncExitStack() as stack:
        clients = await stalled_clients(proxy, stack, 12)
        assert relays.pool.lent == 8
        assert relays.pool.refused > 0
        # The others get their bodies, although by copying.
        client = await stack.enter_async_context(proxy.client())
        (await proxy.send_command(client)).send(reply(body))
        await gets(client, reply(body))
        # And nobody has lost a byte.
        for client in clients:
            client.keep = 6 * MIB
            client.read_on()
        header = b"OK %d\n" % ENDLESS
        for client in clients:
            await client.until(lambda client=client: client.count > client.keep, "the body")
            assert bytes(client.received) == (header + Feeder.body(6 * MIB))[: 6 * MIB]


@both_methods
@pytest_twisted.ensureDeferred
async def test_files_are_sent_in_rotation(method: Method, tmp_path) -> None:
    body = os.urandom(3 * MIB)
    (tmp_path / "file").write_bytes(body)
    async with serving(method, tmp_path) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client()) for _ in range(12)]
        for client in clients:
            client.send(b"DOWNLOAD file\n")
        for client in clients:
            await gets(client, reply(body))
        assert len(server.relays.rotation) == 0
