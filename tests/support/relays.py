"""Both daemons on loopback; a test chooses the method by which bodies are moved."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.interfaces import IPullProducer
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import LogEvent, globalLogPublisher
from zope.interface import implementer

from natproxy.fileserver.factory import FileServerFactory
from natproxy.nat import NATEntry
from natproxy.proxy.factory import ProxyFactory
from natproxy.relay import FileJob, Method, Relay, Relays, SocketJob, SocketRelay
from natproxy.relay.copy import CopyRelay
from natproxy.relay.files import CopyingFileRelay
from natproxy.relay.sendfile import SendfileRelay
from natproxy.relay.splice import SpliceRelay
from natproxy.server.connection import CommandReceiver
from natproxy.server.factory import CommandFactory
from natproxy.storage import LocalStorage
from tests.support.files import open_descriptors
from tests.support.loopback import Peer, PlayedServer, client_of, eventually, listening, proxy_to

both_methods = pytest.mark.parametrize(
    "method",
    [
        Method.COPY,
        pytest.param(
            Method.KERNEL,
            marks=pytest.mark.skipif(not hasattr(os, "splice"), reason="no splice on this system"),
        ),
    ],
    ids=str,
)

KIB = 1024
MIB = 1024 * KIB

MADE = {
    Method.COPY: (CopyRelay, CopyingFileRelay),
    Method.KERNEL: (SpliceRelay, SendfileRelay),
}
"""The relays of each method: from a connection, and from a file."""


class RecordingRelays(Relays):
    """Records the relays that it makes.

    :ivar made: the relays of bodies with a size.
    """

    def __init__(self, method: Method, page_cache: Any = None) -> None:
        super().__init__(reactor, method, page_cache)
        self.made: list[Relay] = []

    def relay(self, job: SocketJob) -> SocketRelay:
        relay = super().relay(job)
        if job.size:
            self.made.append(relay)
        return relay

    def send(self, job: FileJob) -> Relay:
        relay = super().send(job)
        if job.size:
            self.made.append(relay)
        return relay


class Running:
    """One running daemon.

    :ivar events: what it has logged.
    """

    def __init__(self, factory: CommandFactory, port: int, relays: RecordingRelays) -> None:
        self.factory = factory
        self.port = port
        self.relays = relays
        self.events: list[LogEvent] = []

    def client(self) -> AbstractAsyncContextManager[Peer]:
        """Connect a client."""
        return client_of(self.port)

    @property
    def outcomes(self) -> list[str]:
        """The outcomes of all commands."""
        return [event["outcome"] for event in self.events if "outcome" in event]

    async def ended(self, *outcomes: str) -> None:
        """Wait until commands have had these outcomes; assert that there were no others."""
        await eventually(lambda: len(self.outcomes) >= len(outcomes), f"ended: {outcomes}")
        assert self.outcomes == list(outcomes)

    @property
    def serving(self) -> CommandReceiver:
        """The daemon's side of its one client."""
        (connection,) = self.factory.connections
        return connection

    def shrink_buffers(self, *peers: Peer) -> None:
        """Make the kernel buffer little between the daemon's one client and these peers."""
        self.serving.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
        for peer in peers:
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                peer.transport.getHandle().setsockopt(socket.SOL_SOCKET, buffer, 64 * KIB)

    async def stalled(self) -> None:
        """Wait until the outbound is paused and stays so."""
        calm = 0
        while calm < 3:
            await eventually(lambda: self.serving.outbound.paused, "paused")
            await pause(0.005)
            calm = calm + 1 if self.serving.outbound.paused else 0


class ReplyingServer(PlayedServer):
    """A server that can send one reply to every command.

    :ivar reply: the reply; ``None`` if the test sends it.
    """

    reply: bytes | None = None

    def buildProtocol(self, address: object) -> Peer:
        peer = super().buildProtocol(address)
        if self.reply is not None:
            peer.dataReceived = lambda data: peer.send(self.reply)
        return peer


class Relaying(Running):
    """A proxy in front of a `ReplyingServer`."""

    factory: ProxyFactory
    server: ReplyingServer

    async def send_command(self, client: Peer, command: bytes = b"DOWNLOAD a\n") -> Peer:
        """Send a command and return its upstream connection."""
        client.send(command)
        return await self.server.asked()

    @property
    def entry(self) -> NATEntry:
        """The table's one entry."""
        (entry,) = self.factory.table
        return entry


@asynccontextmanager
async def _running(running: Running, method: Method, all_by_method: bool) -> AsyncIterator[None]:
    globalLogPublisher.addObserver(running.events.append)
    try:
        async with listening(running.factory) as running.port:
            yield
    finally:
        globalLogPublisher.removeObserver(running.events.append)
        running.relays.close()
    if all_by_method:
        assert running.relays.made
        assert {type(relay) for relay in running.relays.made} <= set(MADE[method]), (
            running.relays.made
        )


@asynccontextmanager
async def relaying(
    method: Method,
    all_by_method: bool = True,
    relays: RecordingRelays | None = None,
    **options: Any,
) -> AsyncIterator[Relaying]:
    """Run a proxy; at the end, its table is empty and no descriptor is left open.

    :param all_by_method: whether every body with a size has to be moved by this method.
    """
    relays = relays or RecordingRelays(method)
    server = ReplyingServer()
    async with listening(server) as port:
        # The reactor keeps one descriptor open from the first time that it listens.
        before = open_descriptors()
        running = Relaying(proxy_to(port, relays=relays, **options), 0, relays)
        running.server = server
        # A probe would be a further connection to the upstream.
        running.factory.loops.several = sys.maxsize
        async with _running(running, method, all_by_method):
            yield running
        assert not list(running.factory.table)
        await eventually(lambda: open_descriptors() <= before, "all descriptors closed")


@asynccontextmanager
async def serving(
    method: Method,
    directory: Path,
    idle_timeout: float = 600.0,
    page_cache: Any = None,
    all_by_method: bool = True,
) -> AsyncIterator[Running]:
    """Run a file server; at the end, no descriptor is left open."""
    relays = RecordingRelays(method, page_cache)
    async with listening(PlayedServer()):
        # See above.
        before = open_descriptors()
        factory = FileServerFactory(
            reactor,
            LocalStorage(os.fspath(directory)),
            partial(deferToThreadPool, reactor, reactor.getThreadPool()),
            idle_timeout,
            relays,
        )
        running = Running(factory, 0, relays)
        async with _running(running, method, all_by_method):
            yield running
        await eventually(lambda: open_descriptors() <= before, "all descriptors closed")


@implementer(IPullProducer)
class Feeder:
    """Sends a body of any size from a peer, as fast as it is taken.

    :ivar fed: bytes sent so far.
    """

    PIECE = hashlib.sha512(b"natproxy").digest() * 1021

    def __init__(self, peer: Peer, size: int) -> None:
        self.fed = 0
        self._size = size
        self._peer = peer
        peer.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        piece = self.PIECE[: self._size - self.fed]
        self.fed += len(piece)
        self._peer.send(piece)
        if self.fed == self._size:
            self._peer.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The connection is lost."""

    @classmethod
    def body(cls, size: int) -> bytes:
        """Return a body of this size."""
        return (cls.PIECE * (size // len(cls.PIECE) + 1))[:size]

    async def stalled(self) -> None:
        """Wait until no more is taken."""
        before = -1
        while before < self.fed:
            before = self.fed
            await pause(0.06)


@contextmanager
def sipping(peer: Peer, seconds: float) -> Iterator[None]:
    """Make a peer pause after each piece that it reads."""
    take = peer.dataReceived
    active = True

    def sip(data: bytes) -> None:
        peer.stop_reading()
        reading_on = reactor.callLater(seconds, peer.read_on)
        take(data)
        # The test may be over by now.
        if not active:
            reading_on.cancel()

    peer.dataReceived = sip
    try:
        yield
    finally:
        peer.dataReceived = take
        active = False
        peer.read_on()


def pause(seconds: float) -> Any:
    """Return a Deferred that fires after some seconds."""
    return deferLater(reactor, seconds, lambda: None)


def digest(data: bytes) -> str:
    """Return a description of a body for the message of a failing test."""
    return f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()}"


def reply(body: bytes) -> bytes:
    """Return the whole reply with this body."""
    return b"OK %d\n" % len(body) + body


async def gets(client: Peer, expected: bytes) -> None:
    """Wait for exactly these bytes."""
    got, wanted = digest(await client.takes(len(expected))), digest(expected)
    assert got == wanted, f"{got}, not {wanted}"


def close(peer: Peer) -> None:
    peer.transport.loseConnection()


def reset(peer: Peer) -> None:
    peer.kill()


async def half_relayed(proxy: Relaying, client: Peer, body: bytes) -> Peer:
    """Start to relay a body and stop in the middle."""
    upstream = await proxy.send_command(client)
    upstream.send(reply(body)[: len(body) // 2])
    await client.until(lambda: client.count == len(body) // 2, "the first half")
    return upstream
