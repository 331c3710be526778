"""Several threads and processes that share one of fsspec's caches on top of the file system."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from natproxy.fs import NatproxyFileSystem
from tests.support.filesystem_server import FileSystemServer, running_server
from tests.support.paths import ROOT

SIZE = 3_000_000
CONTENT = b"%7d\n" * (SIZE // 8) % tuple(range(SIZE // 8))
WORKERS = 4
FILES = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileSystemServer]:
    served = tmp_path_factory.mktemp("served")
    for number in range(FILES):
        (served / f"lines{number}").write_bytes(CONTENT)
    with running_server(served, tmp_path_factory.mktemp("log") / "log") as server:
        yield server


@pytest.fixture
def fs(server: FileSystemServer) -> Iterator[NatproxyFileSystem]:
    fs = server.filesystem()
    yield fs
    fs.close()


def at_once(step: Any) -> list[Any]:
    """Call a function in several threads; return the results."""
    with ThreadPoolExecutor(WORKERS) as threads:
        return list(threads.map(step, range(WORKERS)))


@pytest.fixture
def together(fs: NatproxyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first GET of every thread wait until all threads have come to theirs."""
    waiting = threading.Barrier(WORKERS, timeout=20)
    waited = threading.local()
    get = fs.session.get

    def get_together(*arguments: Any) -> Any:
        if not hasattr(waited, "once"):
            waited.once = True
            waiting.wait()
        return get(*arguments)

    monkeypatch.setattr(fs.session, "get", get_together)


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("protocol", ["simplecache", "filecache", "blockcache"])
def test_threads_open_one_file_that_is_not_cached(
    protocol: str, fs: NatproxyFileSystem, tmp_path: Path
) -> None:
    cached = fsspec.filesystem(
        protocol, fs=fs, cache_storage=str(tmp_path / "cache"), skip_instance_cache=True
    )

    def read(_: int) -> bytes:
        with cached.open("lines0", block_size=100_000) as file:
            content: bytes = file.read()
            return content

    assert at_once(read) == [CONTENT] * WORKERS
    left = [path.name for path in (tmp_path / "cache").rglob(".*")]
    assert left == []


@pytest.mark.usefixtures("together")
def test_threads_get_one_path(fs: NatproxyFileSystem, tmp_path: Path) -> None:
    at_once(lambda _: fs.get_file("lines0", str(tmp_path / "got")))
    assert (tmp_path / "got").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["got"]


WORKER = """
import sys, fsspec

protocol, url, storage, files = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
sizes = []
for number in range(int(files)):
    options = {protocol: {"cache_storage": storage}, "natproxy": {"retries": 0}}
    with fsspec.open(f"{protocol}::{url}/lines{number}", **options) as file:
        content = file.read()
    assert content == b"%7d\\n" * (len(content) // 8) % tuple(range(len(content) // 8))
    sizes.append(len(content))
print(*sizes)
"""


@pytest.mark.parametrize("protocol", ["simplecache", "blockcache"])
def test_processes_share_a_directory(
    protocol: str, server: FileSystemServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WORKER, protocol, server.url, str(tmp_path), str(FILES)]
    workers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(WORKERS)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    results = [worker.communicate(timeout=120) for worker in workers]
    sizes = " ".join([str(len(CONTENT))] * FILES) + "\n"
    assert results == [(sizes, "")] * WORKERS
