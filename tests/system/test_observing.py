"""The commands of the control socket as processes: on a terminal, in a pipe, interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_server import ControlServer
from tests.support.observed_daemon import FakeDaemon, entry
from tests.support.paths import ROOT
from tests.support.terminal import Terminal

PROGRAM = (sys.executable, "-m", "natproxy")
EVENT = entry(1, event="registered", time=1).json()
LIMIT = 30


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    directory = Path(tempfile.mkdtemp())
    daemon = FakeDaemon()
    daemon.table = [entry(1), entry(2, verb="LS", name=""), entry(3)]
    daemon.status |= {"clients": 2, "table": 3, "ring": {"first": 1, "next": 1}}
    server = ControlServer(directory / "proxy-9000.sock", daemon.reply)
    daemon.path = server.path
    yield daemon
    server.close()
    shutil.rmtree(directory)


def terminal(daemon: Any, *arguments: str) -> Terminal:
    return Terminal([*PROGRAM, *arguments, "--control", daemon.path], ROOT, columns=110)


def process(daemon: Any, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *arguments, "--control", daemon.path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_top_sorts_filters_ends_and_quits(daemon: FakeDaemon) -> None:
    with terminal(daemon, "top") as screen:
        screen.wait_for(r"proxy-9000 .* 2 clients .* 3 in flight")
        screen.wait_for(r"^ +1 +40001 +10\.0\.0\.1:50001 +GET +images/1\.iso")
        screen.type("b")
        screen.wait_for(r"sorted by bytes")
        screen.type("/verb LSS\x7f\r")
        screen.wait_for(r"filter: verb LS$")
        screen.type("g")
        screen.wait_for(r"^CLIENT +IN FLIGHT")
        screen.type("ggg\x1b[Bk")
        screen.wait_for(r"end #2 LS\? \[y/N\]")
        screen.type("y")
        screen.wait_for(r"ended #2")
        assert [record.serial for record in daemon.table] == [1, 3]
        screen.type("q")
        assert screen.wait_for_end() == 0


def test_top_restores_the_terminal_after_an_interrupt(daemon: FakeDaemon) -> None:
    script = f"{sys.executable} -m natproxy top --control {daemon.path}; stty -a; sleep 60"
    with Terminal(["sh", "-c", f"trap : INT; {script}"], ROOT, columns=110) as screen:
        screen.wait_for(r"3 in flight")
        screen.type("\x03")
        screen.wait_for(r" icanon .*\n(.*\n)* ?isig|isig icanon")
        screen.wait_for(r" echo ")


def test_top_without_a_terminal_prints_one_state(daemon: FakeDaemon) -> None:
    ended = process(daemon, "top", "--by", "verb", stdin=subprocess.DEVNULL)
    out, err = ended.communicate(timeout=LIMIT)
    assert (ended.returncode, err) == (0, b"")
    assert [line.split()[0] for line in out.decode().splitlines()[2:]] == ["VERB", "GET", "LS"]
    assert b"\x1b" not in out


def test_top_writes_groups_for_programs(daemon: FakeDaemon) -> None:
    ended = process(daemon, "top", "--by", "verb", "--json", stdin=subprocess.DEVNULL)
    out, err = ended.communicate(timeout=LIMIT)
    assert (ended.returncode, err) == (0, b"")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["verb"], each["in_flight"]) for each in found] == [("GET", 2), ("LS", 1)]
    assert set(found[0]) == {"verb", "in_flight", "bytes", "rate", "commands", "failed"}


def test_table_is_redrawn_until_an_interrupt(daemon: FakeDaemon) -> None:
    with terminal(daemon, "table", "--watch", "0.2") as screen:
        screen.wait_for(r"3 in flight")
        daemon.table = daemon.table[:1]
        screen.wait_for(r"1 in flight(.*\n){3}.*\Z")
        screen.type("\x03")
        assert screen.wait_for_end() == 130
        assert "interrupted" not in screen.text


def test_events_are_followed_until_an_interrupt(daemon: FakeDaemon) -> None:
    done = threading.Event()

    def follow() -> Iterator[dict[str, Any]]:
        yield EVENT
        done.wait(LIMIT)

    daemon.follow = follow
    running = process(daemon, "events", "-f")
    assert running.stdout is not None
    assert b"registered" in running.stdout.readline()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=LIMIT)
    done.set()
    assert (running.returncode, out, err) == (130, b"", b"")


def test_events_end_with_the_reader_of_the_pipe(daemon: FakeDaemon) -> None:
    closed = threading.Event()

    def follow() -> Iterator[dict[str, Any]]:
        yield EVENT
        closed.wait(LIMIT)
        while True:
            yield EVENT

    daemon.follow = follow
    running = process(daemon, "events", "-f", "--json")
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    closed.set()
    assert running.wait(LIMIT) == 0
    assert running.stderr.read() == b""
    running.stderr.close()


def test_lines_of_a_pipe_are_handled_as_they_arrive(daemon: FakeDaemon) -> None:
    running = process(daemon, "whois", "-", stdin=subprocess.PIPE)
    assert running.stdin is not None
    assert running.stdout is not None
    for port in (40001, 40003):
        os.write(running.stdin.fileno(), b"%d\n" % port)
        assert running.stdout.readline().startswith(b"port %d is held by" % port)
    _, err = running.communicate(timeout=LIMIT)
    assert (running.returncode, err) == (0, b"natproxy: 2 lines: 2 found\n")
