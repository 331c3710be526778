"""TLS between processes: a deployment with certificates of clients, reloads, and what is shown."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.certificates import Authority, Files
from tests.support.twistd import LIMIT, TWISTD, Daemon, environment, running


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory with a short path, with a file to serve."""
    path = Path(tempfile.mkdtemp())
    (path / "served").mkdir()
    (path / "served" / "hello.txt").write_text("hello\n")
    yield path
    shutil.rmtree(path)


def natproxy(directory: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command line; return status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "natproxy", *arguments],
        cwd=directory,
        env=environment({"RUNTIME_DIRECTORY": os.fspath(directory)}),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout, done.stderr


def start(stack: ExitStack, directory: Path, *arguments: str) -> tuple[Daemon, int]:
    """Start a daemon; return it and its port."""
    command = [*TWISTD, "-n", "--pidfile=", *arguments]
    daemon = stack.enter_context(
        running(command, directory, RUNTIME_DIRECTORY=os.fspath(directory))
    )
    return daemon, int(daemon.await_line(r"\(TLS\) starting on (\d+)"))


def listen(files: Files, client_ca: str) -> str:
    return (
        f"--listen=ssl:0:interface=127.0.0.1:privateKey={files.key}:certKey={files.cert}"
        f":clientCA={client_ca}"
    )


def test_deployment_with_certificates_of_clients(directory: Path) -> None:
    authority = Authority(directory)
    server = authority.issue("localhost")
    ann = authority.issue("ann@example.org")
    with ExitStack() as stack:
        _, behind = start(
            stack, directory, "fileserver", "--files=served", listen(server, authority.ca)
        )
        upstream = (
            f"tls:localhost:{behind}:trustRoots={authority.ca}"
            f":certificate={ann.cert}:privateKey={ann.key}"
        )
        proxy, port = start(
            stack,
            directory,
            *("natproxy", f"--upstream={upstream}", "--journal=none", "--name=edge"),
            listen(server, authority.ca),
        )
        proxy.await_line("(control socket):")
        url = f"natproxys://localhost:{port}/hello.txt"
        shown = ("--ca", authority.ca, "--cert", ann.cert, "--key", ann.key)
        assert natproxy(directory, "cat", url, *shown) == (0, "hello\n", "")

        # A wrong file changes nothing.
        good = Path(server.cert).read_bytes()
        Path(server.cert).write_text("nothing")
        status, _, errors = natproxy(directory, "reload", "--name", "edge")
        assert status != 0
        assert f"{server.cert}: contains no certificate in PEM form" in errors
        assert natproxy(directory, "cat", url, *shown) == (0, "hello\n", "")

        # A new certificate for another name is used from the next connection on.
        Path(server.cert).write_bytes(good)
        other = authority.issue("elsewhere.example")
        os.replace(other.cert, server.cert)
        os.replace(other.key, server.key)
        proxy.process.send_signal(signal.SIGHUP)
        proxy.await_line("(SIGHUP: the settings are reloaded)")
        assert natproxy(directory, "cat", url, *shown) == (
            4,
            "",
            f"natproxy: cannot connect to localhost:{port}: its certificate is not for the name"
            " localhost\n",
        )


@pytest.mark.parametrize("daemon", ["natproxy", "fileserver"])
def test_start_with_a_wrong_certificate_ends_with_one_line(directory: Path, daemon: str) -> None:
    missing = directory / "missing.pem"
    done = subprocess.run(
        [*TWISTD, "-n", "--pidfile=", daemon, f"--listen=ssl:0:privateKey={missing}"],
        cwd=directory,
        env=environment({"RUNTIME_DIRECTORY": os.fspath(directory)}),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"twistd {daemon}: --listen ssl:0:privateKey={missing}: {missing}:"
        " No such file or directory\n"
    )
