"""Reading many small files at the same time: results are those of reading each."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from natproxy.client import ServerError, Unavailable, Unsupported
from natproxy.client.errors import error_of
from natproxy.fs import NatproxyFileSystem
from natproxy.protocol import MAX_PACKED
from tests.support.filesystem_server import FileSystemServer

SIZES = (0, 1, 4096, MAX_PACKED, MAX_PACKED + 1, 300_000)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    for parent in ("many", "many/sub dir", "many/sub dir/deep"):
        (directory / parent).mkdir()
        for size in SIZES:
            (directory / parent / f"{size} %=\n").write_bytes(os.urandom(size))
    (directory / "many/empty").mkdir()
    os.mkfifo(directory / "many/fifo")
    (directory / "many/link").symlink_to("sub dir")
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of each file by its name on the server."""
    return {
        f"/{path.relative_to(directory)}": path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def without_packs(fs: NatproxyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fs.session, "offers", lambda word: False)


def test_tree_is_read_by_few_commands(
    fs: NatproxyFileSystem, server: FileSystemServer, directory: Path
) -> None:
    before = len(server.replies())
    assert fs.cat("/many", recursive=True) == contents(directory)
    verbs = server.verbs(before)
    assert verbs.count("PACK") <= 2
    # Those that are too large to be packed.
    assert verbs.count("GET") == 6


@pytest.mark.parametrize("on_error", ["omit", "return"])
def test_errors_are_those_of_each_file(
    fs: NatproxyFileSystem, directory: Path, monkeypatch: pytest.MonkeyPatch, on_error: str
) -> None:
    names = [
        *contents(directory),
        "/nothing",
        "/many/sub dir",
        "/many/fifo",
        "/many/empty",
        "/\ud800",
    ]
    together: dict[str, Any] = fs.cat(names, on_error=on_error)
    without_packs(fs, monkeypatch)
    each: dict[str, Any] = fs.cat(names, on_error=on_error)
    assert list(together) == list(each)
    for name, result in each.items():
        if isinstance(result, OSError):
            found = together[name]
            assert (type(found), found.args, found.filename) == (
                type(result),
                result.args,
                result.filename,
            )
        else:
            assert together[name] == result == contents(directory)[name]
    assert len(each) == len(contents(directory)) + (5 if on_error == "return" else 0)


def test_first_error_is_raised(fs: NatproxyFileSystem, directory: Path) -> None:
    names = [*contents(directory), "/nothing"]
    with pytest.raises(FileNotFoundError) as caught:
        fs.cat(names)
    assert caught.value.filename == "/nothing"


def test_parts_are_read_as_before(
    fs: NatproxyFileSystem, server: FileSystemServer, directory: Path
) -> None:
    before = len(server.replies())
    names = [name for name, content in contents(directory).items() if len(content) > 3]
    found = fs.cat(names, start=1, end=3)
    assert found == {name: contents(directory)[name][1:3] for name in names}
    assert "PACK" not in server.verbs(before)


@pytest.mark.parametrize(
    "error", [Unsupported("no PACK"), error_of(b"403 forbidden"), error_of(b"400 line too long")]
)
def test_server_that_refuses_it_is_used_without_it(
    fs: NatproxyFileSystem,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: ServerError,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(fs.session, "pack", fail)
    assert fs.cat("/many", recursive=True) == contents(directory)


def test_server_that_is_gone_fails_for_each_file() -> None:
    fs = NatproxyFileSystem("127.0.0.1", 1, retries=0, skip_instance_cache=True)
    found = fs.cat(["/a", "/b"], on_error="return")
    assert {name: type(error) for name, error in found.items()} == {
        "/a": ConnectionError,
        "/b": ConnectionError,
    }


def test_command_that_fails_as_a_whole_fails_for_each_file(
    fs: NatproxyFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Unavailable("too many packs at once")

    monkeypatch.setattr(fs.session, "pack", fail)
    found = fs.cat(["/a", "/b"], on_error="return")
    assert {error.errno for error in found.values()} == {errno.EBUSY}


def got(directory: Path) -> dict[str, bytes]:
    """Return the content of each file of a copy of ``many`` by its name on the server."""
    return {f"/many{name}": content for name, content in contents(directory).items()}


def test_tree_is_copied_by_few_commands(
    fs: NatproxyFileSystem, server: FileSystemServer, directory: Path, tmp_path: Path
) -> None:
    before = len(server.replies())
    fs.get("/many", str(tmp_path / "got"), recursive=True)
    assert got(tmp_path / "got") == contents(directory)
    assert (tmp_path / "got/empty").is_dir()
    assert (tmp_path / "got/link").is_dir()
    verbs = server.verbs(before)
    assert verbs.count("PACK") <= 3
    # Those that are too large to be packed.
    assert verbs.count("GET") == 6
    for path in (tmp_path / "got").rglob("*"):
        assert ".part" not in path.name
        if path.is_file():
            served = directory / "many" / path.relative_to(tmp_path / "got")
            assert path.stat().st_mtime_ns == served.stat().st_mtime_ns


def test_copies_replace_files_by_few_commands(
    fs: NatproxyFileSystem, server: FileSystemServer, directory: Path, tmp_path: Path
) -> None:
    for name in contents(directory):
        path = tmp_path / "got" / name.removeprefix("/many/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
    before = len(server.replies())
    fs.get("/many/", str(tmp_path / "got"), recursive=True)
    assert got(tmp_path / "got") == contents(directory)
    verbs = server.verbs(before)
    # Those that are too large to be packed.
    assert verbs.count("GET") == 6
    assert 1 <= verbs.count("PACK") <= 3


@pytest.mark.parametrize("exists", [False, True])
def test_copies_are_those_of_get_file(
    fs: NatproxyFileSystem,
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exists: bool,
) -> None:
    for name in ("together", "each"):
        (tmp_path / name / "linked").mkdir(parents=True)
        (tmp_path / name / "got").mkdir()
        (tmp_path / name / "got/sub dir").symlink_to("../linked")
        if exists:
            (tmp_path / name / "got/1 %=\n").write_bytes(b"old")
            (tmp_path / name / "got/0 %=\n").symlink_to("elsewhere")
    fs.get("/many", str(tmp_path / "together/got/"), recursive=True)
    fs.get("/many/", str(tmp_path / "together/got"), recursive=True)
    without_packs(fs, monkeypatch)
    fs.get("/many", str(tmp_path / "each/got/"), recursive=True)
    fs.get("/many/", str(tmp_path / "each/got"), recursive=True)
    assert contents(tmp_path / "together") == contents(tmp_path / "each")
    for path in (tmp_path / "each").rglob("*"):
        twin = tmp_path / "together" / path.relative_to(tmp_path / "each")
        assert (path.is_symlink(), path.is_dir()) == (twin.is_symlink(), twin.is_dir()), path
        assert path.lstat().st_mode == twin.lstat().st_mode, path


def test_lists_of_paths_and_patterns(
    fs: NatproxyFileSystem, directory: Path, tmp_path: Path
) -> None:
    fs.get("/many/*[0-9] %=\n", f"{tmp_path}/pattern/")
    assert len(contents(tmp_path / "pattern")) == len(SIZES)
    small = [f"/many/{size} %=\n" for size in SIZES[:3]]
    targets = [str(tmp_path / f"{number}/file") for number in range(3)]
    fs.get(small, targets)
    for source, target in zip(small, targets, strict=True):
        assert Path(target).read_bytes() == contents(directory)[source]
    with (tmp_path / "open").open("wb") as opened:
        fs.get([small[1], small[2]], [opened, str(tmp_path / "named")])
    assert (tmp_path / "open").read_bytes() == contents(directory)[small[1]]
    assert (tmp_path / "named").read_bytes() == contents(directory)[small[2]]


def test_first_copy_that_fails_is_raised(
    fs: NatproxyFileSystem, directory: Path, tmp_path: Path
) -> None:
    small = [f"/many/{size} %=\n" for size in SIZES[:3]]
    with pytest.raises(FileNotFoundError) as caught:
        fs.get([*small, "/nothing"], [str(tmp_path / str(number)) for number in range(4)])
    assert caught.value.filename == "/nothing"
    assert len(contents(tmp_path)) == 3
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        fs.get(small[:2], [str(tmp_path / "directory"), str(tmp_path / "5")])


def test_server_that_is_gone_fails_a_copy(tmp_path: Path) -> None:
    fs = NatproxyFileSystem("127.0.0.1", 1, retries=0, skip_instance_cache=True)
    with pytest.raises(ConnectionError):
        fs.get(["/a", "/b"], [str(tmp_path / "a"), str(tmp_path / "b")])
