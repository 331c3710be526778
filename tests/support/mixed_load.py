"""Clients that send a mixed load through a proxy, each from an address of its own."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

SIZES = (0, 100, 4096, 70_000, 600_000)
"""Bytes of the files of a client's directory; the names are ``0``, ``1``, …"""


def address_of(number: int) -> str:
    """Return the loopback address that is the client's own."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def directory_of(number: int) -> str:
    """Return the directory that only this client reads: a name tells whose command it is."""
    return f"c{number}"


def client_of(name: str) -> str | None:
    """Return the address of the client that reads a file or directory, by its name."""
    directory = name.partition("/")[0]
    digits = directory.removeprefix("c")
    return address_of(int(digits)) if digits.isdigit() and digits != directory else None


def make_files(root: Path, clients: int) -> None:
    """Create the directory and the files of each client."""
    for number in range(clients):
        directory = root / directory_of(number)
        directory.mkdir(parents=True)
        for name, size in enumerate(SIZES):
            (directory / str(name)).write_bytes(b"x" * size)


class MixedLoad:
    """Clients in threads: listings, metadata, small and larger files, slow readers, resets.

    Use it as a context manager: at the end of the block all clients have ended.

    :param port: of the proxy.
    :param clients: their number.
    :param pause: seconds at most between two commands of a client.
    """

    def __init__(self, port: int, clients: int, pause: float = 0.05) -> None:
        self._port = port
        self._stopped = threading.Event()
        self._pause = pause
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> MixedLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(10)

    def _client(self, number: int) -> None:
        chance = random.Random(number)
        while not self._stopped.is_set():
            # The proxy may be killed, and started again.
            with suppress(OSError):
                self._session(number, chance)
            self._stopped.wait(self._pause)

    def _session(self, number: int, chance: random.Random) -> None:
        with socket.create_connection(
            ("127.0.0.1", self._port), 5, (address_of(number), 0)
        ) as connection:
            for _ in range(chance.randrange(1, 20)):
                if self._stopped.is_set():
                    return
                name = f"{directory_of(number)}/{chance.randrange(len(SIZES))}"
                kind = chance.random()
                if kind < 0.2:
                    connection.sendall(f"STAT {name}\n".encode())
                    connection.recv(65536)
                elif kind < 0.3:
                    connection.sendall(f"LS {directory_of(number)}\n".encode())
                    connection.recv(65536)
                elif kind < 0.35:
                    # It leaves inside the reply.
                    connection.sendall(f"GET {directory_of(number)}/4\n".encode())
                    connection.recv(10)
                    return
                else:
                    connection.sendall(f"DOWNLOAD {name}\n".encode())
                    self._read_body(connection, slowly=kind < 0.45)
                self._stopped.wait(chance.random() * self._pause)

    def _read_body(self, connection: socket.socket, slowly: bool) -> None:
        received = b""
        while b"\n" not in received:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError
            received += data
        header, _, body = received.partition(b"\n")
        left = int(header.split()[1]) - len(body) if header.startswith(b"OK") else 0
        while left > 0:
            data = connection.recv(min(left, 8192 if slowly else 1 << 20))
            if not data:
                raise ConnectionError
            left -= len(data)
            if slowly:
                time.sleep(0.005)
