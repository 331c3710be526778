"""Deferred sessions: its connections, from the first attempt to the end."""

from __future__ import annotations

import errno
import socket

from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost, DNSLookupError
from twisted.internet.interfaces import IProtocol

from natproxy.client import CannotConnect, ConnectionBroken, Interrupted
from natproxy.client.errors import ClosedWithoutReply
from natproxy.client.twisted import Session
from tests.support.deferred_sessions import DeferredCase

EMPTY = b"OK\nEND\n"


class ConnectingTests(DeferredCase):
    def test_messages_are_those_of_the_blocking_client(self) -> None:
        for reason, words in (
            (error.ConnectionRefusedError(errno.ECONNREFUSED), "Connection refused"),
            (error.ConnectError(errno.ENOENT, "x"), "No such file or directory"),
            (error.TCPTimedOutError(errno.ETIMEDOUT), "no reply in time"),
            (DNSLookupError("no results for hostname lookup: x"), "the name cannot be resolved"),
            (ValueError("invalid hostname: x"), "bad host name"),
            (socket.gaierror(-2, "not known"), "not known"),
            (RuntimeError("out\nof order."), "out of order"),
        ):
            names = self.client.list()
            self.endpoint.last.refuse(reason)
            self.assert_fails(names, CannotConnect, f"cannot connect to files:9000: {words}")

    def test_server_that_does_not_reply(self) -> None:
        for options, seconds in (
            ({}, 10),
            ({"timeout": 5.0}, 5),
            ({"timeout": 5.0, "connect_timeout": 20.0}, 20),
        ):
            self.client = self.new_client(**options)
            connected = self.client.connect()
            self.clock.advance(seconds - 1)
            self.assertNoResult(connected)
            self.clock.advance(1)
            text = "cannot connect to files:9000: no reply in time"
            self.assert_fails(connected, CannotConnect, text)
            self.assertTrue(self.endpoint.last.cancelled)

    def test_connection_that_was_made_is_used(self) -> None:
        connected = self.client.connect()
        self.accept(of_version=None)
        self.successResultOf(connected)
        self.successResultOf(self.client.connect())
        self.begin_listing()
        self.assertEqual(self.endpoint.last.wire.taken(), b"LIST\n")
        self.assertEqual(len(self.endpoint.connections), 1)

    def test_attempt_is_cancelled(self) -> None:
        names = self.client.list()
        names.cancel()
        self.failureResultOf(names, CancelledError)
        self.assertTrue(self.endpoint.last.cancelled)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_error_of_a_cancelled_endpoint_is_ignored(self) -> None:
        # HostnameEndpoint fails with DNSLookupError if that happens early.
        attempt: Deferred[IProtocol] = Deferred(lambda own: own.errback(DNSLookupError("x")))
        self.endpoint.connect = lambda _: attempt
        names = self.client.list()
        names.cancel()
        self.failureResultOf(names, CancelledError)

    def test_connection_that_comes_too_late_is_closed(self) -> None:
        names = self.client.list()
        self.successResultOf(self.client.close())
        self.failureResultOf(names, Interrupted)
        late = self.endpoint.last
        late.protocol = late.factory.buildProtocol(None)
        late.protocol.makeConnection(late.wire)
        self.assertTrue(late.wire.disconnecting)


class ReuseTests(DeferredCase):
    def list_on(self, number: int) -> None:
        """Check that a listing uses the connection of this number."""
        names = self.client.list()
        self.assertEqual(len(self.endpoint.connections), number)
        connection = self.endpoint.last
        if connection.protocol is None:
            connection.accept()
        self.assertEqual(connection.wire.taken(), b"LIST\n")
        connection.send(EMPTY)
        self.successResultOf(names)

    def test_one_connection_serves_many_commands(self) -> None:
        for _ in range(3):
            self.list_on(1)

    def test_connection_that_the_server_closes_is_forgotten(self) -> None:
        self.list_on(1)
        self.lose(self.endpoint.last)
        self.list_on(2)

    def test_command_on_a_connection_that_was_closed_meanwhile_is_repeated(self) -> None:
        for ending in (None, ConnectionLost()):
            self.client = self.new_client()
            names = self.client.list()
            old = self.play((b"LIST\n", EMPTY), of_version=None)
            self.successResultOf(names)
            names = self.client.list()
            self.assertEqual(old.wire.taken(), b"LIST\n")
            old.die(ending)
            self.play((b"LIST\n", b"OK\na\nEND\n"), of_version=None)
            self.assertEqual(self.successResultOf(names), [b"a"])

    def test_it_is_repeated_once(self) -> None:
        self.list_on(1)
        names = self.client.list()
        self.lose(self.endpoint.last)
        self.lose(self.accept(of_version=None))
        error = self.failureResultOf(names, ConnectionBroken).value
        self.assertEqual(str(error), "files:9000 closed the connection without a reply")
        self.assertEqual(len(self.endpoint.connections), 2)

    def test_it_is_not_repeated_when_some_of_the_reply_has_come(self) -> None:
        self.list_on(1)
        names = self.client.list()
        self.endpoint.last.send(b"O")
        self.lose(self.endpoint.last)
        text = "files:9000 closed the connection without a reply"
        self.assert_fails(names, ClosedWithoutReply, text)
        self.assertEqual(len(self.endpoint.connections), 1)

    def test_it_is_repeated_after_silence_too(self) -> None:
        self.list_on(1)
        names = self.client.list()
        self.clock.advance(60)
        self.assertTrue(self.endpoint.connections[0].wire.aborted)
        self.play((b"LIST\n", b"OK\na\nEND\n"), of_version=None)
        self.assertEqual(self.successResultOf(names), [b"a"])

    def test_it_is_not_repeated_on_a_new_connection(self) -> None:
        names = self.client.list()
        connection = self.accept(of_version=None)
        connection.die(ConnectionLost())
        error = self.failureResultOf(names, ConnectionBroken).value
        self.assertEqual(str(error), "connection to files:9000 lost")

    def test_message_has_the_reason_of_the_transport(self) -> None:
        names = self.client.list()
        connection = self.accept(of_version=None)
        connection.send(b"OK\n")
        connection.die(ValueError("bad\nrecord"))
        text = "connection to files:9000 lost: bad record"
        self.assert_fails(names, ConnectionBroken, text)

    def test_transport_that_never_worked_is_no_connection(self) -> None:
        # TLS: the handshake follows the connect. Its failure leaves the version unknown.
        for ask in (self.client.list, self.client.version):
            result = ask()
            self.accept(of_version=None).die(ValueError("certificate has\nexpired"))
            text = "cannot connect to files:9000: certificate has expired"
            self.assert_fails(result, CannotConnect, text)

    def test_connection_that_has_been_idle_for_long_is_not_used(self) -> None:
        self.list_on(1)
        self.clock.advance(30)
        self.list_on(1)
        self.clock.advance(31)
        self.list_on(2)
        self.assertTrue(self.endpoint.connections[0].wire.disconnecting)
        self.clock.advance(31)
        connected = self.client.connect()
        self.accept(of_version=None)
        self.successResultOf(connected)
        self.assertEqual(len(self.endpoint.connections), 3)

    def test_connection_that_was_made_long_ago_is_not_used(self) -> None:
        connected = self.client.connect()
        self.accept(of_version=None)
        self.successResultOf(connected)
        self.clock.advance(31)
        self.list_on(2)

    def test_keepalive_is_enabled(self) -> None:
        names = self.client.list()
        connection = self.endpoint.last
        kept_alive: list[bool] = []
        with socket.socket() as handle:
            connection.wire.setTcpKeepAlive = kept_alive.append
            connection.wire.getHandle = lambda: handle
            connection.accept()
            self.assertEqual(kept_alive, [True])
            idle = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            self.assertEqual(idle, 60)
        connection.send(EMPTY)
        self.successResultOf(names)

    def test_surplus_bytes_close_the_connection(self) -> None:
        names = self.client.list()
        connection = self.play((b"LIST\n", EMPTY + b"OK"), of_version=None)
        self.assertEqual(self.successResultOf(names), [])
        self.assertTrue(connection.wire.aborted)
        self.lose(connection)
        self.list_on(2)

    def test_bytes_without_a_command_close_the_connection(self) -> None:
        self.list_on(1)
        self.endpoint.last.send(b"OK\n")
        self.assertTrue(self.endpoint.last.wire.aborted)


class SilenceTests(DeferredCase):
    def test_each_piece_starts_the_count_again(self) -> None:
        names = self.client.list()
        connection = self.accept(of_version=None)
        for piece in (b"OK\n", b"a\n", b"b\n"):
            self.clock.advance(59)
            connection.send(piece)
        self.assertNoResult(names)
        self.clock.advance(60)
        self.assert_fails(names, ConnectionBroken, "files:9000 was silent for 60 s")
        self.assertTrue(connection.wire.aborted)

    def test_idle_connection_may_be_silent(self) -> None:
        names = self.client.list()
        self.play((b"LIST\n", EMPTY), of_version=None)
        self.successResultOf(names)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BoundsTests(DeferredCase):
    def new_client(self) -> Session:
        return super().new_client(connections=2, idle=1)

    def test_so_many_connections_at_once_and_the_others_wait(self) -> None:
        listings = [self.client.list() for _ in range(5)]
        self.assertEqual(len(self.endpoint.connections), 2)
        first, second = self.endpoint.connections
        for connection in (first, second):
            connection.accept()
        for number, connection in enumerate((first, first, second, first, second)):
            self.assertEqual(connection.wire.taken(), b"LIST\n")
            connection.send(b"OK\n%d\nEND\n" % number)
        got = [self.successResultOf(names) for names in listings]
        self.assertEqual(got, [[b"0"], [b"2"], [b"1"], [b"3"], [b"4"]])
        self.assertEqual(len(self.endpoint.connections), 2)

    def test_few_are_kept(self) -> None:
        listings = [self.client.list() for _ in range(2)]
        for connection in self.endpoint.connections:
            connection.accept()
            connection.send(EMPTY)
        for names in listings:
            self.successResultOf(names)
        first, second = self.endpoint.connections
        self.assertTrue(first.wire.open)
        self.assertTrue(second.wire.disconnecting)
        # One whose peer doesn't agree to the end is not waited for.
        self.clock.advance(1)
        self.assertTrue(second.wire.aborted)

    def test_place_of_a_failed_command_is_free_again(self) -> None:
        listings = [self.client.list() for _ in range(4)]
        for number in range(4):
            self.endpoint.connections[number].refuse(ValueError("x"))
            self.failureResultOf(listings[number], CannotConnect)
        self.assertEqual(len(self.endpoint.connections), 4)

    def test_waiting_command_can_be_cancelled(self) -> None:
        listings = [self.client.list() for _ in range(4)]
        listings[2].cancel()
        self.failureResultOf(listings[2], CancelledError)
        for connection in self.endpoint.connections[:2]:
            connection.accept()
            connection.send(EMPTY)
        self.endpoint.connections[0].send(EMPTY)
        for number in (0, 1, 3):
            self.successResultOf(listings[number])
        self.assertEqual(len(self.endpoint.connections), 2)

    def test_cancelled_command_makes_room(self) -> None:
        cancelled = self.client.list()
        busy = self.endpoint.last
        busy.accept()
        self.begin_listing()
        self.begin_listing()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.assertTrue(busy.wire.aborted)
        self.assertEqual(len(self.endpoint.connections), 3)


class ClosingTests(DeferredCase):
    def test_everything_ends(self) -> None:
        self.client = super().new_client(connections=3, idle=3)
        listings = [self.client.list() for _ in range(3)]
        idle, busy, connecting = self.endpoint.connections
        idle.accept()
        idle.send(EMPTY)
        self.successResultOf(listings[0])
        busy.accept()
        waiting = [self.client.list() for _ in range(2000)]
        closed = self.client.close()
        for names in (*listings[1:], *waiting[1:]):
            self.assert_fails(names, Interrupted, "the client was closed")
        self.assertTrue(connecting.cancelled)
        self.assertTrue(busy.wire.aborted)
        self.assertNoResult(closed)
        again = self.client.close()
        self.lose(busy)
        self.failureResultOf(waiting[0], Interrupted)
        self.lose(idle)
        self.successResultOf(closed)
        self.successResultOf(again)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_callback_of_one_command_may_cancel_another_at_the_end(self) -> None:
        self.client = super().new_client(connections=1)
        self.begin_listing()
        one, other = self.client.list(), self.client.list()
        one.addErrback(lambda _: other.cancel())
        self.successResultOf(self.client.close())
        self.successResultOf(one)
        self.failureResultOf(other, CancelledError)

    def test_idle_connections_are_closed_in_order(self) -> None:
        names = self.client.list()
        connection = self.play((b"LIST\n", EMPTY), of_version=None)
        self.successResultOf(names)
        closed = self.client.close()
        self.assertTrue(connection.wire.disconnecting)
        self.assertFalse(connection.wire.aborted)
        self.assertNoResult(closed)
        self.clock.advance(1)
        self.assertTrue(connection.wire.aborted)
        self.lose(connection)
        self.successResultOf(closed)
