"""Files, by each method: what the client receives, slow clients, and clients that are lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import cycle, islice
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionLost

from natproxy.relay import Method
from tests.support.doubles import PlayedPageCache
from tests.support.loopback import Peer, eventually
from tests.support.relays import (
    KIB,
    MIB,
    Running,
    both_methods,
    close,
    digest,
    gets,
    pause,
    reply,
    reset,
    serving,
    sipping,
)

SIZES = (
    1,
    *(64 * KIB + more for more in (-1, 0, 1)),
    *(128 * KIB + more for more in (-1, 0, 1)),
    MIB + 7,
    20 * MIB,
)
LARGE = 8 * MIB
NOT_FOUND = b"ERR file not found\n"
SHORT = 0.2


def sparse(path: Path, size: int) -> None:
    """Create a large sparse file, all of it zeros."""
    with path.open("wb") as file:
        file.truncate(size)


async def held_up(server: Running, client: Peer, command: bytes = b"DOWNLOAD large\n") -> None:
    """Start to send a file to a client that does not read it."""
    server.shrink_buffers(client)
    client.stop_reading()
    client.send(command)
    await server.stalled()


async def flowing(server: Running, client: Peer) -> None:
    """Start to send a file that does not end soon."""
    client.keep = 0
    client.send(b"DOWNLOAD endless\n")
    await client.until(lambda: client.count > MIB, "it flows")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    sparse(tmp_path / "endless", 1 << 40)
    (tmp_path / "large").write_bytes(os.urandom(MIB) * (LARGE // MIB))
    return tmp_path


@both_methods
@pytest_twisted.ensureDeferred
async def test_every_byte_arrives_and_the_next_command_works(
    method: Method, tmp_path: Path
) -> None:
    async with serving(method, tmp_path) as server, server.client() as client:
        for size in SIZES:
            body = os.urandom(size)
            (tmp_path / "file").write_bytes(body)
            client.send(b"DOWNLOAD file\n")
            await gets(client, reply(body))
            # A small file has a relay only if the kernel must move it.
            if method is Method.KERNEL or size > 64 * KIB:
                assert server.relays.made[-1].sent == len(reply(body))
        await server.ended(*["completed"] * len(SIZES))
        sent = [event["bytes"] for event in server.events if "outcome" in event]
        assert sent == [len(b"OK %d\n" % size) + size for size in SIZES]


@both_methods
@pytest_twisted.ensureDeferred
async def test_replies_to_pipelined_commands_are_in_order(method: Method, tmp_path: Path) -> None:
    bodies = [os.urandom(size) for size in (5, 300 * KIB, 0, 64 * KIB, MIB, 1)]
    for number, body in enumerate(bodies):
        (tmp_path / str(number)).write_bytes(body)
    async with serving(method, tmp_path) as server, server.client() as client:
        numbers = list(islice(cycle(range(len(bodies))), 60))
        client.send(b"".join(b"DOWNLOAD %d\nDOWNLOAD absent\n" % number for number in numbers))
        await gets(client, b"".join(reply(bodies[number]) + NOT_FOUND for number in numbers))
        client.send(b"LIST\n")
        await gets(client, b"OK\n0\n1\n2\n3\n4\n5\nEND\n")


@both_methods
@pytest_twisted.ensureDeferred
async def test_slow_client_may_send_many_commands_at_once(method: Method, tmp_path: Path) -> None:
    bodies = [os.urandom(size) for size in (MIB + 11, 70 * KIB, 3, 130 * KIB)]
    for number, body in enumerate(bodies):
        (tmp_path / str(number)).write_bytes(body)
    async with serving(method, tmp_path) as server, server.client() as client:
        server.shrink_buffers(client)
        client.send(b"DOWNLOAD 0\nDOWNLOAD 1\nDOWNLOAD 2\nDOWNLOAD 3\n" * 4)
        with sipping(client, 0.001):
            await gets(client, b"".join(map(reply, bodies)) * 4)
        await server.ended(*["completed"] * 16)


@both_methods
@pytest_twisted.ensureDeferred
async def test_reply_may_begin_or_end_where_the_socket_is_full(
    method: Method, tmp_path: Path
) -> None:
    body = os.urandom(3000)
    (tmp_path / "file").write_bytes(body)
    # By copying, a small file has no relay.
    serve = serving(method, tmp_path, all_by_method=method is Method.KERNEL)
    async with serve as server, server.client() as client:
        server.shrink_buffers(client)
        for _ in range(3):
            client.stop_reading()
            client.send(b"DOWNLOAD file\n" * 200)
            await server.stalled()
            client.read_on()
            await gets(client, reply(body) * 200)
        await server.ended(*["completed"] * 600)


@both_methods
@pytest_twisted.ensureDeferred
async def test_sent_bytes_are_counted_while_it_runs(method: Method, directory: Path) -> None:
    async with serving(method, directory) as server, server.client() as client:
        await held_up(server, client)
        (relay,) = server.relays.made
        first = relay.sent
        assert 0 < first < 3 * MIB
        client.read_on()
        await client.until(lambda: client.count > 4 * MIB, "the half of it")
        assert relay.sent >= client.count > first
        await gets(client, reply((directory / "large").read_bytes()))
        assert relay.sent == client.count


@both_methods
@pytest_twisted.ensureDeferred
async def test_file_that_shrinks_aborts_the_client(method: Method, directory: Path) -> None:
    content = (directory / "large").read_bytes()
    async with serving(method, directory) as server, server.client() as client:
        await held_up(server, client)
        os.truncate(directory / "large", 4 * MIB + 3)
        client.read_on()
        assert await client.end() is ConnectionLost
        got = bytes(client.received)
        assert digest(got) == digest(reply(content)[: len(got)])
        assert len(got) <= 4 * MIB + 3 + len(b"OK %d\n" % LARGE)
        await server.ended("error")
        (reason,) = [event["reason"] for event in server.events if "reason" in event]
        assert str(reason) == f"{LARGE - 4 * MIB - 3} bytes missing"


@both_methods
@pytest_twisted.ensureDeferred
async def test_file_that_grows_is_sent_at_its_promised_size(
    method: Method, directory: Path
) -> None:
    content = (directory / "large").read_bytes()
    async with serving(method, directory) as server, server.client() as client:
        await held_up(server, client, b"DOWNLOAD large\nDOWNLOAD absent\n")
        with (directory / "large").open("ab") as file:
            file.write(os.urandom(MIB))
        client.read_on()
        await gets(client, reply(content) + NOT_FOUND)


@both_methods
@pytest.mark.parametrize("begin", [flowing, held_up])
@pytest.mark.parametrize("end", [reset, close])
@pytest_twisted.ensureDeferred
async def test_file_is_closed_when_the_client_is_lost_in_the_middle(
    method: Method, directory: Path, begin, end: Callable[[Peer], None]
) -> None:
    async with serving(method, directory) as server, server.client() as client:
        await begin(server, client)
        client.stop_reading()
        end(client)
        await server.ended("client-gone")


@both_methods
@pytest.mark.parametrize("begin", [flowing, held_up])
@pytest_twisted.ensureDeferred
async def test_file_is_closed_when_a_half_closed_client_is_lost(
    method: Method, directory: Path, begin
) -> None:
    async with serving(method, directory) as server, server.client() as client:
        await begin(server, client)
        client.finish_sending()
        await pause(0.02)
        client.kill()
        await server.ended("client-gone")


@both_methods
@pytest_twisted.ensureDeferred
async def test_client_that_pauses_many_times_loses_nothing(method: Method, directory: Path) -> None:
    content = (directory / "large").read_bytes()
    async with serving(method, directory) as server, server.client() as client:
        await held_up(server, client)
        for _ in range(10):
            client.read_on()
            await pause(0.003)
            client.stop_reading()
            await pause(0.01)
        client.read_on()
        await gets(client, reply(content))
        assert not server.serving.outbound.paused


@both_methods
@pytest_twisted.ensureDeferred
async def test_client_that_stops_reading_is_aborted_at_its_timeout(
    method: Method, directory: Path
) -> None:
    async with serving(method, directory, idle_timeout=SHORT) as server, server.client() as client:
        await held_up(server, client)
        await server.ended("timeout")
        client.read_on()
        assert await client.end() is ConnectionLost


@both_methods
@pytest_twisted.ensureDeferred
async def test_slow_client_is_not_aborted(method: Method, tmp_path: Path) -> None:
    body = os.urandom(2 * MIB)
    (tmp_path / "file").write_bytes(body)
    async with serving(method, tmp_path, idle_timeout=0.3) as server, server.client() as client:
        server.shrink_buffers(client)
        with sipping(client, 0.02):
            client.send(b"DOWNLOAD file\n")
            await gets(client, reply(body))
        await server.ended("completed")
        # After that, the time-out between commands runs.
        assert await client.end() is ConnectionDone


@both_methods
@pytest_twisted.ensureDeferred
async def test_drained_in_the_middle_the_client_gets_the_rest_and_no_more(
    method: Method, directory: Path
) -> None:
    content = (directory / "large").read_bytes()
    async with serving(method, directory) as server, server.client() as client:
        await held_up(server, client, b"DOWNLOAD large\nDOWNLOAD absent\n")
        drained = server.factory.drain()
        client.read_on()
        await gets(client, reply(content))
        assert await client.end() is ConnectionDone
        await drained
        await server.ended("completed")


@both_methods
@pytest.mark.parametrize("begin", [flowing, held_up])
@pytest_twisted.ensureDeferred
async def test_aborted_daemon_closes_the_connection(method: Method, directory: Path, begin) -> None:
    async with serving(method, directory) as server, server.client() as client:
        await begin(server, client)
        server.factory.abort()
        client.read_on()
        assert await client.end() is ConnectionLost
        await server.ended("drained")


@both_methods
@pytest_twisted.ensureDeferred
async def test_half_closed_client_gets_the_whole_file_and_then_the_end(
    method: Method, directory: Path
) -> None:
    content = (directory / "large").read_bytes()
    async with serving(method, directory) as server:
        async with server.client() as client:
            client.send(b"DOWNLOAD large\nDOWNLOAD absent\n")
            client.finish_sending()
            await gets(client, reply(content) + NOT_FOUND)
            assert await client.end() is ConnectionDone
        async with server.client() as client:
            await held_up(server, client)
            client.finish_sending()
            await pause(0.02)
            client.read_on()
            await gets(client, reply(content))
            assert await client.end() is ConnectionDone


@both_methods
@pytest_twisted.ensureDeferred
async def test_short_command_does_not_wait_for_bulk(method: Method, directory: Path) -> None:
    (directory / "short").write_bytes(b"short")
    async with serving(method, directory) as server, AsyncExitStack() as connected:
        clients = []
        for _ in range(20):
            client = await connected.enter_async_context(server.client())
            await flowing(server, client)
            clients.append(client)
        short = await connected.enter_async_context(server.client())
        for _ in range(5):
            moved = [client.count for client in clients]
            short.send(b"DOWNLOAD short\n")
            await gets(short, reply(b"short"))
            assert len(server.factory.connections) == 21
        await eventually(
            lambda: all(client.count > had for client, had in zip(clients, moved, strict=True)),
            "none of them starves",
        )


@both_methods
@pytest_twisted.ensureDeferred
async def test_file_that_is_not_cached_is_loaded_and_then_sent(
    method: Method, tmp_path: Path
) -> None:
    body = os.urandom(3 * MIB // 2)
    (tmp_path / "file").write_bytes(body)
    cache = PlayedPageCache()
    serve = serving(method, tmp_path, page_cache=cache, idle_timeout=SHORT / 2)
    async with serve as server, server.client() as client:
        client.send(b"DOWNLOAD file\n")
        await eventually(lambda: cache.loading, "it is being read")
        # The time-out of the client does not run while the disk is read.
        await pause(1.2 * SHORT)
        assert client.count <= len(b"OK %d\n" % len(body))
        assert not server.serving.outbound.paused
        while client.count < len(reply(body)):
            await eventually(
                lambda: cache.loading or client.count == len(reply(body)), "the next range"
            )
            if cache.loading:
                cache.loaded()
        await gets(client, reply(body))
    ranges = sorted({(offset, size) for _, offset, size in cache.checked})
    assert ranges[0][0] == 0
    assert sum(ranges[-1]) == len(body)


@both_methods
@pytest_twisted.ensureDeferred
async def test_client_is_lost_while_its_file_is_loaded(method: Method, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    cache = PlayedPageCache()
    async with serving(method, tmp_path, page_cache=cache) as server, server.client() as client:
        client.send(b"DOWNLOAD file\n")
        await eventually(lambda: cache.loading, "it is being read")
        ((file, _, _),) = cache.loading
        client.kill()
        await server.ended("client-gone")
        # The thread is still reading.
        assert os.fstat(file).st_size == MIB
        cache.loaded()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)
