"""fsspec's caches on top of the file system: no read returns bytes of two versions of a file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.caching import caches

from natproxy.fs import FileChanged, NatproxyFile, NatproxyFileSystem
from natproxy.fs.caches import VersionedBlocks
from tests.support.filesystem_server import FileSystemServer, replace_file

BLOCK = 1000
SIZE = 10 * BLOCK + 7

Opener = Callable[[], Any]


def version(number: int, size: int = SIZE) -> bytes:
    """Return the content of a version; no part of it is in another version."""
    return bytes((16 * number + place // BLOCK) % 256 for place in range(size))


@pytest.fixture
def served(server: FileSystemServer) -> Path:
    """A served file that the test may replace."""
    path = server.directory / "changing"
    replace_file(path, version(1))
    return path


def cached(protocol: str, fs: NatproxyFileSystem, storage: Path, **options: Any) -> Any:
    """Return one of fsspec's caching file systems on top of another."""
    return fsspec.filesystem(
        protocol, fs=fs, cache_storage=str(storage), skip_instance_cache=True, **options
    )


def gets(server: FileSystemServer, before: int) -> int:
    """Return the number of GETs among all commands but the first ``before``."""
    return server.verbs(before).count("GET")


def assert_unmixed(open_file: Opener, served: Path) -> None:
    """Replace a file between two reads: what is read is of the first version, or an error."""
    first = version(1)
    with open_file() as file:
        assert file.read(10) == first[:10]
        for size in (SIZE, SIZE + BLOCK, SIZE - BLOCK):
            replace_file(served, version(2, size))
            for start in (5 * BLOCK, 2 * BLOCK + 1, 0, SIZE - 2 * BLOCK):
                # Twice: an error must leave nothing in the cache.
                for _ in range(2):
                    file.seek(start)
                    try:
                        found = file.read(2 * BLOCK)
                    except FileChanged:
                        continue
                    assert found == first[start : start + 2 * BLOCK]


@pytest.mark.parametrize(
    "cache_type",
    [name for name in caches if name not in (None, "parts")],
)
def test_open_file_is_never_mixed(cache_type: str, fs: NatproxyFileSystem, served: Path) -> None:
    assert_unmixed(lambda: fs.open("changing", block_size=BLOCK, cache_type=cache_type), served)


@pytest.mark.parametrize("check_files", [False, True])
@pytest.mark.parametrize("protocol", ["simplecache", "filecache", "blockcache"])
def test_file_in_a_cache_is_never_mixed(
    protocol: str, check_files: bool, fs: NatproxyFileSystem, served: Path, tmp_path: Path
) -> None:
    on_top = cached(protocol, fs, tmp_path / "cache", check_files=check_files)
    assert_unmixed(lambda: on_top.open("changing", block_size=BLOCK), served)


def test_url_with_a_block_cache_is_never_mixed(server: FileSystemServer, served: Path) -> None:
    def open_url() -> Any:
        url = f"blockcache::{server.url}/changing"
        return fsspec.open(url, block_size=BLOCK, natproxy={"retries": 0}).open()

    assert_unmixed(open_url, served)
    fsspec.get_filesystem_class("natproxy").clear_instance_cache()


@pytest.mark.parametrize("check_files", [False, True])
@pytest.mark.parametrize("size", [SIZE, SIZE + 3 * BLOCK, SIZE - 3 * BLOCK])
def test_replaced_file_is_opened_anew_through_a_block_cache(
    size: int, check_files: bool, fs: NatproxyFileSystem, served: Path, tmp_path: Path
) -> None:
    on_top = cached("blockcache", fs, tmp_path / "cache", check_files=check_files)
    with on_top.open("changing", block_size=BLOCK) as file:
        assert file.read(3 * BLOCK) == version(1)[: 3 * BLOCK]
        replace_file(served, version(2, size))
        with on_top.open("changing", block_size=BLOCK) as newer:
            assert newer.size == size
            assert newer.read() == version(2, size)
        # The older one still has its own blocks.
        file.seek(0)
        assert file.read(3 * BLOCK) == version(1)[: 3 * BLOCK]
        with pytest.raises(FileChanged):
            file.read()
    with on_top.open("changing", block_size=BLOCK) as again:
        assert again.read() == version(2, size)


def test_block_cache_keeps_blocks_between_file_systems(
    server: FileSystemServer, fs: NatproxyFileSystem, served: Path, tmp_path: Path
) -> None:
    before = len(server.replies())
    for wanted in (0, 1, 1):
        on_top = cached("blockcache", fs, tmp_path / "cache")
        with on_top.open("changing", block_size=BLOCK) as file:
            file.seek(2 * BLOCK * wanted)
            assert file.read(3 * BLOCK) == version(1)[2 * BLOCK * wanted :][: 3 * BLOCK]
    # Blocks 0-2, and 3 and 4; then nothing.
    assert gets(server, before) == 2
    # Blocks of an older version do not stay.
    replace_file(served, version(2))
    with on_top.open("changing", block_size=BLOCK) as file:
        assert file.read(1) == version(2)[:1]
    assert len(list((tmp_path / "cache").rglob("*.versions/*"))) == 1


def test_damaged_block_on_the_disk_is_read_again(
    fs: NatproxyFileSystem, served: Path, tmp_path: Path
) -> None:
    on_top = cached("blockcache", fs, tmp_path / "cache")
    with on_top.open("changing", block_size=BLOCK) as file:
        file.read()
    [stored] = (tmp_path / "cache").rglob("*.versions/*")
    with stored.open("r+b") as file:
        file.seek(BLOCK)
        file.write(bytes(BLOCK))
    with on_top.open("changing", block_size=BLOCK) as file:
        assert file.read() == version(1)
        # Another process truncates it while it is open.
        os.truncate(stored, BLOCK // 2)
        file.seek(0)
        assert file.read(BLOCK) == version(1)[:BLOCK]


def test_sparse_file_of_fsspec_is_not_used(
    fs: NatproxyFileSystem, served: Path, tmp_path: Path
) -> None:
    """A cache that was written before `VersionedBlocks` may hold blocks of several versions."""
    on_top = cached("blockcache", fs, tmp_path / "cache")
    name = on_top._mapper("/changing")
    (tmp_path / "cache" / name).write_bytes(version(2))
    blocks = set(range(20))
    detail = {"fn": name, "blocks": blocks, "time": 2**40, "uid": "", "size": SIZE}
    on_top._metadata.update_file("/changing", {**detail, "original": "/changing"})
    for _ in range(2):
        with on_top.open("changing", block_size=BLOCK) as file:
            assert file.read() == version(1)


@pytest.mark.parametrize("cache_type", ["mmap", "readahead", "bytes", "blockcache", "first"])
def test_failed_read_leaves_no_hole(
    cache_type: str, fs: NatproxyFileSystem, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fs.open("changing", block_size=BLOCK, cache_type=cache_type) as file:
        with monkeypatch.context() as patched:

            def fail(*_: object) -> bytes:
                raise ConnectionError("broken")

            patched.setattr(fs, "read_range", fail)
            with pytest.raises(ConnectionError):
                file.read(2 * BLOCK)
        file.seek(0)
        assert file.read() == version(1)


def test_file_opened_for_a_block_cache_is_whole_without_one(
    fs: NatproxyFileSystem, served: Path
) -> None:
    with fs.open("changing", cache_type="none", size=3) as file:
        assert isinstance(file, NatproxyFile)
        assert file.read() == version(1)
        assert file.size == SIZE
    with fs.open("changing", cache_type="none", size=None) as file:
        assert file.seek(-1, 2) == SIZE - 1


def test_empty_file_through_a_block_cache(
    fs: NatproxyFileSystem, served: Path, tmp_path: Path
) -> None:
    replace_file(served, b"")
    on_top = cached("blockcache", fs, tmp_path / "cache")
    for content in (b"", b"", b"more"):
        replace_file(served, content)
        with on_top.open("changing") as file:
            assert file.read() == content


@pytest.mark.parametrize("strict", [False, True])
def test_known_parts_are_of_the_version_that_is_opened(
    strict: bool, fs: NatproxyFileSystem, served: Path
) -> None:
    def open_parts(found: list[bytes]) -> Any:
        known = {(0, BLOCK): found[0], (5 * BLOCK, SIZE): found[1], (SIZE, SIZE): found[2]}
        options = {"data": known, "strict": strict}
        return fs.open("changing", cache_type="parts", cache_options=options)

    starts, ends = [0, 5 * BLOCK, SIZE], [BLOCK, SIZE, SIZE]
    several = fs.cat_ranges(["changing"] * 3, starts, ends)
    single = [
        fs.cat_ranges(["changing"], start, end)[0] for start, end in zip(starts, ends, strict=True)
    ]
    for found in (several, single, pickle.loads(pickle.dumps(several))):
        assert found == [version(1)[:BLOCK], version(1)[5 * BLOCK :], b""]
        with open_parts(found) as file:
            assert file.read(BLOCK) == version(1)[:BLOCK]
    replace_file(served, version(2))
    newer = fs.cat_ranges(["changing"] * 3, starts, ends)
    for found in (several, single, [several[0], *newer[1:]], [*newer[:2], single[2]]):
        with pytest.raises(FileChanged):
            open_parts(found)
    with open_parts(newer) as file:
        assert file.read(BLOCK) == version(2)[:BLOCK]
    # Bytes without a version are not checked.
    with open_parts([bytes(piece) for piece in several]) as file:
        assert file.read(BLOCK) == version(1)[:BLOCK]


def test_file_with_blocks_can_be_pickled(
    fs: NatproxyFileSystem, served: Path, tmp_path: Path
) -> None:
    on_top = cached("blockcache", fs, tmp_path / "cache")
    with on_top.open("changing", block_size=BLOCK) as file:
        file.read(5)
        with pickle.loads(pickle.dumps(file)) as moved:
            assert isinstance(moved.cache, VersionedBlocks)
            assert moved.read() == version(1)[5:]
            replace_file(served, version(2))
            moved.seek(0)
            assert moved.read() == version(1)
