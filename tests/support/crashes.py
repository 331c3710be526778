"""Files of several versions that are replaced on a server while a client copies them.

What a client has copied can be judged after a crash: each file says which version it is.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.twistd import TWISTD, environment

PATIENCE = 120.0
"""Seconds that a process may take; only a failing test needs them."""

# Small groups, so that many moments are between the first and the last name of a group.
_CLIENT = """
import sys
from natproxy.cli import main
from natproxy.client.transfer import staging
staging.GROUP_FILES = 60
sys.exit(main())
"""

START = 1_600_000_000
"""Modification time of version 0, in seconds."""


class VersionedFiles:
    """Files on a server, each of which has been replaced several times.

    :param outside: a directory on the same file system, where new versions are written.
    :param count: of the files.
    :ivar directory: that is served.
    :ivar versions: of each file, as it is now.
    """

    def __init__(self, outside: Path, count: int) -> None:
        self.directory = outside / "files"
        self.directory.mkdir()
        self.versions = dict.fromkeys((self._name(number) for number in range(count)), -1)
        self._outside = outside
        for name in self.versions:
            (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
            self.replace(name)

    @staticmethod
    def _name(number: int) -> str:
        if number % 200 == 199:
            return f"file-{number}"
        return f"directory-{number % 20}/{'inner/' * (number % 3 == 0)}file-{number}"

    @staticmethod
    def content(name: str, version: int) -> bytes:
        """Return what a file holds: its size differs with the version, some are empty."""
        number = int(name.rpartition("-")[2])
        if number % 97 == 0 and version == 0:
            return b""
        size = 70_000 if number % 211 == 0 else 500 + 37 * (number % 113)
        return (f"{name} {version}\n".encode() * (size // 8 + version))[: size + version]

    @staticmethod
    def mtime(name: str, version: int) -> int:
        """Return the modification time of a version, in nanoseconds."""
        number = int(name.rpartition("-")[2])
        return (START + 10 * version) * 10**9 + number * 1000

    def replace(self, name: str) -> None:
        """Replace a file by its next version, at once."""
        version = self.versions[name] + 1
        new = self._outside / "new"
        new.write_bytes(self.content(name, version))
        os.utime(new, ns=(self.mtime(name, version),) * 2)
        os.replace(new, self.directory / name)
        self.versions[name] = version

    def replace_all(self) -> None:
        """Replace every file."""
        for name in self.versions:
            self.replace(name)

    @contextmanager
    def changing(self, seed: int) -> Iterator[None]:
        """Replace one file after the other in a thread, until the end of the block."""
        ended = threading.Event()
        chance = random.Random(seed)

        def change() -> None:
            names = list(self.versions)
            while not ended.wait(0.002):
                self.replace(chance.choice(names))

        thread = threading.Thread(target=change)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def assert_whole(self, copy: Path) -> int:
        """Assert that each file of a copy is one of the versions; return how many there are.

        What begins with a dot is not a file's name, but of a transfer that goes on.
        """
        found = 0
        for name in _names(copy):
            if any(part.startswith(".") for part in Path(name).parts):
                continue
            assert name in self.versions, f"{name} has never been on the server"
            data, mtime = (copy / name).read_bytes(), (copy / name).stat().st_mtime_ns
            versions = [
                version
                for version in range(self.versions[name] + 1)
                if self.mtime(name, version) == mtime
            ]
            assert versions, f"{name} has the time of no version: {mtime} ({len(data)} bytes)"
            expected = self.content(name, versions[0])
            assert data == expected, (
                f"{name}: {len(data)} bytes are not the {len(expected)} of version {versions[0]}"
            )
            found += 1
        return found

    def assert_complete(self, copy: Path) -> None:
        """Assert that a copy holds the newest versions of all files, and nothing else."""
        assert sorted(_names(copy)) == sorted(self.versions)
        assert _directories(copy) == _directories(self.directory)
        self.assert_newest(copy)

    def assert_newest(self, copy: Path) -> None:
        """Assert that a copy holds the newest versions of all files."""
        for name, version in self.versions.items():
            assert (copy / name).stat().st_mtime_ns == self.mtime(name, version), name
            assert (copy / name).read_bytes() == self.content(name, version), name


def _names(directory: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(path, name), directory)
        for path, _, names in os.walk(directory)
        for name in names
    ]


def _directories(directory: Path) -> set[str]:
    return {os.path.relpath(path, directory) for path, _, _ in os.walk(directory)} - {"lost+found"}


@contextmanager
def served(files: VersionedFiles, cwd: Path) -> Iterator[int]:
    """Run a file server for the files, and return its port."""
    log = cwd / "fileserver.log"
    command = (
        *(*TWISTD, "-n", "--pidfile=", f"--logfile={log}"),
        *("fileserver", f"--files={files.directory}", "--control=none"),
        "--listen=tcp:0:interface=127.0.0.1",
    )
    with subprocess.Popen(command, cwd=cwd, env=environment({})) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not (found := re.search(r"starting on (\d+)", _text(log))):
                assert process.poll() is None, _text(log)
                assert time.monotonic() < deadline, "the file server does not start"
                time.sleep(0.01)
            yield int(found[1])
        finally:
            process.kill()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def syncing(port: int, target: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start ``natproxy sync`` of everything into a directory."""
    server = f"--server=127.0.0.1:{port}"
    command = (sys.executable, "-c", _CLIENT, "sync", server, "-q", "--retry-for=20s", *options)
    return subprocess.Popen(
        (*command, ".", str(target)),
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def sync(port: int, target: Path, *options: str) -> None:
    """Run ``natproxy sync`` to its end, which must be good."""
    process = syncing(port, target, *options)
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, said.decode(errors="replace")
