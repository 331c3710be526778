"""Clients of a soak: honest ones, which check every byte, slow ones and floods. A program.

``python -m tests.support.soak_client SETTINGS``, with a JSON object, see `Settings`. It writes
``ready``, and ends at SIGTERM; a command that is sent is finished before. A line of its log is a
JSON object, see `Sent`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import signal
import socket
import sys
import threading
import time
import zlib
from typing import IO, NamedTuple

from natproxy.protocol import VERBS, Framing, WireError, parse_header

PATIENCE = 30.0
"""Seconds that a client waits for a connection, or for more of a reply."""

COMMANDS = 40
"""Commands of one connection, at most."""

NAMES = 20
"""Files of each client."""

SIZES = (0, 100, 4096, 200_000, 1_500_000)
"""Bytes of the files, in turn."""

SMALL = 4096
"""Bytes of a reply up to which its time is that of a short command."""

PIPELINED = 50
"""Commands that a flood sends at once."""

DAYS = 4
"""Floods in a day."""

_POOL = random.Random(14).randbytes(4 << 20)


class Settings(NamedTuple):
    """What the program does.

    :ivar honest: the addresses of honest clients; likewise `slow` and `floods`.
    :ivar proxy: its address and port.
    :ivar seconds: of a day.
    :ivar pace: seconds between two commands of an honest client at noon.
    """

    honest: list[str]
    slow: list[str]
    floods: list[str]
    proxy: tuple[str, int]
    seconds: float
    pace: float
    log: str


class Sent(NamedTuple):
    """A command that a client has sent, or all commands of one connection of a flood.

    :ivar role: ``honest``, ``slow`` or ``flood``.
    :ivar client: address and port of the client.
    :ivar sent: seconds since the epoch.
    :ivar ended: likewise, when the reply was complete, or broken off.
    :ivar status: ``completed``; ``error``, a complete reply with ``ERR``; ``broken``; ``left``, by
        the client; ``wrong``, a complete reply with other bytes than those of the file.
    :ivar text: the error, or why it is broken.
    :ivar size: bytes of the body.
    :ivar commands: sent at once.
    :ivar replies: to them.
    """

    role: str
    client: str
    port: int
    verb: str
    name: str
    sent: float
    ended: float
    status: str
    text: str = ""
    size: int = 0
    commands: int = 1
    replies: int = 0


def names_of(host: str) -> list[str]:
    """Return the names of a client's files: its address is their directory."""
    return [f"{host}/{number:03}" for number in range(NAMES)]


def content(name: str) -> bytes:
    """Return the content of a file: each has other bytes at the same offset."""
    size = SIZES[int(name[-3:]) % len(SIZES)]
    start = zlib.crc32(name.encode()) % (len(_POOL) - size)
    return _POOL[start : start + size]


def is_right(verb: str, whole: bytes, expected: bytes | None, line: str, body: bytes) -> bool:
    """Return whether a complete reply is that of a file.

    :param whole: the file's content.
    :param expected: the body; ``None`` if it is not a part of the file.
    :param line: the header.
    """
    if verb == "STAT":
        return f" size={len(whole)} " in line
    if verb == "HASH":
        return hashlib.sha256(whole).hexdigest() in line
    if verb == "LS":
        return body.count(b"\n") == NAMES
    return body == expected


class Client(threading.Thread):
    """One client, with an address of its own."""

    role = "honest"

    def __init__(self, host: str, settings: Settings, stop: threading.Event) -> None:
        super().__init__()
        self.log: list[Sent] = []
        self.host = host
        self.random = random.Random(host)
        self.names = names_of(host)
        self.settings = settings
        self.stop_event = stop
        self._began = time.monotonic()

    def run(self) -> None:
        """Send commands until the end."""
        while not self.stop_event.is_set():
            try:
                connection = socket.create_connection(
                    tuple(self.settings.proxy), PATIENCE, (self.host, 0)
                )
            except OSError:
                self.stop_event.wait(0.1)
                continue
            try:
                with connection, connection.makefile("rb") as replies:
                    self.use(connection, replies)
            except OSError:
                continue

    def use(self, connection: socket.socket, replies: IO[bytes]) -> None:
        """Send commands on a connection."""
        for _ in range(self.random.randint(1, COMMANDS)):
            if self.stop_event.wait(self.pause()) or not self.execute(connection, replies):
                return

    def pause(self) -> float:
        """Return the seconds until the next command: five times as long at midnight as at noon."""
        return self.settings.pace * self.random.uniform(0.0, 2.0) / (0.2 + 0.8 * self._light())

    def hour(self) -> float:
        """Return the hour of the day."""
        return (time.monotonic() - self._began) / self.settings.seconds * 24 % 24

    def _light(self) -> float:
        return math.sin(math.pi * self.hour() / 24) ** 2

    def execute(self, connection: socket.socket, replies: IO[bytes]) -> bool:
        """Execute a command; return whether the connection can be used further."""
        verb = self.random.choice(("GET", "GET", "RANGE", "DOWNLOAD", "STAT", "LS", "HASH"))
        name = self.random.choice(self.names)
        whole = content(name)
        expected: bytes | None = whole
        arguments = ""
        if verb == "RANGE":
            verb = "GET"
            offset = self.random.randint(0, len(whole))
            length = self.random.randint(1, SIZES[-1])
            arguments = f" offset={offset} length={length}"
            expected = whole[offset : offset + length]
        elif verb == "LS":
            name, expected = self.host, None
        elif verb in ("STAT", "HASH"):
            expected = None
        sent, port = time.time(), connection.getsockname()[1]
        status, text, body = self._exchange(connection, replies, verb, f"{name}{arguments}")
        if status == "completed" and not is_right(verb, whole, expected, text, body):
            status, text = "wrong", f"{arguments}: {text}, {len(body)} bytes"
        ended = time.time()
        self.log.append(
            Sent(self.role, self.host, port, verb, name, sent, ended, status, text, len(body))
        )
        return status not in ("broken", "left")

    def _exchange(
        self, connection: socket.socket, replies: IO[bytes], verb: str, rest: str
    ) -> tuple[str, str, bytes]:
        try:
            connection.sendall(f"{verb} {rest}\n".encode())
            line = replies.readline()
            if not line.endswith(b"\n"):
                return "broken", "the connection was closed before the reply", b""
            header = parse_header(line[:-1], VERBS[verb.encode()].framing)
            if header.error is not None:
                return "error", header.error.decode(), b""
            if header.framing is Framing.LISTING:
                return "wrong", "a listing", b""
            return self.receive(replies, line[:-1].decode(), header.size)
        except (OSError, WireError) as error:
            return "broken", str(error), b""

    def receive(self, replies: IO[bytes], line: str, size: int) -> tuple[str, str, bytes]:
        """Receive a body; return status, text and the body."""
        body = replies.read(size)
        if len(body) < size:
            return "broken", f"the connection was closed after {len(body)} of {size} bytes", body
        return "completed", line, body


class SlowClient(Client):
    """Reads little by little, and often leaves inside the reply."""

    role = "slow"

    def receive(self, replies: IO[bytes], line: str, size: int) -> tuple[str, str, bytes]:
        body = bytearray()
        leaves_after = self.random.uniform(0.0, 2.0) * size
        while len(body) < size:
            if self.stop_event.wait(0.2) or len(body) > leaves_after:
                return "left", line, bytes(body)
            data = replies.read(min(16_384, size - len(body)))
            if not data:
                return "broken", f"closed after {len(body)} of {size} bytes", bytes(body)
            body += data
        return "completed", line, bytes(body)


class Flood(Client):
    """Sends short commands many at a time, several times a day for a sixth of the time."""

    role = "flood"

    def use(self, connection: socket.socket, replies: IO[bytes]) -> None:
        while self.hour() % (24 / DAYS) > 24 / DAYS / 3:
            if self.stop_event.wait(0.05):
                return
        name = self.random.choice(self.names)
        sent, port = time.time(), connection.getsockname()[1]
        count = self.random.randint(1, PIPELINED)
        received = 0
        status, text = "left", ""
        try:
            connection.sendall(b"STAT %s\n" % name.encode() * count)
            for _ in range(self.random.randint(0, count)):
                line = replies.readline()
                if not line.endswith(b"\n"):
                    status, text = "broken", "the connection was closed"
                    break
                received += 1
        except OSError as error:
            status, text = "broken", str(error)
        self.log.append(
            Sent(
                *(self.role, self.host, port, "STAT", name, sent, time.time(), status, text),
                commands=count,
                replies=received,
            )
        )


def main() -> None:
    """Run the clients until SIGTERM, then write their log."""
    settings = Settings(**json.loads(sys.argv[1]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    roles = ((Client, settings.honest), (SlowClient, settings.slow), (Flood, settings.floods))
    clients = [kind(host, settings, stop) for kind, hosts in roles for host in hosts]
    for client in clients:
        client.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not stop.is_set():
        # The handler runs in this thread.
        time.sleep(0.1)
    for client in clients:
        client.join()
    with open(settings.log, "w") as file:
        for client in clients:
            file.writelines(json.dumps(one._asdict()) + "\n" for one in client.log)


if __name__ == "__main__":
    main()
