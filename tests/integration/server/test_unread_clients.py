"""Clients that are reset while nothing is read from them, at both daemons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from natproxy.fileserver.factory import FileServerFactory
from natproxy.proxy.factory import ProxyFactory
from natproxy.server import resets
from natproxy.server.connection import CommandReceiver
from natproxy.server.factory import CommandFactory
from natproxy.server.rotation import QUEUE_LIMIT
from natproxy.server.state import Input, State
from natproxy.storage import LocalStorage
from tests.support.doubles import PlayedThread
from tests.support.gates import PlayedGate, limited
from tests.support.loopback import (
    Peer,
    PlayedServer,
    client_of,
    eventually,
    listening,
    proxy_to,
)

LONG = b"PACK " + b" ".join(b"%030d" % number for number in range(500)) + b"\n"
UNREAD = {
    "long line": LONG,
    "full queue": b"LIST\n" * (QUEUE_LIMIT + 8),
    "long line in a pipeline": b"LIST\n" + LONG,
}


@pytest.fixture(autouse=True)
def _short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resets, "POLL_INTERVAL", 0.02)


@asynccontextmanager
async def busy(kind: str, directory: Path) -> AsyncIterator[tuple[CommandFactory, int]]:
    """Run a daemon whose replies never come; yield it and its port."""
    if kind == "proxy":
        async with listening(PlayedServer()) as upstream:
            proxy = proxy_to(upstream)
            async with listening(proxy) as port:
                yield proxy, port
    else:
        thread = PlayedThread()
        server = FileServerFactory(reactor, LocalStorage(str(directory)), thread, 600.0)
        async with listening(server) as port:
            yield server, port
        while thread.asked:
            thread.run()


async def ends_with_a_reset(daemon: CommandFactory, client: Peer, state: State) -> None:
    """Wait until a state in which nothing is read; reset the client; wait for the end."""
    await eventually(lambda: daemon.connections, "a connection")
    (connection,) = daemon.connections
    assert isinstance(connection, CommandReceiver)
    await eventually(
        lambda: (
            connection.state is state and (connection.paused or connection.input is not Input.OPEN)
        ),
        "a client that is not read",
    )
    client.kill()
    await eventually(lambda: not daemon.connections, "the end of the connection")
    assert connection.command is None
    if isinstance(daemon, ProxyFactory):
        assert len(daemon.resources.table) == 0


@pytest.mark.parametrize("sent", UNREAD)
@pytest.mark.parametrize("kind", ["proxy", "fileserver"])
@pytest_twisted.ensureDeferred
async def test_during_a_command(tmp_path: Path, kind: str, sent: str) -> None:
    async with busy(kind, tmp_path) as (daemon, port), client_of(port) as client:
        client.send(UNREAD[sent])
        await ends_with_a_reset(daemon, client, State.REPLYING)


@pytest.mark.parametrize("kind", ["proxy", "fileserver"])
@pytest_twisted.ensureDeferred
async def test_after_a_half_close(tmp_path: Path, kind: str) -> None:
    async with busy(kind, tmp_path) as (daemon, port), client_of(port) as client:
        client.send(b"LIST\n")
        client.finish_sending()
        await ends_with_a_reset(daemon, client, State.REPLYING)


@pytest.mark.parametrize("sent", UNREAD)
@pytest.mark.parametrize("kind", ["proxy", "fileserver"])
@pytest_twisted.ensureDeferred
async def test_during_a_delay(tmp_path: Path, kind: str, sent: str) -> None:
    async with busy(kind, tmp_path) as (daemon, port), client_of(port) as client:
        gate = PlayedGate()
        gate.usual = limited(60.0)
        daemon.gates = (gate,)
        daemon.delays.longest = 600.0
        client.send(UNREAD[sent])
        await ends_with_a_reset(daemon, client, State.DELAYED)
        assert len(daemon.delays) == 0
