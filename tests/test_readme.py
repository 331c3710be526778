"""The README's session at the prompt and its ``nc`` example, as they are written there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(first_line: str) -> str:
    """Give the console session that begins with a line."""
    found = re.search(rf"```console\n\$ {re.escape(first_line)}\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no session '{first_line}'"
    return found[1]


@pytest.fixture
def up() -> Iterator[int]:
    """Run ``natproxy up`` on free ports and give that of the proxy."""
    loopback = "tcp:0:interface=127.0.0.1"
    listen = ("--listen", loopback, "--fileserver-listen", loopback)
    process = subprocess.Popen(
        [sys.executable, "-m", "natproxy", "up", "--files", str(ROOT / "files"), *listen],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line == "Ctrl-C ends it.\n":
            break
    place = re.search(r"^proxy +127\.0\.0\.1:(\d+)$", said, re.MULTILINE)
    assert place, said
    yield int(place[1])
    process.send_signal(signal.SIGINT)
    _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "SIGINT: stopping" in logged


def test_session_at_the_prompt_is_as_the_readme_shows(up: int, tmp_path: Path) -> None:
    session = block(".venv/bin/natproxy shell")
    typed = re.findall(r"^proxy> (.*)$", session, re.MULTILINE)
    run = subprocess.run(
        [sys.executable, "-m", "natproxy", "shell", "--server", f"127.0.0.1:{up}"],
        input="".join(line + "\n" for line in typed),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    # A pipe does not echo what is typed.
    shown = re.sub(r"^proxy> .*\n", "proxy> ", session, flags=re.MULTILINE)
    assert run.stdout == shown.replace(":9000", f":{up}")
    assert (tmp_path / "hello.txt").read_bytes() == (ROOT / "files/hello.txt").read_bytes()
    assert (tmp_path / "fetched/notes.txt").stat().st_size == 61


def test_netcat_example_is_as_the_readme_shows(up: int) -> None:
    command = "printf 'list\\nDOWNLOAD hello.txt\\nbogus\\n' | nc -N 127.0.0.1 9000"
    with socket.create_connection(("127.0.0.1", up), 30) as connection:
        connection.sendall(b"list\nDOWNLOAD hello.txt\nbogus\n")
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("r") as replies:
            assert replies.read() == block(command)


def test_commands_to_start_with_are_those_that_ci_runs() -> None:
    venv = "python3 -m venv .venv && .venv/bin/pip install"
    assert f"{venv} -e . && .venv/bin/natproxy up\n" in README
    assert f"{venv} -e '.[test]' && .venv/bin/pytest\n" in README
