"""The page cache of the kernel, and files that are not in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from natproxy.relay import Method, PageCache
from tests.support.relays import (
    MIB,
    gets,
    reply,
    serving,
)


def dropped_from_cache(path: Path) -> int:
    """Return the descriptor of a new file of 16 MiB of which nothing is in the page cache."""
    path.write_bytes(os.urandom(16 * MIB))
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    # No read-ahead: looking for a page would load it.
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    for _ in range(5):
        # Pages that are being written are not dropped.
        time.sleep(0.01)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(file, [bytearray(1)], 12 * MIB, os.RWF_NOWAIT)
    except BlockingIOError:
        return file
    except OSError:
        pass
    os.close(file)
    pytest.skip("this file system does not report what is in the page cache")


def read_in_thread(
    read: Callable[[], Any], device: int, returned: Callable[[], object]
) -> Deferred[Any]:
    def done(result: Any) -> Any:
        returned()
        return result

    return deferToThread(read).addBoth(done)


@pytest_twisted.ensureDeferred
async def test_page_cache_reports_what_is_not_cached_and_loads_it(tmp_path: Path) -> None:
    cache = PageCache(read_in_thread)
    file = dropped_from_cache(tmp_path / "file")
    try:
        assert not cache.resident(file, 2 * MIB, MIB)
        await cache.load(file, 2 * MIB, MIB, 0, int)
        assert cache.resident(file, 2 * MIB, MIB)
        assert cache.resident(file, 3 * MIB - 1, 1)
        # Only the range is loaded, not the file; one cached end is not enough.
        assert not cache.resident(file, 2 * MIB, 6 * MIB)
        assert not cache.resident(file, 0, 3 * MIB)
        assert os.lseek(file, 0, os.SEEK_CUR) == 0
    finally:
        os.close(file)


@pytest_twisted.ensureDeferred
async def test_page_cache_leaves_failures_to_the_read(tmp_path: Path) -> None:
    cache = PageCache(read_in_thread)
    (tmp_path / "short").write_bytes(b"x")
    with (tmp_path / "short").open("rb") as file:
        assert cache.resident(file.fileno(), 0, 10 * MIB)
        assert cache.resident(file.fileno(), 5, 1)
        await cache.load(file.fileno(), 0, MIB, 0, int)
    reader, writer = os.pipe()
    try:
        assert cache.resident(reader, 0, 10)
        await cache.load(reader, 0, 10, 0, int)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("method", [Method.COPY, Method.KERNEL], ids=str)
@pytest_twisted.ensureDeferred
async def test_file_that_is_not_cached_arrives_whole(method: Method, tmp_path: Path) -> None:
    os.close(dropped_from_cache(tmp_path / "file"))
    loaded: list[int] = []

    class RecordingCache(PageCache):
        def load(
            self, file: int, offset: int, size: int, device: int, returned: Callable[[], object]
        ) -> Deferred[None]:
            loaded.append(offset)
            return super().load(file, offset, size, device, returned)

    serve = serving(method, tmp_path, page_cache=RecordingCache(read_in_thread))
    async with serve as server, server.client() as client:
        client.send(b"DOWNLOAD file\n")
        await client.until(lambda: client.count > MIB, "the beginning")
        await gets(client, reply((tmp_path / "file").read_bytes()))
    assert loaded[0] == 0
