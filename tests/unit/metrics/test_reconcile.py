"""The comparison of the table with the sockets: races, hidden lists, sharing."""

from __future__ import annotations

import os

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.kernel.sockets import SYN_SENT
from natproxy.metrics.reconcile import APART, MOST_SHOWN, Comparison, Reconciler
from natproxy.nat import NATEntry, NATTable, Outcome, TranslationKey
from natproxy.protocol import parse_command
from tests.support.doubles import PlayedThread
from tests.support.sockets import SocketLists

PROXY, UPSTREAM = "10.0.0.1", Address("10.0.0.9", 9001)


class ReconcileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = PlayedThread()
        self.lists = SocketLists(self.mktemp())
        self.table = NATTable(self.clock.seconds)
        self.visible = True
        self.reconciler = Reconciler(
            self.table,
            lambda: [UPSTREAM],
            self.thread,
            self.clock,
            self.lists.directory,
            lambda: self.visible,
        )

    def row(self, port: int, upstream: Address = UPSTREAM) -> NATEntry:
        command = parse_command(b"LIST")
        assert command is not None
        key = TranslationKey(Address(PROXY, port), upstream)
        client = Address("10.0.0.5", 1)
        return self.table.register(key, StringTransport(), client, command, 0.0, lambda: None)

    def socket(self, port: int, state: int = 1, own: bool = True) -> None:
        inode = 1000 + port
        self.lists.add((PROXY, port), UPSTREAM, state, inode)
        if own:
            self.lists.own(port, inode)

    def compare(self) -> Comparison:
        comparing = self.reconciler.compare()
        while not comparing.called:
            if self.thread.asked:
                self.thread.run()
            else:
                self.clock.advance(APART)
        return self.successResultOf(comparing)

    def test_all_agree_after_one_look(self) -> None:
        self.row(50000)
        self.socket(50000)
        result = self.compare()
        self.assertEqual(result, Comparison(1, 1, 0))
        self.assertEqual((result.differences, result.json()["result"]), (0, "same"))
        self.assertEqual(self.thread.calls, 1)
        self.assertIs(self.reconciler.last, result)

    def test_row_without_a_socket(self) -> None:
        self.row(50000)
        self.socket(50000)
        entry = self.row(50001)
        result = self.compare()
        route = ((PROXY, 50001), ("10.0.0.9", 9001))
        self.assertEqual(result.without_socket, ((entry.serial, route),))
        self.assertEqual(
            result.json()["rows_without_socket"],
            [
                {
                    "serial": entry.serial,
                    "nat": PROXY,
                    "nat_port": 50001,
                    "upstream": "10.0.0.9",
                    "upstream_port": 9001,
                }
            ],
        )

    def test_socket_without_a_row(self) -> None:
        self.socket(50000)
        result = self.compare()
        self.assertEqual(result.without_row, (((PROXY, 50000), ("10.0.0.9", 9001)),))
        self.assertEqual(result.json()["result"], "differs")

    def test_what_is_seen_once_does_not_count(self) -> None:
        old = self.row(50000)
        self.socket(50001)
        comparing = self.reconciler.compare()
        self.thread.run()
        self.table.remove(old, Outcome.COMPLETED)
        self.lists.clear()
        self.clock.advance(APART)
        self.thread.run()
        self.assertEqual(self.successResultOf(comparing).differences, 0)

    def test_port_that_is_used_again_is_another_row_and_another_socket(self) -> None:
        old = self.row(50000)
        comparing = self.reconciler.compare()
        self.thread.run()
        self.table.remove(old, Outcome.COMPLETED)
        self.row(50000)
        self.clock.advance(APART)
        self.thread.run()
        self.assertEqual(self.successResultOf(comparing).differences, 0)

    def test_connections_that_are_being_made_have_no_row_yet(self) -> None:
        self.socket(50000, SYN_SENT)
        self.assertEqual(self.compare(), Comparison())

    def test_sockets_of_other_processes_do_not_count(self) -> None:
        self.socket(50000, own=False)
        self.assertEqual(self.compare(), Comparison())

    def test_unix_sockets_are_left_out(self) -> None:
        self.row(FIRST_STAND_IN_PORT, Address("unix:/run/files", FIRST_STAND_IN_PORT + 1))
        result = self.compare()
        self.assertEqual((result.rows, result.left_out, result.differences), (0, 1, 0))

    def test_list_that_cannot_be_read_is_unknown(self) -> None:
        self.row(50000)
        os.unlink(self.lists.path)
        result = self.compare()
        self.assertIsNone(result.differences)
        self.assertIn("No such file", result.unknown)
        self.assertEqual(result.json()["result"], "unknown")

    def test_descriptors_that_cannot_be_read_are_unknown(self) -> None:
        os.rmdir(os.path.join(self.lists.directory, "fd"))
        self.assertIsNotNone(self.compare().unknown)

    def test_hidden_sockets_are_unknown(self) -> None:
        self.row(50000)
        self.visible = False
        self.assertIn("ProcSubset", self.compare().unknown)
        self.visible = True
        self.assertEqual(self.compare().differences, 1)

    def test_calls_during_a_comparison_share_it(self) -> None:
        first, second = self.reconciler.compare(), self.reconciler.compare()
        self.thread.run()
        self.assertIs(self.successResultOf(first), self.successResultOf(second))
        self.assertEqual(self.thread.calls, 1)

    def test_long_lists_are_cut_but_counted(self) -> None:
        for port in range(50000, 50000 + MOST_SHOWN + 5):
            self.row(port)
        shown = self.compare().json()
        self.assertEqual(shown["differences"], MOST_SHOWN + 5)
        self.assertEqual(len(shown["rows_without_socket"]), MOST_SHOWN)
