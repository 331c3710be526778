"""Files through fsspec: open, downloaded and changed ones, and failures."""

from __future__ import annotations

import errno
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.callbacks import Callback

from natproxy.client import (
    CannotConnect,
    Changed,
    ClientError,
    Connection,
    NotFound,
)
from natproxy.client.errors import ConnectionBroken, NotUnderstood
from natproxy.client.listing import require_inside
from natproxy.fs import FileChanged, NatproxyFileSystem
from tests.support import version1
from tests.support.filesystem_server import FileSystemServer, replace_file
from tests.support.paths import ROOT
from tests.support.served_files import Fault, ServedFiles

SIZE = 3_000_000
CONTENT = b"%7d\n" * (SIZE // 8) % tuple(range(SIZE // 8))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    (directory / "lines").write_bytes(CONTENT)
    (directory / "sub").mkdir()
    (directory / "sub/a").write_bytes(b"a" * 1000)
    (directory / "sub/empty").touch()
    return directory


@pytest.fixture
def changing(server: FileSystemServer) -> Iterator[Path]:
    """A served file that tests may replace."""
    path = server.directory / "changing"
    path.write_bytes(b"1" * SIZE)
    yield path
    path.unlink(missing_ok=True)


def test_open_file_reads_and_seeks(fs: NatproxyFileSystem) -> None:
    with fs.open("lines", block_size=100_000) as file:
        assert file.info()["size"] == file.size == SIZE
        assert file.readline() == CONTENT[:8]
        assert file.seek(-8, io.SEEK_END) == SIZE - 8
        assert file.read() == CONTENT[-8:]
        assert file.read() == b""
        file.seek(1_000_000)
        pieces = [file.read(size) for size in (1, 7, 65_536, 300_000, 10)]
        assert b"".join(pieces) == CONTENT[1_000_000:1_365_554]
        file.seek(0)
        assert file.read() == CONTENT
    with fs.open("lines", "rt", encoding="ascii") as text:
        assert sum(int(line) for line in text) == sum(range(SIZE // 8))
    with fs.open("sub/empty") as file:
        assert file.read() == b""


@pytest.mark.parametrize("cache_type", ["none", "readahead", "bytes", "all", "blockcache"])
def test_open_file_with_another_cache(cache_type: str, fs: NatproxyFileSystem) -> None:
    with fs.open("lines", cache_type=cache_type) as file:
        file.seek(2_000_000)
        assert file.read(100) == CONTENT[2_000_000:2_000_100]


def test_file_that_changes_is_never_mixed(fs: NatproxyFileSystem, changing: Path) -> None:
    with fs.open("changing") as file:
        assert file.read(10) == b"1" * 10
        replace_file(changing, b"2" * SIZE)
        file.seek(SIZE // 2)
        with pytest.raises(FileChanged) as caught:
            file.read(10)
        moved = pickle.loads(pickle.dumps(file))
        with pytest.raises(FileChanged):
            moved.read(10)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, Changed)
    assert caught.value.errno == errno.ESTALE
    assert caught.value.filename == "/changing"
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), FileChanged)
    with fs.open("changing") as file:
        assert file.read(1) == b"2"
        changing.unlink()
        file.seek(SIZE // 2)
        with pytest.raises(FileNotFoundError):
            file.read(1)


def test_ranges_of_a_file_that_changes_are_never_mixed(
    fs: NatproxyFileSystem, changing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = fs._commands.metadata

    def then_change(name: str) -> Any:
        found = metadata(name)
        replace_file(changing, b"2" * SIZE)
        return found

    monkeypatch.setattr(fs._commands, "metadata", then_change)
    found = fs.cat_ranges(["changing"] * 2, [0, SIZE // 2], [1, SIZE])
    assert [type(one) for one in found] == [FileChanged] * 2


@pytest.mark.parametrize("mode", ["wb", "ab", "xb", "w", "r+b"])
def test_opening_to_write_is_refused(mode: str, fs: NatproxyFileSystem) -> None:
    with pytest.raises(OSError, match="natproxy serves files read-only") as caught:
        fs.open("lines", mode)
    assert caught.value.errno == errno.EROFS


def test_writing_is_refused(fs: NatproxyFileSystem, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    attempts: list[tuple[Any, ...]] = [
        *((fs.mkdir, "new"), (fs.makedirs, "new"), (fs.mkdirs, "new"), (fs.rmdir, "sub")),
        *((fs.touch, "new"), (fs.touch, "lines", False), (fs.pipe, "new", b""), (fs.rm, "lines")),
        *((fs.rm_file, "lines"), (fs.delete, "sub", True), (fs.write_text, "new", "")),
        *((fs.put, str(tmp_path / "here"), "new"), (fs.put_file, str(tmp_path / "here"), "new")),
        *((fs.cp, "lines", "new"), (fs.mv, "lines", "new"), (fs.rename, "lines", "lines")),
    ]
    for method, *arguments in attempts:
        with pytest.raises(OSError, match="natproxy serves files read-only"):
            method(*arguments)
    assert fs.ls("", detail=False) == ["/lines", "/sub"]


def test_downloaded_file_replaces_another(
    fs: NatproxyFileSystem, server: FileSystemServer, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_bytes(b"another")
    fs.get("lines", f"{tmp_path}/")
    assert (tmp_path / "lines").read_bytes() == CONTENT
    # It has its time as well, and nothing else is left.
    assert (tmp_path / "lines").stat().st_mtime == (server.directory / "lines").stat().st_mtime
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]
    into = io.BytesIO()
    fs.get_file("lines", into)
    assert into.getvalue() == CONTENT
    fs.get_file("lines", outfile=(other := io.BytesIO()))
    assert other.getvalue() == CONTENT


class Short(io.RawIOBase):
    """A raw file object that writes a few bytes at a time, and records its calls."""

    def __init__(self) -> None:
        self.writes: list[tuple[Any, int]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.writes.append((data, min(len(data), 1000)))
        return self.writes[-1][1]


def test_raw_file_that_takes_fewer_bytes_gets_the_rest_too(fs: NatproxyFileSystem) -> None:
    opened = Short()
    fs.get_file("lines", outfile=opened)
    assert b"".join(data[:taken] for data, taken in opened.writes) == CONTENT
    assert {type(data) for data, _ in opened.writes} == {bytes}


@pytest.mark.parametrize("to_a_file", [False, True])
def test_callback_counts_every_byte(
    to_a_file: bool, fs: NatproxyFileSystem, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    callback = Callback(hooks={"note": lambda size, value, **_: calls.append((size, value))})
    with (tmp_path / "opened").open("wb") as opened:
        fs.get_file("lines", opened if to_a_file else str(tmp_path / "got"), callback)
    sizes = {size for size, _ in calls}
    values = [value for _, value in calls]
    assert sizes == {SIZE}
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, SIZE)
    assert len(set(values)) > 3


def test_callback_is_branched_for_several_files(fs: NatproxyFileSystem, tmp_path: Path) -> None:
    children: list[Callback] = []

    class Branching(Callback):
        def branched(self, path_1: str, path_2: str, **kwargs: Any) -> Callback:
            children.append(Callback())
            return children[-1]

    callback = Branching()
    fs.get("sub", str(tmp_path / "got"), recursive=True, callback=callback)
    assert (callback.size, callback.value) == (3, 3)
    assert sorted((child.size or 0, child.value) for child in children) == [
        (0, 0),
        (0, 0),
        (1000, 1000),
    ]
    assert (tmp_path / "got/empty").read_bytes() == b""


def test_file_system_can_be_pickled(fs: NatproxyFileSystem, server: FileSystemServer) -> None:
    for again in (
        pickle.loads(pickle.dumps(fs)),
        fsspec.AbstractFileSystem.from_json(fs.to_json()),
        fsspec.filesystem("natproxy", host="127.0.0.1", port=server.port),
    ):
        assert isinstance(again, NatproxyFileSystem)
        assert again.cat_file("sub/a", 0, 3) == b"aaa"
        again.close()
    assert json.loads(fs.to_json())["protocol"] == "natproxy"
    with fs.open("lines") as file:
        file.seek(8)
        with pickle.loads(pickle.dumps(file)) as moved:
            assert moved.read(8) == CONTENT[8:16]
    opened = pickle.loads(pickle.dumps(fsspec.open(f"{server.url}/sub/a")))
    with opened as file:
        assert file.read(1) == b"a"


FORK = """
import os, sys
from natproxy.fs import NatproxyFileSystem

fs = NatproxyFileSystem("127.0.0.1", int(sys.argv[1]))
whole = fs.cat_file("lines")
file = fs.open("lines")
file.read(8)
session = fs.session
child = os.fork()
for _ in range(50):
    assert fs.cat_file("lines") == whole
file.seek(1_000_000)
assert file.read(1000) == whole[1_000_000:1_001_000]
assert (fs.session is session) is bool(child)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_forked_child_has_connections_of_its_own(server: FileSystemServer) -> None:
    command = [sys.executable, "-c", FORK, str(server.port)]
    subprocess.run(command, check=True, timeout=60, cwd=ROOT)


def test_files_that_do_not_exist(fs: NatproxyFileSystem, tmp_path: Path) -> None:
    target = str(tmp_path / "got")
    for attempt in (
        lambda: fs.info("nothing"),
        lambda: fs.ls("nothing"),
        lambda: fs.cat_file("nothing"),
        lambda: fs.cat("nothing"),
        lambda: fs.cat("nothing*"),
        lambda: fs.open("nothing"),
        lambda: fs.get_file("nothing", target),
        lambda: fs.get("nothing", target),
        lambda: fs.ukey("sub/../lines"),
        lambda: fs.info("a\0b"),
    ):
        with pytest.raises(FileNotFoundError):
            attempt()
    with pytest.raises(FileNotFoundError) as caught:
        fs.info("nothing")
    assert caught.value.filename == "/nothing"
    assert isinstance(caught.value.__cause__, NotFound)
    with pytest.raises(IsADirectoryError):
        fs.open("sub")
    assert not list(tmp_path.iterdir())


def test_path_that_cannot_be_written(fs: NatproxyFileSystem, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="not a regular file"):
        fs.get_file("lines", str(tmp_path))


def test_server_that_cannot_be_reached() -> None:
    fs = NatproxyFileSystem("127.0.0.1", 1, skip_instance_cache=True)
    for method in (fs.info, fs.exists, fs.isdir, fs.isfile, fs.find, fs.open, fs.cat):
        with pytest.raises(ConnectionError, match=r"cannot connect to 127\.0\.0\.1:1") as caught:
            method("a")
        assert isinstance(caught.value.__cause__, CannotConnect)


def test_server_of_version_1_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with version1.Server(str(tmp_path)) as server:
        fs = NatproxyFileSystem("127.0.0.1", server.port, skip_instance_cache=True)
        for method in (fs.ls, fs.info, fs.cat_file, fs.open, fs.find):
            with pytest.raises(OSError, match="version 1 of the protocol only") as caught:
                method("a")
            assert caught.value.errno == errno.EOPNOTSUPP
        fs.close()


def test_broken_connection_is_opened_again(
    server: FileSystemServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = server.filesystem(retries=1)
    get = fs.session.get
    failures = [ConnectionBroken("broken")]

    def break_first(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return get(*arguments)

    monkeypatch.setattr(fs.session, "get", break_first)
    assert fs.cat_file("sub/a", 0, 3) == b"aaa"
    assert not failures
    fs.close()


@pytest.mark.parametrize(
    "name", [b"../a", b"sub/../a", b"sub//a", b"/a", b"sub/a\0", b"", b"sub/."]
)
def test_unsafe_name_in_a_listing_is_an_error(name: bytes) -> None:
    with pytest.raises(NotUnderstood, match="unsafe path"):
        require_inside(name, b"")
    with pytest.raises(NotUnderstood, match="unsafe path"):
        require_inside(b"elsewhere/a", b"sub")
    require_inside(b"sub/a", b"sub")
    require_inside(b"sub", b"sub")


def test_file_system_that_has_worked_waits_for_a_restarted_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = ServedFiles()
    files.put(b"a", b"the a")
    slept: list[float] = []
    monkeypatch.setattr(
        "natproxy.client.retry.Cancellation.sleep", lambda _, time: slept.append(time)
    )
    connect = Connection.connect
    refusals: list[ClientError] = []

    def refused(connection: Connection) -> None:
        if refusals:
            raise refusals.pop()
        connect(connection)

    monkeypatch.setattr(Connection, "connect", refused)
    options: dict[str, Any]
    for options, lasting in (({}, 5), ({"retry_for": "2m", "retries": 5}, 5), ({"wait": True}, 0)):
        fs = NatproxyFileSystem(*files.address, skip_instance_cache=True, **options)
        if lasting:
            # Without an earlier connection, the address may be wrong.
            refusals[:] = [CannotConnect("refused")]
            with pytest.raises(ConnectionError):
                fs.info("/a")
            assert not slept
            assert fs.info("/a")["size"] == 5
            fs.close()
        refusals[:] = [CannotConnect("refused")] * 5
        assert fs.cat_file("/a") == b"the a"
        assert len(slept) == 5
        slept.clear()
        fs.close()
    files.close()


def test_listing_that_fails_is_resumed_at_the_missing_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = ServedFiles()
    for name in b"abcdef":
        files.put(bytes([name]), b"")
    files.page = 2
    monkeypatch.setattr("natproxy.client.retry.Cancellation.sleep", lambda *_: None)
    fs = NatproxyFileSystem(*files.address, skip_instance_cache=True)
    for fail_at in range(3):
        files.commands.clear()
        files.fail(b"LS", *[Fault()] * fail_at, Fault(reply=b"ERR 503 not now\n"))
        assert fs.ls("/", detail=False) == ["/a", "/b", "/c", "/d", "/e", "/f"]
        assert len(files.arguments_of(b"LS")) == 4
    fs.close()
    files.close()


def test_range_beyond_the_end_of_another_version_is_not_empty() -> None:
    files = ServedFiles()
    files.put(b"a", b"the first a")
    fs = NatproxyFileSystem(*files.address, skip_instance_cache=True)
    etag = fs.ukey("/a")
    # The file is replaced after the server has checked the range.
    for known, kind in ((etag, FileChanged), (None, type(None))):
        replaced = Fault(lambda: files.put(b"a", b""), reply=b"ERR 416 range size=5\n")
        files.fail(b"GET", replaced)
        error = None
        try:
            assert fs.read_range("/a", 20, 30, known) == b""
        except FileChanged as changed:
            error = changed
        assert type(error) is kind
    fs.close()
    files.close()


def test_malformed_retry_time_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        NatproxyFileSystem("127.0.0.1", 1, retry_for="soon", skip_instance_cache=True)


def test_port_and_number_of_connections_are_checked() -> None:
    with pytest.raises(ValueError, match="must be from 1 to 65535"):
        NatproxyFileSystem("127.0.0.1", 70_000, skip_instance_cache=True)
    with pytest.raises(ValueError, match="connections must be at least 1"):
        NatproxyFileSystem("127.0.0.1", 1, connections=0, skip_instance_cache=True)


def test_time_out_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must be more than 0"):
        NatproxyFileSystem("127.0.0.1", 1, timeout=0, skip_instance_cache=True)
