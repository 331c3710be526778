"""Completion of command lines in the shells of users."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.terminal import Terminal, running

FILES = ["hello.txt", "two words", "it's", "a:b=c", "-dash", "new\nline", "sub dir/inner"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("files")
    (directory / "sub dir").mkdir()
    for name in FILES:
        (directory / name).write_text(name)
    with running(directory) as address:
        yield address


def program(directory: Path) -> str:
    """Make a program ``natproxy`` of these modules, and return a ``PATH`` that finds it."""
    directory.mkdir()
    path = directory / "natproxy"
    path.write_text(
        f"#!{sys.executable}\nfrom natproxy.cli import main\nraise SystemExit(main())\n"
    )
    path.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(natproxy completion bash)"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -U compinit; compinit -u -D; source <(natproxy completion zsh)",
    ),
    "fish": (["fish", "--no-config", "-i"], "natproxy completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_names_on_the_server_are_completed_in(shell: str, server: str, tmp_path: Path) -> None:
    command, script = SHELLS[shell]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {shell} here")
    here = tmp_path / "here"
    here.mkdir()
    path = program(tmp_path / "bin")
    begun = ["hel", "tw", "it", "a:", "/-d", "sub\\ dir/i"]
    if shell == "bash":
        begun.append("new")
    environment = {"PATH": path, "NATPROXY_SERVER": server, "HOME": str(tmp_path)}
    with Terminal(command, here, **environment) as terminal:
        terminal.type(f"{script}; echo rea''dy\r")
        terminal.wait_for(r"^ready")
        words = " ".join(f"{typed}\t" for typed in begun)
        terminal.type(f"natproxy get -q {words} && echo don''e\r")
        terminal.wait_for(r"^done")
        terminal.type("exit\r")
        terminal.wait_for_end()
    saved = {path.name for path in here.iterdir()}
    expected = {"hello.txt", "two words", "it's", "a:b=c", "-dash", "inner"}
    assert saved == expected | ({"new\nline"} if shell == "bash" else set())


OBSERVING = (
    "tab|le --explain verb DOWN|LOAD and state rela|ying",
    "expor|t --form|at cs|v --since yest|erday --explain nat-p|ort 7",
)
"""Command lines; what follows a bar in a word is completed."""

MEANINGS = (
    "The verb is DOWNLOAD, and the state is relaying",
    "The proxy's port to the upstream is 7",
)


@pytest.mark.parametrize("shell", SHELLS)
def test_filters_and_options_are_completed_in(shell: str, tmp_path: Path) -> None:
    command, script = SHELLS[shell]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {shell} here")
    environment = {"PATH": program(tmp_path / "bin"), "HOME": str(tmp_path)}
    with Terminal(command, tmp_path, **environment) as terminal:
        terminal.type(f"{script}; echo rea''dy\r")
        terminal.wait_for(r"^ready")
        for line, meaning in zip(OBSERVING, MEANINGS, strict=True):
            terminal.type("clear\rnatproxy")
            for word in line.split():
                typed, bar, rest = word.partition("|")
                terminal.type(f" {typed}")
                if bar:
                    # A shell may not complete while the next word is typed.
                    terminal.type("\t")
                    terminal.wait_for(f"natproxy .*{re.escape(typed + rest)}")
            terminal.type("\r")
            terminal.wait_for(meaning)
        terminal.type("exit\r")
        terminal.wait_for_end()


def test_without_a_server_there_are_no_completions(tmp_path: Path) -> None:
    path = program(tmp_path / "bin")
    line = "natproxy get a"
    run = subprocess.run(
        ["bash", "-c", "natproxy 8>&1 9>/dev/null"],
        env={
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "NATPROXY_SERVER": "127.0.0.1:1",
            "_ARGCOMPLETE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        },
        capture_output=True,
        timeout=30,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
