"""A server that claims a large size and sends little: memory follows what was received."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from natproxy.client import ConnectionBroken, Session, connect
from natproxy.fs import NatproxyFileSystem
from tests.support.scripted_server import ScriptedServer

CLAIMED = 2 << 30
LIMIT = 16 << 20
"""Bytes that may be allocated, which is more than any fixed buffer."""

METADATA = b"size=%d mtime=0.000000000 etag=e" % CLAIMED
FEAT = (b"FEAT\n", b"OK\nNATPROXY 2\nEND\n")
STAT = (b"\n", b"OK type=file " + METADATA + b"\n")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Claims 2 GiB, sends one byte of it, and closes."""
    get = (b"\n", b"OK %d offset=0 " % CLAIMED + METADATA + b"\nx")
    with closing(ScriptedServer([FEAT, STAT, get])) as server:
        yield server


def peak_of(step: Callable[[], Any], error: type[Exception]) -> int:
    """Return the largest number of bytes allocated at the same time in a step that fails."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match="inside the reply"):
            step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.open("a").read(),
        lambda session: session.open("a").raw.readall(),
        lambda session: (session.stat("a"), session.read("a")),
    ],
    ids=["read", "readall", "session.read"],
)
def test_reading_a_file(use: Callable[[Session], Any], server: ScriptedServer) -> None:
    with connect(server.server_address) as session:
        assert peak_of(lambda: use(session), ConnectionBroken) < LIMIT


@pytest.mark.parametrize(
    "cache_type", ["growing", "none", "readahead", "bytes", "mmap", "all", "blockcache"]
)
def test_reading_a_file_of_the_file_system(cache_type: str, server: ScriptedServer) -> None:
    fs = NatproxyFileSystem("127.0.0.1", server.port, retries=0, skip_instance_cache=True)

    def read() -> None:
        # A block is as large as the file.
        with fs.open("a", block_size=CLAIMED, cache_type=cache_type) as file:
            file.read()

    assert peak_of(read, ConnectionError) < LIMIT
    fs.close()


def test_the_bytes_of_a_file_of_the_file_system(server: ScriptedServer) -> None:
    fs = NatproxyFileSystem("127.0.0.1", server.port, retries=0, skip_instance_cache=True)
    peak = peak_of(lambda: fs.info("a") and fs.cat_file("a"), ConnectionError)
    assert peak < LIMIT
    fs.close()
