"""A proxy in front of file servers over one directory, which are killed and started again.

All are processes on addresses of loopback that no other test has, so that a server that is
started again finds its port free.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.support.fleet import NATPROXY, PATIENCE, Process
from tests.support.loopback import own_host
from tests.support.namespaces import Machine
from tests.support.twistd import TWISTD, environment

PORT = 9000


class ThisMachine(Machine):
    """Runs processes without a namespace."""

    def __init__(self) -> None:
        super().__init__("here", "")

    def start(
        self, command: Sequence[str], cwd: Path, environment: dict[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


class Replicas:
    """The daemons; all are killed at the end of the block.

    :param place: a directory with a short path; ``files`` in it is served.
    :param servers: the number of file servers.
    :param options: of the proxy.
    :ivar address: of the proxy.
    :ivar kills: of file servers so far.
    """

    def __init__(self, place: Path, servers: int, *options: str) -> None:
        machine = ThisMachine()
        hosts = [own_host(number) for number in range(1, servers + 1)]
        self.place = place
        self.address = own_host(0), PORT
        self.kills = 0
        self.servers = [
            Process(machine, place, f"files-{number}", self._server(number, host))
            for number, host in enumerate(hosts, start=1)
        ]
        upstreams = [f"--upstream=tcp:{host}:{PORT}" for host in hosts]
        self.proxy = Process(
            machine,
            place,
            "proxy",
            [
                *(*TWISTD, "-n", "--pidfile=", "natproxy", "--name=proxy"),
                f"--listen=tcp:{PORT}:interface={self.address[0]}",
                *(*upstreams, f"--control={place}/proxy.sock", f"--journal={place}/journal"),
                *options,
            ],
        )
        self._stack = ExitStack()

    def _server(self, number: int, host: str) -> list[str]:
        return [
            *(*TWISTD, "-n", "--pidfile=", "fileserver", f"--name=files-{number}"),
            f"--listen=tcp:{PORT}:interface={host}",
            *(f"--files={self.place}/files", "--control=none"),
        ]

    def __enter__(self) -> Replicas:
        with ExitStack() as stack:
            for process in (*self.servers, self.proxy):
                process.start()
                stack.callback(process.kill)
            for process in (*self.servers, self.proxy):
                process.await_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill_at(
        self,
        moments: Sequence[int],
        received: Callable[[], int],
        running: Callable[[], bool],
        apart: float,
        chance: random.Random,
    ) -> None:
        """Kill one server or another at certain bytes of a download, and start it again.

        :param moments: bytes, ascending.
        :param received: returns the bytes received.
        :param running: returns whether the download goes on.
        :param apart: seconds between two kills, at least.
        """
        last = 0.0
        for moment in moments:
            await_bytes(moment, received, running, last + apart)
            server = chance.choice(self.servers)
            last = time.monotonic()
            self.kill(server)
            time.sleep(chance.uniform(0.0, 0.5))
            server.start()
            server.await_ready()

    def kill_each(
        self, moments: Sequence[int], received: Callable[[], int], running: Callable[[], bool]
    ) -> None:
        """Kill one server after the other, then start all again: downloads wait in between.

        :param moments: one for each server; see `kill_at`.
        """
        for server, moment in zip(self.servers, moments, strict=True):
            await_bytes(moment, received, running)
            self.kill(server)
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.await_ready()

    def kill(self, server: Process) -> None:
        """Kill a server."""
        server.kill()
        self.kills += 1

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all tries so far, oldest first."""
        done = subprocess.run(
            [*NATPROXY, "history", f"--control={self.place}/proxy.sock", "--json"],
            capture_output=True,
            text=True,
            env=environment({}),
            timeout=PATIENCE,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]


def await_bytes(
    moment: int, received: Callable[[], int], running: Callable[[], bool], earliest: float = 0.0
) -> None:
    """Wait until a download has reached a byte, and for a time of the monotonic clock."""
    deadline = time.monotonic() + 10 * PATIENCE
    while received() < moment or time.monotonic() < earliest:
        assert time.monotonic() < deadline, f"{received()} of {moment} bytes"
        assert running(), f"ended after {received()} bytes, before byte {moment}"
        time.sleep(0.005)


class Reply(NamedTuple):
    """What a reader has received on one connection, until its end."""

    header: bytes
    size: int
    digest: str


class PlainReader:
    """Reads one reply, and cannot resume: sockets only, nothing of the client is used.

    :param rate: bytes a second, at most.
    :ivar received: bytes of the body so far.
    """

    def __init__(self, address: tuple[str, int], rate: float) -> None:
        self.received = 0
        self._address = address
        self._rate = rate

    def read(self, command: bytes) -> Reply:
        """Send a command, and read until the connection is closed."""
        digest = hashlib.sha256()
        with socket.create_connection(self._address) as connection:
            connection.sendall(command)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb", 1 << 18) as file:
                header = file.readline()
                began = time.monotonic()
                while data := file.read(1 << 18):
                    digest.update(data)
                    self.received += len(data)
                    time.sleep(max(0, began + self.received / self._rate - time.monotonic()))
        return Reply(header, self.received, digest.hexdigest())


def make_file(path: Path, size: int) -> str:
    """Write a file whose blocks of 1 MiB all begin with other bytes; return its digest.

    The rest of a block is a hole, so that a large file needs little space.
    """
    digest = hashlib.sha256()
    step, written = 1 << 20, 1 << 16
    chance = random.Random(size)
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size, step):
            block = min(step, size - start)
            data = chance.randbytes(min(written, block))
            file.seek(start)
            file.write(data)
            digest.update(data + bytes(block - len(data)))
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Return the digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def get_command(address: tuple[str, int], rate: int, name: str, output: Path) -> list[str]:
    """Return the command that downloads a file without a retry of its own."""
    return [
        *(sys.executable, "-m", "natproxy", "get", "--server", f"{address[0]}:{address[1]}"),
        *("--retries=0", f"--limit-rate={rate}", "--progress=json", f"--output={output}", name),
    ]
