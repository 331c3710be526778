"""Whois names the right client, as seen by the file server, also when the proxy was killed.

The truth is the file server's log: the port of the proxy, the time and the file. Each client reads
files that no other client reads, from an address of its own, so that a line of that log tells the
client. ``NATPROXY_TEST_WHOIS=200,1000`` makes it 200 clients and 1,000 samples, for `.ci/long`.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.mixed_load import MixedLoad, client_of, make_files
from tests.support.twistd import TWISTD, environment

CLIENTS, SAMPLES = map(int, os.environ.get("NATPROXY_TEST_WHOIS", "20,100").split(","))
LINE = re.compile(
    r"^(?P<time>\S+) \[natproxy\.fileserver\.commands\S*\] "
    r"127\.0\.0\.1:(?P<port>\d+) (?P<verb>\w+) (?P<name>\S+?)(?: offset=.*)?: "
    r"\S+, \d+ bytes in (?P<duration>[\d.]+) s"
)
WITHIN = 1.0
"""Seconds by which a log's time may be beside the translation: the two daemons log on their own."""
UNCERTAIN = 0.5
"""Seconds before the kill in which what has started may be unknown."""


class Sample(NamedTuple):
    """A line of the file server's log: who was behind this port?"""

    time: datetime
    port: int
    verb: str
    name: str
    began: datetime


class Asked(NamedTuple):
    """An answer, with its question."""

    sample: Sample
    answer: dict[str, object]

    @property
    def named(self) -> set[tuple[object, object]]:
        """The clients and files that the answer names."""
        translations = self.answer["translations"]
        assert isinstance(translations, list)
        return {(one["client"], one["name"]) for one in translations}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    # A socket's path is limited to 107 bytes.
    short = Path("/tmp") / f"whois-{os.getpid()}"
    short.mkdir(mode=0o700)
    make_files(short / "files", CLIENTS)
    yield short
    shutil.rmtree(short)


@contextmanager
def daemon(place: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon until the end of the block."""
    process = subprocess.Popen(
        [*TWISTD, "--nodaemon", "--pidfile=", *arguments],
        cwd=place,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def file_server(place: Path) -> list[str]:
    return [
        "fileserver",
        "--listen=unix:" + str(place / "unused.sock"),
        "--listen=tcp:0:interface=127.0.0.1",
        f"--files={place}/files",
        f"--log={place}/files.log",
        "--log-size=0",
        "--control=none",
    ]


def proxy(place: Path, port: int, upstream: int) -> list[str]:
    return [
        "natproxy",
        f"--listen=tcp:{port}:interface=127.0.0.1",
        f"--upstream=tcp:127.0.0.1:{upstream}",
        f"--log={place}/proxy.log",
        f"--control={place}/p.sock",
        f"--journal={place}/journal",
        "--max-clients-per-host=0",
    ]


def await_lines(log: Path, pattern: str, count: int = 1) -> str:
    """Wait until a log has so many lines with a pattern; return the last one's first group."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = re.findall(pattern, log.read_text() if log.exists() else "")
        if len(found) == count:
            return str(found[-1])
        time.sleep(0.05)
    raise AssertionError(f"{log} has not {count} times {pattern}")


def bound_port(log: Path) -> int:
    """Return the TCP port on which a daemon listens, by its log."""
    return int(await_lines(log, r"listens on .*?127\.0\.0\.1:(\d+)"))


def samples_of(log: Path) -> list[Sample]:
    """Return all lines of commands in the file server's log."""
    found = []
    for line in log.read_text().splitlines():
        match = LINE.match(line)
        if match and client_of(match["name"]):
            moment = datetime.fromisoformat(match["time"].replace("Z", "+00:00"))
            began = moment - timedelta(seconds=float(match["duration"]))
            found.append(Sample(moment, int(match["port"]), match["verb"], match["name"], began))
    return found


def ask(place: Path, samples: list[Sample], *options: str) -> list[Asked]:
    """Ask ``natproxy whois -`` about all of them."""
    lines = "".join(f"{one.port} {one.time.isoformat()}\n" for one in samples)
    done = subprocess.run(
        [sys.executable, "-m", "natproxy", "whois", "-", f"--within={WITHIN}", "--json", *options],
        input=lines,
        capture_output=True,
        text=True,
        env=environment({}),
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(samples), done.stderr
    return [Asked(*pair) for pair in zip(samples, answers, strict=True)]


def is_right(asked: Asked) -> bool:
    return (client_of(asked.sample.name), asked.sample.name) in asked.named


def test_every_port_of_the_file_servers_log_has_the_right_client(place: Path) -> None:
    with daemon(place, *file_server(place)):
        upstream = bound_port(place / "files.log")
        with daemon(place, *proxy(place, 0, upstream)) as running:
            port = bound_port(place / "proxy.log")
            with MixedLoad(port, CLIENTS):
                await_samples(place, 2 * SAMPLES)
                chosen = choose(samples_of(place / "files.log")[:-CLIENTS])
                online = ask(place, chosen, f"--control={place}/p.sock")
                assert [one for one in online if not is_right(one)] == []
                before = len(samples_of(place / "files.log"))
                await_samples(place, before + SAMPLES)
                running.kill()
                killed = datetime.now().astimezone()
                running.wait()
            await_quiet(place)
            everything = samples_of(place / "files.log")
            check_after_the_kill(
                ask(place, choose(everything), f"--journal={place}/journal"), killed
            )
            with daemon(place, *proxy(place, port, upstream)):
                await_lines(place / "proxy.log", "control socket: (.*)", 2)
                late = [one for one in everything if one.time > killed - timedelta(seconds=2)]
                chosen = choose(everything) + late[-SAMPLES:]
                check_after_the_kill(ask(place, chosen, f"--control={place}/p.sock"), killed)


def check_after_the_kill(answers: list[Asked], killed: datetime) -> None:
    """Assert that each answer is right, or unknown for what had just begun."""
    wrong = []
    for asked in answers:
        recent = asked.sample.began > killed - timedelta(seconds=UNCERTAIN)
        if asked.answer["result"] == "found":
            if not is_right(asked):
                wrong.append(asked)
        elif asked.answer["result"] != "unknown" or not recent:
            wrong.append(asked)
    assert wrong == [], f"killed at {killed}: {wrong[:3]}"


def choose(samples: list[Sample]) -> list[Sample]:
    return random.Random(1).sample(samples, min(SAMPLES, len(samples)))


def await_samples(place: Path, count: int) -> None:
    end = time.monotonic() + 60
    while len(samples_of(place / "files.log")) < count:
        assert time.monotonic() < end, "the load is too slow"
        time.sleep(0.2)


def await_quiet(place: Path) -> None:
    """Wait until the file server has logged the commands whose connections were lost."""
    size = -1
    while size != (size := (place / "files.log").stat().st_size):
        time.sleep(0.3)
