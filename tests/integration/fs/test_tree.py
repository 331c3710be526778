"""The metadata and the listings of the fsspec file system, beside those of a local one."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from natproxy.fs import NatproxyFileSystem
from tests.support.filesystem_server import FileSystemServer

TREE = ("top", "sub/one", "sub/two.csv", "sub/deep/three.csv", "sub/deep/er/four", "other/five.csv")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    for number, name in enumerate(TREE):
        path = directory / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    (directory / "tree/empty").mkdir()
    (directory / "digits").write_bytes(b"0123456789")
    return directory


@pytest.fixture
def local(server: FileSystemServer) -> str:
    """The served directory's path."""
    return f"{server.directory}/"


def test_info_has_the_metadata_of_the_server(
    server: FileSystemServer, fs: NatproxyFileSystem
) -> None:
    os.utime(server.directory / "tree/top", ns=(0, 1_500_000_000_123_456_789))
    details = fs.info("tree/sub/two.csv")
    assert details["size"] == 2
    assert (details["type"], details["name"]) == ("file", "/tree/sub/two.csv")
    assert details["mtime"] == (server.directory / "tree/sub/two.csv").stat().st_mtime
    assert fs.info("tree")["type"] == fs.info("")["type"] == "directory"
    assert fs.ukey("tree/top") == fs.info("tree/top")["etag"]
    assert fs.checksum("tree/top") != fs.checksum("tree/sub/one")
    assert fs.modified("tree/top") == datetime(2017, 7, 14, 2, 40, 0, 123456, timezone.utc)
    with pytest.raises(NotImplementedError, match="when a file was created"):
        fs.created("tree/top")


def test_existence(fs: NatproxyFileSystem) -> None:
    for path, exists, isdir, isfile in (
        ("tree", True, True, False),
        ("digits", True, False, True),
        ("nothing", False, False, False),
    ):
        assert (fs.exists(path), fs.isdir(path), fs.isfile(path)) == (exists, isdir, isfile)


def relative(found: Any, top: str) -> Any:
    """Return the paths of a local result below the served directory."""
    if isinstance(found, str):
        return found.removeprefix(top.rstrip("/")).strip("/")
    if isinstance(found, dict):
        return {relative(name, top): size for name, size in found.items()}
    return [relative(one, top) for one in found]


PATHS = ("tree", "tree/", "tree/sub", "tree/top", "tree/nothing", "tree/empty", "")


@pytest.mark.parametrize("withdirs", [False, True])
@pytest.mark.parametrize("maxdepth", [None, 1, 2])
@pytest.mark.parametrize("path", PATHS)
def test_find_returns_what_a_local_file_system_returns(
    path: str, maxdepth: int | None, withdirs: bool, fs: NatproxyFileSystem, local: str
) -> None:
    here = LocalFileSystem()
    there = fs.find(path, maxdepth, withdirs)
    assert relative(there, "") == relative(here.find(local + path, maxdepth, withdirs), local)
    detailed = fs.find(path, maxdepth, withdirs, detail=True)
    assert list(detailed) == there
    assert all(details == fs.info(name) for name, details in detailed.items())
    if not withdirs:
        sizes = fs.du(path, maxdepth=maxdepth, total=False)
        theirs = here.du(local + path, maxdepth=maxdepth, total=False)
        assert relative(sizes, "") == relative(theirs, local)
        assert fs.du(path, maxdepth=maxdepth) == sum(sizes.values())


@pytest.mark.parametrize("topdown", [True, False])
@pytest.mark.parametrize("maxdepth", [None, 1, 2])
@pytest.mark.parametrize("path", PATHS)
def test_walk_yields_what_a_local_file_system_yields(
    path: str, maxdepth: int | None, topdown: bool, fs: NatproxyFileSystem, local: str
) -> None:
    def visits(of: Any, top: str) -> list[Any]:
        found = of.walk(top + path, maxdepth, topdown)
        visited = [(relative(at, top), sorted(dirs), sorted(files)) for at, dirs, files in found]
        # The order of siblings depends on the local file system.
        return sorted(visited)

    assert visits(fs, "") == visits(LocalFileSystem(), local)
    order = [at for at, _, _ in fs.walk(path, maxdepth, topdown)]
    for at in order[1:] if topdown else order[:-1]:
        assert (order.index(at.rpartition("/")[0] or "/") < order.index(at)) is topdown


def test_walk_can_be_pruned_and_reports_failures(fs: NatproxyFileSystem) -> None:
    seen = []
    for at, directories, _ in fs.walk("tree"):
        seen.append(at)
        directories[:] = [name for name in directories if name == "sub"] + ["made up"]
    assert seen == ["/tree", "/tree/sub"]
    at, directories, files = next(fs.walk("tree", detail=True))
    assert (at, directories["sub"]["type"], files["top"]["size"]) == ("/tree", "directory", 0)
    with pytest.raises(FileNotFoundError):
        list(fs.walk("nothing", on_error="raise"))
    failures: list[OSError] = []
    assert list(fs.walk("nothing", on_error=failures.append)) == []
    assert isinstance(failures[0], FileNotFoundError)
    for method in (fs.walk, fs.find):
        with pytest.raises(ValueError, match="at least 1"):
            list(method("tree", maxdepth=0))


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "tree/*", "tree/**", "tree/*/", "tree/**/*.csv", "tree/*/*.csv"),
        *("tree/s[tu]b/o?e", "tree/sub", "tree/nothing*", "**/four", "tree/sub/**/f*"),
    ],
)
def test_glob_returns_what_a_local_file_system_returns(
    pattern: str, fs: NatproxyFileSystem, local: str
) -> None:
    theirs = LocalFileSystem().glob(local + pattern)
    assert relative(fs.glob(pattern), "") == relative(theirs, local)


def test_find_of_a_whole_tree_sends_one_command(
    server: FileSystemServer, fs: NatproxyFileSystem
) -> None:
    before = len(server.replies())
    assert len(fs.find("tree")) == len(TREE)
    assert server.verbs(before) == ["FEAT", "LS"]
