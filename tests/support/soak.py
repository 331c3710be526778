"""A proxy in front of two file servers, over links with delay, rate and loss, and faults of all.

Clients, proxy and each file server are in namespaces of their own; both file servers serve one
directory. The links are `tests.support.wan`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from natproxy.client.control.daemon import Daemon
from natproxy.client.errors import ClientError
from tests.support.fleet import PATIENCE, Fault, Process
from tests.support.namespaces import Network, ip
from tests.support.soak_client import Settings, content, names_of
from tests.support.twistd import TWISTD
from tests.support.wan import Conditions, Wan

PROXY = "10.83.0.1"
PORT = 9000
HOSTS = "10.83.0.{}"
FLOODS, SLOW = 2, 3
SERVERS = 2

QUIET = 120.0
"""Seconds in which all connections must have ended after the last client: a cut link delays it."""


class Memory(NamedTuple):
    """Resident memory of one process.

    :ivar times: seconds of the monotonic clock.
    :ivar sizes: bytes.
    """

    name: str
    times: list[float]
    sizes: list[int]

    @property
    def growth(self) -> int:
        """Bytes between the medians of the second and of the last fifth."""
        fifth = max(1, len(self.sizes) // 5)
        return int(median(self.sizes[-fifth:]) - median(self.sizes[fifth : 2 * fifth]))


class Soak:
    """All that runs; all is stopped at the end of the block.

    :param place: a directory with a short path, for sockets.
    :param workers: of the proxy.
    :param honest: the number of honest clients.
    :param longest: seconds that a link is cut at most; other faults in proportion.
    :ivar faults: what was done so far.
    :ivar memories: by name and number of the process.
    """

    def __init__(self, place: Path, workers: int, honest: int, longest: float = 4.0) -> None:
        self.place = place
        self._longest = longest
        self.workers = workers
        self.honest = [HOSTS.format(10 + number) for number in range(honest)]
        self.slow = [HOSTS.format(200 + number) for number in range(SLOW)]
        self.floods = [HOSTS.format(220 + number) for number in range(FLOODS)]
        self.faults: list[Fault] = []
        self.memories: dict[tuple[str, int], Memory] = {}
        self.servers: dict[str, Process] = {}
        self.links: list[Wan] = []
        self._stack = ExitStack()
        self._sampling = threading.Event()

    def __enter__(self) -> Soak:
        with ExitStack() as stack:
            network = stack.enter_context(Network())
            self._make_files()
            self._make_machines(network, stack)
            for process in self.processes:
                process.start()
                stack.callback(process.kill)
            for process in self.processes:
                process.await_ready()
            sampler = threading.Thread(target=self._sample)
            sampler.start()
            stack.callback(sampler.join)
            stack.callback(self._sampling.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def processes(self) -> list[Process]:
        """The daemons."""
        return [*self.servers.values(), self.proxy]

    def _make_files(self) -> None:
        for host in (*self.honest, *self.slow, *self.floods):
            (self.place / "files" / host).mkdir(parents=True)
            for name in names_of(host):
                (self.place / "files" / name).write_bytes(content(name))

    def _make_machines(self, network: Network, stack: ExitStack) -> None:
        self._clients = network.machine("clients")
        proxy = network.machine("proxy")

        def join(name: str, machines: Sequence[object], *addresses: Sequence[str]) -> None:
            link = Wan(name, (machines[0], machines[1]))  # type: ignore[arg-type]
            stack.callback(link.close)
            self.links.append(link)
            for machine, own in zip(machines, addresses, strict=True):
                for address in own:
                    namespace = machine.namespace  # type: ignore[attr-defined]
                    ip("-n", namespace, "address", "add", f"{address}/24", "dev", name)

        join("front", (self._clients, proxy), (*self.honest, *self.slow, *self.floods), (PROXY,))
        for number in range(1, SERVERS + 1):
            machine = network.machine(f"files-{number}")
            join(f"back-{number}", (proxy, machine), (source(number),), (server_host(number),))
            name = f"files-{number}"
            self.servers[name] = Process(machine, self.place, name, self._server(number))
        self.proxy = Process(proxy, self.place, "proxy", self._proxy())

    def _server(self, number: int) -> list[str]:
        name = f"files-{number}"
        return [
            *(*TWISTD, "-n", "--pidfile=", "fileserver", f"--name={name}"),
            f"--listen=tcp:{PORT}:interface={server_host(number)}",
            *(f"--files={self.place}/files", f"--drain={self._longest / 2}"),
            *(f"--access-log={self.place}/{name}.access", f"--control={self.place}/{name}.sock"),
        ]

    def _proxy(self) -> list[str]:
        hosts = map(server_host, range(1, SERVERS + 1))
        return [
            *(*TWISTD, "-n", "--pidfile=", "natproxy", "--name=proxy"),
            f"--listen=tcp:{PORT}:interface={PROXY}",
            *(f"--upstream=tcp:{host}:{PORT}" for host in hosts),
            *(f"--journal={self.place}/journal", f"--control={self.place}/proxy.sock"),
            *(f"--workers={self.workers}", "--connect-timeout=1", "--timeout=3", "--drain=2"),
        ]

    # The load.

    def start_clients(self, name: str, seconds: float, pace: float) -> Process:
        """Start all clients; see `tests.support.soak_client`.

        :param name: of their log, without ``.log``.
        :param seconds: of their day.
        :param pace: seconds between two commands of an honest client at noon.
        """
        settings = Settings(
            self.honest,
            self.slow,
            self.floods,
            (PROXY, PORT),
            seconds,
            pace,
            str(self.place / f"{name}.log"),
        )
        command = [sys.executable, "-m", "tests.support.soak_client"]
        command.append(json.dumps(settings._asdict()))
        clients = Process(self._clients, self.place, name, command, "ready")
        clients.start()
        clients.await_ready()
        self._stack.callback(clients.kill)
        return clients

    # The faults.

    def break_until(
        self,
        end: float,
        chance: random.Random,
        log: Callable[[str], object],
        *,
        proxy: bool = False,
    ) -> None:
        """Kill, restart, cut, and make links worse, at random, one after the other.

        :param end: seconds of the monotonic clock.
        :param log: called with a line for each fault.
        :param proxy: whether the proxy is killed as well.
        """
        kinds: list[Callable[[random.Random], tuple[str, str]]] = [
            self._kill_server,
            self._restart_server,
            self._cut,
            self._worsen,
        ]
        if self.workers > 1:
            kinds.append(self._kill_worker)
        kinds.append(self._kill_proxy if proxy else self._reload)
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.1, 1.5 * self._longest))
            began = time.time()
            kind, target = chance.choice(kinds)(chance)
            fault = Fault(kind, target, began, time.time())
            self.faults.append(fault)
            log(f"{began:.3f} {kind} {target}: {fault.ended - began:.1f} s")

    def _kill_server(self, chance: random.Random) -> tuple[str, str]:
        server = chance.choice(list(self.servers.values()))
        server.kill()
        self._return(server, chance)
        return "kill", server.name

    def _restart_server(self, chance: random.Random) -> tuple[str, str]:
        server = chance.choice(list(self.servers.values()))
        server.end(signal.SIGTERM)
        self._return(server, chance)
        return "stop", server.name

    def _kill_proxy(self, chance: random.Random) -> tuple[str, str]:
        number = chance.choice((signal.SIGKILL, signal.SIGTERM))
        self.proxy.end(number)
        self._return(self.proxy, chance)
        return "kill" if number == signal.SIGKILL else "stop", "proxy"

    def _return(self, process: Process, chance: random.Random) -> None:
        time.sleep(chance.uniform(0.1, self._longest / 2))
        process.start()
        process.await_ready()

    def _kill_worker(self, chance: random.Random) -> tuple[str, str]:
        os.kill(chance.choice(self.workers_of(self.proxy)), signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while len(self.workers_of(self.proxy)) < self.workers:
            assert time.monotonic() < deadline, "the worker is not replaced"
            time.sleep(0.05)
        return "kill", "worker"

    def _reload(self, chance: random.Random) -> tuple[str, str]:
        os.kill(pid_of(self.proxy), signal.SIGHUP)
        return "reload", "proxy"

    def _cut(self, chance: random.Random) -> tuple[str, str]:
        return "cut", self._change(chance, Conditions(cut=True), self._longest)

    def _worsen(self, chance: random.Random) -> tuple[str, str]:
        worse = Conditions(
            delay=chance.uniform(0.001, 0.05),
            rate=chance.uniform(1e6, 2e7),
            loss=chance.choice((0.0, 0.001, 0.02)),
        )
        return "worsen", self._change(chance, worse, 2 * self._longest)

    def _change(self, chance: random.Random, conditions: Conditions, most: float) -> str:
        link = chance.choice(self.links)
        usual = link.conditions
        link.change(conditions)
        time.sleep(chance.uniform(0.2, most))
        link.change(usual)
        return link.name

    # What is measured.

    def workers_of(self, process: Process) -> list[int]:
        """Return the processes that a process has started."""
        pid = pid_of(process)
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def pids(self) -> dict[str, list[int]]:
        """Return the processes that run now, by the names of the daemons."""
        found = {name: [pid_of(process)] for name, process in self.servers.items()}
        found["proxy"] = [pid_of(self.proxy)]
        if self.workers > 1:
            found["worker"] = self.workers_of(self.proxy)
        return found

    def descriptors(self) -> dict[str, list[Counter[str]]]:
        """Return the descriptors of each process, counted by kind."""
        return {
            name: sorted(map(kinds_of, pids), key=lambda kinds: sorted(kinds.items()))
            for name, pids in self.pids().items()
        }

    def stale_rows(self) -> int:
        """Return the number of translations that exist now."""
        daemon = Daemon(str(self.place / "proxy.sock"))
        return sum(1 for _ in daemon.table())

    def await_quiet(self) -> dict[str, list[Counter[str]]]:
        """Wait until no connection is left, and return the descriptors."""
        deadline = time.monotonic() + QUIET
        while True:
            with suppress(ClientError, OSError):
                if not self.stale_rows() + self._clients_left():
                    # The connections of these queries end as well.
                    time.sleep(0.5)
                    return self.descriptors()
            assert time.monotonic() < deadline, f"connections are left: {self.descriptors()}"
            time.sleep(0.2)

    def _clients_left(self) -> int:
        return sum(
            Daemon(str(self.place / f"{name}.sock")).status()["clients"]
            for name in ("proxy", *self.servers)
        )

    def _sample(self) -> None:
        while not self._sampling.wait(0.5):
            # A process that is killed now has no memory.
            with suppress(OSError, ValueError, IndexError):
                for name, pids in self.pids().items():
                    for pid in pids:
                        if not (size := resident(pid)):
                            continue
                        memory = self.memories.setdefault((name, pid), Memory(name, [], []))
                        memory.times.append(time.monotonic())
                        memory.sizes.append(size)


def source(number: int) -> str:
    """Return the address from which the proxy connects to a file server."""
    return f"10.84.{number}.1"


def server_host(number: int) -> str:
    """Return the address of a file server."""
    return f"10.84.{number}.2"


def pid_of(process: Process) -> int:
    """Return the number of the process that runs now."""
    assert process.process is not None
    return process.process.pid


def kinds_of(pid: int) -> Counter[str]:
    """Return the descriptors of a process: ``socket``, ``pipe``, ``journal``, ``file`` and more."""
    kinds: Counter[str] = Counter()
    directory = f"/proc/{pid}/fd"
    for descriptor in os.listdir(directory):
        with suppress(OSError):
            path = os.readlink(f"{directory}/{descriptor}")
            if path.startswith("/"):
                kinds["journal" if "/journal/" in path else "file"] += 1
            else:
                kinds[path.partition(":")[0]] += 1
    return kinds


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def longest_lives(memories: dict[tuple[str, int], Memory]) -> dict[str, Memory]:
    """Return the process of each daemon with the most samples."""
    found: dict[str, list[Memory]] = defaultdict(list)
    for memory in memories.values():
        found[memory.name].append(memory)
    return {name: max(each, key=lambda one: len(one.sizes)) for name, each in found.items()}
