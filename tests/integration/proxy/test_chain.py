"""The whole chain, client to proxy to file server, in memory and in pieces of any size."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from itertools import count, cycle
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from natproxy.fileserver.factory import FileServerFactory
from natproxy.nat import Event
from natproxy.protocol import VERBS, parse_command
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.storage import LocalStorage
from tests.support.doubles import HalfClosingWire, Journal

FILES = {
    b"a": b"content of a",
    b"b c ": b"END\n",
    b"empty": b"",
    b"\xff\x01": b"OK 5\nERR\n",
    b"large": bytes(range(256)) * 800,
}
LISTING = b"OK\n" + b"".join(name + b"\n" for name in sorted(FILES)) + b"END\n"
BUFFER = 65_536


def expected_reply(line: bytes) -> bytes:
    """Return the reply to a command according to docs/protocol.md."""
    verb, *name = line.removesuffix(b"\r").split(None, 1) or [b""]
    if verb.upper() == b"LIST":
        return LISTING
    if verb.upper() == b"DOWNLOAD" and name:
        content = FILES.get(name[0])
        return b"ERR file not found\n" if content is None else b"OK %d\n" % len(content) + content
    return b"ERR unknown command\n" if verb else b""


class End(HalfClosingWire):
    """One end of a connection in memory: what is written waits until it is carried."""

    def __init__(self, host_port: int, peer_port: int) -> None:
        super().__init__(host_port, peer_port)
        self.waiting = b""
        self.full = False
        self.eof_sent = False
        self.over = False
        self.protocol: IProtocol
        self.other: End

    def write(self, data: bytes) -> None:
        if self.over or self.half_closed:
            return
        self.waiting += data
        if self.producer is not None and len(self.waiting) > BUFFER:
            self.full = True
            self.producer.pauseProducing()

    def end(self, error: Exception) -> None:
        if not self.over:
            self.over = True
            self.lose(self.protocol, error)

    def carry(self, size: int) -> bool:
        """Carry out the next pending action; return whether there was one."""
        if self.over:
            return False
        if self.aborted:
            self.end(ConnectionAborted())
            self.other.end(ConnectionLost())
        elif self.waiting:
            if self.other.over:
                self.waiting = b""
            elif self.other.read_from:
                size = max(size, len(self.waiting) // 20)
                piece, self.waiting = self.waiting[:size], self.waiting[size:]
                self.other.protocol.dataReceived(piece)
                if self.full and not self.waiting and self.producer is not None:
                    self.full = False
                    self.producer.resumeProducing()
            else:
                return False
        elif self.disconnecting:
            self.end(ConnectionDone())
            self.other.end(ConnectionDone())
        elif self.half_closed and not self.eof_sent and self.other.read_from:
            self.eof_sent = True
            self.protocol.writeConnectionLost()
            if IHalfCloseableProtocol.providedBy(self.other.protocol):
                self.other.protocol.readConnectionLost()
            else:
                self.other.end(ConnectionDone())
        else:
            return False
        return True


@implementer(IStreamClientEndpoint)
class Network:
    """Carries bytes between ends in pieces of certain sizes; connects to the file server."""

    def __init__(self, clock: Clock, sizes: Sequence[int]) -> None:
        self.clock = clock
        self.sizes = cycle(sizes)
        self.ports = count(50_000)
        self.ends: list[End] = []
        self.server: IProtocolFactory

    def link(self, near: IProtocolFactory, far: IProtocolFactory, ports: tuple[int, int]) -> End:
        """Build and connect two protocols, and return the near end."""
        ends = End(*ports), End(*reversed(ports))
        for end, other, factory in zip(ends, reversed(ends), (near, far), strict=True):
            end.other = other
            end.protocol = factory.buildProtocol(end.getPeer())
            self.ends.append(end)
        for end in reversed(ends):
            end.protocol.makeConnection(end)
        return ends[0]

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        end = self.link(factory, self.server, (next(self.ports), 9001))
        return succeed(end.protocol)

    def step(self) -> bool:
        """Carry something for each end; return whether anything was carried."""
        self.clock.advance(0)
        carried = [end.carry(next(self.sizes)) for end in list(self.ends)]
        self.ends = [end for end in self.ends if not (end.over and end.other.over)]
        return any(carried) or any(
            call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()
        )

    def run(self) -> None:
        """Carry until nothing is left to carry."""
        while self.step():
            pass


@implementer(IHalfCloseableProtocol)
class Client(Protocol):
    """Keeps what it receives; closes when the other side has."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: type[BaseException] | None = None

    def buildProtocol(self, _: object) -> Client:
        return self

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: everything has been sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason.type


def no_line_feed(least: int = 0) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=least, max_size=20).map(
        lambda some: some.replace(b"\n", b"").replace(b"\r", b"")
    )


def of_version_1(line: bytes) -> bool:
    """Return whether `expected_reply` covers a command."""
    command = parse_command(line)
    return command is None or not command.known or VERBS[command.verb].version == 1


names = st.sampled_from(sorted(FILES)) | no_line_feed()
lines = st.one_of(
    st.sampled_from((b"LIST", b"list", b" List ", b"", b" \t", b"DOWNLOAD", b"WHO")),
    st.builds(lambda gap, name: b"Download" + gap + name, st.sampled_from((b" ", b"\t ")), names),
    no_line_feed().filter(of_version_1),
).flatmap(lambda line: st.sampled_from((line, line + b"\r")))
piece_sizes = st.lists(st.integers(1, 40) | st.integers(1, 2 * BUFFER), min_size=1, max_size=7)


class ChainCase(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        for name, content in FILES.items():
            Path(os.fsdecode(os.fsencode(temporary.name) + b"/" + name)).write_bytes(content)
        self.directory = LocalStorage(temporary.name)
        self.journal = Journal(self)

    def build(self, sizes: Sequence[int]) -> None:
        """Make a new chain without clients."""
        self.journal.events.clear()
        self.clock = Clock()
        self.network = Network(self.clock, sizes)
        self.network.server = self.server = FileServerFactory(
            self.clock,
            self.directory,
            lambda function: deferLater(self.clock, 0, function),
            600.0,
        )
        self.proxy = ProxyFactory(self.clock, EndpointConnector(self.network, self.clock, 5.0))
        self.steps: list[tuple[type[Event], int]] = []
        self.proxy.table.subscribe(self.note)

    def note(self, event: Event) -> None:
        """After each step there are as many entries as open upstream connections."""
        self.steps.append((type(event), len(self.proxy.table)))
        upstream = [
            end
            for end in self.network.ends
            if end.getPeer().port == 9001 and not (end.over or end.aborted)
        ]
        self.assertEqual(len(self.proxy.table), len(upstream))

    def new_client(self, port: int, sent: bytes) -> Client:
        client = Client()
        end = self.network.link(client, self.proxy, (port, 9000))
        end.write(sent)
        return client

    def assert_nothing_is_left(self) -> None:
        self.assertEqual(len(self.proxy.table), 0)
        self.assertEqual(self.proxy.connections, set())
        self.assertEqual(self.server.connections, set())
        self.assertEqual(self.network.ends, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AnyCommandsTests(ChainCase):
    @settings(deadline=None, database=None)
    @given(st.lists(lines, max_size=8), piece_sizes)
    def test_exactly_the_replies_and_then_the_end(
        self, commands: list[bytes], sizes: list[int]
    ) -> None:
        self.build(sizes)
        client = self.new_client(40_000, b"".join(line + b"\n" for line in commands))
        client.transport.loseWriteConnection()
        self.network.run()
        self.assertEqual(client.received, b"".join(map(expected_reply, commands)))
        self.assertIs(client.ended, ConnectionDone)
        self.assert_nothing_is_left()
        self.assertLessEqual(max((size for _, size in self.steps), default=0), 1)
        replied = sum(1 for line in commands if expected_reply(line))
        # Each is logged once by the proxy, with a port, and once by the file server.
        self.assertEqual(len([e for e in self.journal.outcomes if "nat_port" in e]), replied)
        self.assertEqual(self.journal.ends, ["completed"] * 2 * replied)

    @settings(deadline=None, database=None)
    @given(st.lists(st.lists(lines, max_size=5), min_size=2, max_size=4), piece_sizes)
    def test_no_client_receives_the_reply_to_another(
        self, conversations: list[list[bytes]], sizes: list[int]
    ) -> None:
        self.build(sizes)
        clients = [
            self.new_client(40_000 + number, b"".join(line + b"\n" for line in commands))
            for number, commands in enumerate(conversations)
        ]
        for client in clients:
            client.transport.loseWriteConnection()
        self.network.run()
        for client, commands in zip(clients, conversations, strict=True):
            self.assertEqual(client.received, b"".join(map(expected_reply, commands)))
        self.assert_nothing_is_left()

    @settings(deadline=None, database=None)
    @given(st.lists(lines, min_size=1, max_size=5), st.integers(0, 60), st.booleans(), piece_sizes)
    def test_client_may_end_at_any_moment(
        self, commands: list[bytes], steps: int, reset: bool, sizes: list[int]
    ) -> None:
        self.build(sizes)
        client = self.new_client(40_000, b"".join(line + b"\n" for line in commands))
        for _ in range(steps):
            self.network.step()
        whole = b"".join(map(expected_reply, commands))
        self.assertEqual(client.received, whole[: len(client.received)])
        if reset:
            client.transport.abortConnection()
        else:
            client.transport.loseConnection()
        self.network.run()
        self.assert_nothing_is_left()

    @settings(deadline=None, database=None)
    @given(st.lists(lines, min_size=1, max_size=5), st.integers(0, 60), piece_sizes)
    def test_proxy_may_be_drained_at_any_moment(
        self, commands: list[bytes], steps: int, sizes: list[int]
    ) -> None:
        self.build(sizes)
        client = self.new_client(40_000, b"".join(line + b"\n" for line in commands))
        for _ in range(steps):
            self.network.step()
        drained = self.proxy.drain()
        self.network.run()
        self.clock.pump([1.0] * 3)
        self.network.run()
        self.successResultOf(drained)
        replies = [
            b"".join(map(expected_reply, commands[:count])) for count in range(len(commands) + 1)
        ]
        self.assertIn(client.received, replies)
        self.assertIs(client.ended, ConnectionDone)
        self.assertEqual(len(self.proxy.table), 0)
        self.assertEqual(self.server.connections, set())


class LongConversationTests(ChainCase):
    def test_three_hundred_commands_at_once(self) -> None:
        self.build([BUFFER])
        commands = [b"DOWNLOAD a", b"LIST", b"DOWNLOAD large", b"DOWNLOAD nothing"] * 75
        client = self.new_client(40_000, b"".join(line + b"\n" for line in commands))
        client.transport.loseWriteConnection()
        self.network.run()
        self.assertTrue(client.received == b"".join(map(expected_reply, commands)))
        self.assert_nothing_is_left()
        self.assertEqual(max(size for _, size in self.steps), 1)

    def test_carriage_return_at_the_end_of_a_name_is_not_lost_on_the_way(self) -> None:
        # One is stripped on each line; the proxy must not make the server strip another.
        self.build([1000])
        client = self.new_client(40_000, b"DOWNLOAD a\r\r\n")
        client.transport.loseWriteConnection()
        self.network.run()
        self.assertEqual(client.received, b"ERR file not found\n")

    def test_file_server_alone_sends_the_same_replies(self) -> None:
        commands = [b"LIST", b"DOWNLOAD a", b"", b"x", b"DOWNLOAD large", b"DOWNLOAD a\r\r"]
        self.build([1000])
        client = Client()
        self.network.link(client, self.server, (40_000, 9001)).write(b"\n".join(commands) + b"\n")
        client.transport.loseWriteConnection()
        self.network.run()
        self.assertTrue(client.received == b"".join(map(expected_reply, commands)))
        self.assert_nothing_is_left()
