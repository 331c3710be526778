"""The file server's protocol over a local directory: ``DOWNLOAD``, errors, and what is logged."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from twisted.internet.error import ConnectionLost

from natproxy.nat import Outcome
from natproxy.relay.files import CHUNK
from natproxy.server.events import Finished
from natproxy.storage import LocalStorage
from tests.support.files import open_descriptors
from tests.support.fileserver import FileServerCase

NOT_FOUND = b"ERR file not found\n"


class DownloadTests(FileServerCase):
    def test_file_is_sent_as_it_is(self) -> None:
        content = b"END\nOK 5\n\r\n\0\xff"
        (self.files / "a  b ").write_bytes(content)
        self.assertEqual(self.send(b"download  a  b \r\n"), b"OK 13\n" + content)
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
        self.assertEqual(self.send(b"DOWNLOAD empty\n"), b"OK 0\n")

    def test_name_that_is_not_utf_8(self) -> None:
        Path(os.fsdecode(os.fsencode(self.files) + b"/caf\xe9")).write_bytes(b"noir")
        self.assertEqual(self.send(b"DOWNLOAD caf\xe9\n"), b"OK 4\nnoir")

    def test_name_that_a_listing_cannot_carry(self) -> None:
        (self.files / "END").write_bytes(b"x")
        self.assertEqual(self.send(b"DOWNLOAD END\n"), b"OK 1\nx")

    def test_file_in_a_directory(self) -> None:
        (self.files / "directory").mkdir()
        (self.files / "directory" / "a").write_bytes(b"inside")
        self.assertEqual(self.send(b"DOWNLOAD directory/a\n"), b"OK 6\ninside")

    def test_reason_for_not_found_is_not_disclosed(self) -> None:
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
            self.assertEqual(self.send(b"DOWNLOAD " + name + b"\n"), NOT_FOUND, name)
        self.assertTrue(self.wire.open)
        self.assertEqual(set(self.journal.ends), {"completed"})
        self.assertEqual(self.journal.outcomes[0]["bytes"], len(NOT_FOUND))

    def test_no_descriptor_is_free(self) -> None:
        (self.files / "sub").mkdir()
        (self.files / "sub/a").write_bytes(b"x")

        def no_descriptor(*_: object) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        services = self.factory.services
        storage = services.storage
        services.storage = LocalStorage(os.fspath(self.files), no_descriptor)
        self.assertEqual(
            self.send(b"DOWNLOAD sub/a\n"), b"ERR the server cannot open files at present\n"
        )
        self.journal.line_with("cannot open sub/a: [Errno 24]")
        services.storage = storage
        self.assertEqual(self.send(b"DOWNLOAD sub/a\n"), b"OK 1\nx")

    def test_unknown_commands(self) -> None:
        for command in (b"WHO", b"DOWNLOAD", b"DOWNLOAD \t", b"\0", b"\xff a", b"LISTING"):
            self.assertEqual(self.send(command + b"\n"), b"ERR unknown command\n", command)
        self.assertEqual(self.journal.ends, ["completed"] * 6)

    def test_many_commands_at_once_get_replies_in_order(self) -> None:
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
        self.assertEqual(self.send(b"LIST\n"), b"")
        self.wire.fill_when_written_to()
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
        self.assertEqual(open_descriptors(), self.descriptors)

    def test_file_that_shrinks_aborts_the_connection(self) -> None:
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
        self.assertEqual(open_descriptors(), self.descriptors)

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

        def failing(*_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(os, "pread", failing)
        self.wire.empty()
        self.assertTrue(self.wire.aborted)
        self.journal.line_with("Input/output error")
        self.assertEqual(open_descriptors(), self.descriptors)

    def test_file_is_closed_when_the_client_disconnects(self) -> None:
        self.begin()
        self.assertEqual(open_descriptors(), self.descriptors + 1)
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertEqual(open_descriptors(), self.descriptors)
        self.assertEqual(self.journal.ends, ["completed", "client-gone"])
        self.assertEqual(self.journal.outcomes[1]["bytes"], len(self.header) + CHUNK)

    def test_client_that_does_not_read_is_aborted(self) -> None:
        self.begin()
        self.clock.advance(599)
        self.assertTrue(self.wire.open)
        self.clock.advance(1)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.journal.ends, ["completed", "timeout"])
        self.assertEqual(open_descriptors(), self.descriptors)

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


class EventTests(FileServerCase):
    def test_end_of_each_command_is_published(self) -> None:
        (self.files / "a").write_bytes(b"x")
        events: list[Finished] = []
        unsubscribe = self.factory.subscribe(events.append)
        for command, sent in ((b"DOWNLOAD a", 6), (b"DOWNLOAD b", len(NOT_FOUND))):
            self.send(command + b"\n")
            event = events.pop()
            self.assertEqual((event.client, event.sent), (self.protocol.client_address, sent))
            self.assertEqual((event.command.line, event.outcome), (command, Outcome.COMPLETED))
        self.send(b"LIST\n")
        self.clock.advance(3)
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertEqual((events[0].outcome, events[0].sent), (Outcome.CLIENT_GONE, 0))
        self.assertEqual(events[0].ended_at - events[0].started_at, 3)
        unsubscribe()
        self.thread.run()
        self.assertEqual(len(events), 1)

    def test_subscriber_may_abort_the_connection(self) -> None:
        (self.files / "a").write_bytes(b"x")
        for command in (b"DOWNLOAD a\n", b"DOWNLOAD b\n", b"FEAT\n", b"LIST\n"):
            self.setUp()
            (self.files / "a").write_bytes(b"x")
            events: list[Finished] = []

            def abort(event: Finished, events: list[Finished] = events) -> None:
                events.append(event)
                self.protocol.abort(Outcome.DRAINED)

            self.factory.subscribe(abort)
            self.send(command)
            while self.thread.asked:
                self.thread.run()
            self.assertEqual([event.outcome for event in events], [Outcome.COMPLETED], command)
            self.assertTrue(self.wire.aborted)
            self.assertEqual(self.flushLoggedErrors(), [])

    def test_log_is_a_subscriber(self) -> None:
        self.send(b"FEAT\n")
        (event,) = self.journal.outcomes
        self.assertEqual(event["log_namespace"], "natproxy.fileserver.commands")


class SecretTests(FileServerCase):
    def test_argument_of_auth_is_in_no_log_line_and_no_reply(self) -> None:
        for line in (b"AUTH s3cret", b"auth s3cret", b"AuTh\ts3cret", b"AUTH=s3cret"):
            self.assertEqual(self.send(line + b"\n"), b"ERR unknown command\n")
        self.assertNotIn("s3cret", repr(self.journal.events).lower())
        self.assertEqual(self.journal.outcomes, [])
