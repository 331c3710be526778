"""The client on a reactor, on real sockets: against the proxy and the file server."""

from __future__ import annotations

import hashlib
import io
import ipaddress
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.ftp import FileConsumer

from natproxy.address import Address
from natproxy.client import (
    CannotConnect,
    ConnectionBroken,
    Event,
    Interrupted,
    NotFound,
    Phase,
    Unsupported,
    UsageError,
)
from natproxy.client.twisted import Session, connect
from natproxy.protocol import FILE
from tests.support import version1
from tests.support.deferred_sessions import RecordingConsumer
from tests.support.loopback import (
    HOST,
    PATIENCE,
    PlayedServer,
    eventually,
    file_server,
    free_port,
    listening,
    proxy_to,
    unanswered_port,
)
from tests.support.paths import ROOT

LARGE = bytes(range(256)) * 40_000
DOCUMENT = ROOT / "docs" / "python.md"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    directory = tmp_path / "served"
    (directory / "sub").mkdir(parents=True)
    (directory / "a").write_bytes(b"the a")
    (directory / "large").write_bytes(LARGE)
    for number in range(3):
        (directory / "sub" / f"{number:04}").touch()
    return directory


@pytest.fixture
def pages(served: Path) -> Path:
    """Serve a directory that takes more than two pages of 1000 names."""
    for number in range(3, 2500):
        (served / "sub" / f"{number:04}").touch()
    return served


def client_to(port: int, timeout: float = PATIENCE, **options: Any) -> Session:
    endpoint = TCP4ClientEndpoint(reactor, HOST, port)
    return Session(endpoint, reactor, timeout, server=f"{HOST}:{port}", **options)


@pytest_twisted.ensureDeferred
async def test_everything_through_the_proxy(pages: Path) -> None:
    async with (
        listening(file_server(pages)) as behind,
        listening(proxy_to(behind)) as port,
        await connect(reactor, f"{HOST}:{port}", PATIENCE) as client,
    ):
        assert await client.version() == 2
        assert await client.list() == [b"a", b"large"]
        assert [entry.name for entry in await client.ls()] == [b"a", b"large", b"sub"]
        assert len(await client.ls("sub")) == 2500
        walked = [entry.name async for entry in client.walk()]
        assert walked == sorted(walked)
        assert len(walked) == 2503
        metadata = await client.stat("a")
        assert (metadata.type, metadata.size) == (FILE, 5)
        digest = await client.hash("large")
        assert digest.sha256 == hashlib.sha256(LARGE).hexdigest()
        assert await client.read("a", 1, 3, metadata.etag) == b"he "
        assert await client.read("large", len(LARGE) - 1) == LARGE[-1:]
        with pytest.raises(NotFound, match="nothing: file not found"):
            await client.stat("nothing")


@pytest_twisted.ensureDeferred
async def test_many_at_once(served: Path) -> None:
    content = LARGE[:500_000]
    (served / "large").write_bytes(content)
    server = file_server(served)
    async with listening(server) as port, client_to(port, connections=3, idle=2) as client:
        consumers = [RecordingConsumer() for _ in range(12)]
        most = 0

        def look(result: object) -> object:
            nonlocal most
            most = max(most, len(server.connections))
            return result

        await gatherResults([client.get("large", consumer).addBoth(look) for consumer in consumers])
        assert [len(consumer.got) for consumer in consumers] == [len(content)] * 12
        assert most <= 3
        await eventually(lambda: len(server.connections) <= 2, "connections are given up")


@pytest_twisted.ensureDeferred
async def test_file_is_written_by_a_consumer(served: Path, tmp_path: Path) -> None:
    async with listening(file_server(served)) as port, client_to(port) as client:
        with (tmp_path / "copy").open("wb") as file:
            part = await client.get("large", FileConsumer(file))
        assert part.length == len(LARGE)
        assert (tmp_path / "copy").read_bytes() == LARGE


@pytest_twisted.ensureDeferred
async def test_slow_consumer_holds_the_server_back(served: Path) -> None:
    with (served / "huge").open("wb") as file:
        file.truncate(1 << 25)
    async with listening(file_server(served)) as port, client_to(port, timeout=0.3) as client:
        consumer = RecordingConsumer()
        got = client.get("huge", consumer)
        await eventually(lambda: consumer.got, "the first bytes")
        consumer.producer.pauseProducing()
        await deferLater(reactor, 0.1, lambda: None)
        before = len(consumer.got)
        # Longer than the server might be silent.
        await deferLater(reactor, 0.5, lambda: None)
        assert len(consumer.got) == before
        consumer.write = lambda data: None
        consumer.producer.resumeProducing()
        assert (await got).length == 1 << 25


@pytest_twisted.ensureDeferred
async def test_cancelled_transfer_is_noticed_by_the_server(served: Path) -> None:
    server = file_server(served)
    async with listening(server) as port, client_to(port) as client:
        consumer = RecordingConsumer()
        got = client.get("large", consumer)
        await eventually(lambda: consumer.got, "the first bytes")
        consumer.producer.pauseProducing()
        got.cancel()
        with pytest.raises(CancelledError):
            await got
        await eventually(lambda: not server.connections, "the server lets go")
        assert await client.read("a") == b"the a"


@pytest_twisted.ensureDeferred
async def test_idle_connection_that_the_server_drops_is_replaced(served: Path) -> None:
    server = file_server(served, idle_timeout=0.1)
    async with listening(server) as port, client_to(port) as client:
        assert await client.read("a") == b"the a"
        await eventually(lambda: not server.connections, "the server drops the connection")
        assert await client.read("a") == b"the a"


@pytest_twisted.ensureDeferred
async def test_server_of_version_1(served: Path) -> None:
    with version1.Server(str(served)) as old:
        (served / "large").unlink()
        (served / "sub").rename(served.parent / "elsewhere")
        async with client_to(old.port) as client:
            assert await client.version() == 1
            for _ in range(2):
                # It closes after each reply.
                assert await client.list() == [b"a"]
            consumer = RecordingConsumer()
            assert await client.get_v1("a", consumer) == 5
            assert consumer.got == b"the a"
            with pytest.raises(Unsupported):
                await client.read("a")


@pytest_twisted.ensureDeferred
async def test_server_that_refuses_connections() -> None:
    port = free_port()
    with pytest.raises(CannotConnect) as caught:
        await connect(reactor, f"{HOST}:{port}")
    assert str(caught.value) == f"cannot connect to {HOST}:{port}: Connection refused"


@pytest_twisted.ensureDeferred
async def test_keepalive_is_enabled_on_sockets(served: Path) -> None:
    async with listening(file_server(served)) as port, client_to(port) as client:
        await client.list()
        (connection,) = client._pool._open
        handle = connection.transport.getHandle()
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


@pytest_twisted.ensureDeferred
async def test_process_that_is_killed_resets_its_connection_and_an_idle_one_is_closed(
    served: Path,
) -> None:
    played = PlayedServer()
    async with listening(played) as port, client_to(port) as client:
        names = client.list()
        peer = await played.asked()
        (connection,) = client._pool._open
        handle = connection.transport.getHandle()
        assert lingering(handle) == (1, 0)
        peer.send(b"OK\nEND\n")
        assert await names == []
        kept = handle.dup()
        await client.close()
        assert lingering(kept) == (0, 0)
        kept.close()


@pytest_twisted.ensureDeferred
async def test_listing_begins_after_a_name(pages: Path) -> None:
    async with listening(file_server(pages)) as port, client_to(port) as client:
        assert [entry.name for entry in await client.ls(after=b"a")] == [b"large", b"sub"]
        after = b"sub/2497"
        walked = [entry.name async for entry in client.walk(after=after)]
        assert walked == [b"sub/2498", b"sub/2499"]


@pytest_twisted.ensureDeferred
async def test_file_is_opened(served: Path) -> None:
    async with (
        listening(file_server(served)) as port,
        client_to(port) as client,
        await client.open("large") as file,
    ):
        file.seek(-3, io.SEEK_END)
        assert await file.read() == LARGE[-3:]
        assert await file.read() == b""


@pytest_twisted.ensureDeferred
async def test_download_to_disk(served: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    threads = set()

    def progress(event: Event) -> None:
        events.append(event)
        threads.add(threading.current_thread())

    async with (
        listening(file_server(served)) as port,
        await connect(reactor, f"{HOST}:{port}", PATIENCE) as client,
    ):
        target = os.fsencode(tmp_path / "new" / "large")
        path = await client.download("large", target, verify=True, progress=progress)
        assert path == target
        assert (tmp_path / "new" / "large").read_bytes() == LARGE
        await eventually(lambda: events[-1].phase is Phase.COMPLETE, "the last step")
        assert threads == {threading.current_thread()}
        with pytest.raises(NotFound):
            await client.download("nothing", target)
        with pytest.raises(UsageError, match="limit"):
            await client.download("large", target, limit_rate=0)


@pytest_twisted.ensureDeferred
async def test_download_is_cancelled(served: Path, tmp_path: Path) -> None:
    async with (
        listening(file_server(served)) as port,
        await connect(reactor, f"{HOST}:{port}", PATIENCE) as client,
    ):
        events: list[Event] = []
        done = client.download("large", str(tmp_path), limit_rate=5000, progress=events.append)
        await eventually(lambda: any(event.done for event in events), "the first bytes")
        done.cancel()
        with pytest.raises(CancelledError):
            await done
        # The thread has ended when this fires.
        await client.close()
        assert not (tmp_path / "large").exists()
        assert list(tmp_path.glob(".large*.part"))


@pytest_twisted.ensureDeferred
async def test_close_interrupts_a_download(tmp_path: Path) -> None:
    played = PlayedServer()
    async with listening(played) as port:
        endpoint = TCP4ClientEndpoint(reactor, HOST, port)
        client = Session(endpoint, reactor, PATIENCE, server=Address(HOST, port))
        done = client.download("a", str(tmp_path))
        await played.asked()
        await client.close()
        with pytest.raises(Interrupted):
            await done


STOPPED = """
import sys
from twisted.internet.task import react
from natproxy.client.twisted import connect

async def main(reactor, server, path):
    session = await connect(reactor, server, 600)
    stop = lambda event: reactor.callLater(0, reactor.stop)
    await session.download("large", path, limit_rate=1000, progress=stop)

react(main, sys.argv[1:])
"""


@pytest_twisted.ensureDeferred
async def test_reactor_that_stops_does_not_wait_for_a_download(
    served: Path, tmp_path: Path
) -> None:
    async with listening(file_server(served)) as port:
        command = (sys.executable, "-c", STOPPED, f"{HOST}:{port}", str(tmp_path / "copy"))
        # At this rate, the download would last for minutes.
        await deferToThread(subprocess.run, command, capture_output=True, timeout=20, check=False)
    assert not (tmp_path / "copy").exists()
    assert list(tmp_path.glob(".copy*.part"))


@pytest_twisted.ensureDeferred
async def test_closed_session_downloads_nothing(served: Path, tmp_path: Path) -> None:
    async with listening(file_server(served)) as port:
        client = await connect(reactor, f"{HOST}:{port}", PATIENCE)
        await client.close()
        with pytest.raises(Interrupted, match="the client was closed"):
            await client.download("a", str(tmp_path / "copy"))
        with pytest.raises(Interrupted, match="the client was closed"):
            await client.list()
    assert not (tmp_path / "copy").exists()


@pytest_twisted.ensureDeferred
async def test_download_needs_an_address(served: Path) -> None:
    async with listening(file_server(served)) as port, client_to(port) as client:
        with pytest.raises(UsageError, match="an Address"):
            await client.download("a")


def lingering(connected: socket.socket) -> tuple[int, int]:
    """Return whether a close is a reset (or waits), and the seconds that it waits."""
    value = connected.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    return struct.unpack("ii", value)


def link_local_address() -> str | None:
    """Return an address of this host with its zone, if it has one."""
    with suppress(OSError), open("/proc/net/if_inet6") as lines:
        for line in lines:
            digits, *_, name = line.split()
            if digits.startswith("fe80"):
                return f"{ipaddress.IPv6Address(int(digits, 16))}%{name}"
    return None


@pytest_twisted.ensureDeferred
async def test_zone_of_an_address_is_kept(served: Path) -> None:
    host = link_local_address()
    if host is None:
        pytest.skip("no link-local address")
    async with listening(file_server(served), interface="::") as port:
        place = f"[{host.replace('%', '%25')}]:{port}"
        async with await connect(reactor, f"natproxy://{place}", PATIENCE) as client:
            assert await client.read("a") == b"the a"


@pytest_twisted.ensureDeferred
async def test_connect_times_out() -> None:
    with unanswered_port() as port, pytest.raises(CannotConnect, match="no reply in time"):
        await connect(reactor, f"{HOST}:{port}", 0.2)


@pytest_twisted.ensureDeferred
async def test_connection_is_reset_inside_a_reply() -> None:
    played = PlayedServer()
    async with listening(played) as port, client_to(port) as client:
        names = client.list()
        peer = await played.asked()
        peer.send(b"OK\na\n")
        await deferLater(reactor, 0.05, lambda: None)
        peer.kill()
        with pytest.raises(ConnectionBroken, match="lost"):
            await names


@pytest_twisted.ensureDeferred
async def test_close_ends_what_is_under_way() -> None:
    played = PlayedServer()
    with unanswered_port() as deaf:
        async with listening(played) as port:
            busy = client_to(port, connections=1)
            connecting = client_to(deaf)
            listings: list[Deferred[Any]] = [busy.list(), busy.list(), connecting.list()]
            await played.asked()
            await busy.close()
            await connecting.close()
            for names in listings:
                with pytest.raises(Interrupted):
                    await names


@pytest_twisted.ensureDeferred
async def test_example_in_the_documentation_is_true(pages: Path, tmp_path: Path) -> None:
    section = DOCUMENT.read_text().partition("\n## On a reactor\n")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "example.py").write_text(examples[0])
    async with listening(file_server(pages)) as port:
        command = (sys.executable, "example.py", f"{HOST}:{port}", "large", "copy")
        ended = await deferToThread(
            subprocess.run, command, cwd=tmp_path, capture_output=True, timeout=20, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (tmp_path / "copy").read_bytes() == LARGE
    printed = ended.stdout.decode().splitlines()
    assert printed[:2] == ["          5  a", f"{len(LARGE):11}  large"]
    assert printed[-1] == f"copy: {hashlib.sha256(LARGE).hexdigest()}"
    assert len(printed) == 2504
