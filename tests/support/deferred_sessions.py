"""Deferred sessions with a server that a test plays, on a clock that it advances."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IConsumer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from natproxy.client import Interrupted
from natproxy.client.twisted import Session
from natproxy.protocol import FILE, Entry, Metadata, format_entry
from tests.support.doubles import PlayedEndpoint, Upstream

FEATURES = b"OK\nNATPROXY 2\nSTAT\nEND\n"
FACTS = b"mtime=7.000000000 etag=e"
METADATA = Metadata(FILE, 5, 7 * 10**9, "e")


def entry_line(name: bytes) -> bytes:
    return format_entry(Entry(name, METADATA))


def page_of(*names: bytes, more: bool = False) -> bytes:
    body = b"".join(map(entry_line, names)) + (b"more\n" if more else b"")
    return b"OK %d\n" % len(body) + body


class DeferredCase(SynchronousTestCase):
    """A session whose server the test plays; nothing may be left on the clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = PlayedEndpoint()
        self.client = self.new_client()

    def tearDown(self) -> None:
        closed = self.client.close()
        for connection in self.endpoint.connections:
            if connection.protocol is not None:
                self.lose(connection)
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def new_client(self, **options: Any) -> Session:
        options = {"timeout": 60.0, "server": "files:9000", **options}
        return Session(self.endpoint, self.clock, **options)

    def begin_listing(self) -> None:
        """Send a command that gets no reply while the test lasts."""
        self.client.list().addErrback(lambda failure: failure.trap(Interrupted) and None)

    def lose(self, connection: Upstream) -> None:
        """End a connection: by the reset of this side, or else by the server."""
        connection.die(ConnectionAborted() if connection.wire.aborted else None)
        connection.protocol = None

    def accept(self, of_version: int | None = 2) -> Upstream:
        """Accept the newest connection, and reply to its first command, ``FEAT``."""
        connection = self.endpoint.last
        connection.accept()
        if of_version is not None:
            self.assertEqual(connection.wire.taken(), b"FEAT\n")
            connection.send(FEATURES if of_version == 2 else b"ERR unknown command\n")
        return connection

    def play(self, *exchanges: tuple[bytes, bytes], of_version: int | None = 2) -> Upstream:
        """Accept a connection; expect commands on it, and send the reply to each."""
        connection = self.accept(of_version)
        for command, reply in exchanges:
            self.assertEqual(connection.wire.taken(), command)
            connection.send(reply)
        return connection

    def assert_fails(self, result: Deferred[Any], kind: type[Exception], text: str) -> None:
        error = self.failureResultOf(result).value
        self.assertIs(type(error), kind)
        self.assertEqual(str(error), text)


@implementer(IConsumer)
class RecordingConsumer:
    """A consumer that records the calls of its methods.

    :ivar got: the bytes that have been written.
    :ivar failing: raised by the next write.
    """

    def __init__(self) -> None:
        self.got = b""
        self.producer: Any = None
        self.registered: list[bool] = []
        self.unregistered = 0
        self.failing: Exception | None = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer
        self.registered.append(streaming)

    def unregisterProducer(self) -> None:
        self.unregistered += 1

    def write(self, data: bytes) -> None:
        if self.failing is not None:
            raise self.failing
        self.got += data
