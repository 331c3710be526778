"""The fsspec file system on a proxy and a file server in another process."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from natproxy.fs import NatproxyFile, NatproxyFileSystem
from tests.support.filesystem_server import FileSystemServer

NASTY = (
    *(
        b"with space",
        b" lead",
        b"trail ",
        b"quote'\"",
        b"new\nline",
        b"END",
        b"%41",
        b"back\\slash",
    ),
    *("é".encode("latin-1"), "é".encode(), b"-dash", b"x" * 255, b"a#b", b"a?b", b"a=b", b"a::b"),
    *(b"[x]", b"s*", b"natproxy::x", b"tab\t", b"~", b"\xff\xfe", "日本".encode(), b"a|b"),
)
TREE = ("top", "sub/one", "sub/two.csv", "sub/deep/three.csv", "sub/deep/er/four")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    for number, name in enumerate(TREE):
        path = directory / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    (directory / "nasty").mkdir()
    for name in NASTY:
        Path(os.fsdecode(os.path.join(os.fsencode(directory), b"nasty", name))).write_bytes(
            name * 3
        )
    (directory / "digits").write_bytes(b"0123456789")
    return directory


def test_url_opens(server: FileSystemServer) -> None:
    with fsspec.open(f"{server.url}/tree/sub/two.csv") as file:
        assert isinstance(file, NatproxyFile)
        assert file.read() == b"xx"
    with fsspec.open(f"{server.url}/digits", "rt") as file:
        assert file.read(5) == "01234"
    with fsspec.open(f"simplecache::{server.url}/tree/sub/two.csv") as file:
        assert file.read() == b"xx"


def test_url_names_the_server_and_the_path(server: FileSystemServer) -> None:
    fs, path = fsspec.core.url_to_fs(f"{server.url}/tree/sub/")
    assert fs.server == ("127.0.0.1", server.port)
    assert path == "/tree/sub"
    assert fs is fsspec.core.url_to_fs(f"{server.url}/digits")[0]
    assert fs.unstrip_protocol(path) == f"{server.url}/tree/sub"
    assert fs.unstrip_protocol(f"{server.url}/a b") == f"{server.url}/a b"
    assert fs.fsid == server.url


@pytest.mark.parametrize("raw", NASTY, ids=repr)
def test_any_name(raw: bytes, fs: NatproxyFileSystem, tmp_path: Path) -> None:
    name = "/nasty/" + os.fsdecode(raw)
    assert fs.info(name)["size"] == 3 * len(raw)
    assert fs.cat_file(name) == raw * 3
    # As a pattern it may match others too.
    found = fs.cat(name)
    assert (found[name] if isinstance(found, dict) else found) == raw * 3
    assert name in fs.ls("nasty", detail=False)
    with fs.open(name) as file:
        assert file.read() == raw * 3
    fs.get_file(name, str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == raw * 3
    if b"::" not in raw:
        with fsspec.open(fs.unstrip_protocol(name)) as file:
            assert file.read() == raw * 3


def test_tree_of_any_names_is_downloaded(fs: NatproxyFileSystem, tmp_path: Path) -> None:
    fs.get("nasty", str(tmp_path / "got"), recursive=True)
    got = {os.fsencode(path.name): path.read_bytes() for path in (tmp_path / "got").iterdir()}
    assert got == {name: name * 3 for name in NASTY}
    everything = fs.cat("nasty", recursive=True)
    assert everything == {"/nasty/" + os.fsdecode(name): name * 3 for name in NASTY}


def test_mapper(fs: NatproxyFileSystem) -> None:
    mapper = fs.get_mapper("tree/sub")
    assert sorted(mapper) == ["deep/er/four", "deep/three.csv", "one", "two.csv"]
    assert mapper["one"] == b"x"
    assert "nothing" not in mapper
    with pytest.raises(KeyError):
        mapper["nothing"]
