"""Clients whose connection ends, too many clients, many commands at once, and the log."""

from __future__ import annotations

from typing import Any

from twisted.internet import error
from twisted.internet.error import ConnectionAborted, ConnectionLost

from natproxy.nat import EntryState, NATEntry, Outcome
from natproxy.server.admission import Admission
from tests.support.doubles import HalfClosingWire
from tests.support.proxies import ProxyCase


class ClientEndsTests(ProxyCase):
    def test_while_the_upstream_is_being_connected(self) -> None:
        self.protocol.dataReceived(b"LIST\nLIST\n")
        connecting = self.endpoint.last
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertTrue(connecting.cancelled)
        self.assertEqual(len(self.endpoint.connections), 1)
        self.assertEqual(self.journal.ends, ["client-gone"])
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])

    def test_while_the_command_is_registered(self) -> None:
        upstream = self.travelling(b"LIST\nLIST\n")
        (entry,) = self.table
        self.wire.lose(self.protocol, ConnectionLost())
        self.assert_let_go(upstream, entry)

    def test_while_the_reply_is_relayed(self) -> None:
        for command, begun in ((b"DOWNLOAD a\n", b"OK 9\nabc"), (b"LIST\n", b"OK\nab")):
            self.journal.events.clear()
            self.protocol, self.wire = self.new_client(43211)
            upstream = self.travelling(command + b"LIST\n")
            upstream.send(begun)
            (entry,) = self.table
            self.wire.lose(self.protocol, ConnectionLost())
            self.assert_let_go(upstream, entry)
            upstream.send(b"defghi\nEND\n")
            self.assertEqual(self.wire.taken(), begun)
            upstream.die(ConnectionAborted())
            self.assertEqual(self.journal.ends, ["client-gone"])

    def test_while_the_relay_is_paused(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 9\nabc")
        self.wire.fill()
        (entry,) = self.table
        self.wire.lose(self.protocol, ConnectionLost())
        self.assert_let_go(upstream, entry)

    def assert_let_go(self, upstream: Any, entry: NATEntry) -> None:
        """Check the result within the same call, not in a later turn of the reactor."""
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(len(self.table), 0)
        self.assertEqual(self.table.lookup(entry.key.local.port), ())
        self.assertIs(entry.state, EntryState.GONE)
        self.assertIs(entry.outcome, Outcome.CLIENT_GONE)
        self.assertEqual(self.journal.ends, ["client-gone"])
        self.assertEqual(self.journal.outcomes[0]["nat_port"], entry.key.local.port)

    def test_end_between_commands_is_not_logged(self) -> None:
        self.travelling().send(b"OK\nEND\n")
        self.wire.lose(self.protocol)
        self.assertEqual(self.journal.ends, ["completed"])

    def test_only_its_own_entries_are_removed(self) -> None:
        staying, staying_wire = self.protocol, self.wire
        upstream = self.travelling()
        self.protocol, self.wire = self.new_client(43211)
        self.travelling()
        self.assertEqual(len(self.table), 2)
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertEqual([entry.client for entry in self.table], [staying.outbound])
        upstream.send(b"OK\nEND\n")
        self.assertEqual(staying_wire.taken(), b"OK\nEND\n")


class ManyCommandsTests(ProxyCase):
    def test_replies_are_in_order_one_upstream_connection_at_a_time(self) -> None:
        self.protocol.dataReceived(b"DOWNLOAD a\n\nlist\r\nDOWNLOAD b\nWHO\n")
        replies = (b"OK 1\na", b"OK\nEND\n", b"ERR file not found\n", b"ERR unknown command\n")
        for number, reply in enumerate(replies, 1):
            self.assertEqual(len(self.endpoint.connections), number)
            self.endpoint.last.accept()
            self.assertEqual(len(self.table), 1)
            self.endpoint.last.send(reply)
            self.assertEqual(self.wire.taken(), reply)
        self.assertEqual(len(self.endpoint.connections), len(replies))
        self.assertEqual(
            [upstream.wire.taken() for upstream in self.endpoint.connections],
            [b"DOWNLOAD a\n", b"list\n", b"DOWNLOAD b\n", b"WHO\n"],
        )

    def test_clients_do_not_wait_for_each_other(self) -> None:
        self.travelling(b"DOWNLOAD slow\n").send(b"OK 9\n")
        self.protocol, self.wire = self.new_client(43211)
        self.assert_usable()

    def test_half_closed_client_receives_all_replies_and_then_the_end(self) -> None:
        upstream = self.travelling(b"LIST\nDOWNLOAD a\n")
        self.protocol.readConnectionLost()
        self.assertTrue(self.wire.open)
        upstream.send(b"OK\nEND\n")
        self.assertTrue(self.wire.open)
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK 2\na")
        self.assertTrue(self.wire.open)
        self.endpoint.last.send(b"b")
        self.assertEqual(self.wire.taken(), b"OK\nEND\nOK 2\nab")
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)

    def test_half_closed_client_whose_upstream_dies_is_aborted(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        self.protocol.readConnectionLost()
        upstream.send(b"OK 2\na")
        upstream.die()
        self.assertTrue(self.wire.aborted)

    def test_a_thousand_refusals_in_a_row_do_not_nest(self) -> None:
        self.endpoint.connect, connect = self.refuse_at_once, self.endpoint.connect
        for _ in range(1000 // 50):
            self.protocol.dataReceived(b"LIST\n" * 50)
            self.clock.advance(0)
        self.assertEqual(self.wire.taken().count(b"ERR proxy error"), 1000)
        self.endpoint.connect = connect
        self.assert_usable()

    def refuse_at_once(self, factory: Any) -> Any:
        connecting = type(self.endpoint).connect(self.endpoint, factory)
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        return connecting


class TooManyClientsTests(ProxyCase):
    def setUp(self) -> None:
        self.options = {"admission": Admission(2)}
        super().setUp()

    def test_client_over_the_limit_receives_the_reason_and_is_closed(self) -> None:
        self.new_client(43211)
        third = self.factory.buildProtocol(None)
        wire = HalfClosingWire(9000, 43212)
        third.makeConnection(wire)
        self.assertEqual(wire.taken(), b"ERR proxy error: too many clients\n")
        self.assertTrue(wire.half_closed)
        third.dataReceived(b"LIST\n")
        self.assertEqual(self.endpoint.connections, [])
        self.journal.line_with("refused: too many clients")
        third.writeConnectionLost()
        self.clock.advance(1)
        self.assertTrue(wire.disconnecting)
        wire.lose(third)
        self.assertEqual(self.factory.admission.admitted, 2)
        self.assert_usable()

    def test_client_that_ends_frees_its_place(self) -> None:
        second, second_wire = self.new_client(43211)
        second_wire.lose(second)
        self.protocol, self.wire = self.new_client(43212)
        self.assert_usable()

    def test_refused_client_frees_no_place(self) -> None:
        self.new_client(43211)
        third, third_wire = self.new_client(43212)
        third_wire.lose(third)
        _, wire = self.new_client(43213)
        self.assertEqual(wire.taken(), b"ERR proxy error: too many clients\n")


class DrainTests(ProxyCase):
    def test_idle_client_is_closed_at_once(self) -> None:
        drained = self.factory.drain()
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)
        self.assertNoResult(drained)
        self.wire.lose(self.protocol)
        self.successResultOf(drained)

    def test_drain_without_a_client(self) -> None:
        self.wire.lose(self.protocol)
        self.successResultOf(self.factory.drain())

    def test_command_in_flight_is_finished_and_no_other_begun(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\nLIST\n")
        upstream.send(b"OK 2\na")
        drained = self.factory.drain()
        self.protocol.dataReceived(b"LIST\n")
        self.assertTrue(self.wire.open)
        upstream.send(b"b")
        self.assertEqual(self.wire.taken(), b"OK 2\nab")
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)
        self.assertEqual(len(self.endpoint.connections), 1)
        self.wire.lose(self.protocol)
        self.successResultOf(drained)
        self.assertEqual(self.journal.ends, ["completed"])

    def test_command_that_is_still_connecting_is_finished(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.factory.drain()
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK\nEND\n")
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")
        self.assertTrue(self.wire.disconnecting)

    def test_remaining_clients_are_aborted(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\nLIST\n")
        upstream.send(b"OK 2\na")
        _, other_wire = self.new_client(43211)
        drained = self.factory.drain()
        self.factory.abort()
        self.assertTrue(self.wire.aborted)
        self.assertTrue(other_wire.aborted)
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(len(self.table), 0)
        self.assertEqual(self.journal.ends, ["drained"])
        for connection in list(self.factory.connections):
            connection.transport.lose(connection)
        self.successResultOf(drained)
        self.assertEqual(self.journal.ends, ["drained"])


class LoggedTests(ProxyCase):
    def test_event_of_a_completed_command(self) -> None:
        upstream = self.travelling(b"download a\x1bb\n")
        self.clock.advance(2.5)
        upstream.send(b"OK 3\nabc and surplus")
        (event,) = self.journal.outcomes
        expected = {
            "client_host": "127.0.0.1",
            "client_port": 43210,
            "nat_port": 50_000,
            "upstream": "127.0.0.1:9001",
            "verb": "DOWNLOAD",
            "name": "a\\x1bb",
            "bytes": len(b"OK 3\nabc"),
            "duration": 2.5,
            "outcome": "completed",
        }
        self.assertEqual({key: event[key] for key in expected}, expected)
        self.assertIn(
            "127.0.0.1:43210 DOWNLOAD a\\x1bb: completed, 8 bytes in 2.500 s, "
            "from port 50000 to 127.0.0.1:9001",
            self.journal.lines(),
        )

    def test_error_that_is_sent_in_the_replys_place_is_counted(self) -> None:
        self.travelling().die()
        self.assertEqual(
            self.journal.outcomes[0]["bytes"], len(b"ERR empty response from server\n")
        )

    def test_time_spent_waiting_for_other_commands_is_not_counted(self) -> None:
        upstream = self.travelling(b"LIST\nLIST\n")
        self.clock.advance(10)
        upstream.send(b"OK\nEND\n")
        self.endpoint.last.accept()
        self.clock.advance(1)
        self.endpoint.last.send(b"OK\nEND\n")
        self.assertEqual([event["duration"] for event in self.journal.outcomes], [10, 1])

    def test_long_verb_and_name_are_cut(self) -> None:
        self.travelling(b"V" * 5000 + b" " + b"n" * 5000 + b"\n").send(b"ERR\n")
        (event,) = self.journal.outcomes
        self.assertEqual((len(event["verb"]), len(event["name"])), (80, 1024))
