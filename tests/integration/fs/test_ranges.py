"""Ranges of files through fsspec, one or many at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from natproxy.fs import NatproxyFileSystem
from natproxy.fs.ranges import Piece
from tests.support.filesystem_server import FileSystemServer

DIGITS = b"0123456789" * 100_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    (directory / "digits").write_bytes(DIGITS)
    (directory / "empty").touch()
    (directory / "sub").mkdir()
    (directory / "sub/one").write_bytes(b"x")
    (directory / "sub/two.csv").write_bytes(b"xx")
    return directory


@pytest.mark.parametrize("start", [None, 0, 5, 999_999, 1_000_000, 1_000_001, -1, -7, -2_000_000])
@pytest.mark.parametrize("end", [None, 0, 3, 500, 1_000_000, 2_000_000, -1, -999_990])
def test_part_of_a_file_is_a_slice(
    start: int | None, end: int | None, fs: NatproxyFileSystem
) -> None:
    assert fs.cat_file("digits", start, end) == DIGITS[start:end]


def test_many_ranges(server: FileSystemServer, fs: NatproxyFileSystem) -> None:
    starts = [0, 10, 500_000, -5, 3, None, 7, 2_000_000, 0, 999_990, 0]
    ends = [5, 25, 500_003, None, 3, 4, 600_000, None, 9, -3, 1]
    paths = ["digits"] * 8 + ["nothing", "digits", "empty"]
    before = len(server.replies())
    found = fs.cat_ranges(paths, starts, ends)
    assert isinstance(found.pop(8), FileNotFoundError)
    wanted = [DIGITS[start:end] for start, end in zip(starts, ends, strict=True)]
    assert found == [*wanted[:8], DIGITS[999_990:-3], b""]
    # Those of the large file are either close barrier or at its end.
    assert server.verbs(before).count("GET") == 4
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, starts, ends, on_error="raise")


def test_ranges_are_merged_up_to_a_gap(server: FileSystemServer, fs: NatproxyFileSystem) -> None:
    for gap, commands in ((None, 2), (0, 3), (10**6, 1)):
        before = len(server.replies())
        found = fs.cat_ranges(["digits"] * 3, [1, 1000, 900_000], [4, 1003, 900_003], max_gap=gap)
        assert found == [b"123", b"012", b"012"]
        assert server.verbs(before).count("GET") == commands


def test_ranges_are_read_at_the_same_time(
    fs: NatproxyFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(4, timeout=30)
    get = fs.session.get

    def get_at_once(*arguments: Any) -> Any:
        barrier.wait()
        return get(*arguments)

    monkeypatch.setattr(fs.session, "get", get_at_once)
    starts = [0, 200_001, 400_002, 600_003]
    found = fs.cat_ranges(["digits"] * 4, starts, [start + 3 for start in starts])
    assert found == [b"012", b"123", b"234", b"345"]


def test_ranges_of_files_that_do_not_exist(fs: NatproxyFileSystem) -> None:
    found = fs.cat_ranges(["nothing", "digits", "nothing"], [0, 1, -5], [1, 3, None])
    assert [type(one) for one in found] == [FileNotFoundError, Piece, FileNotFoundError]


def test_ranges_are_merged_up_to_a_size(
    fs: NatproxyFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("natproxy.fs.ranges.LARGEST_BLOCK", 100)
    reads: list[tuple[int, int]] = []
    read = fs._commands.read

    def record(name: str, start: int, end: int, etag: str) -> tuple[bytes, str]:
        reads.append((start, end))
        return read(name, start, end, etag)

    monkeypatch.setattr(fs._commands, "read", record)
    starts = [0, 50, 90, 120, 500, 550]
    ends = [60, 90, 110, 130, 700, 560]
    found = fs.cat_ranges(["digits"] * 6, starts, ends)
    assert found == [DIGITS[start:end] for start, end in zip(starts, ends, strict=True)]
    assert sorted(reads) == [(0, 90), (90, 130), (500, 700)]


def test_ranges_that_are_malformed(fs: NatproxyFileSystem) -> None:
    with pytest.raises(TypeError):
        fs.cat_ranges("digits", 0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zip"):
        fs.cat_ranges(["digits"], [0, 1], [1])
    assert fs.cat_ranges(["digits", "digits"], 0, 2) == [b"01", b"01"]


def test_several_files_at_once(fs: NatproxyFileSystem) -> None:
    paths = ["empty", "sub/one"]
    assert fs.cat(paths) == {"/empty": b"", "/sub/one": b"x"}
    assert fs.cat("sub/*.csv") == {"/sub/two.csv": b"xx"}
    assert fs.cat([*paths, "nothing"], on_error="omit") == fs.cat(paths)
    assert isinstance(fs.cat([*paths, "no"], on_error="return")["/no"], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat([*paths, "nothing"])
