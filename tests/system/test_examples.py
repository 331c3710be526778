"""Each program in ``examples/``, started as a user starts it, with real servers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.parquet import write_parquet
from tests.support.paths import ROOT
from tests.support.terminal import running as proxy_of
from tests.support.twistd import LIMIT, Daemon, environment, running

EXAMPLES = ROOT / "examples"
FREE_PORT = "tcp:0:interface=127.0.0.1"


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]


def run(cwd: Path, name: str, *arguments: str, status: int = 0) -> tuple[str, str]:
    """Run an example to its end; return what it wrote to standard output and standard error."""
    done = subprocess.run(
        command(name, *arguments),
        cwd=cwd,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == status, done
    return done.stdout, done.stderr


@contextmanager
def listening(cwd: Path, name: str, *arguments: str) -> Iterator[tuple[Daemon, str]]:
    """Run an example that serves; yield it and the address that it prints."""
    with running(command(name, *arguments), cwd) as daemon:
        yield daemon, daemon.await_line(r"^listening on (127\.0\.0\.1:\d+)$")


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Return a directory with two files, one of them in a directory below it."""
    directory = tmp_path / "served"
    (directory / "tables").mkdir(parents=True)
    (directory / "hello.txt").write_bytes(b"Hello from natproxy.\n")
    (directory / "tables/days.csv").write_bytes(b"day,name\n1,Ada\n")
    return directory


@pytest.fixture
def proxy(served: Path) -> Iterator[str]:
    """Run a file server of that directory and a proxy; yield the address of the proxy."""
    with proxy_of(served) as address:
        yield address


def test_raw_protocol(proxy: str, tmp_path: Path) -> None:
    written, _ = run(tmp_path, "raw_protocol", *proxy.split(":"))
    assert written == "files:\n  hello.txt\nhello.txt has 21 bytes\n"


def test_download(proxy: str, served: Path, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    names = ("hello.txt", "tables/days.csv")
    written, _ = run(tmp_path, "download", proxy, str(downloads), *names)
    assert written == "hello.txt: 21 bytes\ntables/days.csv: 15 bytes\n"
    for name in names:
        assert (downloads / Path(name).name).read_bytes() == (served / name).read_bytes()
    _, reason = run(tmp_path, "download", proxy, str(downloads), "nothing", "hello.txt", status=3)
    assert reason == "nothing: file not found\n"


def test_parquet_columns(proxy: str, served: Path, tmp_path: Path) -> None:
    write_parquet(served / "numbers.parquet", rows=1000, row_groups=2)
    url = f"natproxy://{proxy}/numbers.parquet"
    written, _ = run(tmp_path, "parquet_columns", url, "c7")
    assert re.match(r" +c7\ncount +1\.000000e\+03\n", written)


def test_listing_with_twisted(proxy: str, tmp_path: Path) -> None:
    written, _ = run(tmp_path, "listing_with_twisted", proxy)
    entries = [line.split() for line in written.splitlines()]
    assert entries == [["21", "hello.txt"], ["0", "tables"], ["15", "tables/days.csv"]]
    written, _ = run(tmp_path, "listing_with_twisted", proxy, "tables")
    assert written.split() == ["15", "tables/days.csv"]
    _, reason = run(tmp_path, "listing_with_twisted", proxy, "nothing", status=3)
    assert reason == "nothing: file not found\n"


def test_embedded_server_serves_memory_or_a_directory(served: Path, tmp_path: Path) -> None:
    with listening(tmp_path, "embedded_server", FREE_PORT) as (daemon, address):
        written, _ = run(tmp_path, "raw_protocol", *address.split(":"))
        assert written == "files:\n  hello.txt\nhello.txt has 19 bytes\n"
        written, _ = run(tmp_path, "listing_with_twisted", address, "notes")
        assert written.split() == ["13", "notes/today.txt"]
        assert daemon.end() == 0
    with listening(tmp_path, "embedded_server", FREE_PORT, str(served)) as (daemon, address):
        written, _ = run(tmp_path, "raw_protocol", *address.split(":"))
        assert written == "files:\n  hello.txt\nhello.txt has 21 bytes\n"
        assert daemon.end() == 0


def test_watched_table_shows_who_is_behind_which_port(tmp_path: Path) -> None:
    with listening(tmp_path, "embedded_server", FREE_PORT) as (server, upstream):
        arguments = (f"tcp:{upstream}", FREE_PORT)
        with listening(tmp_path, "watch_table", *arguments) as (watched, address):
            run(tmp_path, "raw_protocol", *address.split(":"))
            port = watched.await_line(r"^port (\d+): 127\.0\.0\.1:\d+ LIST$")
            watched.await_line(f"^port ({port}): relaying a listing$")
            watched.await_line(f"^port ({port}): completed, 17 bytes$")
            port = watched.await_line(r"^port (\d+): 127\.0\.0\.1:\d+ DOWNLOAD hello\.txt$")
            watched.await_line(f"^port ({port}): relaying 19 bytes$")
            watched.await_line(f"^port ({port}): completed, 25 bytes$")
            assert server.end() == 0
            _, reason = run(tmp_path, "raw_protocol", *address.split(":"), status=1)
            assert reason.startswith("the server replied ERR proxy error: ")
            watched.await_line(r"^no port: (127\.0\.0\.1:\d+) LIST: error$")
            assert watched.end() == 0


def test_examples_print_their_usage(tmp_path: Path) -> None:
    for name in ("download", "embedded_server", "listing_with_twisted", "parquet_columns"):
        _, usage = run(tmp_path, name, status=1)
        assert f"Usage: python examples/{name}.py " in usage
    _, usage = run(tmp_path, "watch_table", status=1)
    assert "Usage: python examples/watch_table.py UPSTREAM LISTEN\n" in usage


def test_each_example_is_listed_and_has_a_test() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    listed = set(
        re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\)", (EXAMPLES / "README.md").read_text(), re.M)
    )
    assert listed == names
    tested = set(
        re.findall(
            r'run\(tmp_path, "(\w+)"|listening\(tmp_path, "(\w+)"', Path(__file__).read_text()
        )
    )
    assert {name for pair in tested for name in pair if name} == names
