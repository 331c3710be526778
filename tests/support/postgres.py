"""A PostgreSQL server of a test's own, and databases in it."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.loopback import free_port

START = 60
"""Seconds within which a server starts or stops."""

OWNER = "postgres"
"""The account that a server uses if the tests run as root: PostgreSQL refuses root."""


@cache
def programs() -> Path | None:
    """Return the directory of PostgreSQL's programs; `None` if it is not installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parent.parent.name),
    )
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).parent


needs_postgres = pytest.mark.skipif(programs() is None, reason="there is no PostgreSQL")


class Server:
    """A server with data of its own.

    :param directory: for its data, writable for its account.
    """

    def __init__(self, directory: Path) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self._data = directory / "data"
        self._log = directory / "log"
        self.port = free_port()
        self._account = pwd.getpwnam(OWNER) if os.geteuid() == 0 else None
        if self._account is not None:
            os.chown(directory, self._account.pw_uid, self._account.pw_gid)
        self._run("initdb", "-A", "trust", "-U", OWNER, "-E", "UTF8", "--no-sync", "--locale=C")
        self._databases = itertools.count()

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        # What is tested is the order of commits, not the disk.
        options = (
            f"-c listen_addresses=127.0.0.1 -p {self.port} -c unix_socket_directories="
            " -c fsync=off -c max_connections=200"
        )
        self._run("pg_ctl", "-w", "-t", str(START), "-l", str(self._log), "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once, as a failure does: connections break, transactions are rolled back."""
        self._run("pg_ctl", "-w", "-t", str(START), "-m", "immediate", "stop")

    def url(self, database: str = OWNER) -> str:
        """Return the URL of a database."""
        return f"postgresql://{OWNER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create a database; return its URL."""
        import psycopg

        name = f"test{next(self._databases)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account
        identity = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid}
        done = subprocess.run(
            [self._programs / program, "-D", self._data, *arguments],
            **identity,  # type: ignore[call-overload]
            cwd="/",
            stdin=subprocess.DEVNULL,
            # A server that keeps the pipe open would keep the test waiting.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=2 * START,
        )
        if done.returncode:
            log = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
            raise AssertionError(f"{program} {' '.join(arguments)} failed: {log[-2000:]}")


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server for the length of a block."""
    # Its account can reach this, and not the directories of pytest.
    with tempfile.TemporaryDirectory(prefix="natproxy-postgres-") as name:
        os.chmod(name, 0o755)
        server = Server(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def wait_until(condition: object, seconds: float = 30.0) -> None:
    """Wait until a function returns a true value.

    :raises AssertionError: if it does not in time.
    """
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
