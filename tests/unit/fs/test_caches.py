"""Caches of an open file, without a server."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from natproxy.fs.caches import SMALLEST_READ, GrowingReadAhead, VersionedBlocks

SIZE = 3_000_000
CONTENT = b"%7d\n" * (SIZE // 8) % tuple(range(SIZE // 8))
BLOCK = 1000
BLOCKS_SIZE = 10 * BLOCK + 7
BLOCKS = CONTENT[:BLOCKS_SIZE]


def test_read_ahead_grows_only_while_reading_in_order() -> None:
    reads: list[tuple[int, int]] = []

    def read(start: int, end: int) -> bytes:
        reads.append((start, end))
        return CONTENT[start:end]

    cache = GrowingReadAhead(1_000_000, read, SIZE)
    step = 100_000
    for start in range(0, 20 * step, step):
        assert cache._fetch(start, start + step) == CONTENT[start : start + step]
    assert [end - start for start, end in reads] == [step * by for by in (1, 2, 3, 5, 9)]
    reads.clear()
    for start in (2_500_000, 5, 2_900_000):
        assert cache._fetch(start, start + 3) == CONTENT[start : start + 3]
    assert [end - start for start, end in reads[:2]] == [SMALLEST_READ] * 2
    assert cache._fetch(None, None) == CONTENT
    assert cache._fetch(SIZE, SIZE + 5) == b""
    assert cache._fetch(SIZE - 5, SIZE + 5) == CONTENT[-5:]


def test_blocks_that_cannot_be_stored_are_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads = []

    def read(start: int, stop: int) -> bytes:
        reads.append((start, stop))
        return BLOCKS[start:stop]

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    blocks = VersionedBlocks(BLOCK, read, BLOCKS_SIZE, str(tmp_path / "cached"), "etag")
    assert blocks._fetch(5, 5) == blocks._fetch(BLOCKS_SIZE, None) == b""
    # The disk is full before a block, or inside it.
    for pwrite in (full, lambda *_: 1):
        monkeypatch.setattr(os, "pwrite", pwrite)
        assert blocks._fetch(5, BLOCK + 5) == BLOCKS[5 : BLOCK + 5]
    monkeypatch.undo()
    for _ in range(2):
        assert blocks._fetch(5, BLOCK + 5) == BLOCKS[5 : BLOCK + 5]
    assert reads == [(0, 2 * BLOCK)] * 3
    blocks.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        blocks._fetch(5, BLOCK + 5)


def test_file_that_is_too_large_for_a_local_file_is_an_error() -> None:
    with pytest.raises(OSError, match="no local file can have") as caught:
        VersionedBlocks(BLOCK, lambda start, stop: b"", 2**63 - 1, None, "etag")
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="too large") as caught:
        VersionedBlocks(2**40, lambda start, stop: b"", 2**62, None, "etag")
