"""The file server's protocol, over a real directory and a played thread."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.protocol import FileServerFactory, FileServerProtocol
from natproxy.relay.files import CHUNK
from natproxy.server.rotation import RESULTS
from natproxy.server.threads import Abandoned
from natproxy.storage import Directory, Listing, Settling
from tests.support.doubles import Journal, PlayedThread, TurnClock, Wire

NOT_FOUND = b"ERR file not found\n"


class FileServerCase(SynchronousTestCase):
    """A file server with one client; what it serves is a new directory inside another."""

    def setUp(self) -> None:
        outside = tempfile.TemporaryDirectory()
        self.addCleanup(outside.cleanup)
        self.outside = Path(outside.name)
        self.files = self.outside / "files"
        self.files.mkdir()
        self.journal = Journal(self)
        self.clock = TurnClock()
        self.thread = PlayedThread()
        # So long ago has everything been changed, by the server's clock.
        self.settled = 0.0
        self.factory = FileServerFactory(
            self.clock,
            Directory(os.fspath(self.files)),
            self.thread,
            600.0,
            settling=Settling(
                lambda: self.clock.seconds(),
                lambda: time.time() + self.settled,
                lambda device: True,
            ),
        )
        self.descriptors = self.open_descriptors()
        self.addCleanup(self.lose_clients)
        self.protocol, self.wire = self.new_client(43210)

    @staticmethod
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def new_client(self, port: int) -> tuple[FileServerProtocol, Wire]:
        wire = Wire(9001, port)
        protocol = self.factory.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        return protocol, wire

    def ask(self, command: bytes) -> bytes:
        """Send a command and give what is answered at once."""
        self.protocol.dataReceived(command)
        return self.wire.taken()

    def fill_when_written_to(self) -> None:
        """From now on each write is more than the transport should hold."""
        write = self.wire.write

        def write_and_fill(data: bytes) -> None:
            write(data)
            self.wire.fill()

        self.wire.write = write_and_fill

    def lose_clients(self) -> None:
        for connection in list(self.factory.connections):
            connection.transport.lose(connection)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])
        self.assertEqual(self.open_descriptors(), self.descriptors)


class DownloadTests(FileServerCase):
    def test_file_is_sent_as_it_is(self) -> None:
        content = b"END\nOK 5\n\r\n\0\xff"
        (self.files / "a  b ").write_bytes(content)
        self.assertEqual(self.ask(b"download  a  b \r\n"), b"OK 13\n" + content)
        (event,) = self.journal.outcomes
        expected = {
            "client_host": "127.0.0.1",
            "client_port": 43210,
            "verb": "DOWNLOAD",
            "name": "a  b ",
            "bytes": 19,
            "duration": 0,
            "outcome": "completed",
        }
        self.assertEqual({key: event[key] for key in expected}, expected)

    def test_empty_file(self) -> None:
        (self.files / "empty").touch()
        self.assertEqual(self.ask(b"DOWNLOAD empty\n"), b"OK 0\n")

    def test_name_that_is_not_utf_8(self) -> None:
        Path(os.fsdecode(os.fsencode(self.files) + b"/caf\xe9")).write_bytes(b"noir")
        self.assertEqual(self.ask(b"DOWNLOAD caf\xe9\n"), b"OK 4\nnoir")

    def test_name_that_a_listing_cannot_carry(self) -> None:
        (self.files / "END").write_bytes(b"x")
        self.assertEqual(self.ask(b"DOWNLOAD END\n"), b"OK 1\nx")

    def test_file_in_a_directory(self) -> None:
        (self.files / "directory").mkdir()
        (self.files / "directory" / "a").write_bytes(b"inside")
        self.assertEqual(self.ask(b"DOWNLOAD directory/a\n"), b"OK 6\ninside")

    def test_why_there_is_nothing_is_not_told(self) -> None:
        (self.outside / "secret").write_bytes(b"secret")
        (self.files / "link").symlink_to("../secret")
        (self.files / "dangling").symlink_to("nowhere")
        (self.files / "directory").mkdir()
        os.mkfifo(self.files / "fifo")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.fspath(self.files / "socket"))
        for name in (
            b"absent",
            b"../secret",
            b"directory/../../secret",
            os.fsencode(self.outside / "secret"),
            b"/dev/null",
            b"link",
            b"dangling",
            b"directory",
            b"directory/",
            b".",
            b"..",
            b"fifo",
            b"socket",
            b"secret\0",
            b"x" * 300,
            b"x/" * 5000,
        ):
            self.assertEqual(self.ask(b"DOWNLOAD " + name + b"\n"), NOT_FOUND, name)
        self.assertTrue(self.wire.open)
        self.assertEqual(set(self.journal.ends), {"completed"})
        self.assertEqual(self.journal.outcomes[0]["bytes"], len(NOT_FOUND))

    def test_no_descriptor_is_free(self) -> None:
        (self.files / "a").write_bytes(b"x")

        def no_descriptor(*_: object) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        serving, self.factory.directory = (
            self.factory.directory,
            Directory(os.fspath(self.files), no_descriptor),
        )
        self.assertEqual(
            self.ask(b"DOWNLOAD a\n"), b"ERR the server cannot open files at present\n"
        )
        self.journal.line_with("cannot open a: [Errno 24]")
        self.factory.directory = serving
        self.assertEqual(self.ask(b"DOWNLOAD a\n"), b"OK 1\nx")

    def test_unknown_commands(self) -> None:
        for command in (b"WHO", b"DOWNLOAD", b"DOWNLOAD \t", b"\0", b"\xff a", b"LISTING"):
            self.assertEqual(self.ask(command + b"\n"), b"ERR unknown command\n", command)
        self.assertEqual(self.journal.ends, ["completed"] * 6)

    def test_many_commands_at_once_are_answered_in_order(self) -> None:
        for number in range(200):
            (self.files / str(number)).write_bytes(b"%d" % number * 3)
        self.protocol.dataReceived(b"".join(b"DOWNLOAD %d\n" % number for number in range(200)))
        self.clock.advance(0)
        expected = [b"OK %d\n%b" % (len(b"%d" % n * 3), b"%d" % n * 3) for n in range(200)]
        self.assertEqual(self.wire.taken(), b"".join(expected))


class LargeFileTests(FileServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.files / "large"
        self.content = os.urandom(CHUNK) + b"+" * CHUNK + b"."
        self.path.write_bytes(self.content)
        self.header = b"OK %d\n" % len(self.content)

    def begin(self) -> None:
        """Send as much as the transport's buffer takes before the client reads."""
        self.assertEqual(self.ask(b"LIST\n"), b"")
        self.fill_when_written_to()
        self.protocol.dataReceived(b"DOWNLOAD large\nDOWNLOAD absent\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nlarge\nEND\n")
        self.wire.empty()
        self.assertEqual(self.wire.taken(), self.header + self.content[:CHUNK])

    def test_one_chunk_is_read_each_time_the_buffer_is_empty(self) -> None:
        self.begin()
        for position in range(CHUNK, len(self.content), CHUNK):
            self.wire.empty()
            self.assertEqual(self.wire.taken(), self.content[position : position + CHUNK])
        self.wire.empty()
        self.assertEqual(self.wire.taken(), NOT_FOUND)
        self.assertEqual(self.open_descriptors(), self.descriptors)

    def test_file_that_shrinks_is_not_made_up(self) -> None:
        self.begin()
        os.truncate(self.path, CHUNK + 10)
        self.wire.empty()
        self.wire.empty()
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.wire.taken(), self.content[CHUNK : CHUNK + 10])
        self.assertEqual(self.journal.ends, ["completed", "error"])
        self.assertEqual(self.journal.outcomes[1]["bytes"], len(self.header) + CHUNK + 10)
        line = self.journal.line_with("broken off")
        self.assertIn("127.0.0.1:43210", line)
        self.assertIn(f"{CHUNK - 9} bytes missing", line)
        self.assertEqual(self.open_descriptors(), self.descriptors)

    def test_file_that_grows_is_sent_at_its_promised_size(self) -> None:
        self.begin()
        with self.path.open("ab") as file:
            file.write(b"what was added")
        sent = b""
        for _ in range(2):
            self.wire.empty()
            sent += self.wire.taken()
        self.assertEqual(sent, self.content[CHUNK:])
        self.wire.empty()
        self.assertEqual(self.wire.taken(), NOT_FOUND)

    def test_read_that_fails_aborts(self) -> None:
        self.begin()

        def fail(size: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        source = self.protocol._relay._file
        self.protocol._relay._file = type("Broken", (), {"read": fail, "close": source.close})
        self.wire.empty()
        self.assertTrue(self.wire.aborted)
        self.journal.line_with("Input/output error")
        self.assertEqual(self.open_descriptors(), self.descriptors)

    def test_client_that_goes_has_its_file_closed(self) -> None:
        self.begin()
        self.assertEqual(self.open_descriptors(), self.descriptors + 1)
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertEqual(self.open_descriptors(), self.descriptors)
        self.assertEqual(self.journal.ends, ["completed", "client-gone"])
        self.assertEqual(self.journal.outcomes[1]["bytes"], len(self.header) + CHUNK)

    def test_client_that_does_not_read_is_cut_off(self) -> None:
        self.begin()
        self.clock.advance(599)
        self.assertTrue(self.wire.open)
        self.clock.advance(1)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.journal.ends, ["completed", "timeout"])
        self.assertEqual(self.open_descriptors(), self.descriptors)

    def test_drained_client_gets_the_rest(self) -> None:
        self.begin()
        self.factory.drain()
        sent = b""
        for _ in range(3):
            self.wire.empty()
            sent += self.wire.taken()
        self.assertEqual(sent, self.content[CHUNK:])
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual(self.journal.ends, ["completed", "completed"])

    def test_half_closed_client_gets_the_rest(self) -> None:
        self.begin()
        self.protocol.readConnectionLost()
        sent = b""
        for _ in range(4):
            self.wire.empty()
            sent += self.wire.taken()
        self.assertEqual(sent, self.content[CHUNK:] + NOT_FOUND)
        self.assertTrue(self.wire.disconnecting)


class ListTests(FileServerCase):
    def test_names_are_sorted_and_only_files_of_the_top_directory(self) -> None:
        for name in ("b", "a b", "B", "é"):
            (self.files / name).touch()
        (self.files / "directory").mkdir()
        os.mkfifo(self.files / "fifo")
        (self.files / "inside").symlink_to("b")
        (self.files / "outside").symlink_to("/etc/passwd")
        self.assertEqual(self.ask(b"list\n"), b"")
        self.thread.run()
        reply = "OK\nB\na b\nb\ninside\né\nEND\n".encode()
        self.assertEqual(self.wire.taken(), reply)
        self.assertEqual(self.journal.outcomes[0]["bytes"], len(reply))

    def test_empty_directory(self) -> None:
        self.ask(b"LIST\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_who_waits_shares_the_next_scan(self) -> None:
        clients = [self.new_client(port) for port in range(50_000, 50_020)]
        clients[0][0].dataReceived(b"LIST\n")
        (self.files / "later").touch()
        for protocol, _ in clients[1:]:
            protocol.dataReceived(b"LIST\n")
        self.assertEqual(self.thread.calls, 1)
        self.thread.run()
        self.assertEqual(clients[0][1].taken(), b"OK\nlater\nEND\n")
        # The others asked after that scan began: it may be older than their question.
        self.assertEqual({wire.taken() for _, wire in clients[1:]}, {b""})
        (self.files / "later still").touch()
        self.thread.run()
        self.assertEqual(
            {wire.taken() for _, wire in clients[1:]}, {b"OK\nlater\nlater still\nEND\n"}
        )
        self.assertEqual(self.thread.calls, 2)
        self.assertEqual(self.thread.asked, [])
        self.assertEqual(self.journal.ends, ["completed"] * 20)

    def test_crowd_is_answered_in_several_turns(self) -> None:
        clients = [self.new_client(50_000 + number) for number in range(2 * RESULTS)]
        for protocol, _ in clients:
            protocol.dataReceived(b"LIST\n")
        self.thread.run()
        self.thread.run()
        answered = [bool(wire.taken()) for _, wire in clients]
        self.assertEqual(answered, [True] * (RESULTS + 1) + [False] * (RESULTS - 1))
        # One of the others goes, while a new scan is under way for somebody else.
        self.ask(b"LIST\n")
        clients[-1][1].lose(clients[-1][0], ConnectionLost())
        self.clock.turn()
        answered = [bool(wire.taken()) for _, wire in clients[RESULTS + 1 :]]
        self.assertEqual(answered, [True] * (RESULTS - 2) + [False])
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_listing_is_as_new_as_the_question(self) -> None:
        for name in ("a", "b"):
            (self.files / name).touch()
            self.ask(b"LIST\n")
            self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\na\nEND\nOK\na\nb\nEND\n"[-11:])

    def test_client_that_goes_during_the_scan(self) -> None:
        other, other_wire = self.new_client(43211)
        self.ask(b"LIST\n")
        other.dataReceived(b"LIST\n")
        self.wire.lose(self.protocol)
        self.assertEqual(self.journal.ends, ["client-gone"])
        self.thread.run()
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"")
        self.assertEqual(other_wire.taken(), b"OK\nEND\n")
        self.assertEqual(self.journal.ends, ["client-gone", "completed"])

    def test_directory_that_cannot_be_read(self) -> None:
        self.ask(b"LIST\n")
        self.files.rmdir()
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"ERR the server cannot list its files\n")
        self.journal.line_with("cannot list the served directory: [Errno 2]")
        self.files.mkdir()
        self.ask(b"LIST\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_scan_that_fails_fails_for_all_who_wait(self) -> None:
        self.ask(b"LIST\n")
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
            self.ask(b"LIST\n")
            self.thread.run()
            self.assertEqual(self.wire.taken(), b"OK\nEND\n")
        line = self.journal.line_with("leaves out")
        self.assertIn("2 names", line)
        self.assertIn("END, two\\x0alines", line)
        (self.files / "carriage\rreturn").touch()
        self.ask(b"LIST\n")
        self.thread.run()
        self.journal.line_with("3 names")

    def going_on(self) -> None:
        """Let the scan that is under way take a step."""
        assert self.factory.listings._abandonment is not None
        self.factory.listings._abandonment.check()

    def test_scan_that_hangs_is_not_waited_for(self) -> None:
        self.ask(b"LIST\n")
        self.clock.advance(44)
        self.assertEqual(self.wire.taken(), b"")
        self.clock.advance(1)
        failed = b"ERR the server cannot list its files\n"
        self.assertEqual(self.wire.taken(), failed)
        # Nor by those who come later, until it returns.
        self.assertEqual(self.ask(b"LIST\n"), failed)
        self.thread.run()
        self.ask(b"LIST\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_scan_stops_when_all_who_asked_have_gone(self) -> None:
        (self.files / "a").touch()
        protocol, client = self.new_client(50_000)
        protocol.dataReceived(b"LIST\n")
        self.ask(b"LIST\n")
        client.lose(protocol, ConnectionLost())
        failures: list[BaseException] = []
        listing = self.factory.directory.listing

        def noting(check: Callable[[], None]) -> Listing:
            try:
                return listing(check)
            except BaseException as error:
                failures.append(error)
                raise

        self.patch(self.factory.directory, "listing", noting)
        self.thread.run()
        self.assertIsInstance(failures[0], Abandoned)
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\na\nEND\n")
        self.assertEqual(len(failures), 1)

    def test_slow_scan_is_not_the_clients_idleness(self) -> None:
        self.ask(b"LIST\n")
        for _ in range(40):
            self.clock.advance(44)
            self.going_on()
        self.assertTrue(self.wire.open)
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_idle_client_is_closed(self) -> None:
        self.clock.advance(600)
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)

    def test_line_too_long(self) -> None:
        self.ask(b"LIST\nDOWNLOAD " + b"x" * 20_000 + b"\n")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"OK\nEND\nERR line too long\n")
        self.assertTrue(self.wire.disconnecting)


class SecretTests(FileServerCase):
    def test_argument_of_auth_is_in_no_log_line_and_no_reply(self) -> None:
        for line in (b"AUTH s3cret", b"auth s3cret", b"AuTh\ts3cret", b"AUTH=s3cret"):
            self.assertEqual(self.ask(line + b"\n"), b"ERR unknown command\n")
        self.assertNotIn("s3cret", repr(self.journal.events).lower())
        self.assertEqual({event["name"] for event in self.journal.outcomes}, {"[redacted]"})
