"""Paths, servers and times of the file system, and `UPath` on top of it."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fsspec
import pytest
from upath import UPath

from natproxy.client import NotFound, Session
from natproxy.client.requests import as_name, name_text
from natproxy.fs import NatproxyFileSystem
from natproxy.fs.listing import moment
from natproxy.fs.path import NatproxyPath
from natproxy.protocol import (
    FILE,
    Entry,
    Metadata,
    Range,
    format_entry,
    format_metadata,
    format_range,
)
from tests.integration.fs.test_fs import Running, running
from tests.support.answering_server import AnsweringServer

TREE = {
    "top.txt": b"top",
    "sub/one.csv": b"1",
    "sub/two.tar.gz": b"22",
    "sub/deep/three.csv": b"333",
    "sub/deep/er/café b%41#?": b"4444",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("served")
    for name, content in TREE.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    (directory / "empty").mkdir()
    with running(directory, tmp_path_factory.mktemp("log") / "log") as server:
        yield server
    NatproxyFileSystem.clear_instance_cache()


@pytest.fixture
def fs(server: Running) -> Iterator[NatproxyFileSystem]:
    fs = server.filesystem()
    yield fs
    fs.close()


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no server."""
    monkeypatch.delenv("NATPROXY_SERVER", raising=False)


# --- paths ---


@pytest.mark.parametrize(
    "path",
    ["sub/one.csv", "/sub/one.csv", "//sub//one.csv/", "/./sub/./one.csv", "./sub/one.csv/."],
)
def test_dots_and_double_slashes_mean_nothing(path: str, fs: NatproxyFileSystem) -> None:
    plain = "/sub/one.csv"
    assert fs.info(path) == fs.info(plain)
    assert fs.exists(path)
    assert fs.isfile(path)
    assert fs.cat_file(path) == fs.cat(path) == b"1"
    assert fs.ls(path, detail=False) == fs.find(path) == fs.glob(path) == [plain]
    assert fs.cat_ranges([path], 0, 1) == [b"1"]
    with fs.open(path) as file:
        assert file.read() == b"1"


@pytest.mark.parametrize("path", ["", "/", ".", "/.", "/./", "//", "./."])
def test_root_has_many_names(path: str, fs: NatproxyFileSystem) -> None:
    assert fs.isdir(path)
    assert fs.find(path) == sorted("/" + name for name in TREE)
    assert fs.ls(path, detail=False) == ["/empty", "/sub", "/top.txt"]
    assert next(fs.walk(path)) == ("/", ["empty", "sub"], ["top.txt"])


@pytest.mark.parametrize(
    "path", ["..", "/../top.txt", "sub/..", "sub/../top.txt", "a\0b", "/a\ud800", "\ud83d\ude00"]
)
def test_path_that_no_file_can_have(path: str, fs: NatproxyFileSystem, tmp_path: Path) -> None:
    assert not fs.exists(path)
    assert not fs.isdir(path)
    assert not fs.isfile(path)
    assert fs.find(path) == list(fs.walk(path)) == fs.glob(path) == []
    attempts: tuple[Any, ...] = (
        *(fs.info, fs.ls, fs.cat_file, fs.cat, fs.open, fs.ukey, fs.modified, fs.head),
        lambda path: fs.get_file(path, str(tmp_path / "got")),
        lambda path: fs.get(path, str(tmp_path / "got")),
    )
    for attempt in attempts:
        with pytest.raises(FileNotFoundError):
            attempt(path)
    assert isinstance(fs.cat_ranges([path], 0, 1)[0], FileNotFoundError)
    with (tmp_path / "open").open("wb") as opened, pytest.raises(FileNotFoundError):
        fs.get_file(path, opened)
    assert [entry.name for entry in tmp_path.iterdir()] == ["open"]


def test_text_of_a_name_is_utf8() -> None:
    assert as_name("/caf\xe9\udcff/") == b"caf\xc3\xa9\xff"
    assert name_text(b"caf\xc3\xa9\xff") == "caf\xe9\udcff"
    with pytest.raises(NotFound, match=r"^caf\\xe9\\ud800: file not found$"):
        as_name("caf\xe9\ud800")


def test_surrogate_that_stands_for_no_byte_is_not_found(server: Running) -> None:
    with Session(server.filesystem().server) as session:
        for use in (session.stat, session.read, session.hash, session.open, session.download):
            with pytest.raises(NotFound):
                use("\ud800")
        with pytest.raises(NotFound):
            list(session.walk("\ud800"))
        with pytest.raises(NotFound), session.get_v1("\ud800"):
            pass


# --- which server ---


@pytest.mark.usefixtures("no_server")
def test_url_without_a_server_says_what_is_missing() -> None:
    for url in ("natproxy:///x", "natproxy://"):
        with pytest.raises(ValueError, match=r"no server: .*HOST:PORT.*\$NATPROXY_SERVER"):
            fsspec.open(url)
    with pytest.raises(ValueError, match="no server"):
        fsspec.filesystem("natproxy")
    assert fsspec.open("natproxy:///x", host="h", port=7).fs.server == ("h", 7)


def test_url_without_a_server_takes_that_of_the_environment(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (f"127.0.0.1:{server.port}", server.url):
        monkeypatch.setenv("NATPROXY_SERVER", text)
        with fsspec.open("natproxy:///top.txt") as file:
            assert file.read() == b"top"
    # An instance that is cached belongs to another server.
    monkeypatch.setenv("NATPROXY_SERVER", "other")
    assert fsspec.filesystem("natproxy").server == ("other", 9000)
    assert fsspec.filesystem("natproxy", host="h").server == ("h", 9000)
    monkeypatch.setenv("NATPROXY_SERVER", "h:x")
    with pytest.raises(ValueError, match=r"^\$NATPROXY_SERVER: server 'h:x': HOST:PORT is needed"):
        fsspec.filesystem("natproxy")


def test_short_ipv6_address_in_a_url_is_explained() -> None:
    with pytest.raises(ValueError, match="write all groups of an IPv6 address"):
        fsspec.open("natproxy://[::1]:7/a")


def test_url_of_an_open_file_names_the_server(server: Running, fs: NatproxyFileSystem) -> None:
    with fs.open("top.txt") as file:
        assert file.full_name == f"{server.url}/top.txt"
    on_top = fsspec.filesystem("dir", path="/sub", fs=fs, skip_instance_cache=True)
    assert on_top.cat_file("one.csv") == b"1"


# --- times ---


@pytest.mark.parametrize(
    ("nanoseconds", "time"),
    [
        (0, datetime(1970, 1, 1)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999_999)),
        (-62_135_596_800 * 10**9, datetime.min),
        (-62_135_596_801 * 10**9, datetime.min),
        (253_402_300_799_999_999_999, datetime.max),
        (253_402_300_800 * 10**9, datetime.max),
        (10**28, datetime.max),
        (-(10**28), datetime.min),
    ],
)
def test_far_times_are_clamped(nanoseconds: int, time: datetime) -> None:
    assert moment(nanoseconds) == time.replace(tzinfo=timezone.utc)


@pytest.mark.parametrize("sign", [1, -1])
def test_file_of_a_far_time(sign: int, tmp_path: Path) -> None:
    metadata = Metadata(FILE, 1, sign * (10**28 - 1), "e")

    def answer(line: bytes) -> bytes:
        verb = line.split()[0]
        if verb == b"FEAT":
            return b"OK\nNATPROXY 2\nEND\n"
        if verb == b"LS":
            body = format_entry(Entry(b"far", metadata))
            return b"OK %d\n%b" % (len(body), body)
        if verb == b"GET":
            return format_range(Range(1, 0, metadata)) + b"x"
        return b"OK " + format_metadata(metadata) + b"\n"

    with closing(AnsweringServer(answer)) as server:
        fs = NatproxyFileSystem("127.0.0.1", server.port, skip_instance_cache=True)
        assert fs.modified("far").year == (9999 if sign > 0 else 1)
        assert fs.info("far")["mtime"] == fs.ls("")[0]["mtime"] == sign * 1e19
        fs.get_file("far", str(tmp_path / "far"))
        assert (tmp_path / "far").read_bytes() == b"x"
        path = UPath("/far", protocol="natproxy", host="127.0.0.1", port=server.port)
        assert path.stat().st_mtime == sign * 1e19
        path.fs.close()
        fs.close()
    NatproxyFileSystem.clear_instance_cache()


# --- universal_pathlib ---


@pytest.fixture
def root(server: Running) -> UPath:
    return UPath(server.url)


def texts(paths: Any, root: UPath) -> list[str]:
    """Return paths as their text below the root, sorted."""
    return sorted(str(path).removeprefix(str(root)) for path in paths)


def test_text_of_a_upath_is_its_url(server: Running, root: UPath) -> None:
    for name in ("/", "/a", "/a b%41#?é", "/sub/one.csv"):
        path = UPath(server.url + name)
        assert isinstance(path, NatproxyPath)
        assert str(path) == path.as_uri() == path.as_posix() == server.url + name
        assert UPath(str(path)) == path
        assert hash(UPath(str(path))) == hash(path)
        assert pickle.loads(pickle.dumps(path)) == path
        assert str(pickle.loads(pickle.dumps(path))) == str(path)
    assert str(root) == f"{server.url}/"
    assert str(UPath("/a", protocol="natproxy", host="h")) == "natproxy://h:9000/a"
    assert str(UPath("natproxy:///a")) == "natproxy:///a"
    assert UPath("natproxy://h:1/a") != UPath("natproxy://h:2/a")
    assert str(UPath("natproxy://[::1]:7/a/b")).endswith(":0001]:7/a/b")
    with pytest.raises(TypeError):
        os.fspath(root)  # type: ignore[call-overload]


@pytest.mark.parametrize("url", ["natproxy://[::1]:99999/a", "natproxy://[::1/a"])
def test_upath_of_no_server_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"is needed|is written"):
        UPath(url)


def test_parts_of_a_upath(server: Running, root: UPath) -> None:
    path = root / "sub" / "two.tar.gz"
    assert path == root.joinpath("sub", "two.tar.gz") == UPath(f"{server.url}/sub/two.tar.gz")
    assert path.parts == ("/", "sub", "two.tar.gz")
    assert (path.name, path.stem, path.suffix) == ("two.tar.gz", "two.tar", ".gz")
    assert path.suffixes == [".tar", ".gz"]
    assert path.parent == root / "sub"
    assert [str(parent) for parent in path.parents] == [f"{server.url}/sub", f"{server.url}/"]
    assert root.parent == root
    assert str(path.with_name("x")) == f"{server.url}/sub/x"
    assert str(path.with_suffix(".x")) == f"{server.url}/sub/two.tar.x"
    assert str(path.with_stem("x")) == f"{server.url}/sub/x.gz"
    assert path.is_absolute()
    assert path.is_relative_to(root)
    assert not path.is_relative_to(root / "empty")
    assert path.path == "/sub/two.tar.gz"
    relative = path.relative_to(root / "sub")
    assert str(relative) == "two.tar.gz"
    assert not relative.is_absolute()
    with pytest.raises(ValueError, match="not in the subpath"):
        path.relative_to(root / "empty")
    assert (root / "sub/./deep/..").resolve() == root / "sub"
    assert root / "a" < root / "b"


def test_what_a_upath_is(root: UPath) -> None:
    for name, exists, is_dir, is_file in (
        ("", True, True, False),
        ("sub", True, True, False),
        ("empty", True, True, False),
        ("top.txt", True, False, True),
        ("nothing", False, False, False),
        ("top.txt/x", False, False, False),
    ):
        path = root / name
        assert (path.exists(), path.is_dir(), path.is_file()) == (exists, is_dir, is_file)
        assert not path.is_symlink()
    metadata = (root / "sub/deep/three.csv").stat()
    assert metadata.st_size == 3
    assert metadata.st_mtime > 0
    assert stat.S_ISDIR((root / "sub").stat().st_mode)
    with pytest.raises(FileNotFoundError):
        (root / "nothing").stat()


def test_directory_of_a_upath(root: UPath) -> None:
    assert texts(root.iterdir(), root) == ["empty", "sub", "top.txt"]
    assert texts((root / "sub").iterdir(), root) == ["sub/deep", "sub/one.csv", "sub/two.tar.gz"]
    assert list((root / "empty").iterdir()) == []
    for name in ("top.txt", "nothing"):
        with pytest.raises(OSError, match=name):
            list((root / name).iterdir())
    assert texts(root.glob("*.txt"), root) == ["top.txt"]
    assert texts((root / "sub").glob("*/*.csv"), root) == ["sub/deep/three.csv"]
    assert texts(root.rglob("*.csv"), root) == ["sub/deep/three.csv", "sub/one.csv"]
    assert texts((root / "sub").rglob("*.csv"), root) == ["sub/deep/three.csv", "sub/one.csv"]
    assert list(root.glob("nothing*")) == []
    walked = {str(at).rstrip("/"): (set(dirs), set(files)) for at, dirs, files in root.walk()}
    url = str(root).rstrip("/")
    assert walked[url] == ({"empty", "sub"}, {"top.txt"})
    assert walked[f"{url}/sub/deep/er"] == (set(), {"café b%41#?"})
    assert len(walked) == 5


def test_content_of_a_upath(root: UPath, tmp_path: Path) -> None:
    for name, content in TREE.items():
        path = root / name
        assert path.read_bytes() == content
        assert path.read_text() == content.decode()
        with path.open("rb") as file:
            assert file.read(1) == content[:1]
        with path.open() as file:
            assert file.read() == content.decode()
    with fsspec.open(str(root / "top.txt")) as file:
        assert file.read() == b"top"
    with pytest.raises(FileNotFoundError):
        (root / "nothing").read_bytes()
    with pytest.raises(IsADirectoryError):
        (root / "sub").read_bytes()


def test_upath_behind_a_cache_is_read(server: Running) -> None:
    path = UPath(f"simplecache::{server.url}/sub/one.csv")
    assert path.read_bytes() == b"1"
    assert path.parent.joinpath("two.tar.gz").read_bytes() == b"22"
    type(path.fs).clear_instance_cache()


def test_upath_is_read_only(root: UPath) -> None:
    path = root / "new"
    for write in (
        path.touch,
        path.mkdir,
        lambda: path.write_bytes(b""),
        lambda: path.write_text(""),
        lambda: path.open("wb"),
        lambda: (root / "top.txt").unlink(),
        lambda: (root / "empty").rmdir(),
        lambda: (root / "top.txt").rename(path),
    ):
        with pytest.raises(OSError, match="read-only"):
            write()
    assert not path.exists()
