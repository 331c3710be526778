"""The sessions in ``docs/protocol.md`` and ``docs/operations.md`` print what the pages show."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.filesystem_server import running_server
from tests.support.paths import ROOT


def sessions(text: str) -> Iterator[tuple[str, str]]:
    """Return the commands of a page's sessions, each with the output that follows it."""
    for block in re.findall(r"^```(?:console)?\n\$ (.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE):
            command, _, output = part.partition("\n")
            yield command, output


def without_versions(reply: str) -> str:
    """Replace the etags and the times of files."""
    return re.sub(r"etag=[0-9a-f]{24}", "etag=E", re.sub(r"mtime=[\d.]+", "mtime=T", reply))


def reply_to(port: int, lines: bytes) -> str:
    """Send lines as ``nc -N`` does, and return all that is received."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(lines)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("r", newline="") as replies:
            return replies.read()


def test_replies_are_as_the_protocol_page_shows(tmp_path: Path) -> None:
    directory = tmp_path / "served"
    shutil.copytree(ROOT / "files", directory)
    tested = 0
    with running_server(directory, tmp_path / "log") as server:
        for command, shown in sessions((ROOT / "docs/protocol.md").read_text()):
            lines, _, reader = command.partition(" | ")
            assert reader == "nc -N 127.0.0.1 9000", command
            program, text = shlex.split(lines)
            if program == "printf":
                text = text.replace("\\n", "\n").replace("%%", "%")
            else:
                assert program == "echo"
                text += "\n"
            reply = reply_to(server.port, text.encode())
            expected = without_versions(shown)
            # The page ends a body without a line feed by one.
            assert without_versions(reply).rstrip("\n") == expected.rstrip("\n"), command
            tested += 1
    assert tested > 10


def test_configuration_is_as_the_operations_page_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs/operations.md").read_text()
    section = page.partition("\n## Configuration\n")[2].partition("\n## ")[0]
    example = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert example
    (tmp_path / "natproxy.toml").write_text(example[1])
    (tmp_path / "typo.toml").write_text("[proxy]\nidle_timeout = 300\n")
    (tmp_path / "wrong.toml").write_text("[proxy]\nidle_timeout = 300\ndrain = -1\n")
    scripts = str(Path(sys.executable).parent)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("NATPROXY_")
    }
    environment |= {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    tested = 0
    for command, shown in sessions(section):
        run = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert run.stdout == shown, command
        tested += 1
    assert tested > 4
