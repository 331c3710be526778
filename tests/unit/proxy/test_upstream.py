"""The upstream's side: the choice of an upstream, the states, and the codes of its errors."""

from __future__ import annotations

import errno
from unittest import mock

from twisted.internet import error

from natproxy.proxy.state import State
from natproxy.proxy.upstream import UpstreamProtocol
from tests.support.doubles import Upstream
from tests.support.proxies import ProxyCase

CODED = (b"STAT a", b"GET a", b"LS", b"HASH a", b"FEAT")
UNCODED = (b"LIST", b"DOWNLOAD a", b"WHO")


class ChoiceTests(ProxyCase):
    def test_each_command_is_passed_to_the_choice(self) -> None:
        upstreams = self.factory.resources.upstreams
        chosen: list[bytes] = []
        choose = upstreams.choose
        self.patch(
            upstreams,
            "choose",
            lambda command, *tried: (chosen.append(command.line), choose(command, *tried))[1],
        )
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        self.travelling(b"GET a\n").send(b"OK 0\n")
        self.assertEqual(chosen, [b"LIST", b"GET a"])


class StateTests(ProxyCase):
    def protocol_of(self, upstream: Upstream) -> UpstreamProtocol:
        assert isinstance(upstream.protocol, UpstreamProtocol)
        return upstream.protocol

    def test_states_of_a_long_body(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        protocol = self.protocol_of(upstream)
        for data, state in (
            (b"", State.WAITING),
            (b"OK", State.HEADER),
            (b" 3\na", State.BODY),
            (b"b", State.BODY),
            (b"c", State.CLOSED),
            (b"surplus", State.CLOSED),
        ):
            if data:
                upstream.send(data)
            self.assertIs(protocol._state, state, data)

    def test_body_that_is_complete_with_its_header_needs_no_relay(self) -> None:
        self.patch(self.factory.resources.relays, "relay", lambda job: self.fail("a relay"))
        self.travelling(b"DOWNLOAD a\n").send(b"OK 3\nabc and surplus")
        self.assertEqual(self.wire.taken(), b"OK 3\nabc")

    def test_features(self) -> None:
        upstream = self.travelling(b"FEAT\n")
        upstream.send(b"OK\nNATPROXY 2\n")
        self.assertIs(self.protocol_of(upstream)._state, State.FEATURES)
        self.assertEqual(self.wire.taken(), b"")
        upstream.send(b"END\n")
        self.assertIs(self.protocol_of(upstream)._state, State.CLOSED)

    def test_connection_that_is_not_needed(self) -> None:
        upstream = self.travelling()
        second = Upstream(upstream.factory, 50_001)
        second.accept()
        self.assertIs(self.protocol_of(second)._state, State.CLOSED)
        self.assertIs(self.protocol_of(upstream)._state, State.WAITING)


class CodeTests(ProxyCase):
    def assert_error(self, command: bytes, code: int, message: bytes) -> None:
        """Check that the reply is this error, with its code for a verb of version 2."""
        expected = b"" if command in UNCODED else b"%d " % code
        self.assertEqual(self.wire.taken(), b"ERR " + expected + message + b"\n", command)

    def test_failure_to_connect(self) -> None:
        for failure, code, message in (
            (error.ConnectionRefusedError(), 502, b"the server refuses connections"),
            (error.NoRouteError(), 502, b"there is no route to the server"),
            (error.DNSLookupError(), 502, b"the server's name cannot be resolved"),
            (KeyError(), 502, b"cannot connect to the server"),
            (
                error.ConnectError(errno.EADDRNOTAVAIL, ""),
                503,
                b"the proxy has no free port left",
            ),
            (
                error.ConnectError(errno.EMFILE, ""),
                503,
                b"the proxy has no free descriptor left",
            ),
            (
                error.TimeoutError(),
                504,
                b"the server did not accept a connection within 5 s",
            ),
        ):
            for command in (*CODED, *UNCODED):
                self.protocol.dataReceived(command + b"\n")
                self.endpoint.last.refuse(failure)
                self.assert_error(command, code, b"proxy error: " + message)

    def test_silence(self) -> None:
        for command in (*CODED, *UNCODED):
            self.travelling(command + b"\n")
            self.clock.advance(60)
            self.assert_error(command, 504, b"proxy error: the server was silent for 60 s")

    def test_connection_that_ends_without_a_reply(self) -> None:
        for command in (*CODED, *UNCODED):
            self.travelling(command + b"\n").die()
            self.assert_error(command, 502, b"empty response from server")

    def test_connection_that_ends_inside_the_header(self) -> None:
        for command in (*CODED, *UNCODED):
            upstream = self.travelling(command + b"\n")
            upstream.send(b"O")
            upstream.die()
            self.assert_error(
                command, 502, b"proxy error: the server closed the connection inside its reply"
            )

    def test_error_of_the_server_is_passed_on_as_it_is(self) -> None:
        for command in (*CODED, *UNCODED):
            self.travelling(command + b"\n").send(b"ERR 404 file not found\n")
            self.assertEqual(self.wire.taken(), b"ERR 404 file not found\n")


class ReusedPortTests(ProxyCase):
    def test_port_of_a_connection_whose_loss_is_not_reported_yet(self) -> None:
        first = self.travelling(b"DOWNLOAD a\n")
        other, wire = self.new_client(43211)
        other.dataReceived(b"STAT a\n")
        self.endpoint.last.wire.hostAddr = first.wire.getHost()
        self.endpoint.last.accept()
        self.assertEqual(wire.taken(), b"ERR 502 proxy error: cannot connect to the server\n")
        self.assertTrue(self.endpoint.last.wire.aborted)
        self.assertEqual(len(self.table), 1)
        first.send(b"OK 0\n")
        self.assertEqual(self.wire.taken(), b"OK 0\n")


class UnexpectedErrorTests(ProxyCase):
    def test_command_whose_connection_cannot_be_used_is_replied_to(self) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        with mock.patch.object(self.table, "register", fail):
            self.protocol.dataReceived(b"STAT a\n")
            self.assertRaises(ZeroDivisionError, self.endpoint.last.accept)
        # The connector resets the connection.
        self.endpoint.last.connected.callback(None)
        self.endpoint.last.wire.abortConnection()
        self.endpoint.last.die(error.ConnectionAborted())
        self.assertEqual(self.wire.taken(), b"ERR 502 proxy error: cannot connect to the server\n")
        self.assertEqual(self.journal.ends, ["error"])
        self.assert_usable()


class WholeReplyTests(ProxyCase):
    def test_reply_in_one_piece_or_in_two(self) -> None:
        for command, reply in (
            (b"LIST", b"OK\na\nb\nEND\n"),
            (b"LIST", b"OK\nEND\n"),
            (b"LIST", b"ERR no\n"),
            (b"GET a", b"OK 0\n"),
            (b"GET a", b"OK 4 offset=0\na\n\nb"),
            (b"GET a", b"ERR 404 file not found\n"),
            (b"STAT a", b"OK type=file size=1\n"),
            (b"WHO", b"ERR unknown command\n"),
        ):
            for cut in range(len(reply)):
                upstream = self.travelling(command + b"\n")
                if cut:
                    upstream.send(reply[:cut])
                upstream.send(reply[cut:] + b"surplus")
                self.assertEqual(self.wire.taken(), reply, (command, cut))
                self.assertTrue(upstream.wire.aborted)
        self.assertEqual(set(self.journal.ends), {"completed"})
