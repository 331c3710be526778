"""The daemons under ``twistd``: their start, their memory, their end."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.error import ConnectionDone, ConnectionLost

from tests.support.loopback import HOST, Daemon, Peer, client_of, daemon

MANY = 64 * 1024 * 1024
"""Bytes of a download that is under way: more than all the buffers on it hold."""

MIB = 1024 * 1024


def sparse_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@asynccontextmanager
async def both(directory: Path, *proxy_options: str) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Run a file server for the directory ``files``, and the proxy in front of it."""
    (directory / "files").mkdir()
    async with daemon(directory, "fileserver") as server:
        upstream = f"--upstream=tcp:{HOST}:{server.port}"
        async with daemon(directory, "natproxy", upstream, *proxy_options) as proxy:
            yield server, proxy


async def begin_download(client: Peer, name: str) -> None:
    """Begin a download, and stop reading it."""
    client.keep = 100
    client.send(f"DOWNLOAD {name}\n".encode())
    await client.until(lambda: client.count > 1000, "the download's beginning")
    client.stop_reading()


async def assert_port_is_closed(port: int) -> None:
    for _ in range(200):
        try:
            async with client_of(port):
                pass
        except error.ConnectionRefusedError:
            return
        except error.ConnectError:
            # Accepted by the kernel, and reset when the listener was closed.
            pass
    raise AssertionError(f"{port} is still open")


@pytest.mark.parametrize("which", ["fileserver", "natproxy"])
@pytest_twisted.ensureDeferred
async def test_sigterm_lets_a_download_finish(tmp_path: Path, which: str) -> None:
    async with both(tmp_path) as (server, proxy):
        sparse_file(tmp_path / "files" / "large", MANY)
        stopped = server if which == "fileserver" else proxy
        async with client_of(stopped.port) as client, client_of(stopped.port) as idle:
            await begin_download(client, "large")
            client.send(b"LIST\n")
            stopped.terminate()
            assert await idle.end() is ConnectionDone
            await assert_port_is_closed(stopped.port)
            assert stopped.process.poll() is None
            client.read_on()
            assert await client.end() is ConnectionDone
            assert client.count == len(b"OK %d\n" % MANY) + MANY
        assert await stopped.status() == 0
        assert stopped.errors.read_text() == ""


@pytest_twisted.ensureDeferred
async def test_second_sigterm_waits_no_longer(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, proxy):
        sparse_file(tmp_path / "files" / "large", MANY)
        async with client_of(proxy.port) as client:
            await begin_download(client, "large")
            proxy.terminate()
            await assert_port_is_closed(proxy.port)
            assert proxy.process.poll() is None
            proxy.terminate()
            assert await proxy.status() == 0
            client.read_on()
            assert await client.end() is ConnectionLost
            assert client.count < MANY
        assert "drained" in proxy.log.read_text()


@pytest_twisted.ensureDeferred
async def test_drain_ends_when_its_time_is_over(tmp_path: Path) -> None:
    async with both(tmp_path, "--drain=0.3") as (_, proxy):
        sparse_file(tmp_path / "files" / "large", MANY)
        async with client_of(proxy.port) as client:
            await begin_download(client, "large")
            proxy.terminate()
            assert await proxy.status() == 0
            client.read_on()
            assert await client.end() is ConnectionLost
            assert client.count < MANY


@pytest_twisted.ensureDeferred
async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    async with both(tmp_path) as (server, proxy):
        sparse_file(tmp_path / "files" / "huge", 4096 * MIB)
        (tmp_path / "files" / "small").write_bytes(b"x" * 300_000)
        async with client_of(proxy.port) as slow, client_of(proxy.port) as other:
            other.keep = slow.keep = 10_000
            other.send(b"DOWNLOAD small\n")
            await other.until(lambda: other.count == 300_010, "the small file")
            before = [one.resident() for one in (server, proxy)]
            await begin_download(slow, "huge")
            for mark in range(25 * MIB, 101 * MIB, 25 * MIB):
                # Stopped now and then; its buffers fill while another one is served.
                other.received.clear()
                other.send(b"LIST\n")
                await other.until(lambda: b"END" in other.received, "another's listing")
                grown = [
                    one.resident() - was for one, was in zip((server, proxy), before, strict=True)
                ]
                assert max(grown) < 4 * MIB, f"{grown} after {mark}"
                slow.read_on()
                await slow.until(lambda mark=mark: slow.count > mark, f"{mark} bytes")
                slow.stop_reading()


@pytest_twisted.ensureDeferred
async def test_address_is_in_use(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        address = f"tcp:{taken.getsockname()[1]}:interface={HOST}"
        for plugin in ("fileserver", "natproxy"):
            await assert_one_line(
                Daemon(tmp_path, plugin, f"--listen={address}"), address, "in use"
            )


@pytest.mark.parametrize(
    ("plugin", "option", "named"),
    [
        ("fileserver", "--files=a-file", "a-file"),
        ("natproxy", "--listen=carrier-pigeon:1", "carrier-pigeon"),
        ("natproxy", "--no-such-option", "no-such-option"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_option_is_wrong(tmp_path: Path, plugin: str, option: str, named: str) -> None:
    (tmp_path / "a-file").touch()
    await assert_one_line(Daemon(tmp_path, plugin, option), named)


async def assert_one_line(refused: Daemon, *words: str) -> None:
    """Assert that a daemon fails with one line, which has these words."""
    assert await refused.status() not in (0, None)
    (line,) = refused.errors.read_text().splitlines()
    for word in words:
        assert word in line
    if refused.log.exists():
        assert "Traceback" not in refused.log.read_text()
