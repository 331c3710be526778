"""A proxy and a file server in another process, for tests of the fsspec file system."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from natproxy.fs import NatproxyFileSystem
from tests.support import version1


class FileSystemServer:
    """A running proxy and file server.

    :ivar directory: the served directory.
    :ivar port: of the proxy.
    """

    def __init__(self, directory: Path, port: int, log: Path) -> None:
        self.directory = directory
        self.port = port
        self._log = log
        self._marks = 0

    @property
    def url(self) -> str:
        return f"natproxy://127.0.0.1:{self.port}"

    def filesystem(self, **options: Any) -> NatproxyFileSystem:
        """Return a new file system, which does not retry."""
        options = {"retries": 0, "skip_instance_cache": True, **options}
        return NatproxyFileSystem("127.0.0.1", self.port, **options)

    def replies(self) -> list[tuple[str, int]]:
        """Return the verbs of all commands that the proxy has logged, and the bytes relayed."""
        # The log has this command after all those before it.
        self._marks += 1
        mark = f"DOWNLOAD mark {self._marks}"
        version1.ask(self.port, mark.encode())
        deadline = time.monotonic() + 30
        while f" {mark}:" not in (log := self._log.read_text()):
            assert time.monotonic() < deadline, log
            time.sleep(0.01)
        found = re.findall(r" ([A-Z]+)( .*)?: completed, (\d+) bytes", log)
        return [(verb, int(size)) for verb, name, size in found if "mark" not in name]

    def verbs(self, since: int) -> list[str]:
        """Return the verbs of all commands but the first ``since``."""
        return [verb for verb, _ in self.replies()[since:]]

    def bytes_moved(self, since: int) -> int:
        """Return the bytes of the replies to all commands but the first ``since``."""
        return sum(size for _, size in self.replies()[since:])


@contextmanager
def running_server(directory: Path, log: Path) -> Iterator[FileSystemServer]:
    """Run ``natproxy up`` on free ports."""
    loopback = "tcp:0:interface=127.0.0.1"
    listen = ("--listen", loopback, "--fileserver-listen", loopback)
    with log.open("wb") as logged:
        process = subprocess.Popen(
            [sys.executable, "-m", "natproxy", "up", "--files", str(directory), *listen],
            stdout=subprocess.PIPE,
            stderr=logged,
            text=True,
        )
        assert process.stdout is not None
        place = None
        for line in process.stdout:
            place = place or re.match(r"proxy +127\.0\.0\.1:(\d+)$", line)
            if line == "Ctrl-C ends it.\n":
                break
        try:
            assert place, log.read_text()
            yield FileSystemServer(directory, int(place[1]), log)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def replace_file(path: Path, content: bytes) -> None:
    """Rename a new file with this content to the path."""
    new = path.with_name("new")
    new.write_bytes(content)
    new.replace(path)
