"""The transport of upstream connections: resets, writes and failures, with a mock socket."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from unittest import mock

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IPushProducer
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from natproxy.address import Address
from natproxy.proxy.transport import READ_SIZE, UpstreamTransport
from natproxy.relay.outbound import is_plain_tcp

RESET = mock.call(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


class Recorder(Protocol):
    """Records what the transport calls; `on_data` is called within ``dataReceived``."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: list[Failure] = []
        self.on_data = lambda: None

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        self.on_data()

    def connectionLost(self, reason: Failure = error.ConnectionDone) -> None:
        self.lost.append(reason)


@implementer(IPushProducer)
class Producer:
    stopped = False

    def pauseProducing(self) -> None:
        """Do nothing."""

    def resumeProducing(self) -> None:
        """Do nothing."""

    def stopProducing(self) -> None:
        self.stopped = True


class TransportCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.reactor = mock.Mock(callLater=self.clock.callLater)
        self.sock = mock.MagicMock(spec=socket.socket)
        self.sock.fileno.return_value = 99
        self.sock.close.side_effect = self.closed
        self.sock.send.side_effect = len
        self.sock.recv.return_value = b"data"
        self.sock.getsockname.return_value = ("127.0.0.1", 50_000)
        self.protocol = Recorder()
        self.transport = UpstreamTransport(
            self.sock, Address("127.0.0.1", 9001), self.protocol, self.reactor
        )
        self.reactor.addReader(self.transport)
        self.protocol.makeConnection(self.transport)

    def closed(self) -> None:
        self.sock.fileno.return_value = -1

    def assert_lost(self, kind: type[Exception]) -> None:
        """Check that the protocol was notified once, and the descriptor is closed and unwatched."""
        self.assertEqual([reason.type for reason in self.protocol.lost], [kind])
        self.assertEqual(self.sock.close.call_count, 1)
        self.reactor.removeReader.assert_called_with(self.transport)
        self.assertEqual(self.transport.fileno(), -1)

    def assert_reset(self) -> None:
        self.assertIn(RESET, self.sock.setsockopt.mock_calls)
        self.assert_lost(error.ConnectionAborted)


class AbortTests(TransportCase):
    def test_reset_within_a_read_takes_no_turn(self) -> None:
        def abort() -> None:
            self.transport.abortConnection()
            # The protocol is not called while it is being called.
            self.assertEqual((self.protocol.lost, self.sock.close.call_count), ([], 0))

        self.protocol.on_data = abort
        self.assertIsNone(self.transport.doRead())
        self.assert_reset()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reset_elsewhere_takes_a_turn(self) -> None:
        self.transport.abortConnection()
        # There may be an event of this descriptor: its number is not free yet.
        self.assertEqual((self.protocol.lost, self.sock.close.call_count), ([], 0))
        self.assertIsNone(self.transport.doRead())
        self.assertEqual(self.protocol.received, [])
        self.clock.advance(0)
        self.assert_reset()

    def test_reset_between_two_reads_takes_a_turn(self) -> None:
        self.transport.doRead()
        self.transport.abortConnection()
        self.assertEqual(self.sock.close.call_count, 0)
        self.clock.advance(0)
        self.assert_reset()

    def test_second_abort_has_no_effect(self) -> None:
        def abort() -> None:
            self.transport.abortConnection()
            self.transport.abortConnection()

        self.protocol.on_data = abort
        self.transport.doRead()
        self.transport.abortConnection()
        self.transport.loseConnection()
        self.clock.advance(0)
        self.assert_reset()

    def test_abort_with_bytes_to_be_sent_is_left_to_the_reactor(self) -> None:
        self.sock.send.side_effect = BlockingIOError
        self.transport.write(b"abc")
        self.protocol.on_data = self.transport.abortConnection
        reason = self.transport.doRead()
        assert isinstance(reason, error.ConnectionAborted)
        self.assertEqual(self.sock.close.call_count, 0)
        self.transport.connectionLost(Failure(reason))
        self.reactor.removeWriter.assert_called_with(self.transport)
        self.assert_reset()

    def test_abort_of_a_connection_that_is_closing_is_left_to_the_reactor(self) -> None:
        for close in (UpstreamTransport.loseConnection, UpstreamTransport.loseWriteConnection):
            self.setUp()

            def close_and_abort(close: Callable[[UpstreamTransport], None] = close) -> None:
                close(self.transport)
                self.transport.abortConnection()

            self.protocol.on_data = close_and_abort
            reason = self.transport.doRead()
            assert isinstance(reason, error.ConnectionAborted)
            self.transport.connectionLost(Failure(reason))
            self.reactor.removeWriter.assert_called_with(self.transport)
            self.assert_reset()

    def test_abort_stops_a_producer(self) -> None:
        producer = Producer()
        self.transport.registerProducer(producer, True)
        self.protocol.on_data = self.transport.abortConnection
        reason = self.transport.doRead()
        self.transport.connectionLost(Failure(reason))
        self.assertTrue(producer.stopped)
        self.assert_reset()

    def test_exception_after_an_abort_resets(self) -> None:
        def abort_and_fail() -> None:
            self.transport.abortConnection()
            raise ZeroDivisionError

        self.protocol.on_data = abort_and_fail
        self.assertRaises(ZeroDivisionError, self.transport.doRead)
        # What the reactor does with the exception.
        self.transport.connectionLost(Failure(ZeroDivisionError()))
        self.assert_reset()

    def test_descriptor_is_closed_if_it_cannot_be_reset(self) -> None:
        self.sock.setsockopt.side_effect = OSError(errno.EINVAL, "no")
        self.protocol.on_data = self.transport.abortConnection
        self.assertIsNone(self.transport.doRead())
        self.assert_lost(error.ConnectionAborted)


class EndTests(TransportCase):
    def test_reads_and_their_ends(self) -> None:
        self.assertIsNone(self.transport.doRead())
        self.sock.recv.assert_called_once_with(READ_SIZE)
        self.sock.recv.side_effect = BlockingIOError
        self.assertIsNone(self.transport.doRead())
        self.sock.recv.side_effect = ConnectionResetError
        self.assertIs(self.transport.doRead(), CONNECTION_LOST)
        self.sock.recv.side_effect = [b""]
        self.assertIs(self.transport.doRead(), CONNECTION_DONE)
        self.assertEqual(self.protocol.received, [b"data"])

    def test_end_is_reported_once(self) -> None:
        self.transport.connectionLost(Failure(CONNECTION_DONE))
        self.transport.connectionLost(Failure(CONNECTION_DONE))
        self.assertNotIn(RESET, self.sock.setsockopt.mock_calls)
        self.assert_lost(error.ConnectionDone)

    def test_nothing_is_sent_after_the_end(self) -> None:
        self.protocol.on_data = self.transport.abortConnection
        self.transport.doRead()
        self.transport.write(b"late")
        self.sock.send.assert_not_called()


class WriteTests(TransportCase):
    def test_write_goes_to_the_socket_at_once(self) -> None:
        self.transport.write(b"LIST\n")
        self.sock.send.assert_called_once_with(b"LIST\n")
        self.reactor.addWriter.assert_not_called()

    def test_what_the_socket_does_not_take_is_sent_later_and_in_order(self) -> None:
        self.sock.send.side_effect = lambda data: min(2, len(data))
        self.transport.write(b"abc")
        self.reactor.addWriter.assert_called_with(self.transport)
        self.transport.write(b"d")
        self.sock.send.side_effect = len
        self.transport.doWrite()
        self.assertEqual(
            [bytes(call.args[0]) for call in self.sock.send.mock_calls], [b"abc", b"cd"]
        )

    def test_error_of_a_write_is_left_to_the_reactor(self) -> None:
        self.sock.send.side_effect = BrokenPipeError(errno.EPIPE, "gone")
        self.transport.write(b"abc")
        self.assertIs(self.transport.doWrite(), CONNECTION_LOST)


class InterfaceTests(TransportCase):
    def test_addresses(self) -> None:
        self.assertEqual(self.transport.getHost(), IPv4Address("TCP", "127.0.0.1", 50_000))
        self.assertEqual(self.transport.local_address(), Address("127.0.0.1", 50_000))
        self.assertEqual(self.transport.getPeer(), IPv4Address("TCP", "127.0.0.1", 9001))

    def test_it_can_be_spliced_from(self) -> None:
        self.assertTrue(is_plain_tcp(self.transport))
        self.assertIs(self.transport.getHandle(), self.sock)
        self.assertEqual(self.transport.fileno(), 99)

    def test_reading_can_be_paused(self) -> None:
        self.transport.pauseProducing()
        self.reactor.removeReader.assert_called_once_with(self.transport)
        self.transport.resumeProducing()
        self.assertEqual(self.reactor.addReader.call_count, 2)
