"""Standard output: every byte of it, or an exit status that is not 0."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from natproxy import cli
from natproxy.cli.output import standard_output
from tests.support.answering_server import AnsweringServer, Version2

SIZE = 3_500_000
"""Bytes that are a little more than 3400 KiB: only the last of several pieces does not fit."""
LARGE = bytes(range(256)) * (SIZE // 256) + b"end"
MANY = {b"file %d of those that fill a pipe" % number: b"x" for number in range(2500)}
"""Names of three pages; a listing of them is longer than a pipe, which holds 64 KiB."""
FULL = b"natproxy: standard output: No space left on device\n"
UNBUFFERED = ("", "1")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    serving = AnsweringServer(Version2({b"large": LARGE, **MANY}))
    yield serving.server_address
    serving.close()


def start(
    server: str, arguments: list[str], unbuffered: str, output: int, **options: object
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "natproxy", *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "NATPROXY_SERVER": server},
        stdout=output,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


@cache
def written(server: str, *arguments: str) -> bytes:
    """Return all that a command writes."""
    with start(server, arguments, "", subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=60)
    return output


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


WRITING = (
    ["cat", "large"],
    ["get", "-o", "-", "large", "--verify"],
    ["ls"],
    ["ls", "-l"],
    ["ls", "--json"],
    ["list"],
    ["stat", "large"],
    ["stat", "--json", "large"],
    ["hash", "large"],
    ["hash", "--json", "large"],
    ["sync", "--dry-run", ".", "here"],
    ["completion", "bash"],
    ["--help"],
    ["get", "--help"],
    ["--version"],
)
LONG = (["cat", "large"], ["ls"], ["ls", "--json"])
"""Those that write in more than one go, each in another manner."""


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [*((each, "") for each in WRITING), *((each, "1") for each in (*LONG, WRITING[6]))],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_full_disk_is_status_9(
    arguments: list[str], unbuffered: str, server: str, tmp_path: Path
) -> None:
    with open("/dev/full", "wb") as full:
        process = start(server, arguments, unbuffered, full.fileno(), cwd=tmp_path)
    assert ended(process) == (9, FULL)


@pytest.mark.skipif("COVERAGE_PROCESS_CONFIG" in os.environ, reason="coverage writes a file too")
@pytest.mark.parametrize("unbuffered", UNBUFFERED)
@pytest.mark.parametrize("arguments", LONG, ids=" ".join)
def test_file_that_may_not_grow_is_status_9(
    arguments: list[str], unbuffered: str, server: str, tmp_path: Path
) -> None:
    """The last write is a short one, by one byte, and no other one follows that could fail."""
    size = len(written(server, *arguments))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))

    with open(tmp_path / "out", "wb") as out:
        process = start(server, arguments, unbuffered, out.fileno(), preexec_fn=limit)
    assert ended(process) == (9, b"natproxy: standard output: File too large\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3400 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3400k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=30)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode()}")
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=30)


@pytest.mark.parametrize("unbuffered", UNBUFFERED)
@pytest.mark.parametrize("arguments", WRITING[:2], ids=" ".join)
def test_disk_that_becomes_full_is_status_9(
    arguments: list[str], unbuffered: str, server: str, small_disk: Path
) -> None:
    with open(small_disk / "out", "wb") as out:
        process = start(server, arguments, unbuffered, out.fileno())
    assert ended(process) == (9, FULL)


@pytest.mark.parametrize("unbuffered", UNBUFFERED)
@pytest.mark.parametrize("arguments", LONG, ids=" ".join)
def test_pipe_that_does_not_block_is_waited_for(
    arguments: list[str], unbuffered: str, server: str
) -> None:
    expected = written(server, *arguments)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = start(server, arguments, unbuffered, writer)
    os.close(writer)
    received = hashlib.sha256()
    # It is full nearly all the time.
    while piece := os.read(reader, 4096):
        received.update(piece)
    os.close(reader)
    assert ended(process) == (0, b"")
    assert received.digest() == hashlib.sha256(expected).digest()


@pytest.mark.parametrize("arguments", [*LONG, WRITING[-1]], ids=" ".join)
def test_reader_that_leaves_early_is_no_failure(
    arguments: list[str], server: str, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(server, arguments, "1", writer, cwd=tmp_path)
    os.close(writer)
    assert ended(process) == (0, b"")


@pytest.mark.parametrize("unbuffered", UNBUFFERED)
@pytest.mark.parametrize("arguments", [WRITING[0], WRITING[2], WRITING[-1]], ids=" ".join)
def test_output_that_was_closed_is_status_9(
    arguments: list[str], unbuffered: str, server: str
) -> None:
    process = start(
        server, arguments, unbuffered, subprocess.DEVNULL, preexec_fn=lambda: os.close(1)
    )
    assert ended(process) == (9, b"natproxy: standard output: Bad file descriptor\n")


def test_second_interrupt_ends_what_waits_for_the_reader(server: str) -> None:
    """Neither a hang nor a traceback, although the listing has no reader."""
    reader, writer = os.pipe()
    process = start(server, ["ls", "-l"], "", writer)
    os.close(writer)
    # Its first byte is there: from now on it is busy with a pipe that becomes full.
    os.read(reader, 1)
    waiting = threading.Event()
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        waiting.wait(0.1)
    _, errors = process.communicate(timeout=60)
    os.close(reader)
    assert process.returncode in (130, -signal.SIGINT)
    assert errors in (b"", b"natproxy: interrupted\n")


@pytest.mark.parametrize("size", [1, 1 << 15, (1 << 16) - 1, 1 << 16, 1 << 20])
def test_write_error_is_reported_once(size: int) -> None:
    """Whether it is noticed at once, or when the last bytes are written."""
    with contextlib.closing(AnsweringServer(Version2({b"a": bytes(size)}))) as serving:
        process = start(
            serving.server_address,
            ["cat", "a", "a", "a", "a"],
            "",
            subprocess.DEVNULL,
            preexec_fn=lambda: os.close(1),
        )
        assert ended(process) == (9, b"natproxy: standard output: Bad file descriptor\n")


def run_in_process(*arguments: str) -> int:
    return cli.main(arguments)


def test_caller_has_its_own_output_back(server: str, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out, contextlib.redirect_stdout(out):
        out.write("before\n")
        assert run_in_process("stat", "large", "--server", server) == 0
        assert sys.stdout is out
        out.write("after\n")
    lines = (tmp_path / "out").read_text().splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("before", "name:     large", "after")


def test_interrupted_write_leaves_no_hole(tmp_path: Path) -> None:
    """What a signal's handler breaks off is written later, or not at all, but never twice."""
    reader, writer = os.pipe()
    received = bytearray()

    def read() -> None:
        while piece := os.read(reader, 1 << 16):
            received.extend(piece)

    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with (
            os.fdopen(writer, "w") as pipe,
            contextlib.redirect_stdout(pipe),
            standard_output(),
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            # Nobody reads yet, so that the pipe is full when the signal comes.
            with contextlib.suppress(Stopped):
                sys.stdout.buffer.write(LARGE)
            thread = threading.Thread(target=read)
            thread.start()
            sys.stdout.flush()
        thread.join(30)
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(reader)
    assert received
    assert LARGE.startswith(received)
