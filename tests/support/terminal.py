"""Programs on a terminal, and the daemons that they need, as a person would run them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyte

from tests.support.paths import ROOT

LIMIT = 30.0
"""Seconds after which what has not happened will not."""
COLUMNS = 400
"""So many that the longest name has its place on a line."""
LINES = 40

# Ctrl-C goes to those whose terminal it is.
_ADOPT = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def running(files: Path) -> Iterator[str]:
    """Run ``natproxy up`` on free ports and give the address of the proxy."""
    loopback = "tcp:0:interface=127.0.0.1"
    listen = ("--listen", loopback, "--fileserver-listen", loopback)
    process = subprocess.Popen(
        [sys.executable, "-m", "natproxy", "up", "--files", str(files), *listen],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line == "Ctrl-C ends it.\n":
                break
        place = re.search(r"^proxy +(127\.0\.0\.1:\d+)$", said, re.MULTILINE)
        assert place, said
        yield place[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)


class Terminal:
    """A program on a terminal of its own, and the screen that it draws."""

    def __init__(
        self, command: Sequence[str], cwd: Path, columns: int = COLUMNS, **environment: str
    ) -> None:
        self._screen = pyte.Screen(columns, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ADOPT, *command],
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={
                **os.environ,
                "COLUMNS": str(columns),
                "LANG": "C.UTF-8",
                "LC_ALL": "C.UTF-8",
                "LINES": str(LINES),
                # This one doesn't tell where the cursor is.
                "PROMPT_TOOLKIT_NO_CPR": "1",
                "PYTHONPATH": str(ROOT),
                "TERM": "xterm",
                **environment,
            },
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(LIMIT)
        os.close(self._terminal)

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def wait_for(self, pattern: str) -> None:
        """Wait until the screen shows what a regular expression describes."""
        deadline = time.monotonic() + LIMIT
        while not re.search(pattern, self.text, re.MULTILINE):
            assert time.monotonic() < deadline, f"no {pattern!r} in\n{self.text}"
            self._receive()

    def wait_for_end(self) -> int:
        """Wait until the program ends and give its exit status."""
        deadline = time.monotonic() + LIMIT
        while self._receive():
            assert time.monotonic() < deadline, self.text
        return self._process.wait(LIMIT)

    def _receive(self) -> bool:
        if not select.select([self._terminal], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self._terminal, 65536)
        except OSError:
            # Linux says so when nobody has the other end any more.
            return False
        self._stream.feed(data)
        return bool(data)
