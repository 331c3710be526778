"""File servers that are killed while a client downloads from the proxy: the client sees nothing.

``NATPROXY_TEST_RESUME=10G,20`` is 10 GiB with 20 kills, for `.ci/long`; ``NATPROXY_RESUME_REPORT``
names a file for its report.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.fleet import PATIENCE
from tests.support.paths import ROOT
from tests.support.replicas import (
    PlainReader,
    Replicas,
    Reply,
    await_bytes,
    digest_of,
    get_command,
    make_file,
)
from tests.support.twistd import environment

_SIZE, _KILLS = os.environ.get("NATPROXY_TEST_RESUME", "64M,2").split(",")
SIZE = int(_SIZE[:-1]) << {"M": 20, "G": 30}[_SIZE[-1]]
KILLS = int(_KILLS)

WHOLE = "NATPROXY_TEST_RESUME" in os.environ
RATE = 100_000_000 if WHOLE else 32_000_000
"""Bytes a second of each download."""
APART = 3.0
"""Seconds between two kills, at least."""

EACH_ALONE = pytest.mark.skipif(not WHOLE, reason="NATPROXY_TEST_RESUME is not set")

PREFACE = """\
`tests/system/test_resume.py` wrote this part. File servers over one directory are behind a proxy;
at random bytes of one download, one of them is killed (`kill -9`), drawn at random each time, and
started again after up to half a second, and the time that a start takes; with two servers, one is
away at a time. The client must receive one reply on one connection, with the right SHA-256.
`natproxy get` runs with `--retries 0`; the plain reader is some thirty lines with a socket, and has
no means to resume. A try is a row of the proxy's history. Before a `DOWNLOAD`, the proxy has passed
on a `FEAT` of each file server, and so knows that it may send a `GET`.
"""


class Figures(NamedTuple):
    """What a run has shown."""

    client: str
    servers: int
    kills: int
    tries: int
    seconds: float


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/var/tmp" if WHOLE else None))
    (path / "files").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def figures() -> Iterator[list[Figures]]:
    """The figures of all runs, which are reported in the end."""
    found: list[Figures] = []
    yield found
    path = os.environ.get("NATPROXY_RESUME_REPORT")
    if path is not None:
        lines = [
            "# Downloads whose file server is killed",
            "",
            PREFACE,
            f"{SIZE / 2**30:g} GiB each, at {RATE / 1e6:g} MB/s; kills at least {APART:g} s apart."
            " In each run: one connection of the client, one reply, identical bytes.",
            "",
            "| client | file servers | kills | tries | seconds |",
            "| --- | ---: | ---: | ---: | ---: |",
            *(
                f"| {one.client} | {one.servers} | {one.kills} | {one.tries} | {one.seconds:.0f} |"
                for one in found
            ),
            "",
        ]
        # The tests have another working directory.
        (ROOT / path).write_text("\n".join(lines))


def moments(chance: random.Random) -> list[int]:
    """Return the bytes of a download at which a server is killed.

    What is left then is more than sockets and pipes hold: the server is killed inside its reply.
    """
    step = SIZE * 9 // 10 // KILLS
    return [number * step + chance.randrange(step // 2) for number in range(KILLS)]


def tries_of(replicas: Replicas) -> list[list[Any]]:
    """Return the rows of each download, and check that they are the tries of one command."""
    found: dict[object, list[Any]] = {}
    for row in replicas.rows():
        if row["verb"] in ("GET", "DOWNLOAD"):
            found.setdefault((row["client"], row["client_port"]), []).append(row)
    for rows in found.values():
        assert [row["attempt"] or 1 for row in rows] == list(range(1, len(rows) + 1))
        assert len({row["command"] for row in rows}) == 1
        assert rows[-1]["outcome"] == "completed"
    return list(found.values())


def check(replicas: Replicas, began: float, client: str, figures: list[Figures]) -> None:
    """Check that all tries were those of one command on one connection of the client."""
    (rows,) = tries_of(replicas)
    assert replicas.kills == KILLS
    # With two servers, it is chance how many kills are of the one that has the download.
    assert len(rows) > (KILLS if len(replicas.servers) == 1 else 1)
    elapsed = time.monotonic() - began
    figures.append(Figures(client, len(replicas.servers), replicas.kills, len(rows), elapsed))


def show_verbs(replicas: Replicas) -> None:
    """Let the proxy see that each file server supports ``GET``, which it sends for a ``DOWNLOAD``.

    Of idle file servers, each has a command in turn.
    """
    for _ in replicas.servers:
        assert PlainReader(replicas.address, RATE).read(b"FEAT\n").header == b"OK\n"


class Get:
    """``natproxy get --retries=0``, as a process.

    :param place: for the file that it writes, and its log.
    """

    def __init__(self, replicas: Replicas, place: Path) -> None:
        self._place = place
        self._log = place / "log"
        self._output = place / "received"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                get_command(replicas.address, RATE, "large", self._output),
                cwd=place,
                env=environment({"HOME": str(place)}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def received(self) -> int:
        """Return the bytes that are written."""
        return sum(path.stat().st_size for path in self._place.glob("*received*"))

    def running(self) -> bool:
        return self._process.poll() is None

    def check(self, digest: str) -> None:
        """Wait for the end; check the file, and that nothing was retried."""
        try:
            status = self._process.wait(10 * PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
        written = self._log.read_text()
        assert status == 0, written[-2000:]
        lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
        phases = {line["event"]["phase"] for line in lines if "event" in line}
        assert "complete" in phases
        assert not phases & {"waiting", "restarting", "failed"}
        assert digest_of(self._output) == digest


class Reader(threading.Thread):
    """The plain reader, in a thread.

    :param command: a line.
    """

    def __init__(self, replicas: Replicas, command: bytes) -> None:
        super().__init__()
        self._reader = PlainReader(replicas.address, RATE)
        self._command = command
        self._replies: list[Reply] = []

    def run(self) -> None:
        self._replies.append(self._reader.read(self._command))

    def received(self) -> int:
        """Return the bytes of the body so far."""
        return self._reader.received

    def check(self, digest: str) -> None:
        """Wait for the end; check that there was one reply, of the whole file."""
        self.join(10 * PATIENCE)
        assert self._replies, f"{self.received()} of {SIZE} bytes"
        header, size, received = self._replies[0]
        assert header.split()[:2] == [b"OK", str(SIZE).encode()]
        assert (size, received) == (SIZE, digest)


@pytest.mark.skipif(WHOLE, reason="each client is tested alone")
def test_clients_at_once(place: Path) -> None:
    digest = make_file(place / "files" / "large", SIZE)
    with Replicas(place, 2) as replicas:
        show_verbs(replicas)
        get = Get(replicas, place)
        # Its start takes longer than those of the threads.
        await_bytes(1, get.received, get.running)
        readers = [Reader(replicas, line) for line in (b"GET large\n", b"DOWNLOAD large\n")]
        for reader in readers:
            reader.start()
        clients = (get, *readers)

        def running() -> bool:
            return get.running() and all(reader.is_alive() for reader in readers)

        replicas.kill_each(
            (1 << 20, 5 << 20), lambda: min(client.received() for client in clients), running
        )
        for client in clients:
            client.check(digest)
        tries = tries_of(replicas)
    assert sorted(rows[0]["verb"] for rows in tries) == ["DOWNLOAD", "GET", "GET"]
    # Whichever server has had a download, was killed in it.
    assert all(len(rows) > 1 for rows in tries)


@EACH_ALONE
@pytest.mark.parametrize("servers", [1, 2])
def test_client_without_retries(place: Path, figures: list[Figures], servers: int) -> None:
    digest = make_file(place / "files" / "large", SIZE)
    chance = random.Random(servers)
    with Replicas(place, servers) as replicas:
        began = time.monotonic()
        get = Get(replicas, place)
        replicas.kill_at(moments(chance), get.received, get.running, APART, chance)
        get.check(digest)
        check(replicas, began, "`natproxy get --retries 0`", figures)


@EACH_ALONE
@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("verb", ["GET", "DOWNLOAD"])
def test_reader_that_cannot_resume(
    place: Path, figures: list[Figures], verb: str, servers: int
) -> None:
    digest = make_file(place / "files" / "large", SIZE)
    chance = random.Random(servers)
    with Replicas(place, servers) as replicas:
        show_verbs(replicas)
        reader = Reader(replicas, f"{verb} large\n".encode())
        began = time.monotonic()
        reader.start()
        replicas.kill_at(moments(chance), reader.received, reader.is_alive, APART, chance)
        reader.check(digest)
        check(replicas, began, f"plain reader, `{verb}`", figures)
