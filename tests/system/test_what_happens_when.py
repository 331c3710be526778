"""The table "What happens when" of docs/architecture.md, row by row, over real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, formatEvent

from natproxy.server.rotation import QUEUE_LIMIT
from tests.support.loopback import (
    HOST,
    PATIENCE,
    Peer,
    PlayedServer,
    client_of,
    eventually,
    file_server,
    free_port,
    listening,
    proxy_to,
    unanswered_port,
)

LINE = b"DOWNLOAD a\n"


async def assert_usable(client: Peer, server: PlayedServer) -> None:
    client.send(b"LIST\n")
    reply = b"OK\nstill here\nEND\n"
    (await server.asked()).send(reply)
    assert await client.takes(len(reply)) == reply


def outcomes(events: list[LogEvent]) -> list[str]:
    return [event["outcome"] for event in events if "nat_port" in event]


@pytest_twisted.ensureDeferred
async def test_upstream_refuses() -> None:
    async with listening(proxy_to(free_port())) as port, client_of(port) as client:
        for _ in range(3):
            client.send(LINE)
            assert await client.takes(1) == b"ERR proxy error: the server refuses connections\n"


@pytest_twisted.ensureDeferred
async def test_upstream_does_not_accept_the_connection() -> None:
    with unanswered_port() as unanswered:
        proxy = proxy_to(unanswered, connect_timeout=0.2)
        async with listening(proxy) as port, client_of(port) as client:
            for _ in range(2):
                client.send(LINE)
                assert await client.takes(1) == (
                    b"ERR proxy error: the server did not accept a connection within 0.2 s\n"
                )


@pytest_twisted.ensureDeferred
async def test_client_is_killed_while_the_connect_hangs(events: list[LogEvent]) -> None:
    with unanswered_port() as unanswered:
        proxy = proxy_to(unanswered)
        async with listening(proxy) as port, client_of(port) as client:
            client.send(LINE)
            await eventually(lambda: any(c.command for c in proxy.connections), "a command")
            client.kill()
            await eventually(lambda: not proxy.connections, "the client forgotten")
            assert outcomes(events) == ["client-gone"]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("begun", [b"", b"OK 1"])
@pytest_twisted.ensureDeferred
async def test_upstream_closes_without_a_reply_line(reset: bool, begun: bytes) -> None:
    server = PlayedServer()
    async with (
        listening(server) as upstream,
        listening(proxy_to(upstream)) as port,
        client_of(port) as client,
    ):
        client.send(LINE)
        peer = await server.asked()
        peer.send(begun)
        if reset:
            peer.kill()
        else:
            peer.transport.loseConnection()
        empty = b"ERR empty response from server\n"
        broken = b"ERR proxy error: the server closed the connection inside its reply\n"
        # A reset discards what has not been sent yet.
        expected = (broken,) if begun and not reset else (empty, broken) if begun else (empty,)
        assert await client.takes(1) in expected
        await assert_usable(client, server)


@pytest_twisted.ensureDeferred
async def test_upstream_is_silent_before_its_reply() -> None:
    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_to(upstream, reply_timeout=0.2)
        async with listening(proxy) as port, client_of(port) as client:
            client.send(LINE)
            peer = await server.asked()
            assert await client.takes(1) == (b"ERR proxy error: the server was silent for 0.2 s\n")
            assert await peer.end() is ConnectionLost
            await assert_usable(client, server)


@pytest_twisted.ensureDeferred
async def test_upstream_is_silent_inside_its_reply(events: list[LogEvent]) -> None:
    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_to(upstream, reply_timeout=0.2)
        async with listening(proxy) as port, client_of(port) as client:
            client.send(LINE)
            peer = await server.asked()
            peer.send(b"OK 10\nabc")
            assert await client.end() is ConnectionLost
            assert client.received == b"OK 10\nabc"
            assert await peer.end() is ConnectionLost
            assert outcomes(events) == ["timeout"]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("begun", [b"OK 10\nabc", b"OK\na\nEN"])
@pytest_twisted.ensureDeferred
async def test_upstream_dies_inside_a_body(
    reset: bool, begun: bytes, events: list[LogEvent]
) -> None:
    server = PlayedServer()
    async with (
        listening(server) as upstream,
        listening(proxy_to(upstream)) as port,
        client_of(port) as client,
    ):
        client_port = client.transport.getHost().port
        client.send(LINE if b"10" in begun else b"LIST\n")
        peer = await server.asked()
        peer.send(begun)
        await client.until(lambda: client.received == begun, "the reply's beginning")
        if reset:
            peer.kill()
        else:
            peer.transport.loseConnection()
        assert await client.end() is ConnectionLost
        assert client.received == begun
        lines = [line for line in map(formatEvent, events) if "failed inside" in line]
        assert len(lines) == 1
        assert f"{HOST}:{upstream}" in lines[0]
        assert f"{HOST}:{client_port}" in lines[0]
        assert ("7 bytes missing" if b"10" in begun else "up to END missing") in lines[0]


@pytest_twisted.ensureDeferred
async def test_client_of_a_broken_reply_sees_a_reset() -> None:
    def read_all(port: int) -> bytes:
        """What a blocking client does: recv until it has all, or an error."""
        with socket.create_connection((HOST, port), PATIENCE) as connection:
            connection.sendall(LINE)
            received = []
            with pytest.raises(ConnectionResetError):
                received.extend(iter(lambda: connection.recv(100), b""))
            return b"".join(received)

    server = PlayedServer()
    async with listening(server) as upstream, listening(proxy_to(upstream)) as port:
        reading = deferToThread(read_all, port)
        peer = await server.asked()
        peer.send(b"OK 10\nabc")
        peer.transport.loseConnection()
        received = await reading
        assert received == b"OK 10\nabc"[: len(received)]


@pytest_twisted.ensureDeferred
async def test_upstream_sends_more_than_it_promised() -> None:
    server = PlayedServer()
    async with (
        listening(server) as upstream,
        listening(proxy_to(upstream)) as port,
        client_of(port) as client,
    ):
        client.send(LINE)
        peer = await server.asked()
        peer.send(b"OK 3\nabcOK 5\nsurplus")
        assert await peer.end() is ConnectionLost
        client.send(b"LIST\n")
        (await server.asked()).send(b"OK\nEND\nsurplus\n")
        await client.until(lambda: b"END" in client.received, "the listing")
        client.finish_sending()
        assert await client.end() is ConnectionDone
        assert client.received == b"OK 3\nabcOK\nEND\n"


@pytest.mark.parametrize("begun", [b"", b"OK 10\nabc"])
@pytest_twisted.ensureDeferred
async def test_client_is_killed(begun: bytes, events: list[LogEvent]) -> None:
    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        entries_when_forgotten: list[int] = []
        forget = proxy.connection_ended
        proxy.connection_ended = lambda connection: (
            entries_when_forgotten.append(len(proxy.table)),
            forget(connection),
        )
        async with listening(proxy) as port, client_of(port) as client:
            client.send(LINE)
            peer = await server.asked()
            peer.send(begun)
            await client.until(lambda: client.received == begun, "the reply's beginning")
            assert len(proxy.table) == 1
            client.kill()
            assert await peer.end() is ConnectionLost
            # Forgotten in the call that lost the client: its entry was gone by then.
            assert entries_when_forgotten == [0]
            assert outcomes(events) == ["client-gone"]


@pytest_twisted.ensureDeferred
async def test_client_that_is_not_read_from_is_killed(events: list[LogEvent]) -> None:
    # The end is not noticed while reading is paused (twisted#11168): the row stays until the
    # upstream is given up, but no longer, and the commands that wait are not sent.
    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_to(upstream, reply_timeout=0.3)
        async with listening(proxy) as port, client_of(port) as client:
            client.send(LINE * 2 * QUEUE_LIMIT)
            peer = await server.asked()
            client.kill()
            assert await peer.end() is ConnectionLost
            await eventually(lambda: not proxy.connections, "the client forgotten")
            assert len(proxy.table) == 0
            assert len(outcomes(events)) <= 2


@pytest_twisted.ensureDeferred
async def test_client_half_closes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 1_000_000)
    async with listening(file_server(tmp_path)) as upstream:
        for server in (file_server(tmp_path), proxy_to(upstream)):
            async with listening(server) as port, client_of(port) as client:
                client.send(b"LIST\n" + LINE + b"WHO\nLIST\n")
                client.finish_sending()
                assert await client.end() is ConnectionDone
                listing = b"OK\na\nEND\n"
                assert client.received == b"".join(
                    (listing, b"OK 1000000\n", b"a" * 1_000_000, b"ERR unknown command\n", listing)
                )


@pytest_twisted.ensureDeferred
async def test_client_sends_many_commands_at_once(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
    server = file_server(tmp_path)
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        connected: list[int] = []
        proxy.table.subscribe(lambda _: connected.append(len(proxy.table)))
        async with listening(proxy) as port, client_of(port) as client:
            numbers = [b"%d" % (number % 20) for number in range(500)]
            client.send(b"".join(b"DOWNLOAD %b\n" % number for number in numbers))
            client.finish_sending()
            await client.end()
            expected = b"".join(b"OK %d\n%b" % (len(number), number) for number in numbers)
            assert client.received == expected
            assert max(connected) == 1


@pytest_twisted.ensureDeferred
async def test_client_that_does_not_read_is_cut_off(tmp_path: Path, events: list[LogEvent]) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 32)
    server = file_server(tmp_path)
    async with listening(server) as upstream:
        proxy = proxy_to(upstream, idle_timeout=0.3)
        async with listening(proxy) as port, client_of(port) as client:
            client.send(b"DOWNLOAD huge\n")
            await client.takes(1)
            client.stop_reading()
            await eventually(lambda: outcomes(events) == ["timeout"], "the client cut off")
            await eventually(lambda: not server.connections, "the upstream closed")
            client.read_on()
            assert await client.end() is ConnectionLost
            assert client.count < 1 << 26


@pytest_twisted.ensureDeferred
async def test_client_that_reads_slowly_gets_everything(tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 24
    (tmp_path / "a").write_bytes(content)
    server = file_server(tmp_path, idle_timeout=5)
    async with listening(server) as upstream:
        proxy = proxy_to(upstream, reply_timeout=1, idle_timeout=5)
        async with listening(proxy) as port, client_of(port) as client:
            client.send(LINE)
            await client.takes(1)
            client.stop_reading()
            (connection,) = proxy.connections
            await eventually(lambda: connection.outbound.paused, "the outbound paused")
            # Longer than the upstream may be silent: but it is not its turn.
            await eventually(reactor_has_run_for(1.5), "1.5 s")
            client.read_on()
            client.finish_sending()
            assert await client.end() is ConnectionDone
            assert client.count == len(b"OK %d\n" % len(content)) + len(content)
            assert content.endswith(bytes(client.received[-1_000_000:]))


def reactor_has_run_for(seconds: float) -> Callable[[], bool]:
    until = reactor.seconds() + seconds
    return lambda: reactor.seconds() >= until


@pytest_twisted.ensureDeferred
async def test_client_is_idle(tmp_path: Path) -> None:
    async with listening(file_server(tmp_path, 0.3)) as upstream:
        for server in (file_server(tmp_path, 0.3), proxy_to(upstream, idle_timeout=0.3)):
            async with listening(server) as port, client_of(port) as client:
                client.send(b"LIST\n")
                assert await client.end() is ConnectionDone
                assert client.received == b"OK\nEND\n"


@pytest_twisted.ensureDeferred
async def test_line_is_too_long(tmp_path: Path) -> None:
    async with listening(file_server(tmp_path)) as upstream:
        for server in (file_server(tmp_path), proxy_to(upstream)):
            async with listening(server) as port, client_of(port) as client:
                # Much of it is still unread when the reply is sent: that must not destroy it.
                client.send(b"LIST\n" + b"x" * 3_000_000 + b"\nLIST\n")
                assert await client.end() is ConnectionDone
                assert client.received == b"OK\nEND\nERR line too long\n"


@pytest_twisted.ensureDeferred
async def test_name_leads_nowhere_that_is_served(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (files / "link").symlink_to("../secret")
    (files / "device").symlink_to("/dev/zero")
    os.mkfifo(files / "fifo")
    names = ("../secret", str(tmp_path / "secret"), "link", "device", "fifo", "socket", "/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(files / "socket"))
        listener.listen()
        listener.setblocking(False)
        async with (
            listening(file_server(files)) as upstream,
            listening(proxy_to(upstream)) as port,
            client_of(port) as client,
        ):
            client.send("".join(f"DOWNLOAD {name}\n" for name in names).encode() + b"LIST\n")
            client.finish_sending()
            await client.end()
            assert client.received == b"ERR file not found\n" * len(names) + b"OK\nEND\n"
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest_twisted.ensureDeferred
async def test_clients_come_over_a_unix_socket(tmp_path: Path, events: list[LogEvent]) -> None:
    listener = reactor.listenUNIX(os.fspath(tmp_path / "socket"), file_server(tmp_path))
    client = Peer()
    await connectProtocol(UNIXClientEndpoint(reactor, os.fspath(tmp_path / "socket")), client)
    client.send(b"DOWNLOAD a\n")
    client.finish_sending()
    assert await client.end() is ConnectionDone
    assert client.received == b"ERR file not found\n"
    await listener.stopListening()
    (event,) = [event for event in events if "outcome" in event]
    assert event["client_port"] > 65_535
    assert event["client_host"] == "unix"
