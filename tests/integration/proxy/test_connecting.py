"""Upstream connections: the fast connect, over real sockets, and endpoints."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from unittest import mock

import pytest_twisted
from twisted.internet import error, reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import Registered
from natproxy.proxy.endpoint import EndpointConnector, connector_for
from natproxy.proxy.failure import explain
from natproxy.proxy.resolution import AddressCache
from natproxy.proxy.tcp import TCPConnector
from natproxy.proxy.transport import UpstreamTransport
from tests.support.doubles import PlayedEndpoint
from tests.support.logged_errors import LoggedErrorsCase
from tests.support.loopback import (
    HOST,
    client_of,
    file_server,
    listening,
    proxy_to,
    unanswered_port,
)
from tests.support.resolver import PlayedResolver


class Recorder(ClientFactory):
    """Waits for a connection, or for the failure to make one."""

    noisy = False

    def __init__(self) -> None:
        self.ended: Deferred[object] = Deferred()
        self.calls = 0

    def buildProtocol(self, addr: object) -> Protocol:
        self.calls += 1
        self.address = addr
        protocol = Protocol()
        protocol.connectionMade = lambda: self.ended.callback(protocol)  # type: ignore[method-assign]
        return protocol

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self.calls += 1
        self.ended.callback([reason])


def connector(port: int, timeout: float = 5.0) -> TCPConnector:
    """Return a connector to a port of this host."""
    return TCPConnector(reactor, "127.0.0.1", port, timeout)


@pytest_twisted.ensureDeferred
async def test_listening_port_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        factory = Recorder()
        connector(port).connect(factory)
        protocol = await factory.ended
        accepted, peer = listener.accept()
        with accepted:
            assert factory.address == Address("127.0.0.1", port)
            assert protocol.transport.getHost() == IPv4Address("TCP", *peer)
            gone: Deferred[None] = Deferred()
            protocol.connectionLost = lambda _: gone.callback(None)
            protocol.transport.abortConnection()
            await gone


@pytest_twisted.ensureDeferred
async def test_refusal_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    factory = Recorder()
    connector(port).connect(factory)
    (reason,) = await factory.ended
    assert explain(reason, 5).message == "the server refuses connections"
    assert factory.calls == 1


@pytest_twisted.ensureDeferred
async def test_connections_of_a_pipeline_are_closed_as_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    commands, most = 200, 0

    def note(event: object) -> None:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    async with listening(file_server(tmp_path)) as upstream:
        proxy = proxy_to(upstream)
        proxy.table.subscribe(note, (Registered,))
        async with listening(proxy) as port, client_of(port) as client:
            before = len(os.listdir("/proc/self/fd"))
            client.send(b"DOWNLOAD a\n" * commands)
            reply = b"OK 3\nabc" * commands
            assert await client.takes(len(reply)) == reply
            transports = [type(reader) for reader in reactor.getReaders()]
            assert UpstreamTransport not in transports
    # A connection and the one before it, each with its other end in this process.
    assert most - before <= 10


class PendingTests(SynchronousTestCase):
    """An attempt to connect to a peer that does not respond, with a mock socket."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.reactor = mock.Mock(callLater=self.clock.callLater)
        self.factory = Recorder()
        self.sock = mock.MagicMock(spec=socket.socket)
        self.sock.connect_ex.side_effect = [errno.EINPROGRESS, errno.EALREADY]
        self.sock.fileno.return_value = 99
        self.sock.close.side_effect = self.closed
        self.sock.detach.side_effect = self.detached
        with mock.patch("natproxy.proxy.tcp.socket.SocketType", return_value=self.sock):
            self.cancel = TCPConnector(self.reactor, "192.0.2.1", 9, 5.0).connect(self.factory)
        (self.attempt,) = self.reactor.addWriter.call_args.args

    def closed(self) -> None:
        self.sock.fileno.return_value = -1

    def detached(self) -> int:
        self.closed()
        self.descriptor = os.open(os.devnull, os.O_RDONLY)
        return self.descriptor

    def assert_ended(self) -> None:
        self.reactor.removeWriter.assert_called_once_with(self.attempt)
        self.assertEqual(self.sock.fileno(), -1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_time_out(self) -> None:
        self.clock.advance(4.9)
        self.assertEqual(self.factory.calls, 0)
        self.clock.advance(0.1)
        (reason,) = self.successResultOf(self.factory.ended)
        self.assertEqual(
            explain(reason, 5.0).message, "the server did not accept a connection within 5 s"
        )
        self.assert_ended()

    def test_cancelled_attempt_calls_nothing(self) -> None:
        self.cancel()
        self.cancel()
        self.attempt.connectionLost(None)
        self.assertEqual(self.factory.calls, 0)
        # The reactor may still have an event of this descriptor in this turn.
        os.fstat(self.descriptor)
        self.clock.advance(0)
        with self.assertRaises(OSError):
            os.fstat(self.descriptor)
        self.assert_ended()

    def test_late_acceptance_is_a_connection(self) -> None:
        self.sock.getsockopt.return_value = 0
        self.sock.connect_ex.side_effect = [errno.EALREADY, 0]
        self.attempt.doWrite()
        self.reactor.addReader.assert_not_called()
        self.attempt.doWrite()
        protocol = self.successResultOf(self.factory.ended)
        assert isinstance(protocol, Protocol)
        self.reactor.addReader.assert_called_once_with(protocol.transport)
        self.reactor.removeWriter.assert_called_once_with(self.attempt)
        self.assertIs(protocol.transport.getHandle(), self.sock)
        self.assertEqual(self.sock.close.call_count, 0)

    def test_late_refusal_is_a_failure(self) -> None:
        self.sock.getsockopt.return_value = errno.ECONNREFUSED
        self.attempt.connectionLost(None)
        (reason,) = self.successResultOf(self.factory.ended)
        self.assertIsInstance(reason.value, error.ConnectionRefusedError)
        self.assert_ended()


class DescriptorTests(SynchronousTestCase):
    def test_missing_descriptor_is_reported_as_the_proxys(self) -> None:
        for code, words in (
            (errno.EMFILE, "the proxy has no free descriptor left"),
            (errno.ENFILE, "the proxy's system has no free descriptor left"),
        ):
            factory = Recorder()
            with mock.patch("natproxy.proxy.tcp.socket.SocketType", side_effect=OSError(code, "")):
                TCPConnector(mock.Mock(), "127.0.0.1", 9, 5.0).connect(factory)
            (reason,) = self.successResultOf(factory.ended)
            self.assertEqual(explain(reason, 5).message, words)


@pytest_twisted.ensureDeferred
async def test_every_address_of_a_name_is_tried() -> None:
    previous = reactor.installNameResolver(PlayedResolver("127.0.0.2", "127.0.0.1"))
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            description = f"tcp:files.example:{listener.getsockname()[1]}"
            endpoint = clientFromString(reactor, description)
            factory = Recorder()
            connector_for(description, endpoint, reactor, 5.0).connect(factory)
            protocol = await factory.ended
            assert protocol.transport.getPeer().host == "127.0.0.1"
            lost: Deferred[None] = Deferred()
            protocol.connectionLost = lambda _: lost.callback(None)
            protocol.transport.abortConnection()
            await lost
    finally:
        reactor.installNameResolver(previous)


class FailureAfterConnectingTests(LoggedErrorsCase):
    """What fails once the socket is connected: its descriptor is closed, whatever it was."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.reactor = mock.Mock(callLater=self.clock.callLater)
        self.factory = Recorder()

    def connect(self) -> None:
        """Connect, and check that the peer sees the end of the connection."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            TCPConnector(self.reactor, *listener.getsockname(), 5.0).connect(self.factory)
            self.clock.advance(0)
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(5.0)
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(accepted.recv(1), b"")

    def test_reactor_cannot_watch_it(self) -> None:
        self.reactor.addReader.side_effect = OSError(errno.ENOSPC, "full")
        self.connect()
        (reason,) = self.successResultOf(self.factory.ended)
        self.assertEqual(explain(reason, 5).message, "cannot connect to the server")

    def test_factory_fails(self) -> None:
        self.patch(self.factory, "buildProtocol", mock.Mock(side_effect=ZeroDivisionError))
        self.connect()
        (reason,) = self.successResultOf(self.factory.ended)
        self.assertIs(reason.type, ZeroDivisionError)

    def test_protocol_fails(self) -> None:
        protocol = Protocol()
        lost: list[Failure] = []
        self.patch(protocol, "connectionMade", mock.Mock(side_effect=ZeroDivisionError))
        self.patch(protocol, "connectionLost", lost.append)
        self.patch(self.factory, "buildProtocol", lambda _: protocol)
        self.connect()
        self.assertEqual([reason.type for reason in lost], [error.ConnectionAborted])
        self.assertEqual(self.flush(ZeroDivisionError), 1)


class ChoiceTests(SynchronousTestCase):
    def choice(self, description: str) -> object:
        endpoint = clientFromString(reactor, description)
        return connector_for(description, endpoint, reactor, 5.0)

    def test_fast_connect_is_for_plain_numeric_tcp(self) -> None:
        for description in ("tcp:127.0.0.1:9001", "tcp:host=10.0.0.1:port=80"):
            self.assertIsInstance(self.choice(description), TCPConnector)

    def test_everything_else_uses_its_endpoint(self) -> None:
        for description in (
            "tcp:files.example:9001",
            "tcp:127.0.0.1:9001:bindAddress=127.0.0.2",
            "tcp:300.1.1.1:9001",
            "unix:/run/files.sock",
        ):
            self.assertIsInstance(self.choice(description), EndpointConnector)

    def test_cancelled_attempt_of_an_endpoint_calls_nothing(self) -> None:
        clock, endpoint, factory = Clock(), PlayedEndpoint(), Recorder()
        cancel = EndpointConnector(endpoint, clock, 5.0).connect(factory)
        cancel()
        self.assertTrue(endpoint.last.cancelled)
        self.assertEqual((factory.calls, clock.getDelayedCalls()), (0, []))


class NamedCase:
    """A name with several addresses of this host, and a listener on the last one.

    :ivar connector: to the name.
    :ivar listener: of the last address.
    """

    def __init__(self, *hosts: str, port: int = 0, timeout: float = 5.0) -> None:
        self.listener = socket.create_server((hosts[-1], port))
        self.port: int = self.listener.getsockname()[1]
        self.names = AddressCache(lambda: PlayedResolver(*hosts), reactor.seconds)
        description = f"tcp:files.example:{self.port}"
        endpoint = clientFromString(reactor, description)
        self.connector = connector_for(description, endpoint, reactor, timeout, names=self.names)

    async def connected(self) -> tuple[str, type]:
        """Connect; return the address that is connected to, and the class of the transport."""
        factory = Recorder()
        self.connector.connect(factory)
        protocol = await factory.ended
        transport = protocol.transport
        lost: Deferred[None] = Deferred()
        protocol.connectionLost = lambda _: lost.callback(None)
        transport.abortConnection()
        await lost
        return transport.getPeer().host, type(transport)


@pytest_twisted.ensureDeferred
async def test_name_is_connected_to_by_the_fast_connect_when_its_addresses_are_known() -> None:
    case = NamedCase("127.0.0.1")
    with case.listener:
        host, first = await case.connected()
        assert (host, first is UpstreamTransport) == ("127.0.0.1", False)
        assert await case.connected() == ("127.0.0.1", UpstreamTransport)


@pytest_twisted.ensureDeferred
async def test_other_addresses_are_tried_if_the_first_one_refuses() -> None:
    case = NamedCase("127.0.0.2", "127.0.0.1")
    with case.listener:
        # Now the first one is preferred, though nothing listens there.
        await case.connected()
        case.names.prefer("files.example", case.port, "127.0.0.2")
        host, transport = await case.connected()
        assert (host, transport is UpstreamTransport) == ("127.0.0.1", False)
        assert await case.connected() == ("127.0.0.1", UpstreamTransport)


@pytest_twisted.ensureDeferred
async def test_other_addresses_are_tried_if_the_first_one_does_not_accept() -> None:
    with unanswered_port() as port:
        case = NamedCase(HOST, "127.0.0.2", port=port)
        with case.listener:
            await case.connected()
            case.names.prefer("files.example", port, HOST)
            host, _ = await case.connected()
            assert host == "127.0.0.2"


@pytest_twisted.ensureDeferred
async def test_named_attempt_is_cancelled() -> None:
    with unanswered_port() as port:
        for hosts in ([HOST], [HOST, "127.0.0.2"]):
            names = AddressCache(lambda hosts=hosts: PlayedResolver(*hosts), reactor.seconds)
            description = f"tcp:files.example:{port}"
            endpoint = clientFromString(reactor, description)
            connector = connector_for(description, endpoint, reactor, 0.05, names=names)
            for _ in range(2):
                # The first time, the addresses are not known yet.
                cancelled, failed = Recorder(), Recorder()
                connector.connect(cancelled)()
                # It ends later than the one that is cancelled would have.
                connector.connect(failed)
                await failed.ended
                assert (cancelled.calls, failed.calls) == (0, 1)


@pytest_twisted.ensureDeferred
async def test_name_of_which_no_address_accepts() -> None:
    for hosts in (["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]):
        case = NamedCase(*hosts)
        with case.listener:
            await case.connected()
        factory = Recorder()
        case.connector.connect(factory)
        (failure,) = await factory.ended
        assert explain(failure, 5.0).message == "the server refuses connections"
