"""Bodies from a connection, by each method: slow peers, and peers that are lost."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionLost

from natproxy.nat import Outcome
from natproxy.relay import Method
from tests.support.loopback import Peer
from tests.support.relays import (
    KIB,
    MIB,
    Feeder,
    Relaying,
    both_methods,
    close,
    digest,
    gets,
    half_relayed,
    pause,
    relaying,
    reply,
    reset,
    sipping,
)

ENDLESS = 1 << 40
SHORT = 0.2


def close_with_unread_data(peer: Peer) -> None:
    peer.stop_reading()
    peer.transport.loseConnection()


async def flowing(proxy: Relaying, client: Peer, size: int = ENDLESS) -> tuple[Peer, Feeder]:
    """Start to relay a body that does not end soon."""
    upstream = await proxy.send_command(client)
    client.keep = 0
    upstream.send(b"OK %d\n" % size)
    feeder = Feeder(upstream, size)
    await client.until(lambda: client.count > MIB, "it flows")
    return upstream, feeder


async def held_up(proxy: Relaying, client: Peer, size: int = ENDLESS) -> tuple[Peer, Feeder]:
    """Start to relay a body to a client that does not read it."""
    upstream = await proxy.send_command(client)
    proxy.shrink_buffers(client, upstream)
    client.stop_reading()
    upstream.send(b"OK %d\n" % size)
    feeder = Feeder(upstream, size)
    await proxy.stalled()
    return upstream, feeder


@both_methods
@pytest.mark.parametrize("end", [close, reset])
@pytest.mark.parametrize("size", [100, 4 * MIB])
@pytest_twisted.ensureDeferred
async def test_upstream_that_ends_in_the_middle_aborts_the_client(
    method: Method, end: Callable[[Peer], None], size: int
) -> None:
    body = os.urandom(size)
    async with relaying(method) as proxy, proxy.client() as client:
        upstream = await half_relayed(proxy, client, body)
        entry = proxy.entry
        end(upstream)
        assert await client.end() is ConnectionLost
        assert digest(bytes(client.received)) == digest(reply(body)[: size // 2])
        assert (entry.relayed, entry.outcome) == (size // 2, Outcome.UPSTREAM_GONE)
        await proxy.ended("upstream-gone")


@both_methods
@pytest_twisted.ensureDeferred
async def test_upstream_that_closed_earlier_is_short_when_the_client_reads_again(
    method: Method,
) -> None:
    size = 8 * MIB
    async with relaying(method) as proxy, proxy.client() as client:
        upstream, feeder = await held_up(proxy, client, size)
        await feeder.stalled()
        upstream.transport.unregisterProducer()
        upstream.transport.loseConnection()
        client.read_on()
        assert await client.end() is ConnectionLost
        assert client.count <= feeder.fed + len(b"OK %d\n" % size)
        assert bytes(client.received[-1000:]) in Feeder.body(size)
        await proxy.ended("upstream-gone")


@both_methods
@pytest.mark.parametrize("end", [reset, close_with_unread_data])
@pytest_twisted.ensureDeferred
async def test_client_that_is_lost_in_the_middle_closes_the_upstream(
    method: Method, end: Callable[[Peer], None]
) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        upstream, _ = await flowing(proxy, client)
        entry = proxy.entry
        end(client)
        assert await upstream.end() is ConnectionLost
        assert entry.outcome is Outcome.CLIENT_GONE
        await proxy.ended("client-gone")


@both_methods
@pytest_twisted.ensureDeferred
async def test_client_that_is_lost_without_having_read_closes_the_upstream(
    method: Method,
) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        upstream, _ = await held_up(proxy, client)
        close(client)
        assert await upstream.end() is ConnectionLost
        await proxy.ended("client-gone")


@both_methods
@pytest.mark.parametrize("begin", [flowing, held_up])
@pytest_twisted.ensureDeferred
async def test_half_closed_client_that_is_lost_closes_the_upstream(method: Method, begin) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        upstream, _ = await begin(proxy, client)
        client.finish_sending()
        await pause(0.02)
        client.kill()
        assert await upstream.end() is ConnectionLost
        await proxy.ended("client-gone")


@both_methods
@pytest_twisted.ensureDeferred
async def test_client_that_is_lost_before_the_body_begins_closes_the_upstream(
    method: Method,
) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        upstream.send(b"OK 1000000\n")
        await client.until(lambda: client.count, "the header")
        client.kill()
        assert await upstream.end() is ConnectionLost
        await proxy.ended("client-gone")


@both_methods
@pytest.mark.parametrize("begin", [flowing, held_up])
@pytest_twisted.ensureDeferred
async def test_cancelled_entry_resets_both_connections(method: Method, begin) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        upstream, _ = await begin(proxy, client)
        entry = proxy.entry
        proxy.factory.table.cancel(entry, Outcome.ERROR)
        relayed = entry.relayed
        assert await upstream.end() is ConnectionLost
        client.read_on()
        # The rest of the reply is missing: only a reset lets the client notice.
        assert await client.end() is ConnectionLost
        assert entry.relayed == relayed
        assert client.count <= relayed


@both_methods
@pytest.mark.parametrize("begin", [flowing, held_up])
@pytest_twisted.ensureDeferred
async def test_aborted_daemon_closes_both_sides(method: Method, begin) -> None:
    async with relaying(method) as proxy, proxy.client() as client:
        upstream, _ = await begin(proxy, client)
        client.read_on()
        proxy.factory.abort()
        assert len(proxy.factory.table) == 0
        assert await upstream.end() is ConnectionLost
        assert await client.end() is ConnectionLost
        await proxy.ended("drained")


@both_methods
@pytest_twisted.ensureDeferred
async def test_client_that_stops_reading_stops_the_upstream_and_loses_nothing(
    method: Method,
) -> None:
    size = 8 * MIB
    async with relaying(method) as proxy, proxy.client() as client:
        _, feeder = await held_up(proxy, client, size)
        await feeder.stalled()
        assert feeder.fed < 4 * MIB
        assert proxy.serving.outbound.paused
        held = feeder.fed
        await pause(0.05)
        assert feeder.fed == held
        client.read_on()
        await gets(client, b"OK %d\n" % size + Feeder.body(size))
        assert not proxy.serving.outbound.paused
        (await proxy.send_command(client)).send(reply(b"next"))
        await gets(client, reply(b"next"))


@both_methods
@pytest_twisted.ensureDeferred
async def test_client_that_pauses_many_times_loses_nothing(method: Method) -> None:
    size = 8 * MIB + 13
    async with relaying(method) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        proxy.shrink_buffers(client, upstream)
        upstream.send(b"OK %d\n" % size)
        Feeder(upstream, size)
        for _ in range(10):
            client.stop_reading()
            await pause(0.01)
            client.read_on()
            await pause(0.003)
        await gets(client, b"OK %d\n" % size + Feeder.body(size))
        await proxy.ended("completed")


@both_methods
@pytest_twisted.ensureDeferred
async def test_slow_client_may_send_many_commands_at_once(method: Method) -> None:
    body = os.urandom(MIB + 11)
    async with relaying(method) as proxy, proxy.client() as client:
        for _ in range(8):
            client.send(b"DOWNLOAD a\n")
        with sipping(client, 0.001):
            for number in range(8):
                upstream = await proxy.server.asked()
                if not number:
                    proxy.shrink_buffers(client)
                upstream.send(reply(body))
            await gets(client, reply(body) * 8)
        await proxy.ended(*["completed"] * 8)


@both_methods
@pytest_twisted.ensureDeferred
async def test_reply_may_begin_or_end_where_the_socket_is_full(method: Method) -> None:
    body = os.urandom(9000)
    # A body that is complete with its header needs no relay.
    async with relaying(method, all_by_method=False) as proxy, proxy.client() as client:
        proxy.server.reply = reply(body)
        proxy.shrink_buffers(client)
        for _ in range(3):
            client.stop_reading()
            client.send(b"DOWNLOAD a\n" * 60)
            await proxy.stalled()
            client.read_on()
            await gets(client, reply(body) * 60)
        await proxy.ended(*["completed"] * 180)


@both_methods
@pytest_twisted.ensureDeferred
async def test_client_that_stops_reading_is_aborted_at_its_timeout(method: Method) -> None:
    async with relaying(method, idle_timeout=SHORT) as proxy, proxy.client() as client:
        upstream, _ = await held_up(proxy, client)
        assert await upstream.end() is ConnectionLost
        client.read_on()
        assert await client.end() is ConnectionLost
        await proxy.ended("timeout")


@both_methods
@pytest_twisted.ensureDeferred
async def test_slow_client_is_not_aborted(method: Method) -> None:
    size = 2 * MIB
    timeouts = {"idle_timeout": 0.3, "reply_timeout": 0.3}
    async with relaying(method, **timeouts) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        proxy.shrink_buffers(client, upstream)
        # So slow that a full pipe takes longer than the time-out.
        with sipping(client, 0.025):
            upstream.send(b"OK %d\n" % size)
            Feeder(upstream, size)
            await gets(client, b"OK %d\n" % size + Feeder.body(size))
        await proxy.ended("completed")


@both_methods
@pytest_twisted.ensureDeferred
async def test_timeout_of_the_upstream_does_not_run_while_the_client_does_not_read(
    method: Method,
) -> None:
    size = 8 * MIB
    async with relaying(method, reply_timeout=0.5) as proxy, proxy.client() as client:
        await held_up(proxy, client, size)
        await pause(0.8)
        client.read_on()
        await gets(client, b"OK %d\n" % size + Feeder.body(size))
        await proxy.ended("completed")


@both_methods
@pytest.mark.parametrize("part", [10, 200 * KIB])
@pytest_twisted.ensureDeferred
async def test_upstream_that_falls_silent_aborts_the_client(method: Method, part: int) -> None:
    body = os.urandom(400 * KIB)
    async with relaying(method, reply_timeout=SHORT / 2) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        upstream.send(reply(body)[:part])
        assert await client.end() is ConnectionLost
        assert client.count == part
        assert await upstream.end() is ConnectionLost
        await proxy.ended("timeout")


@both_methods
@pytest_twisted.ensureDeferred
async def test_upstream_that_falls_silent_after_the_client_had_to_be_waited_for(
    method: Method,
) -> None:
    async with relaying(method, reply_timeout=SHORT) as proxy, proxy.client() as client:
        upstream, feeder = await held_up(proxy, client)
        await feeder.stalled()
        upstream.transport.unregisterProducer()
        client.read_on()
        assert await client.end() is ConnectionLost
        assert client.count == feeder.fed + len(b"OK %d\n" % ENDLESS)
        assert await upstream.end() is ConnectionLost
        await proxy.ended("timeout")


@both_methods
@pytest_twisted.ensureDeferred
async def test_slow_upstream_is_not_aborted(method: Method) -> None:
    timeouts = {"reply_timeout": 0.3, "idle_timeout": 0.3}
    async with relaying(method, **timeouts) as proxy, proxy.client() as client:
        upstream = await proxy.send_command(client)
        whole = reply(bytes(range(5)))
        upstream.send(whole[:5])
        for position in range(5, len(whole)):
            await pause(0.08)
            upstream.send(whole[position : position + 1])
        await gets(client, whole)
        await proxy.ended("completed")
        # After that, the time-out of the client runs again.
        assert await client.end() is ConnectionDone
