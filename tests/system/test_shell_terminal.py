"""The prompt on a terminal, as a person sees it, against real daemons."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from natproxy.cli.shell.quoting import quoted
from natproxy.protocol import printable
from tests.support.terminal import Terminal, running

NAMES = [
    b"plain.txt",
    b"two words",
    b'it\'s "it" \\',
    b"-dash",
    b"new\nline",
    b"END",
    b"%41",
    b"caf\xe9",
    "fl\u00e4che".encode(),
    b"\x1b[2J",
    b"~home",
    b"n" * 255,
    b"sub dir/\xff\nin it",
]
SHELL = (sys.executable, "-m", "natproxy", "shell", "--server")
SIZE = 64 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = os.fsencode(tmp_path_factory.mktemp("files"))
    os.mkdir(directory + b"/sub dir")
    for name in NAMES:
        with open(os.path.join(directory, name), "wb") as file:
            file.write(name)
    with open(directory + b"/zeros", "wb") as file:
        file.truncate(SIZE)
    return directory


@pytest.fixture(scope="module")
def server(files: bytes) -> Iterator[str]:
    with running(Path(os.fsdecode(files))) as address:
        yield address


@pytest.fixture
def shell(server: str, tmp_path: Path) -> Iterator[Terminal]:
    here = tmp_path / "here"
    here.mkdir()
    state = str(tmp_path / "state")
    with Terminal([*SHELL, server], here, XDG_STATE_HOME=state, HOME=str(tmp_path)) as terminal:
        terminal.wait_for(r"^proxy>")
        yield terminal


def test_every_name_can_be_completed_and_downloaded(shell: Terminal, tmp_path: Path) -> None:
    begun = ["pl", "tw", "it", "-da", "new", "EN", "%", "caf", "fl", "$'\\x1b", "~", "nn"]
    for typed, name in zip(begun, NAMES, strict=False):
        shell.type(f"get {typed}\t")
        word = quoted(b"/" + name if name.startswith(b"-") else name)
        shell.wait_for(rf"^proxy> get {re.escape(word)}( *\n.*)?\Z")
        shell.type("\r")
        saved = re.escape(printable(name))
        shell.wait_for(rf"^saved {saved} \({len(name)} bytes\)\n+proxy>\Z")
        assert "error" not in shell.text
        with open(os.path.join(os.fsencode(tmp_path / "here"), name), "rb") as file:
            assert file.read() == name


def test_what_is_in_a_directory_is_completed_next(shell: Terminal, tmp_path: Path) -> None:
    shell.type("get su\t")
    shell.wait_for(r"get 'sub dir/'")
    shell.type("\t")
    shell.wait_for(r"get 'sub dir/\xff|get \$'sub dir/\\xff\\nin it'")
    shell.type("\r")
    shell.wait_for(r"^saved .*in it \(15 bytes\)")
    assert os.listdir(os.fsencode(tmp_path / "here")) == [b"\xff\nin it"]


def test_commands_and_options_are_completed(shell: Terminal) -> None:
    shell.type("l\t")
    shell.wait_for(r"^ +lpwd +show")
    shell.type("\x15do\t")
    shell.wait_for(r"download")
    shell.type("\x15ls --rec\t")
    shell.wait_for(r"ls --recursive")


def test_one_of_several_is_chosen_with_tab_and_enter(shell: Terminal, tmp_path: Path) -> None:
    shell.type("get \t")
    shell.wait_for(r"^ +END")
    shell.type("\t\t\t\t")
    shell.wait_for(r"get END")
    shell.type("\r")
    # The list is gone, and the line still there.
    shell.wait_for(r"get END\Z")
    shell.type("\r")
    shell.wait_for(r"^saved END")
    assert (tmp_path / "here/END").read_bytes() == b"END"


def test_local_paths_are_completed_for_destinations(shell: Terminal, tmp_path: Path) -> None:
    (tmp_path / "here/a directory").mkdir()
    shell.type("get plain.txt -o a\t")
    shell.wait_for(r"-o 'a directory/'")
    shell.type("\r")
    shell.wait_for(r"^saved a directory/plain\.txt")


def test_names_are_completed_in_the_directory_of_the_prompt(
    shell: Terminal, tmp_path: Path
) -> None:
    shell.type("cd su\t")
    shell.wait_for(r"cd 'sub dir/'")
    shell.type("\r")
    shell.wait_for(r"^proxy:/sub dir>\Z")
    shell.type("get ../pl\t")
    shell.wait_for(r"get \.\./plain\.txt")
    shell.type("\r")
    shell.wait_for(r"^saved plain\.txt .*\n+proxy:/sub dir>\Z")
    shell.type("get $'\t")
    shell.wait_for(r"get \$'\\xff\\nin it'")
    shell.type("\r")
    shell.wait_for(r"^saved .*in it \(15 bytes\)\n+proxy:/sub dir>\Z")
    shell.type("cd nowhere\r")
    shell.wait_for(r"^error: sub dir/nowhere: file not found\n+proxy:/sub dir>\Z")
    shell.type("cd ..\r")
    shell.wait_for(r"^proxy>\Z")
    found = sorted(os.listdir(os.fsencode(tmp_path / "here")))
    assert found == [b"plain.txt", b"\xff\nin it"]


def test_ctrl_c_cancels_the_line_and_ctrl_d_ends_the_shell(shell: Terminal) -> None:
    shell.type("frobnicate")
    shell.wait_for("frobnicate")
    shell.type("\x03")
    shell.wait_for(r"frobnicate\n+proxy>\Z")
    shell.type("\x04")
    assert shell.wait_for_end() == 0
    assert "error" not in shell.text


def test_ctrl_c_cancels_a_download_which_is_resumed_later(shell: Terminal, tmp_path: Path) -> None:
    shell.type("get zeros --limit-rate 8M\r")
    shell.wait_for(r"zeros +receiving.* [1-9][\d.]*/67\.1 MB")
    shell.type("\x03")
    shell.wait_for(r"^error: interrupted\n+proxy>\Z")
    assert (tmp_path / "here/.zeros.part.json").exists()
    kept = (tmp_path / "here/.zeros.part").stat().st_size
    assert 0 < kept < SIZE
    shell.type("get zeros\r")
    shell.wait_for(r"^saved zeros \(67108864 bytes\)\n+proxy>\Z")
    shell.type("exit\r")
    assert shell.wait_for_end() == 130


def test_what_does_not_end_with_a_line_is_followed_by_a_prompt_on_its_own(shell: Terminal) -> None:
    shell.type("cat plain.txt\r")
    shell.wait_for(r"^plain\.txt\nproxy>")


def test_lines_are_remembered_for_the_owner_only(
    shell: Terminal, server: str, tmp_path: Path
) -> None:
    shell.type("lpwd\r")
    shell.wait_for(r"^/.*here\n+proxy>\Z")
    shell.type("exit\r")
    assert shell.wait_for_end() == 0
    path = tmp_path / "state/natproxy/history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with Terminal([*SHELL, server], tmp_path, XDG_STATE_HOME=str(tmp_path / "state")) as again:
        again.wait_for(r"^proxy>")
        again.type("\x1b[A\x1b[A")
        again.wait_for(r"^proxy> lpwd")


def test_history_that_cannot_be_written_is_done_without(server: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a directory")
    with Terminal([*SHELL, server], tmp_path, XDG_STATE_HOME=str(tmp_path / "state")) as shell:
        shell.wait_for(r"^proxy>")
        shell.type("lpwd\r")
        shell.wait_for(r"^/.*\n+proxy>\Z")
        shell.type("exit\r")
        assert shell.wait_for_end() == 0


def test_server_that_is_down_does_not_disturb_typing(files: bytes, tmp_path: Path) -> None:
    with running(Path(os.fsdecode(files))) as address:
        shell = Terminal([*SHELL, address], tmp_path, XDG_STATE_HOME=str(tmp_path / "state"))
        shell.__enter__()
        shell.wait_for(r"^proxy>")
    with shell:
        shell.type("get --retry-for 0 pl\tain.txt\r")
        shell.wait_for(r"^error: cannot connect to .*\n+proxy>\Z")
        shell.type("exit\r")
        assert shell.wait_for_end() == 4
        assert not re.search("Traceback|exception", shell.text)
