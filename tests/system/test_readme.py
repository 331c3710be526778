"""The README's session at the prompt and its ``nc`` example, as they are written there."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from twisted.internet.testing import MemoryReactorClock

from natproxy.daemon import fileserver
from natproxy.daemon import proxy as proxy_plugin
from natproxy.daemon.config_fields import fields_of, key_of, variable_of
from tests.support.paths import ROOT
from tests.support.terminal import Terminal

README = (ROOT / "README.md").read_text()


def block(first_line: str) -> str:
    """Return the console session that begins with a line."""
    found = re.search(rf"```console\n\$ {re.escape(first_line)}\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no session '{first_line}'"
    return found[1]


@pytest.fixture
def up() -> Iterator[int]:
    """Run ``natproxy up`` on free ports and yield that of the proxy."""
    loopback = "tcp:0:interface=127.0.0.1"
    listen = ("--listen", loopback, "--fileserver-listen", loopback)
    process = subprocess.Popen(
        [sys.executable, "-m", "natproxy", "up", "--files", str(ROOT / "files"), *listen],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if line == "Ctrl-C ends it.\n":
            break
    address = re.search(r"^proxy +127\.0\.0\.1:(\d+)$", output, re.MULTILINE)
    assert address, output
    yield int(address[1])
    process.send_signal(signal.SIGINT)
    _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "SIGINT: stopping" in logged


def measured(line: str) -> str:
    """Remove what differs between runs: the duration, and the width of the bar."""
    return re.sub("━+ +", "━ ", re.sub(r"in \d+\.\ds$", "in 0.0s", line))


def test_session_at_the_prompt_is_as_the_readme_shows(up: int, tmp_path: Path) -> None:
    shown = block("natproxy shell").replace(":9000", f":{up}").splitlines()
    command = [sys.executable, "-m", "natproxy", "shell", "--server", f"127.0.0.1:{up}"]
    with Terminal(command, tmp_path, 80, HOME=str(tmp_path)) as terminal:
        prompts = 0
        completed = False
        for line in shown:
            prompt, _, typed = line.partition("proxy> ")
            if prompt or not typed:
                continue
            if completed:
                # This is what Tab has made of the line before.
                terminal.wait_for(rf"^proxy> {re.escape(typed)}( *\n.*)?\Z")
                terminal.type("\r")
                completed = False
                continue
            prompts += 1
            terminal.wait_for(rf"(?s)\A(?:.*?^proxy>){{{prompts}}}\Z")
            completed = typed.endswith("⇥")
            terminal.type(typed.replace("⇥", "\t") if completed else f"{typed}\r")
        assert terminal.wait_for_end() == 3
        looked = terminal.text.splitlines()
    expected = [measured(line) for line in shown if not line.endswith("⇥")]
    assert [measured(line) for line in looked] == expected
    assert (tmp_path / "release notes.txt").stat().st_size == 61


def test_netcat_example_is_as_the_readme_shows(up: int) -> None:
    command = "printf 'list\\nDOWNLOAD hello.txt\\nbogus\\n' | nc -N 127.0.0.1 9000"
    with socket.create_connection(("127.0.0.1", up), 30) as connection:
        connection.sendall(b"list\nDOWNLOAD hello.txt\nbogus\n")
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("r") as replies:
            assert replies.read() == block(command)


def test_commands_to_start_with_are_those_that_ci_runs() -> None:
    venv = "python3 -m venv .venv && .venv/bin/pip install"
    assert f"{venv} -e '.[cli]' && .venv/bin/natproxy up\n" in README
    assert f"{venv} -e '.[test]' && .venv/bin/pytest\n" in README


@contextmanager
def running(command: str, cwd: Path) -> Iterator[int]:
    """Run one of the README's ``twistd`` commands on a free port; yield the port."""
    program, *arguments = shlex.split(command)
    assert program == "twistd"
    run = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    listen = "--listen=tcp:0:interface=127.0.0.1"
    with subprocess.Popen(
        [sys.executable, "-c", run, *arguments, listen], cwd=cwd, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            output = ""
            for line in process.stdout:
                output += line
                port = re.search(r"listens on 127\.0\.0\.1:(\d+)", line)
                if port:
                    yield int(port[1])
                    return
            pytest.fail(output)
        finally:
            process.kill()


def test_both_daemons_run_in_one_directory_as_the_readme_shows(tmp_path: Path) -> None:
    server, proxy = re.findall(r"^twistd .*$", README, re.MULTILINE)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").touch()
    with running(server, tmp_path) as upstream:
        assert proxy.endswith(" --upstream tcp:127.0.0.1:9001")
        with (
            running(proxy.replace("9001", str(upstream)), tmp_path) as port,
            socket.create_connection(("127.0.0.1", port), 30) as connection,
            connection.makefile("rwb") as client,
        ):
            client.write(b"LIST\n")
            client.flush()
            assert [client.readline() for _ in range(3)] == [b"OK\n", b"a\n", b"END\n"]


def options_of(plugin: ModuleType) -> set[str]:
    options = plugin.Options(MemoryReactorClock()).longOpt
    return {f"--{option.rstrip('=')}" for option in options} - {"--help", "--version"}


@pytest.mark.parametrize("plugin", [proxy_plugin, fileserver])
def test_readme_names_only_options_that_a_daemon_has(plugin: ModuleType) -> None:
    heading = f"| `twistd {plugin.Options.config_class.daemon}` |"
    # The second table is of the options that both have.
    tables = [README.partition(each)[2].partition("\n\n")[0] for each in (heading, "| both |")]
    named = {option for table in tables for option in re.findall(r"`(--[a-z0-9-]+)", table)}
    assert len(named) > 5
    assert named <= options_of(plugin)


@pytest.mark.parametrize("plugin", [proxy_plugin, fileserver])
def test_table_of_the_settings_is_that_of_the_code(plugin: ModuleType) -> None:
    config = plugin.Options.config_class
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.partition(f"\n`twistd {config.daemon}`:\n\n")[2].partition("\n\n")[0]
    heading, _, *rows = [re.split(r" \| ", row.strip("| ")) for row in table.splitlines()]
    assert heading[:6] == ["option", "key", "variable", "default", "unit", "reload"]
    assert {row[0].strip("`") for row in rows} - {"-"} == options_of(plugin)
    expected = []
    for one in fields_of(config):
        rule, shown = one.metadata["rule"], one.metadata["shown"]
        default = "-" if one.default is None else f"`{rule.show(one.default)}`"
        table_only = one.metadata["table_only"]
        expected.append(
            [
                "-" if table_only else f"`--{key_of(one.name)}`",
                f"`{key_of(one.name)}`",
                "-" if table_only else f"`{variable_of(config, one.name)}`",
                shown or default,
                rule.unit or "-",
                "yes" if one.metadata["reloadable"] else "restart",
            ]
        )
    assert [row[:6] for row in rows[:-1]] == expected
    assert rows[-1][:3] == ["`--config`", "-", f"`{variable_of(config, 'config')}`"]


def test_suggestion_of_natproxy_up_is_as_the_readme_shows() -> None:
    names = sorted(path.name for path in (ROOT / "files").iterdir())
    first = next(name for name in names if (ROOT / "files" / name).stat().st_size)
    assert f"  .venv/bin/natproxy get {first}\n" in README
    assert "  .venv/bin/natproxy top\n" in README
    assert "proxy        127.0.0.1:9000\n" in README
