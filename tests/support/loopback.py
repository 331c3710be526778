"""Real sockets on loopback: daemons in this reactor or in processes of their own, and peers.

All of it is for tests under pytest-twisted. What a context manager opens is closed at the end of
its block, and nothing waits longer than `PATIENCE`.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.fileserver.factory import FileServerFactory
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.tcp import TCPConnector
from natproxy.server.factory import CommandFactory
from natproxy.storage import LocalStorage

HOST = "127.0.0.1"
PATIENCE = 10.0
"""Seconds that anything may take; only a failing test needs them."""


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds; it is checked every 2 ms."""
    for _ in range(int(PATIENCE / 0.002)):
        if condition():
            return
        await deferLater(reactor, 0.002, lambda: None)
    raise AssertionError(f"never: {what}")


@implementer(IHalfCloseableProtocol)
class Peer(Protocol):
    """One end of a connection, controlled by a test.

    :cvar keep: bytes that are stored.
    :ivar received: the bytes received, up to `keep`.
    :ivar count: bytes received, kept or not.
    :ivar ended: `None`, or the class of the reason: `ConnectionDone` or `ConnectionLost`.
    """

    keep = 1 << 30

    def __init__(self) -> None:
        self.received = bytearray()
        self.count = 0
        self.ended: type[BaseException] | None = None
        self.finished_sending = False
        self._waiting: list[tuple[Callable[[], object], Deferred[None]]] = []

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def finish_sending(self) -> None:
        """Half-close."""
        self.transport.loseWriteConnection()

    def stop_reading(self) -> None:
        self.transport.pauseProducing()

    def read_on(self) -> None:
        self.transport.resumeProducing()

    def kill(self) -> None:
        """Reset the connection, as the kernel does for a killed process with unread data."""
        self.transport.abortConnection()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds that only an event of this connection changes."""
        if not condition():
            changed: Deferred[None] = Deferred()
            self._waiting.append((condition, changed))
            try:
                await changed.addTimeout(PATIENCE, reactor)
            except Exception as error:
                got = bytes(self.received[:200])
                raise AssertionError(f"never: {what}; {self.count} bytes: {got!r}") from error

    async def takes(self, size: int) -> bytes:
        """Wait for a number of bytes, or for the end; return and drop what was received."""
        await self.until(lambda: len(self.received) >= size or self.ended, f"{size} bytes")
        taken, self.received = bytes(self.received), bytearray()
        return taken

    async def end(self) -> type[BaseException] | None:
        """Wait until the connection has ended, and return the class of the reason."""
        await self.until(lambda: self.ended, "the end of the connection")
        return self.ended

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        self.received += data[: max(0, self.keep - len(self.received))]
        self._changed()

    def readConnectionLost(self) -> None:
        self.finished_sending = True
        self._changed()
        self.peer_finished()

    def peer_finished(self) -> None:
        """Close the connection too, as most programs do."""
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """All has been sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason.type
        self._changed()

    def _changed(self) -> None:
        for waiting in [waiting for waiting in self._waiting if waiting[0]()]:
            self._waiting.remove(waiting)
            waiting[1].callback(None)


class PlayedServer(Factory):
    """A file server; the test controls each of its connections."""

    noisy = False

    def __init__(self) -> None:
        self.connections: list[Peer] = []
        self.taken = 0

    def buildProtocol(self, _: object) -> Peer:
        peer = Peer()
        self.connections.append(peer)
        return peer

    async def asked(self) -> Peer:
        """Wait for the next connection and the command on it; return the connection."""
        number, self.taken = self.taken, self.taken + 1
        await eventually(lambda: len(self.connections) > number, "a connection to the server")
        peer = self.connections[number]
        await peer.until(lambda: b"\n" in peer.received, "a command")
        return peer


async def all_ended(factory: Any) -> None:
    """End the connections that a factory has left."""
    if isinstance(factory, CommandFactory):
        factory.abort()
        await factory.drain()
    else:
        for peer in factory.connections:
            if peer.ended is None:
                peer.kill()
            await peer.end()


@asynccontextmanager
async def listening(factory: Any, interface: str = HOST) -> AsyncIterator[int]:
    """Listen with a factory, and return the port. Its connections end with the block."""
    port = reactor.listenTCP(0, factory, interface=interface)
    try:
        yield port.getHost().port
    finally:
        await maybeDeferred(port.stopListening)
        await all_ended(factory)


def file_server(directory: Path, idle_timeout: float = 600.0) -> FileServerFactory:
    """Return the factory of a file server for a directory."""
    in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    return FileServerFactory(reactor, LocalStorage(os.fspath(directory)), in_thread, idle_timeout)


def proxy_to(port: int, connect_timeout: float = 5.0, **options: Any) -> ProxyFactory:
    """Return the factory of a proxy in front of a port."""
    return ProxyFactory(reactor, TCPConnector(reactor, HOST, port, connect_timeout), **options)


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Peer]:
    """Connect a client; its connection is reset at the end of the block, if it is open."""
    peer = Peer()
    await connectProtocol(TCP4ClientEndpoint(reactor, HOST, port), peer)
    try:
        yield peer
    finally:
        if peer.ended is None:
            peer.kill()
        await peer.end()


@contextmanager
def unanswered_port() -> Any:
    """Return a port on which attempts to connect hang: the queue of the listener is full."""
    with socket.create_server((HOST, 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = []
        try:
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex((HOST, port))
            yield port
        finally:
            for one in waiting:
                one.close()


def free_port() -> int:
    """Return a port that refuses connections."""
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


def own_host(number: int) -> str:
    """Return an address of loopback that only this process uses.

    With a port that is not an ephemeral one, a listener can be closed and come back.
    """
    pid = os.getpid()
    return f"127.{64 + (pid >> 14) % 128}.{pid >> 6 & 255}.{(pid & 63) * 4 + number}"


class Daemon:
    """A ``twistd`` plugin in a process of its own.

    :ivar port: where it listens; the first one, if there are many.
    """

    def __init__(self, directory: Path, plugin: str, *options: str) -> None:
        self.log = directory / f"{plugin}.log"
        self.errors = directory / f"{plugin}.err"
        self.port = 0
        run = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                (
                    *(sys.executable, "-c", run, "-n", "--pidfile=", f"--logfile={self.log}"),
                    *(plugin, *options),
                ),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    async def start(self) -> None:
        """Wait until it listens."""
        await eventually(self._listens, f"{self.log.name}: listening")

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.errors.read_text()
        text = self.log.read_text() if self.log.exists() else ""
        found = re.search(r"starting on (\d+)", text)
        self.port = int(found[1]) if found else 0
        return bool(found)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def status(self) -> int:
        """Wait for its end, and return the exit status."""
        return await deferToThread(self.process.wait, PATIENCE)

    def resident(self) -> int:
        """Return its resident memory, in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def daemon(directory: Path, plugin: str, *options: str) -> AsyncIterator[Daemon]:
    """Run a plugin on a port of loopback; it is killed at the end of the block."""
    running = Daemon(directory, plugin, f"--listen=tcp:0:interface={HOST}", *options)
    try:
        await running.start()
        yield running
    finally:
        running.process.kill()
        await running.status()
