"""``LIST``: shared scans of the top directory, in a played thread."""

from __future__ import annotations

import os

from twisted.internet.error import ConnectionLost

from natproxy.server.rotation import RESULTS
from natproxy.server.threads import WorkCancelled
from natproxy.storage.interface import Check, TopFiles
from tests.support.fileserver import FileServerCase


class ListTests(FileServerCase):
    def test_names_are_sorted_and_only_files_of_the_top_directory(self) -> None:
        for name in ("b", "a b", "B", "é"):
            (self.files / name).touch()
        (self.files / "directory").mkdir()
        os.mkfifo(self.files / "fifo")
        (self.files / "inside").symlink_to("b")
        (self.files / "outside").symlink_to("/etc/passwd")
        self.assertEqual(self.send(b"list\n"), b"")
        self.thread.run()
        reply = "OK\nB\na b\nb\ninside\né\nEND\n".encode()
        self.assertEqual(self.wire.taken(), reply)
        self.assertEqual(self.journal.outcomes[0]["bytes"], len(reply))

    def test_empty_directory(self) -> None:
        self.send(b"LIST\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_clients_that_wait_share_the_next_scan(self) -> None:
        clients = [self.new_client(port) for port in range(50_000, 50_020)]
        clients[0][0].dataReceived(b"LIST\n")
        (self.files / "later").touch()
        for protocol, _ in clients[1:]:
            protocol.dataReceived(b"LIST\n")
        self.assertEqual(self.thread.calls, 1)
        self.thread.run()
        self.assertEqual(clients[0][1].taken(), b"OK\nlater\nEND\n")
        # The others sent their command after that scan began.
        self.assertEqual({wire.taken() for _, wire in clients[1:]}, {b""})
        (self.files / "later still").touch()
        self.thread.run()
        self.assertEqual(
            {wire.taken() for _, wire in clients[1:]}, {b"OK\nlater\nlater still\nEND\n"}
        )
        self.assertEqual(self.thread.calls, 2)
        self.assertEqual(self.thread.asked, [])
        self.assertEqual(self.journal.ends, ["completed"] * 20)

    def test_replies_to_many_clients_take_several_turns(self) -> None:
        clients = [self.new_client(50_000 + number) for number in range(2 * RESULTS)]
        for protocol, _ in clients:
            protocol.dataReceived(b"LIST\n")
        self.thread.run()
        self.thread.run()
        replied = [bool(wire.taken()) for _, wire in clients]
        self.assertEqual(replied, [True] * (RESULTS + 1) + [False] * (RESULTS - 1))
        # One of the others disconnects during a scan for another client.
        self.send(b"LIST\n")
        clients[-1][1].lose(clients[-1][0], ConnectionLost())
        self.clock.turn()
        replied = [bool(wire.taken()) for _, wire in clients[RESULTS + 1 :]]
        self.assertEqual(replied, [True] * (RESULTS - 2) + [False])
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_listing_is_as_new_as_the_command(self) -> None:
        for name in ("a", "b"):
            (self.files / name).touch()
            self.send(b"LIST\n")
            self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\na\nEND\nOK\na\nb\nEND\n"[-11:])

    def test_client_that_disconnects_during_the_scan(self) -> None:
        other, other_wire = self.new_client(43211)
        self.send(b"LIST\n")
        other.dataReceived(b"LIST\n")
        self.wire.lose(self.protocol)
        self.assertEqual(self.journal.ends, ["client-gone"])
        self.thread.run()
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"")
        self.assertEqual(other_wire.taken(), b"OK\nEND\n")
        self.assertEqual(self.journal.ends, ["client-gone", "completed"])

    def test_directory_that_cannot_be_read(self) -> None:
        self.send(b"LIST\n")
        self.files.rmdir()
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"ERR the server cannot list its files\n")
        self.journal.line_with("cannot list the served directory: [Errno 2]")
        self.files.mkdir()
        self.send(b"LIST\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_failed_scan_fails_for_every_client_that_waits(self) -> None:
        self.send(b"LIST\n")
        others = [self.new_client(port) for port in (50_000, 50_001)]
        for protocol, _ in others:
            protocol.dataReceived(b"LIST\n")
        self.thread.run()
        self.files.rmdir()
        self.thread.run()
        for _, wire in others:
            self.assertEqual(wire.taken(), b"ERR the server cannot list its files\n")
        self.files.mkdir()

    def test_names_left_out_are_logged_once_for_each_change(self) -> None:
        (self.files / "END").touch()
        (self.files / "two\nlines").touch()
        for _ in range(3):
            self.send(b"LIST\n")
            self.thread.run()
            self.assertEqual(self.wire.taken(), b"OK\nEND\n")
        line = self.journal.line_with("LIST omits")
        self.assertIn("2 names", line)
        self.assertIn("END, two\\x0alines", line)
        (self.files / "carriage\rreturn").touch()
        self.send(b"LIST\n")
        self.thread.run()
        self.journal.line_with("3 names")

    def step(self) -> None:
        """Let the scan that is under way take a step."""
        assert self.factory.services.listings._token is not None
        self.factory.services.listings._token.check()

    def test_scan_that_hangs_times_out(self) -> None:
        self.send(b"LIST\n")
        self.clock.advance(44)
        self.assertEqual(self.wire.taken(), b"")
        self.clock.advance(1)
        failed = b"ERR the server cannot list its files\n"
        self.assertEqual(self.wire.taken(), failed)
        # Nor by those who come later, until it returns.
        self.assertEqual(self.send(b"LIST\n"), failed)
        self.thread.run()
        self.send(b"LIST\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_scan_is_cancelled_when_all_its_clients_are_gone(self) -> None:
        (self.files / "a").touch()
        protocol, client = self.new_client(50_000)
        protocol.dataReceived(b"LIST\n")
        self.send(b"LIST\n")
        client.lose(protocol, ConnectionLost())
        failures: list[BaseException] = []
        storage = self.factory.services.storage
        top_files = storage.top_files

        def noting(check: Check) -> TopFiles:
            try:
                return top_files(check)
            except BaseException as error:
                failures.append(error)
                raise

        self.patch(storage, "top_files", noting)
        self.thread.run()
        self.assertIsInstance(failures[0], WorkCancelled)
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\na\nEND\n")
        self.assertEqual(len(failures), 1)

    def test_idle_timeout_does_not_run_during_a_scan(self) -> None:
        self.send(b"LIST\n")
        for _ in range(40):
            self.clock.advance(44)
            self.step()
        self.assertTrue(self.wire.open)
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_idle_client_is_closed(self) -> None:
        self.clock.advance(600)
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)

    def test_line_too_long(self) -> None:
        self.send(b"LIST\nDOWNLOAD " + b"x" * 20_000 + b"\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\nERR line too long\n")
        self.assertTrue(self.wire.disconnecting)
