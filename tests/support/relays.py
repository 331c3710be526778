"""Both daemons on loopback, the way that their bodies go chosen by the test and checked."""

from __future__ import annotations

import hashlib
import os
import socket
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

from natproxy.fileserver.protocol import FileServerFactory
from natproxy.nat import NATEntry
from natproxy.proxy.protocol import ProxyFactory
from natproxy.relay import Relays, Way
from natproxy.relay.copy import CopyRelay
from natproxy.relay.sendfile import CopyingFileRelay, SendfileRelay
from natproxy.relay.splice import SpliceRelay
from natproxy.server.connection import CommandReceiver
from natproxy.server.factory import CommandFactory
from natproxy.storage import Directory
from tests.support.loopback import Peer, PlayedServer, client_of, eventually, listening, proxy_to

both_ways = pytest.mark.parametrize(
    "way",
    [
        Way.COPY,
        pytest.param(
            Way.KERNEL,
            marks=pytest.mark.skipif(not hasattr(os, "splice"), reason="no splice on this system"),
        ),
    ],
    ids=str,
)

KIB = 1024
MIB = 1024 * KIB

MADE = {
    Way.COPY: (CopyRelay, CopyingFileRelay),
    Way.KERNEL: (SpliceRelay, SendfileRelay),
}
"""The relays of each way: from a connection, and from a file."""


class NotingRelays(Relays):
    """Notes the relays that it makes, and which command's they are.

    :ivar made: those of counted bodies.
    """

    def __init__(self, way: Way, warmth: Any = None) -> None:
        super().__init__(reactor, way, warmth)
        self.made: list[Any] = []

    def between(self, header: bytes, body: Any, size: int, *rest: Any) -> Any:
        relay = super().between(header, body, size, *rest)
        if size:
            self.made.append(relay)
        return relay

    def from_file(
        self, header: bytes, file: Any, size: int, outbound: Any, *rest: Any, device: int = 0
    ) -> Any:
        relay = super().from_file(header, file, size, outbound, *rest, device=device)
        if size:
            self.made.append(relay)
        return relay


class Running:
    """One daemon that runs.

    :ivar events: what it has logged.
    """

    def __init__(self, factory: CommandFactory, port: int, relays: NotingRelays) -> None:
        self.factory = factory
        self.port = port
        self.relays = relays
        self.events: list[LogEvent] = []

    def client(self) -> AbstractAsyncContextManager[Peer]:
        """Connect a client."""
        return client_of(self.port)

    @property
    def outcomes(self) -> list[str]:
        """How the commands have ended, in a word each."""
        return [event["outcome"] for event in self.events if "outcome" in event]

    async def ended(self, *outcomes: str) -> None:
        """Wait until commands have ended so, all of them and no other."""
        await eventually(lambda: len(self.outcomes) >= len(outcomes), f"ended: {outcomes}")
        assert self.outcomes == list(outcomes)

    @property
    def serving(self) -> CommandReceiver:
        """The daemon's side of its one client."""
        (connection,) = self.factory.connections
        return connection

    def shrink_buffers(self, *peers: Peer) -> None:
        """Let the kernel hold little between the daemon's one client and these peers."""
        self.serving.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
        for peer in peers:
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                peer.transport.getHandle().setsockopt(socket.SOL_SOCKET, buffer, 64 * KIB)

    async def stalled(self) -> None:
        """Wait until it is the client's turn to read, and stays so."""
        calm = 0
        while calm < 3:
            await eventually(lambda: self.serving.outbound.paused, "paused")
            await pause(0.005)
            calm = calm + 1 if self.serving.outbound.paused else 0


class AnsweringServer(PlayedServer):
    """A played server that can do without the test.

    :ivar answer: sent to whoever asks, unless the test is to send it.
    """

    answer: bytes | None = None

    def buildProtocol(self, address: object) -> Peer:
        peer = super().buildProtocol(address)
        if self.answer is not None:
            peer.dataReceived = lambda data: peer.send(self.answer)
        return peer


class Relaying(Running):
    """A proxy in front of a played server."""

    factory: ProxyFactory
    server: AnsweringServer

    async def ask(self, client: Peer, command: bytes = b"DOWNLOAD a\n") -> Peer:
        """Send a command and give the upstream connection that it has led to."""
        client.send(command)
        return await self.server.asked()

    @property
    def entry(self) -> NATEntry:
        """The table's one entry."""
        (entry,) = self.factory.table
        return entry


@asynccontextmanager
async def _running(running: Running, way: Way, all_this_way: bool) -> AsyncIterator[None]:
    globalLogPublisher.addObserver(running.events.append)
    try:
        async with listening(running.factory) as running.port:
            yield
    finally:
        globalLogPublisher.removeObserver(running.events.append)
        running.relays.close()
    if all_this_way:
        assert running.relays.made
        assert {type(relay) for relay in running.relays.made} <= set(MADE[way]), running.relays.made


@asynccontextmanager
async def relaying(
    way: Way, all_this_way: bool = True, relays: NotingRelays | None = None, **options: Any
) -> AsyncIterator[Relaying]:
    """Run a proxy; at the end, its table is empty and no descriptor is left.

    :param all_this_way: whether every counted body has to go this way.
    """
    relays = relays or NotingRelays(way)
    server = AnsweringServer()
    async with listening(server) as port:
        # The reactor keeps one descriptor from its first listening on.
        before = open_descriptors()
        running = Relaying(proxy_to(port, relays=relays, **options), 0, relays)
        running.server = server
        async with _running(running, way, all_this_way):
            yield running
        assert not list(running.factory.table)
        await eventually(lambda: open_descriptors() <= before, "all descriptors closed")


@asynccontextmanager
async def serving(
    way: Way,
    directory: Path,
    idle_timeout: float = 600.0,
    warmth: Any = None,
    all_this_way: bool = True,
) -> AsyncIterator[Running]:
    """Run a file server; at the end, no descriptor is left."""
    relays = NotingRelays(way, warmth)
    async with listening(PlayedServer()):
        # See above.
        before = open_descriptors()
        factory = FileServerFactory(
            reactor,
            Directory(os.fspath(directory)),
            partial(deferToThreadPool, reactor, reactor.getThreadPool()),
            idle_timeout,
            relays,
        )
        running = Running(factory, 0, relays)
        async with _running(running, way, all_this_way):
            yield running
        await eventually(lambda: open_descriptors() <= before, "all descriptors closed")


@implementer(IPullProducer)
class Feeder:
    """Sends a body of any size from a peer, as fast as it is taken.

    :ivar fed: bytes so far.
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
        """Give what is fed."""
        return (cls.PIECE * (size // len(cls.PIECE) + 1))[:size]

    async def stalled(self) -> None:
        """Wait until no more is taken."""
        before = -1
        while before < self.fed:
            before = self.fed
            await pause(0.06)


@contextmanager
def sipping(peer: Peer, seconds: float) -> Iterator[None]:
    """Have a peer wait for a while after each piece that it reads."""
    take = peer.dataReceived
    thirsty = True

    def sip(data: bytes) -> None:
        peer.stop_reading()
        reading_on = reactor.callLater(seconds, peer.read_on)
        take(data)
        # The test may be over by now.
        if not thirsty:
            reading_on.cancel()

    peer.dataReceived = sip
    try:
        yield
    finally:
        peer.dataReceived = take
        thirsty = False
        peer.read_on()


def open_descriptors() -> int:
    """Count the descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def pause(seconds: float) -> Any:
    """Let the reactor run for a while."""
    return deferLater(reactor, seconds, lambda: None)


def digest(data: bytes) -> str:
    """Make something of a body that a failing test can show."""
    return f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()}"


def reply(body: bytes) -> bytes:
    """Give the whole reply with this body."""
    return b"OK %d\n" % len(body) + body


async def gets(client: Peer, expected: bytes) -> None:
    """Wait for exactly these bytes."""
    got, wanted = digest(await client.takes(len(expected))), digest(expected)
    assert got == wanted, f"{got}, not {wanted}"
