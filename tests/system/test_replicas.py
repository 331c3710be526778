"""File servers of copies of one directory, with ``--etag content``, and clients of them in turn."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from natproxy.storage.local.metadata import replica_metadata_of
from tests.support.loopback import free_port
from tests.support.twistd import LIMIT, TWISTD, Daemon, await_port, environment, running

SIZE = 96 << 20
"""Bytes of the large file: more than all buffers on its way hold; of a socket, 32 MiB at most."""

PIECE = 1 << 20
"""Bytes that a client has received when its file server is killed."""

PATTERN = os.urandom(PIECE + 7)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the daemons of Linux")


def fill(directory: Path) -> bytes:
    """Create the files of the first server; return the content of the large one."""
    (directory / "sub").mkdir(parents=True)
    content = (PATTERN * (SIZE // len(PATTERN) + 1))[:SIZE]
    for name, data, mtime_ns in (
        ("large", content, 1_600_000_000_123_456_789),
        ("sub/small", b"small", 1_600_000_000_000_000_001),
        ("sub/empty", b"", 1_700_000_000_999_999_999),
    ):
        (directory / name).write_bytes(data)
        os.utime(directory / name, ns=(0, mtime_ns))
    return content


def etags(directory: Path) -> dict[str, str]:
    """Return the etags that a server of a directory has for its files."""
    names = [path for path in directory.rglob("*") if path.is_file()]
    return {
        name: replica_metadata_of(os.stat(path), name.encode()).etag
        for path in names
        for name in [str(path.relative_to(directory))]
    }


@contextmanager
def file_server(directory: Path, port: int) -> Iterator[Daemon]:
    """Run a file server of a directory; its access log is beside the directory."""
    command = (
        *(*TWISTD, "-n", "--pidfile=", "fileserver", f"--listen=tcp:{port}:interface=127.0.0.1"),
        *(f"--files={directory}", "--etag=content", "--control=none"),
        f"--access-log={directory}.log",
    )
    with running(command, directory.parent) as daemon:
        await_port(port)
        yield daemon


@contextmanager
def proxy(directory: Path, *upstreams: int, options: Sequence[str] = ()) -> Iterator[int]:
    """Run a proxy of file servers; return its port."""
    port = free_port()
    command = (
        *(*TWISTD, "-n", "--pidfile=", "natproxy", f"--listen=tcp:{port}:interface=127.0.0.1"),
        *(f"--upstream=tcp:127.0.0.1:{upstream}" for upstream in upstreams),
        *("--control=none", "--journal=none", *options),
    )
    with running(command, directory):
        await_port(port)
        yield port


def kill(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait(LIMIT)


def client(port: int, command: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the command-line client."""
    return subprocess.Popen(
        (sys.executable, "-m", "natproxy", command, f"--server=127.0.0.1:{port}", *arguments),
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # `Popen.communicate` passes over what a buffer of Python's holds.
        bufsize=0,
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """Return the status of a client, and what it has written to both outputs since."""
    output, errors = process.communicate(timeout=LIMIT)
    return process.returncode, output, errors.decode()


def sent(directory: Path, server: Daemon) -> list[int]:
    """End a file server; return the bytes of its replies to ``GET large``, by its access log."""
    assert server.end() == 0
    lines = [line.split() for line in Path(f"{directory}.log").read_text().splitlines()]
    return [int(words[8]) for words in lines if words[4:6] == ["GET", "large"]]


def test_copies_have_the_etags_of_the_original(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    fill(original)
    port = free_port()
    with file_server(original, port):
        assert ended(client(port, "sync", "-q", ".", str(copy))) == (0, b"", "")
    assert etags(copy) == etags(original)
    if shutil.which("rsync") is not None:
        copy = tmp_path / "by-rsync"
        subprocess.run(("rsync", "-t", "-r", f"{original}/", f"{copy}/"), check=True, timeout=LIMIT)
        assert etags(copy) == etags(original)
    # A mirror of one is a mirror of the other.
    with file_server(copy, port):
        status, _, errors = ended(client(port, "sync", ".", str(original)))
        assert (status, "3 unchanged" in errors) == (0, True), errors


def test_interrupted_download_continues_at_another_server(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    content = fill(first)
    shutil.copytree(first, second)
    port = free_port()
    target = tmp_path / "large"
    with file_server(first, port) as server:
        process = client(port, "get", "large", "-o", str(target), "--retries=0", "--limit-rate=8M")
        deadline = time.monotonic() + LIMIT
        partial = tmp_path / ".large.part"
        while not (partial.exists() and partial.stat().st_size > PIECE):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        kill(server)
        status, _, errors = ended(process)
        assert status != 0, errors
    with file_server(second, port) as server:
        assert ended(client(port, "get", "-q", "large", "-o", str(target))) == (0, b"", "")
        assert target.read_bytes() == content
        assert 0 < sum(sent(second, server)) < SIZE


def has_open(server: Daemon, name: str) -> bool:
    """Return whether a file server has a file open."""
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    return any(os.readlink(each).endswith(f"/{name}") for each in descriptors.iterdir())


@contextmanager
def receiving(port: int, *options: str) -> Iterator[list[tuple[int, bytes, str]]]:
    """Let a client receive a part of the large file before a block, and the rest after it.

    As long as its output is not read, the client reads no more than its buffers hold.

    :param options: of the client.
    :return: in the end: the client's status, and what it has written to both outputs.
    """
    result: list[tuple[int, bytes, str]] = []
    process = client(port, "get", "large", "-o", "-", "--verify", *options)
    assert process.stdout is not None
    received = b""
    while len(received) < PIECE:
        piece = process.stdout.read(PIECE)
        assert piece, ended(process)
        received += piece
    yield result
    status, rest, errors = ended(process)
    result.append((status, received + rest, errors))


def test_client_continues_at_another_server_behind_a_proxy(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    content = fill(first)
    shutil.copytree(first, second)
    upstream = free_port()
    with ExitStack() as daemons:
        server = daemons.enter_context(file_server(first, upstream))
        port = daemons.enter_context(proxy(tmp_path, upstream, options=["--resume-for=0"]))
        with receiving(port) as result:
            kill(server)
            server = daemons.enter_context(file_server(second, upstream))
        ((status, received, errors),) = result
        assert (status, received == content) == (0, True), errors
        assert errors.count("trying again") == 1
        (count,) = sent(second, server)
        assert PIECE < count < SIZE


def test_client_notices_nothing_when_the_proxy_continues(tmp_path: Path) -> None:
    """Of two file servers, the one dies that sends the body."""
    directories = [tmp_path / "first", tmp_path / "second"]
    content = fill(directories[0])
    shutil.copytree(*directories)
    ports = [free_port(), free_port()]
    with ExitStack() as daemons:
        servers = [
            daemons.enter_context(file_server(directory, port))
            for directory, port in zip(directories, ports, strict=True)
        ]
        port = daemons.enter_context(proxy(tmp_path, *ports))
        with receiving(port, "--retries=0") as result:
            (sending,) = [server for server in servers if has_open(server, "large")]
            kill(sending)
        ((status, received, errors),) = result
        assert (status, errors, received == content) == (0, "", True)
