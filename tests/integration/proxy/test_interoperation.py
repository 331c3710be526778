"""Peers of version 1 that somebody else wrote, in each place of the chain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from natproxy.address import Address
from natproxy.client import NotFound, Session
from natproxy.client.transfer.version1 import download_version1
from natproxy.daemon.fileserver import make_file_server
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy import make_proxy
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.service import DrainingService
from tests.support import version1

LOOPBACK = ("tcp:0:interface=127.0.0.1",)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    served = tmp_path / "served"
    served.mkdir()
    (served / "a b.txt").write_bytes(b"two words")
    (served / "big").write_bytes(bytes(range(256)) * 8192)
    (served / "empty").write_bytes(b"")
    return served


async def started(service: DrainingService) -> int:
    """Start a daemon and give its port."""
    service.startService()
    port: int = service.ports[0].getHost().port
    return port


@pytest_twisted.async_yield_fixture
async def our_server(directory: Path) -> AsyncIterator[int]:
    daemon = make_file_server(reactor, FileServerConfig(files=str(directory), listen=LOOPBACK))
    yield await started(daemon)
    await daemon.stopService()


async def our_proxy(upstream: int) -> DrainingService:
    """Make our proxy in front of a port."""
    config = ProxyConfig(upstream=f"tcp:127.0.0.1:{upstream}", listen=LOOPBACK)
    return make_proxy(reactor, config)


@pytest_twisted.ensureDeferred
async def test_their_client_through_our_proxy_to_their_server(directory: Path) -> None:
    with version1.Server(str(directory)) as server:
        proxy = await our_proxy(server.port)
        port = await started(proxy)
        for line in (b"LIST", b"list", b"DOWNLOAD a b.txt", b"DOWNLOAD big", b"DOWNLOAD empty"):
            theirs = await deferToThread(version1.ask, server.port, line)
            assert await deferToThread(version1.ask, port, line) == theirs
        assert await deferToThread(version1.ask, port, b"DOWNLOAD x") == b"ERR file not found\n"
        assert await deferToThread(version1.ask, port, b"bogus") == b"ERR unknown command\n"
        await proxy.stopService()


@pytest_twisted.ensureDeferred
async def test_our_client_through_their_proxy_to_our_server(
    our_server: int, directory: Path, tmp_path: Path
) -> None:
    def fetch(port: int) -> list[bytes]:
        with Session(Address("127.0.0.1", port), timeout=10) as session:
            names = list(session.list())
            download_version1(session, b"big", bytes(tmp_path / "got"))
            with pytest.raises(NotFound):
                download_version1(session, b"none", bytes(tmp_path / "none"))
        return names

    with version1.Proxy(our_server) as proxy:
        assert await deferToThread(fetch, proxy.port) == [b"a b.txt", b"big", b"empty"]
    assert (tmp_path / "got").read_bytes() == (directory / "big").read_bytes()
    assert not (tmp_path / "none").exists()


@pytest_twisted.ensureDeferred
async def test_our_client_through_our_proxy_to_their_server(
    directory: Path, tmp_path: Path
) -> None:
    def fetch(port: int) -> int:
        with Session(Address("127.0.0.1", port), timeout=10) as session:
            session.download("big", str(tmp_path / "got"))
            assert list(session.list()) == [b"a b.txt", b"big", b"empty"]
            return session.version

    with version1.Server(str(directory)) as server:
        proxy = await our_proxy(server.port)
        port = await started(proxy)
        assert await deferToThread(fetch, port) == 1
        await proxy.stopService()
    assert (tmp_path / "got").read_bytes() == (directory / "big").read_bytes()


@pytest_twisted.ensureDeferred
async def test_our_client_through_our_proxy_to_our_server(our_server: int, directory: Path) -> None:
    def read(port: int) -> bytes:
        with Session(Address("127.0.0.1", port), timeout=10) as session:
            assert [entry.name for entry in session.ls()] == list(session.list())
            assert session.stat("big").size == session.hash("big").size == 1 << 21
            with session.open("big") as file:
                file.seek(-1000, 2)
                return file.read()

    proxy = await our_proxy(our_server)
    port = await started(proxy)
    assert await deferToThread(read, port) == (directory / "big").read_bytes()[-1000:]
    await proxy.stopService()


@pytest_twisted.ensureDeferred
async def test_their_client_straight_at_our_server(our_server: int, directory: Path) -> None:
    with version1.Server(str(directory)) as server:
        for line in (b"LIST", b"DOWNLOAD big", b"DOWNLOAD ../x", b"DOWNLOAD", b"bogus"):
            theirs = await deferToThread(version1.ask, server.port, line)
            assert await deferToThread(version1.ask, our_server, line) == theirs


@pytest_twisted.ensureDeferred
async def test_empty_line_of_an_old_server_is_no_name(tmp_path: Path) -> None:
    def names(port: int) -> list[bytes]:
        with Session(Address("127.0.0.1", port), timeout=10) as session:
            return list(session.list())

    directory = tmp_path / "empty"
    directory.mkdir()
    with version1.Server(str(directory)) as server:
        assert version1.ask(server.port, b"LIST") == b"OK\n\nEND\n"
        proxy = await our_proxy(server.port)
        port = await started(proxy)
        assert await deferToThread(names, port) == []
        await proxy.stopService()
