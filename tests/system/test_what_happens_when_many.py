"""Many commands and many clients: each reply is complete, in order and its client's own."""

from __future__ import annotations

import gc
import random
import socket
from pathlib import Path

import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.threads import deferToThread

from natproxy.nat import Removed
from natproxy.server.admission import Admission
from natproxy.server.rotation import QUEUE_LIMIT
from tests.support.files import open_descriptors
from tests.support.loopback import (
    HOST,
    PlayedServer,
    client_of,
    eventually,
    file_server,
    listening,
    proxy_to,
)

COMMANDS = 2000
TIME_WAIT = "06"


def waiting_ports(peer_port: int) -> list[str]:
    """Return the local addresses in TIME_WAIT whose peer has a port of loopback."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == TIME_WAIT and row[2].endswith(f":{peer_port:04X}")]


def used_descriptors() -> int:
    """Count the open descriptors that are not held by garbage alone."""
    gc.collect()
    return open_descriptors()


@pytest_twisted.ensureDeferred
async def test_clients_killed_at_random_moments_leave_nothing(tmp_path: Path) -> None:
    chance = random.Random(20_261_122)
    (tmp_path / "small").write_bytes(b"x" * 1000)
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    commands = (b"LIST\n", b"DOWNLOAD small\n", b"DOWNLOAD large\n", b"DOWNLOAD none\n", b"X\n")
    server = file_server(tmp_path)
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        async with listening(proxy) as port:
            ends: list[str] = []
            proxy.table.subscribe(lambda event: ends.append(event.outcome.value), (Removed,))

            async def clients() -> None:
                while len(ends) < COMMANDS:
                    count = chance.choice((1, 1, 2, 5, 90))
                    async with client_of(port) as client:
                        client.keep = 0
                        chosen = chance.choices(commands, k=count)
                        client.send(b"".join(chosen))
                        # Where to kill it: far inside a large file, or within the first line.
                        furthest = 3_000_000 if b"large" in chosen[0] else len(b"OK\nlarge\n")
                        enough = chance.choice((0, chance.randrange(furthest)))
                        if chance.random() < 0.3:
                            client.finish_sending()
                        await client.until(
                            lambda e=enough, c=client: c.count >= e or c.ended, "bytes or the end"
                        )
                        if chance.random() < 0.5 and client.ended is None:
                            client.transport.loseConnection()

            async with client_of(port):
                pass
            await eventually(lambda: not proxy.connections, "the first client gone")
            before = used_descriptors()
            await gatherResults([Deferred.fromCoroutine(clients()) for _ in range(16)])
            await eventually(lambda: not proxy.connections, "all clients forgotten")
            assert len(proxy.table) == 0
            assert proxy.admission.admitted == 0
            await eventually(lambda: not server.connections, "all upstream connections gone")
            await eventually(lambda: used_descriptors() <= before, "all descriptors closed")
            assert used_descriptors() <= before
            # The seed has made enough of both.
            assert min(ends.count("completed"), ends.count("client-gone")) > 200


@pytest_twisted.ensureDeferred
async def test_no_upstream_port_is_left_in_time_wait(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    async with (
        listening(file_server(tmp_path)) as upstream,
        listening(proxy_to(upstream)) as port,
        client_of(port) as client,
    ):
        client.send(b"LIST\nDOWNLOAD a\nDOWNLOAD b\nX\n" * 50)
        client.finish_sending()
        assert await client.end() is ConnectionDone
        assert bytes(client.received) == (
            b"OK\na\nEND\nOK 7\ncontentERR file not found\nERR unknown command\n" * 50
        )
        assert waiting_ports(upstream) == []
        # The client closed its side first: that one is there, so we do look in the right place.
        await eventually(lambda: waiting_ports(port), "the client's own port in TIME_WAIT")


@pytest_twisted.ensureDeferred
async def test_drain_does_not_cut_a_reply_that_is_still_being_read() -> None:
    # What one read brings in: the reply that no longer fits is complete, and unsent.
    reply = b"OK 20000\n" + b"x" * 20_000
    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        async with listening(proxy) as port, client_of(port) as client:
            client.keep = 0
            client.stop_reading()
            # So many that not all are read: to close with input unread is to reset.
            client.send(b"DOWNLOAD a\n" * 100_000)
            await eventually(lambda: proxy.connections, "the client")
            (connection,) = proxy.connections
            while not connection.outbound.paused:
                peer = await server.asked()
                peer.send(reply)
                assert await peer.end() is ConnectionLost
            assert connection.command is None
            drained = proxy.drain()
            client.read_on()
            ended = await client.end()
            assert client.count == len(server.connections) * len(reply)
            assert ended is ConnectionDone
            await drained


@pytest_twisted.ensureDeferred
async def test_one_client_too_many() -> None:
    one_client = proxy_to(1, admission=Admission(1))
    async with (
        listening(one_client) as port,
        client_of(port),
        client_of(port) as client,
    ):
        client.send(b"LIST\n" * 1000)
        assert await client.end() is ConnectionDone
        assert client.received == b"ERR proxy error: too many clients\n"


@pytest_twisted.ensureDeferred
async def test_client_that_never_stops_sending_is_not_read_from() -> None:
    def send_until_blocked(connection: socket.socket, line: bytes) -> int:
        sent = 0
        try:
            while sent < 1 << 26:
                sent += connection.send(line)
        except TimeoutError:
            pass
        return sent

    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        async with listening(proxy) as port:
            with socket.create_connection((HOST, port)) as connection:
                connection.settimeout(0.5)
                line = b"DOWNLOAD " + b"x" * 16_000 + b"\n"
                sent = await deferToThread(send_until_blocked, connection, line)
                # What the kernel's buffers hold, and a queue.
                assert sent < 1 << 24
                (protocol,) = proxy.connections
                assert protocol.paused
                assert len(protocol._queue) <= QUEUE_LIMIT
                assert len(server.connections) == 1
