"""A fleet in network namespaces: proxies, file servers, clients, and faults of all of them.

Clients and proxies are on the network ``front``, proxies and file servers on ``back``. Each proxy
has two addresses on ``back``, which its connections use in turn (``--source``).
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.support.namespaces import Link, Machine, Network
from tests.support.twistd import TWISTD, environment

PATIENCE = 60.0
"""Seconds that a start or an end may take; only a failing test needs them."""

FRONT, BACK = "10.81.0", "10.82.0"

NAMES = 100
"""Files of each client."""

SIZES = (0, 100, 4096, 700_000)
"""Bytes of the files, in turn."""


class Fault(NamedTuple):
    """What was done to the fleet.

    :ivar kind: ``kill`` or ``cut``.
    :ivar target: the process, or the link.
    :ivar began: seconds since the epoch.
    :ivar ended: when the process was started again, or the link was mended.
    """

    kind: str
    target: str
    began: float
    ended: float


class Process:
    """A process of a machine, which is killed and started again."""

    def __init__(self, machine: Machine, place: Path, name: str, command: list[str]) -> None:
        self.name = name
        self.command = command
        self._machine = machine
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def output(self) -> Path:
        return self._place / f"{self.name}.out"

    def start(self) -> None:
        self._starts += 1
        with self.output.open("ab") as output:
            self._process = self._machine.start(self.command, self._place, environment({}), output)

    def await_line(self, pattern: str) -> None:
        """Wait until each start has written a line."""
        deadline = time.monotonic() + PATIENCE
        while len(re.findall(pattern, self.output.read_text())) < self._starts:
            assert self._process is not None
            text = self.output.read_text()[-2000:]
            assert self._process.poll() is None, f"{self.name} has ended: {text}"
            assert time.monotonic() < deadline, f"{self.name}: no {pattern!r} in {text}"
            time.sleep(0.02)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)


class Fleet:
    """The machines, and what runs on them; all is stopped at the end of the block.

    :param place: a directory with a short path, for sockets.
    :param clients: their number; each has an address and files of its own.
    :ivar proxies: by their names, likewise `servers`.
    :ivar hosts: the addresses of the clients.
    :ivar faults: what was done so far.
    """

    def __init__(self, place: Path, clients: int, proxies: int = 3, servers: int = 2) -> None:
        self.place = place
        self.hosts = [f"{FRONT}.{100 + number}" for number in range(clients)]
        self.proxies: dict[str, Process] = {}
        self.servers: dict[str, Process] = {}
        self.links: list[Link] = []
        self.faults: list[Fault] = []
        self._counts = proxies, servers
        self._stack = ExitStack()

    def __enter__(self) -> Fleet:
        with ExitStack() as stack:
            self._network = stack.enter_context(Network())
            self._make_machines()
            self._make_files()
            stack.callback(self._kill_all)
            for process in self.processes:
                process.start()
            for process in self.processes:
                process.await_line("listens on")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def processes(self) -> list[Process]:
        """What may be killed."""
        return [*self.servers.values(), *self.proxies.values()]

    def _make_machines(self) -> None:
        proxies, servers = self._counts
        self._clients = self._network.machine("clients")
        self._network.join(self._clients, "front", *(f"{host}/24" for host in self.hosts))
        for number in range(1, servers + 1):
            name = f"files-{number}"
            machine = self._network.machine(name)
            host = server_host(number)
            self.links.append(self._network.join(machine, "back", f"{host}/24"))
            self.servers[name] = Process(machine, self.place, name, self._server(name, number))
        for number in range(1, proxies + 1):
            name = f"proxy-{number}"
            machine = self._network.machine(name)
            addresses = [f"{host}/24" for host in sources(number)]
            self.links.append(self._network.join(machine, "front", f"{proxy_host(number)}/24"))
            self.links.append(self._network.join(machine, "back", *addresses))
            self.proxies[name] = Process(machine, self.place, name, self._proxy(name, number))

    def _server(self, name: str, number: int) -> list[str]:
        # One of two learns the translation from the PROXY header, the other sees the ports.
        header = "haproxy:" if names_translations(number) else ""
        return [
            *(*TWISTD, "-n", "--pidfile=", "fileserver"),
            f"--name={name}",
            f"--listen={header}tcp:9001:interface={server_host(number)}",
            f"--files={self.place}/{name}.files",
            f"--access-log={self.place}/{name}.access",
            f"--control={self.place}/{name}.sock",
        ]

    def _proxy(self, name: str, number: int) -> list[str]:
        server = server_of(number, self._counts[1])
        return [
            *(*TWISTD, "-n", "--pidfile=", "natproxy"),
            f"--name={name}",
            f"--listen=tcp:9000:interface={proxy_host(number)}",
            f"--upstream=tcp:{server_host(server)}:9001",
            f"--upstream-proxy-protocol={str(names_translations(server)).lower()}",
            *(f"--source={host}" for host in sources(number)),
            f"--journal={self.place}/{name}.journal",
            f"--control={self.place}/{name}.sock",
            *("--connect-timeout=1", "--timeout=3", "--drain=5", "--max-clients-per-host=0"),
        ]

    def _make_files(self) -> None:
        """Make the same files for each file server."""
        for server in self.servers:
            for host in self.hosts:
                directory = self.place / f"{server}.files" / host
                directory.mkdir(parents=True)
                for number in range(NAMES):
                    with (directory / f"{number:03}").open("wb") as file:
                        file.truncate(SIZES[number % len(SIZES)])

    # The load.

    def start_clients(self, pace: float) -> Process:
        """Start all clients; see `tests.support.fleet_client`."""
        proxies = [[proxy_host(number), 9000] for number in range(1, self._counts[0] + 1)]
        settings = {
            "clients": self.hosts,
            "proxies": proxies,
            "names": {host: [f"{host}/{n:03}" for n in range(NAMES)] for host in self.hosts},
            "log": str(self.place / "clients.log"),
            "pace": pace,
        }
        module = "tests.support.fleet_client"
        command = [sys.executable, "-m", module, json.dumps(settings)]
        clients = Process(self._clients, self.place, "clients", command)
        clients.start()
        self._stack.callback(clients.kill)
        return clients

    # The faults.

    def break_until(self, end: float, chance: random.Random, log: Callable[[str], object]) -> None:
        """Kill processes and cut links at random, and undo it.

        :param end: seconds of the monotonic clock.
        :param log: called with a line for each fault.
        """
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.3, 2.0))
            if chance.random() < 0.5:
                process = chance.choice(self.processes)
                began = time.time()
                process.kill()
                time.sleep(chance.uniform(0.1, 1.0))
                process.start()
                process.await_line("listens on")
                fault = Fault("kill", process.name, began, time.time())
            else:
                link = chance.choice(self.links)
                began = time.time()
                link.cut()
                time.sleep(chance.uniform(0.2, 4.0))
                link.mend()
                fault = Fault("cut", link.name, began, time.time())
            self.faults.append(fault)
            log(f"{fault.kind} {fault.target}: {fault.ended - fault.began:.1f} s")

    def stop(self) -> None:
        """Stop the proxies, then the file servers, in order."""
        for process in [*self.proxies.values(), *self.servers.values()]:
            process.end()

    def _kill_all(self) -> None:
        for process in self.processes:
            process.kill()


def proxy_host(number: int) -> str:
    """Return the address at which clients reach a proxy."""
    return f"{FRONT}.{10 + number}"


def sources(number: int) -> tuple[str, str]:
    """Return the addresses from which a proxy connects to its file server."""
    return f"{BACK}.{10 + number}", f"{BACK}.{110 + number}"


def server_host(number: int) -> str:
    """Return the address of a file server."""
    return f"{BACK}.{20 + number}"


def server_of(proxy: int, servers: int) -> int:
    """Return the number of the file server of a proxy."""
    return (proxy - 1) % servers + 1


def names_translations(server: int) -> bool:
    """Return whether a file server receives PROXY headers."""
    return server % 2 == 0


def short_place() -> Path:
    """Return a new directory whose path leaves space for the name of a socket."""
    place = Path("/tmp") / f"fleet-{os.getpid()}"
    place.mkdir(mode=0o700)
    return place
