"""Daemons that run as processes read their settings again, and interrupt nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.twistd import LIMIT, TWISTD, Daemon, application_file, environment, running

LOOPBACK = "tcp:0:interface=127.0.0.1"
SIZE = 32 << 20


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory with a short path, with a file to serve."""
    path = Path(tempfile.mkdtemp())
    (path / "served").mkdir()
    with (path / "served" / "large").open("wb") as file:
        file.truncate(SIZE)
    yield path
    shutil.rmtree(path)


def natproxy(directory: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    """Run the command line; return its output and its errors."""
    done = subprocess.run(
        [sys.executable, "-m", "natproxy", *arguments],
        cwd=directory,
        env=environment({"RUNTIME_DIRECTORY": os.fspath(directory)}),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == status, done
    return done.stdout, done.stderr


class Deployment:
    """A file server and a proxy that read one file."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "natproxy.toml"
        self.settings: dict[str, dict[str, Any]] = {
            "fileserver": {"listen": LOOPBACK, "files": "served"},
            "proxy": {"listen": LOOPBACK, "journal": "none"},
        }
        self.write()
        self.server = self.start(stack, "fileserver", "files")
        port = self.server.await_line(r"starting on (\d+)")
        self.settings["proxy"]["upstream"] = f"tcp:127.0.0.1:{port}"
        self.write()
        self.proxy = self.start(stack, "natproxy", "edge")
        self.port = int(self.proxy.await_line(r"starting on (\d+)"))
        self.proxy.await_line("(control socket)")

    def start(self, stack: ExitStack, daemon: str, name: str) -> Daemon:
        command = [*TWISTD, "-n", "--pidfile=", daemon, "--config=natproxy.toml", f"--name={name}"]
        places = {"RUNTIME_DIRECTORY": os.fspath(self.directory)}
        return stack.enter_context(running(command, self.directory, **places))

    def write(self) -> None:
        tables = (
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in each.items())
            for name, each in self.settings.items()
        )
        self.file.write_text("".join(tables))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)


@pytest.fixture
def deployment(directory: Path) -> Iterator[Deployment]:
    with ExitStack() as stack:
        yield Deployment(stack, directory)


def test_command_line_reloads_compares_and_reports(deployment: Deployment) -> None:
    directory = deployment.directory
    assert natproxy(directory, "config", "diff", "--name=edge")[0] == (
        "a reload changes no setting\n"
    )
    deployment.settings["proxy"] |= {"idle-timeout": 5, "web": ["tcp:0"]}
    deployment.write()
    changes = [
        "  - proxy.idle-timeout = 600.0",
        "  + proxy.idle-timeout = 5.0  # natproxy.toml: proxy.idle-timeout",
    ]
    restart = ["  - proxy.web = []", '  + proxy.web = ["tcp:0"]  # natproxy.toml: proxy.web']
    expected = ["a reload changes:", *changes, "only a restart changes:", *restart]
    assert natproxy(directory, "config", "diff", "--name=edge")[0].splitlines() == expected
    expected = ["changed:", *changes, "not changed, needs a restart:", *restart]
    assert natproxy(directory, "reload", "--name=edge")[0].splitlines() == expected
    deployment.proxy.await_line(
        rf"reload by uid {os.getuid()} \(pid \d+\): (the settings are reloaded: proxy.idle-timeout)"
    )
    deployment.settings["proxy"]["timeout"] = 0
    deployment.write()
    for arguments in (("config", "diff"), ("reload",)):
        out, err = natproxy(directory, *arguments, "--name=edge", status=2)
        assert out == ""
        assert "natproxy: natproxy.toml: proxy.timeout 0: must be at least 0.001 seconds\n" in err
    deployment.proxy.await_line("(nothing has changed: natproxy.toml: proxy.timeout 0)")
    events, _ = natproxy(directory, "events", "--name=edge", "event", "reload", "--json")
    assert len(events.splitlines()) == 2
    # The table of the other daemon has no error.
    assert natproxy(directory, "reload", "--name=files")[0].startswith("reloaded")


def test_reply_in_flight_is_not_touched_and_the_next_command_is(deployment: Deployment) -> None:
    with (
        deployment.connect() as client,
        client.makefile("rb") as replies,
        deployment.connect() as other,
    ):
        client.sendall(b"GET large\n")
        assert replies.readline().startswith(b"OK ")
        # Another relay, an upstream that does not exist, and fewer clients than there are.
        deployment.settings["proxy"] |= {
            "relay": "copy",
            "upstream": "tcp:127.0.0.1:1",
            "max-clients": 1,
        }
        deployment.write()
        deployment.proxy.await_handler(signal.SIGHUP)
        deployment.proxy.process.send_signal(signal.SIGHUP)
        deployment.proxy.await_line("(SIGHUP: the settings are reloaded)")
        deployment.server.await_handler(signal.SIGHUP)
        deployment.server.process.send_signal(signal.SIGHUP)
        deployment.server.await_line("(SIGHUP: the settings are reloaded: no value has changed)")
        other.sendall(b"LIST\n")
        assert other.recv(1 << 16).startswith(b"ERR proxy error: ")
        with deployment.connect() as third:
            assert third.recv(1 << 16).startswith(b"ERR proxy error: too many clients")
        assert len(replies.read(SIZE)) == SIZE


@pytest.mark.parametrize("name", ["natproxy", "fileserver"])
def test_application_file_reloads_at_a_hangup(name: str, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "settings.toml").write_text("")
    prefix = {"natproxy": "NATPROXY_PROXY", "fileserver": "NATPROXY_FILESERVER"}[name]
    table = prefix.removeprefix("NATPROXY_").lower()
    settings = {"CONFIG": "settings.toml", "LISTEN": LOOPBACK, "CONTROL": "none"}
    if name == "fileserver":
        settings["FILES"] = "served"
    variables = {f"{prefix}_{key}": value for key, value in settings.items()}
    with running(application_file(name), tmp_path, **variables) as daemon:
        daemon.await_line(r"starting on (\d+)")
        (tmp_path / "settings.toml").write_text(f"[{table}]\ndrain = 3\n")
        daemon.await_handler(signal.SIGHUP)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.await_line(rf"SIGHUP: the settings are reloaded: ({table}\.drain from 30.0 to 3.0)")
