"""Honest clients of a fleet, which log each command that they send: a program.

``python -m tests.support.fleet_client SETTINGS``, with a JSON object: ``clients`` (their
addresses), ``proxies``, ``names`` (of each client), ``log``, ``pace`` (seconds between two commands
of a client). It ends at SIGTERM. A line of the log is a JSON object, see `Sent`.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import sys
import threading
import time
from itertools import count
from typing import IO, Any, NamedTuple

from natproxy.protocol import VERBS, WireError, parse_header

PATIENCE = 4.0
"""Seconds that a client waits for a connection, or for more of a reply."""

COMMANDS = 40
"""Commands until a client goes to another proxy, as with DNS that names several."""

VERBS_SENT = ("GET", "DOWNLOAD", "STAT")


class Sent(NamedTuple):
    """A command that a client has sent.

    :ivar client: address and port of the client.
    :ivar sent: seconds since the epoch.
    :ivar ended: likewise, when the reply was complete, or broken off.
    :ivar status: ``completed``; ``error``, a complete reply with ``ERR``; ``broken``.
    :ivar text: the error, or why it is broken.
    """

    client: str
    port: int
    proxy: str
    verb: str
    name: str
    sent: float
    ended: float
    status: str
    text: str


class Client(threading.Thread):
    """One client, with an address of its own."""

    def __init__(self, host: str, settings: dict[str, Any], stop: threading.Event) -> None:
        super().__init__()
        self.log: list[Sent] = []
        self._host = host
        self._proxies: list[list[Any]] = settings["proxies"]
        self._names: list[str] = settings["names"][host]
        self._pace: float = settings["pace"]
        self._stop_event = stop
        self._random = random.Random(host)
        self._commands = count()

    def run(self) -> None:
        while not self._stop_event.is_set():
            proxy, port = self._random.choice(self._proxies)
            try:
                connection = socket.create_connection((proxy, port), PATIENCE, (self._host, 0))
            except OSError:
                self._stop_event.wait(self._pace)
                continue
            with connection, connection.makefile("rb") as replies:
                own = connection.getsockname()[1]
                for _ in range(COMMANDS):
                    if self._stop_event.wait(self._pace):
                        break
                    number = next(self._commands)
                    verb = self._random.choice(VERBS_SENT)
                    name = self._names[number % len(self._names)]
                    sent = time.time()
                    status, text = self._execute(connection, replies, verb, name)
                    self.log.append(
                        Sent(self._host, own, proxy, verb, name, sent, time.time(), status, text)
                    )
                    if status == "broken":
                        break

    def _execute(
        self, connection: socket.socket, replies: IO[bytes], verb: str, name: str
    ) -> tuple[str, str]:
        try:
            connection.sendall(f"{verb} {name}\n".encode())
            line = replies.readline()
            if not line.endswith(b"\n"):
                return "broken", "the connection was closed before the reply"
            header = parse_header(line[:-1], VERBS[verb.encode()].framing)
            if header.error is not None:
                return "error", header.error.decode()
            left = header.size
            while left:
                data = replies.read(min(left, 1 << 16))
                if not data:
                    return "broken", "the connection was closed within the reply"
                left -= len(data)
        except (OSError, WireError) as error:
            return "broken", str(error)
        return "completed", ""


def main() -> None:
    """Run the clients until SIGTERM, then write their log."""
    settings = json.loads(sys.argv[1])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    clients = [Client(host, settings, stop) for host in settings["clients"]]
    for client in clients:
        client.start()
    while not stop.is_set():
        # The handler runs in this thread.
        time.sleep(0.1)
    for client in clients:
        client.join()
    with open(settings["log"], "w") as file:
        for client in clients:
            file.writelines(json.dumps(one._asdict()) + "\n" for one in client.log)


if __name__ == "__main__":
    main()
