"""Tokens appear nowhere: not in logs, journals, events, process lists, outputs and errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest_twisted
from twisted.internet.threads import deferToThread

from natproxy.tokens.entries import new_token
from natproxy.tokens.file import add_token
from tests.support.exchange import exchange_with
from tests.support.loopback import HOST, Daemon, daemon

MARK = "s3cretMark"


def natproxy(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command line."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("NATPROXY")}
    return subprocess.run(
        (sys.executable, "-m", "natproxy", *words),
        env={**clean, **environment},
        capture_output=True,
        timeout=30,
        check=False,
    )


def replies_to(port: int, line: bytes) -> bytes:
    """Return what a daemon replies to a line, until it closes."""
    return exchange_with(HOST, port, line)


def wrong_lines() -> list[bytes]:
    """Return ways in which a token may be sent by mistake."""
    mark = MARK.encode()
    return [
        b"AUTH " + mark + b"\n",
        b"  auth\t" + mark + b" and more\r\n",
        b"AUTH:" + mark + b"\n",
        b"AUTH" + mark + b"\n",
        b'"AUTH ' + mark + b'"\n',
        b"Authorization: Bearer " + mark + b"\n",
        b"AUTH " + mark * 2000 + b"\n",
        # Without its end.
        b"AUTH " + mark,
    ]


@pytest_twisted.ensureDeferred
async def test_token_appears_nowhere(tmp_path: Path) -> None:
    state = tmp_path / "state"
    files = tmp_path / "files"
    state.mkdir()
    files.mkdir()
    (files / "a").write_bytes(b"abc")
    token, entry = new_token("alice")
    add_token(str(tmp_path / "tokens"), entry)
    options = (f"--tokens={tmp_path / 'tokens'}",)
    async with (
        daemon(
            state,
            "fileserver",
            f"--files={files}",
            "--control=files.sock",
            "--access-log=files.access",
            *options,
        ) as server,
        daemon(
            state,
            "natproxy",
            f"--upstream=tcp:{HOST}:{server.port}",
            "--control=proxy.sock",
            "--journal=journal",
            "--access-log=proxy.access",
            *options,
        ) as proxy,
    ):
        outputs = await deferToThread(_use, state, token, proxy, server)
        for one in (proxy, server):
            one.terminate()
            assert await one.status() == 0
    held = {str(path): path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert any(name.endswith(".sqlite") or "journal" in name for name in held)
    # What is searched has the command that the token has allowed, with its client's identity.
    assert any(b"alice" in content for content in held.values())
    for name, content in {**held, **outputs}.items():
        for secret in (token, MARK):
            assert secret.encode() not in content, name
            assert secret.encode().hex().encode() not in content, name


def _use(state: Path, token: str, proxy: Daemon, server: Daemon) -> dict[str, bytes]:
    """Use both daemons with the right token, and with wrong ones; return what was printed."""
    outputs: dict[str, bytes] = {}

    def run(*words: str, status: int = 0, **environment: str) -> bytes:
        found = natproxy(*words, **environment)
        assert found.returncode == status, (words, found.stderr)
        outputs[" ".join(words)] = found.stdout + found.stderr
        return found.stdout + found.stderr

    for one in (proxy, server):
        address = f"{HOST}:{one.port}"
        right = {"NATPROXY_TOKEN": token, "NATPROXY_SERVER": address}
        wrong = {"NATPROXY_TOKEN": MARK, "NATPROXY_SERVER": address}
        run("cat", "a", **right)
        run("ls", **right)
        run("config", "show", "--daemon", "client", **right)
        message = run("cat", "a", status=12, **wrong)
        assert message == f"natproxy: {address}: the token is not accepted\n".encode()
        run("config", "check", "--daemon", "client", status=2, NATPROXY_TOKEN=f"{MARK} {MARK}")
        for line in wrong_lines():
            outputs[f"{one.port} {line[:10]!r}"] = replies_to(one.port, line)
        for process in (proxy, server):
            command_line = Path(f"/proc/{process.process.pid}/cmdline")
            outputs[f"process {process.process.pid}"] = command_line.read_bytes()
        sock = str(state / ("proxy.sock" if one is proxy else "files.sock"))
        run("status", "--control", sock)
        run("status", "--control", sock, "--json")
    sock = str(state / "proxy.sock")
    for command in ("table", "history", "events"):
        words = [command, "--control", sock, "--json"]
        run(*words, *(["--since", "-1h"] if command == "events" else []))
    assert b'"identity": "alice"' in outputs[f"history --control {sock} --json"].replace(
        b'"identity":"', b'"identity": "'
    )
    return outputs
