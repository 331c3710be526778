"""What observers cost: the ring of events, a watcher of everything, watchers that do not read.

``python -m benchmarks.observing`` runs the proxy in front of the file server, sends short commands
in rounds, one arrangement after the other in each round, and prints the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Processes
from benchmarks.peers.ours import TWIST
from benchmarks.processes import HOST, Daemon, free_port, module

SIZE = 4096
CLIENTS = 8
WATCHERS = 50
ENTRIES = 10_000

FOLLOW = b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: natproxy\r\n\r\n"


def serve(port: int, origin: int, path: str, ring: bool, entries: int) -> None:
    """Run a proxy with a control socket, whose status has the longest turn."""
    from twisted.internet import endpoints
    from twisted.internet import reactor as installed

    from natproxy.address import Address
    from natproxy.control.interfaces import Observed
    from natproxy.control.json_resource import Context
    from natproxy.control.recent import RingHistory
    from natproxy.control.site import control_site
    from natproxy.control.table import LocalTable
    from natproxy.daemon.clock import use_monotonic_time
    from natproxy.nat import TranslationKey
    from natproxy.nat.ring import EventRing
    from natproxy.protocol import parse_command
    from natproxy.proxy.factory import ProxyFactory
    from natproxy.proxy.tcp import TCPConnector
    from natproxy.records.record import Origin

    reactor: Any = installed
    use_monotonic_time(reactor)
    factory = ProxyFactory(reactor, TCPConnector(reactor, HOST, origin, 10.0))
    factory.stop_logging()
    longest = 0.0
    run = reactor.runUntilCurrent

    def timed() -> None:
        nonlocal longest
        begun = time.perf_counter()
        run()
        longest = max(longest, time.perf_counter() - begun)

    reactor.runUntilCurrent = timed

    def status() -> dict[str, Any]:
        nonlocal longest
        found, longest = longest, 0.0
        return {"longest_turn": found}

    if ring:
        origin_of = Origin("proxy", 0, "benchmark")
        events = EventRing(factory.table, origin_of)
        table = LocalTable(factory.table, events, reactor.seconds)
        history = RingHistory(reactor, events, table)
        observed = Observed(
            "proxy", origin_of, status, lambda: None, reactor.stop, table, events, history
        )
        reactor.listenUNIX(path, control_site(Context(observed, reactor)))
    for number in range(entries):
        command = parse_command(b"GET directory/file-%d" % number)
        assert command is not None
        key = TranslationKey(Address("10.0.0.1", number + 1), Address("10.0.0.2", 9001))
        client: Any = object()
        address = Address("10.0.0.3", 40_000)
        factory.table.register(key, client, address, command, 0.0, lambda: None)
    endpoints.serverFromString(reactor, f"tcp:{port}:interface={HOST}").listen(factory)
    reactor.run()


class Proxy(Daemon):
    """The proxy of `serve`."""

    def __init__(self, origin: int, directory: Path, ring: bool, entries: int = 0) -> None:
        port = free_port()
        self.path = str(directory / f"{port}.sock")
        command = module("observing", "--serve", port, origin, self.path, int(ring), entries)
        super().__init__(command, port, directory / f"{port}.log")
        self.wait_until_ready()
        self.processes = Processes(self.pid)

    def send(self, total: int) -> float:
        """Send commands on several connections; return the CPU seconds of each."""
        before = self.processes.cpu_seconds()
        threads = [
            threading.Thread(target=send_commands, args=(self.port, total // CLIENTS))
            for _ in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (self.processes.cpu_seconds() - before) / total

    def get(self, target: str) -> bytes:
        """Return the body of a resource of its control socket."""
        connection = http.client.HTTPConnection("natproxy")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.path)
        connection.request("GET", target)
        return connection.getresponse().read()

    @contextlib.contextmanager
    def watched(self, number: int, reading: bool) -> Iterator[None]:
        """Connect watchers of everything."""
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                watcher = stack.enter_context(socket.socket(socket.AF_UNIX))
                watcher.connect(self.path)
                watcher.sendall(FOLLOW)
                if reading:
                    threading.Thread(target=discard, args=(watcher,), daemon=True).start()
            time.sleep(0.2)
            yield
            if reading:
                # The thread ends.
                watcher.shutdown(socket.SHUT_RDWR)


def send_commands(port: int, times: int) -> None:
    """Download the file on one connection."""
    with socket.create_connection((HOST, port)) as connection:
        for _ in range(times):
            connection.sendall(b"DOWNLOAD small\n")
            left = len(f"OK {SIZE}\n") + SIZE
            while left:
                left -= len(connection.recv(left))


def discard(watcher: socket.socket) -> None:
    """Read all that a watcher receives."""
    with contextlib.suppress(OSError):
        while watcher.recv(1 << 16):
            pass


def measure(rounds: int, total: int) -> None:
    """Print the cost of each arrangement."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (directory / "files").mkdir()
        (directory / "files" / "small").write_bytes(bytes(SIZE))
        origin = free_port()
        files = f"--files={directory / 'files'}"
        command = [*TWIST, "fileserver", f"--listen=tcp:{origin}:interface={HOST}", files]
        server = Daemon(command, origin, directory / "files.log")
        stack.callback(server.stop)
        server.wait_until_ready()
        plain, ringed = (Proxy(origin, directory, ring) for ring in (False, True))
        stack.callback(plain.stop)
        stack.callback(ringed.stop)
        costs: dict[str, list[float]] = {}
        # The ring is full afterwards, and its memory does not grow any more.
        ringed.send(30_000)
        before = ringed.processes.resident_bytes()
        with ringed.watched(WATCHERS, reading=False):
            ringed.send(10_000)
            grown = ringed.processes.resident_bytes() - before
        for number in range(rounds + 1):
            found = {"no ring": plain.send(total), "ring": ringed.send(total)}
            with ringed.watched(1, reading=True):
                found["one watcher of everything"] = ringed.send(total)
            with ringed.watched(WATCHERS, reading=False):
                ringed.send(total // 2)
                found[f"{WATCHERS} watchers that do not read"] = ringed.send(total)
            if number:
                for name, seconds in found.items():
                    costs.setdefault(name, []).append(seconds * 1e6)
        base = statistics.median(costs["ring"])
        print("CPU of the proxy for a command of 4 KiB, median:")
        for name, each in costs.items():
            cost = statistics.median(each)
            print(f"  {name:32} {cost:7.1f} µs  {cost - base:+6.1f} µs  {cost / base:.3f}-fold")
        print(f"memory of {WATCHERS} watchers that do not read: {grown / 2**20:+.2f} MiB")
        full = Proxy(origin, directory, ring=True, entries=ENTRIES)
        stack.callback(full.stop)
        full.get("/v1/status")
        for target in ("/v1/table", "/v1/table?filter=client+10.0.0.0/24+and+age+%3E+1s"):
            turns = []
            for _ in range(5):
                begun = time.monotonic()
                size = len(json.loads(full.get(target)))
                seconds = time.monotonic() - begun
                turns.append(json.loads(full.get("/v1/status"))["longest_turn"] * 1000)
            print(f"{target}: {size} entries in {seconds:.2f} s, longest turn {max(turns):.1f} ms")


def main() -> None:
    """Run the benchmark, or the proxy that it measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", type=int, default=8000)
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        port, origin, path, ring, entries = arguments.serve
        serve(int(port), int(origin), path, ring == "1", int(entries))
    else:
        measure(arguments.rounds, arguments.commands)


if __name__ == "__main__":
    sys.exit(main())
