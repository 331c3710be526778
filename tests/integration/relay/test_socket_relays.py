"""Bodies from a connection, by each method: what the client receives, and in which order."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from itertools import cycle, islice

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone

from natproxy.nat import EntryState, Outcome
from natproxy.relay import Method
from tests.support.files import open_descriptors
from tests.support.loopback import Peer, eventually
from tests.support.relays import (
    KIB,
    MIB,
    Feeder,
    both_methods,
    gets,
    half_relayed,
    pause,
    relaying,
    reply,
)

SIZES = (
    1,
    *(64 * KIB + more for more in (-1, 0, 1)),
    *(128 * KIB + more for more in (-1, 0, 1)),
    MIB + 7,
    20 * MIB,
)


async def send_together(upstream: Peer, header: bytes, body: bytes) -> None:
    upstream.send(header + body)


async def send_header_first(upstream: Peer, header: bytes, body: bytes) -> None:
    upstream.send(header)
    await pause(0.02)
    upstream.send(body)


async def send_header_in_two(upstream: Peer, header: bytes, body: bytes) -> None:
    upstream.send(header[:4])
    await pause(0.02)
    upstream.send(header[4:] + body)


@both_methods
@pytest.mark.parametrize("send", [send_together, send_header_first, send_header_in_two])
@pytest_twisted.ensureDeferred
async def test_every_byte_arrives_and_the_next_command_works(method: Method, send) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        for size in SIZES:
            body = os.urandom(size)
            upstream = await proxy.send_command(client)
            entry = proxy.entry
            await send(upstream, b"OK %d and more\n" % size, body)
            await gets(client, b"OK %d and more\n" % size + body)
            assert entry.relayed == len(b"OK %d and more\n" % size) + size
            assert (entry.state, entry.outcome) == (EntryState.GONE, Outcome.COMPLETED)
            assert len(proxy.factory.table) == 0
        await proxy.ended(*["completed"] * len(SIZES))
        sent = [event["bytes"] for event in proxy.events if "outcome" in event]
        assert sent == [len(b"OK %d and more\n" % size) + size for size in SIZES]


@both_methods
@pytest_twisted.ensureDeferred
async def test_bodies_of_all_sizes_one_after_the_other(method: Method) -> None:
    bodies = [os.urandom(size) for size in (5, 300 * KIB, 0, 64 * KIB, MIB, 1)]
    async with relaying(method) as proxy, proxy.client() as client:
        for body in islice(cycle(bodies), 40):
            (await proxy.send_command(client)).send(reply(body))
            await gets(client, reply(body))
        for listing in (b"OK\na\nEND\n", b"OK\n" + b"a name\n" * 50_000 + b"END\n"):
            (await proxy.send_command(client, b"LIST\n")).send(listing)
            await gets(client, listing)


@both_methods
@pytest_twisted.ensureDeferred
async def test_replies_to_pipelined_commands_are_in_order(method: Method) -> None:
    bodies = [os.urandom(size) for size in (2 * MIB, 10, MIB, 0)]
    async with relaying(method) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client, b"DOWNLOAD 0\n")
        upstream.send(reply(bodies[0])[:MIB])
        await client.until(lambda: client.count == MIB, "the first half")
        client.send(b"DOWNLOAD 1\nDOWNLOAD 2\n")
        client.send(b"DOWNLOAD 3\n")
        await pause(0.02)
        assert len(proxy.server.connections) == 1
        upstream.send(reply(bodies[0])[MIB:])
        for number, body in enumerate(bodies[1:], start=1):
            upstream = await proxy.server.asked()
            assert bytes(upstream.received) == b"DOWNLOAD %d\n" % number
            upstream.send(reply(body))
        await gets(client, b"".join(map(reply, bodies)))


@both_methods
@pytest_twisted.ensureDeferred
async def test_entry_counts_while_the_body_runs(method: Method) -> None:
    body = os.urandom(3 * MIB)
    whole = reply(body)
    async with relaying(method) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        entry = proxy.entry
        before = 0
        for end in (3, 20, 1000, MIB, 2 * MIB + 1, len(whole) - 1):
            upstream.send(whole[before:end])
            before = end
            # The header is relayed whole.
            there = end if end > whole.index(b"\n") else 0
            await client.until(lambda there=there: client.count == there, "what was sent")
            await pause(0)
            assert (entry.relayed, entry.state is EntryState.GONE) == (there, False)
        upstream.send(whole[before:])
        await gets(client, whole)
        assert entry.relayed == len(whole)


@both_methods
@pytest.mark.parametrize("size", [5, 200 * KIB, 2 * MIB])
@pytest_twisted.ensureDeferred
async def test_bytes_after_the_end_are_not_relayed(method: Method, size: int) -> None:
    body = os.urandom(size)
    # A body that is complete with its header needs no relay.
    async with relaying(method, all_by_method=size > 64 * KIB) as proxy, proxy.client() as client:
        for _ in range(3):
            upstream = await proxy.send_command(client)
            entry = proxy.entry
            upstream.send(reply(body) + b"OK 3\nabc" * 10_000)
            await gets(client, reply(body))
            assert entry.relayed == len(reply(body))
            await upstream.end()
        await pause(0.02)
        assert client.count == 3 * len(reply(body))


@both_methods
@pytest_twisted.ensureDeferred
async def test_upstream_that_closes_with_the_last_byte_is_complete(method: Method) -> None:
    body = os.urandom(2 * MIB)
    async with relaying(method) as proxy, proxy.client() as client:
        for _ in range(5):
            upstream = await proxy.send_command(client)
            upstream.send(reply(body))
            upstream.transport.loseConnection()
            await gets(client, reply(body))
        await proxy.ended(*["completed"] * 5)


@both_methods
@pytest_twisted.ensureDeferred
async def test_half_closed_client_gets_the_whole_body_and_then_the_end(method: Method) -> None:
    body = os.urandom(4 * MIB)
    async with relaying(method) as proxy:
        async with proxy.client() as client:
            upstream = await proxy.send_command(client)
            client.finish_sending()
            upstream.send(reply(body))
            await gets(client, reply(body))
            assert await client.end() is ConnectionDone
        async with proxy.client() as client:
            upstream = await half_relayed(proxy, client, body)
            client.finish_sending()
            await pause(0.02)
            upstream.send(reply(body)[len(body) // 2 :])
            await gets(client, reply(body))
            assert await client.end() is ConnectionDone


@both_methods
@pytest_twisted.ensureDeferred
async def test_drained_in_the_middle_the_client_gets_the_rest_and_no_more(method: Method) -> None:
    body = os.urandom(4 * MIB)
    async with relaying(method) as proxy, proxy.client() as client:
        upstream = await half_relayed(proxy, client, body)
        client.send(b"DOWNLOAD b\n")
        await pause(0.02)
        drained = proxy.factory.drain()
        await pause(0.02)
        assert not drained.called
        upstream.send(reply(body)[len(body) // 2 :])
        await gets(client, reply(body))
        assert await client.end() is ConnectionDone
        await drained
        await proxy.ended("completed")


@both_methods
@pytest_twisted.ensureDeferred
async def test_short_command_does_not_wait_for_bulk(method: Method) -> None:
    size = 1 << 40
    async with relaying(method) as proxy, AsyncExitStack() as connected:
        clients = []
        for _ in range(20):
            client = await connected.enter_async_context(proxy.client())
            client.keep = 0
            clients.append(client)
            upstream = await proxy.send_command(client)
            upstream.send(b"OK %d\n" % size)
            Feeder(upstream, size)
        short = await connected.enter_async_context(proxy.client())
        for _ in range(5):
            moved = [client.count for client in clients]
            (await proxy.send_command(short, b"DOWNLOAD b\n")).send(reply(b"short"))
            await gets(short, reply(b"short"))
            assert len(proxy.factory.table) == 20
        await eventually(
            lambda: all(client.count > had for client, had in zip(clients, moved, strict=True)),
            "none of them starves",
        )


@both_methods
@pytest_twisted.ensureDeferred
async def test_many_relays_leave_no_descriptor_behind(method: Method) -> None:
    body = os.urandom(300 * KIB)
    async with relaying(method) as proxy, proxy.client() as client:
        for turn in range(30):
            upstream = await proxy.send_command(client)
            upstream.send(reply(body))
            await gets(client, reply(body))
            await upstream.end()
            await pause(0)
            if turn == 0:
                before = open_descriptors()
        assert open_descriptors() <= before
