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
from typing import NamedTuple

import pytest

from tests.support.fleet import PATIENCE
from tests.support.paths import ROOT
from tests.support.replicas import (
    PlainReader,
    Replicas,
    Reply,
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
APART = 3.0 if WHOLE else 0.3
"""Seconds between two kills, at least."""

PREFACE = """\
`tests/system/test_resume.py` wrote this part. File servers over one directory are behind a proxy;
they are killed (`kill -9`) at random bytes of one download, one at a time, and started again after
up to half a second, and the time that a start takes. The client must receive one reply on one
connection, with the right SHA-256. `natproxy get` runs with `--retries 0`; the plain reader is some
thirty lines with a socket, and has no means to resume. A try is a row of the proxy's history.
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
    step = SIZE // 2 // KILLS if not WHOLE else SIZE * 9 // 10 // KILLS
    return [number * step + chance.randrange(step // 2) for number in range(KILLS)]


def check(replicas: Replicas, began: float, client: str, figures: list[Figures]) -> None:
    """Check that all tries were those of one command on one connection of the client."""
    rows = [row for row in replicas.rows() if row["verb"] == "GET"]
    assert len({(row["client"], row["client_port"]) for row in rows}) == 1
    assert [row["attempt"] or 1 for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["command"] for row in rows}) == 1
    assert rows[-1]["outcome"] == "completed"
    assert replicas.kills == KILLS
    # Some of the servers that were killed had the download.
    assert len(rows) > KILLS // len(replicas.servers)
    elapsed = time.monotonic() - began
    figures.append(Figures(client, len(replicas.servers), replicas.kills, len(rows), elapsed))


@pytest.mark.parametrize("servers", [1, 2] if WHOLE else [1])
def test_client_without_retries(place: Path, figures: list[Figures], servers: int) -> None:
    digest = make_file(place / "files" / "large", SIZE)
    chance = random.Random(servers)
    output = place / "received"
    with Replicas(place, servers) as replicas, (place / "log").open("wb") as log:
        began = time.monotonic()
        client = subprocess.Popen(
            get_command(replicas.address, RATE, "large", output),
            cwd=place,
            env=environment({"HOME": str(place)}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        with client:
            replicas.kill_at(
                moments(chance),
                lambda: sum(path.stat().st_size for path in place.glob("*received*")),
                lambda: client.poll() is None,
                APART,
                chance,
            )
            status = client.wait(10 * PATIENCE)
        assert status == 0, (place / "log").read_text()[-2000:]
        check(replicas, began, "`natproxy get --retries 0`", figures)
    written = (place / "log").read_text().splitlines()
    lines = [json.loads(line) for line in written if line.startswith("{")]
    phases = {line["event"]["phase"] for line in lines if "event" in line}
    assert "complete" in phases
    assert not phases & {"waiting", "restarting", "failed"}
    assert digest_of(output) == digest


@pytest.mark.parametrize("servers", [1, 2] if WHOLE else [2])
def test_reader_that_cannot_resume(place: Path, figures: list[Figures], servers: int) -> None:
    digest = make_file(place / "files" / "large", SIZE)
    chance = random.Random(servers)
    with Replicas(place, servers) as replicas:
        reader = PlainReader(replicas.address, RATE)
        replies: list[Reply] = []

        def read() -> None:
            replies.append(reader.read(b"GET large\n"))

        began = time.monotonic()
        thread = threading.Thread(target=read)
        thread.start()
        replicas.kill_at(moments(chance), lambda: reader.received, thread.is_alive, APART, chance)
        thread.join(10 * PATIENCE)
        assert replies, f"{reader.received} of {SIZE} bytes"
        header, size, received = replies[0]
        assert header.split()[:2] == [b"OK", str(SIZE).encode()]
        assert (size, received) == (SIZE, digest)
        check(replicas, began, "plain reader", figures)
