"""The client's connection and its downloads, against a server played from a script."""

from __future__ import annotations

import errno
import os
import socket
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import (
    CannotConnect,
    Connection,
    ConnectionBroken,
    LocalError,
    NotFound,
    NotUnderstood,
    Server,
    ServerError,
    UsageError,
    download,
)
from tests.played_server import PlayedServer, Scene


class ServerAddressTests(SynchronousTestCase):
    def test_forms_that_are_understood(self) -> None:
        for text, expected in (
            ("example.org:80", ("example.org", 80)),
            ("example.org", ("example.org", 9000)),
            ("[::1]:80", ("::1", 80)),
            ("[::1]", ("::1", 9000)),
        ):
            self.assertEqual(Server.parse(text), expected)

    def test_forms_that_are_refused(self) -> None:
        for text in ("", ":80", "host:", "host:0", "host:65536", "host:x", "::1:80", "h:\u0665"):
            self.assertRaises(UsageError, Server.parse, text)

    @given(st.ip_addresses(v=6).map(str), st.integers(1, 65535))
    def test_text_reads_back_as_the_same_address(self, host: str, port: int) -> None:
        self.assertEqual(Server.parse(str(Server(host, port))), (host, port))


class PlayedCase(SynchronousTestCase):
    def play(self, *scenes: Scene, linger: bool = False, timeout: float = 10) -> Connection:
        """Give a connection to a server that plays the scenes."""
        self.server = PlayedServer(*scenes, linger=linger)
        connection = Connection(Server("127.0.0.1", self.server.port), timeout)
        self.addCleanup(self.server.close)
        self.addCleanup(connection.close)
        return connection


class CommandTests(PlayedCase):
    def test_names_are_listed_without_the_empty_line_of_old_servers(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\n\na b\n\xff\nEND\n")])
        self.assertEqual(list(connection.list()), [b"a b", b"\xff"])

    def test_many_commands_share_a_connection(self) -> None:
        scene = [(b"LIST\n", b"OK\na\nEND\n"), (b"DOWNLOAD a\n", b"OK 2\nhi")]
        connection = self.play([*scene, (b"LIST\n", b"OK\nEND\n")])
        self.assertEqual(list(connection.list()), [b"a"])
        self.assertEqual(b"".join(connection.request(b"DOWNLOAD", b"a")), b"hi")
        self.assertEqual(list(connection.list()), [])

    def test_peer_that_closes_after_one_reply_is_connected_to_anew(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\na\nEND\n")], [(b"DOWNLOAD a\n", b"OK 2\nhi")], [])
        self.assertEqual(list(connection.list()), [b"a"])
        self.assertEqual(b"".join(connection.request(b"DOWNLOAD", b"a")), b"hi")
        self.assertEqual(self.server.received, b"LIST\nDOWNLOAD a\n")

    def test_reply_that_was_not_read_to_its_end_costs_the_connection(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")], [(b"LIST\n", b"OK\nEND\n")])
        connection.request(b"DOWNLOAD", b"a")
        self.assertEqual(list(connection.list()), [])

    def test_bytes_after_a_reply_are_not_taken_for_the_next_one(self) -> None:
        connection = self.play(
            [(b"DOWNLOAD a\n", b"OK 2\nhiOK 4\nevil")], [(b"DOWNLOAD b\n", b"OK 2\nho")]
        )
        self.assertEqual(b"".join(connection.request(b"DOWNLOAD", b"a")), b"hi")
        self.assertEqual(b"".join(connection.request(b"DOWNLOAD", b"b")), b"ho")

    def test_errors_of_the_server_are_told_apart(self) -> None:
        answers = [(b"DOWNLOAD a\n", b"ERR file not found\n"), (b"LIST\n", b"ERR no\x1b[2J\n")]
        connection = self.play(answers)
        self.assertRaises(NotFound, connection.request, b"DOWNLOAD", b"a")
        error = self.assertRaises(ServerError, connection.request, b"LIST")
        self.assertEqual(str(error), "no\\x1b[2J")

    def test_replies_that_break_the_protocol_are_not_understood(self) -> None:
        for answer in (b"OK x\n", b"OK -1\n", b"hello\n", b"OK " + b"9" * 20_000):
            connection = self.play([(b"DOWNLOAD a\n", answer)])
            self.assertRaises(NotUnderstood, connection.request, b"DOWNLOAD", b"a")

    def test_listing_with_an_endless_line_is_not_understood(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\n" + b"x" * 20_000)])
        self.assertRaises(NotUnderstood, list, connection.list())

    def test_server_that_closes_without_a_reply(self) -> None:
        connection = self.play([(b"LIST\n", b"")])
        error = self.assertRaises(ConnectionBroken, connection.request, b"LIST")
        self.assertIn("without a reply", str(error))

    def test_silent_server_is_not_waited_for_longer_than_the_time_out(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\na\n")], linger=True, timeout=0.05)
        error = self.assertRaises(ConnectionBroken, list, connection.list())
        self.assertIn("silent for 0.05 s", str(error))

    def test_silent_server_is_not_asked_again(self) -> None:
        connection = self.play(
            [(b"LIST\n", b"OK\nEND\n"), (b"LIST\n", b"")], linger=True, timeout=0.05
        )
        self.assertEqual(list(connection.list()), [])
        self.assertRaises(ConnectionBroken, connection.request, b"LIST")
        self.server.close()
        self.assertEqual(self.server.received, b"LIST\nLIST\n")

    def test_server_that_is_not_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        error = self.assertRaises(CannotConnect, Connection(Server("127.0.0.1", port)).connect)
        self.assertEqual(str(error), f"cannot connect to 127.0.0.1:{port}: Connection refused")

    def test_names_that_would_break_a_line_are_refused_before_anything_is_sent(self) -> None:
        connection = Connection(Server("host.invalid", 1))
        for name in (b"a\nb", b"a\rb", b"a\0b", b"", b" a", b"x" * 16_384):
            self.assertRaises(UsageError, connection.request, b"DOWNLOAD", name)


class DownloadTests(PlayedCase):
    def setUp(self) -> None:
        self.folder = os.fsencode(self.mktemp())
        os.makedirs(self.folder)

    def path(self, *names: bytes) -> bytes:
        return os.path.join(self.folder, *names)

    def files(self) -> list[bytes]:
        """Give what is in the folder, hidden files too."""
        return sorted(os.listdir(self.folder))

    def read(self, path: bytes) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def test_folders_of_the_destination_are_created(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        path = download(connection, b"a", self.path(b"x", b"y", b"b"))
        self.assertEqual((path, self.read(path)), (self.path(b"x", b"y", b"b"), b"hi"))

    def test_folder_as_destination_takes_the_file_by_its_name(self) -> None:
        for destination in (self.folder, self.path(b"new", b"")):
            connection = self.play([(b"DOWNLOAD s/a b\n", b"OK 2\nhi")])
            path = download(connection, b"s/a b", destination)
            self.assertEqual(path, os.path.join(destination, b"a b"))
            self.assertEqual(self.read(path), b"hi")

    def test_short_download_leaves_nothing_and_spares_what_was_there(self) -> None:
        with open(self.path(b"a"), "wb") as file:
            file.write(b"old")
        connection = self.play([(b"DOWNLOAD a\n", b"OK 5\nhi")])
        error = self.assertRaises(ConnectionBroken, download, connection, b"a", self.path(b"a"))
        self.assertIn("3 bytes missing", str(error))
        self.assertEqual((self.files(), self.read(self.path(b"a"))), ([b"a"], b"old"))

    def test_file_that_is_not_there_creates_no_folder(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"ERR file not found\n")])
        self.assertRaises(NotFound, download, connection, b"a", self.path(b"x", b"a"))
        self.assertEqual(self.files(), [])

    def test_full_disk_is_told_in_one_line_and_leaves_nothing(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch("natproxy.client.saving.os.write", side_effect=full):
            error = self.assertRaises(LocalError, download, connection, b"a", self.path(b"a"))
        self.assertIn("No space left on device", str(error))
        self.assertEqual(self.files(), [])

    def test_destination_that_cannot_be_written_is_named(self) -> None:
        with open(self.path(b"file"), "wb"):
            pass
        connection = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        target = self.path(b"file", b"a")
        error = self.assertRaises(LocalError, download, connection, b"a", target)
        self.assertIn(os.fsdecode(target), str(error))

    def test_destination_that_is_no_file_is_left_alone(self) -> None:
        os.mkfifo(self.path(b"fifo"))
        connection = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        error = self.assertRaises(LocalError, download, connection, b"a", self.path(b"fifo"))
        self.assertIn("not a regular file", str(error))
        self.assertEqual(self.files(), [b"fifo"])

    def test_new_file_has_the_permissions_that_the_user_gives(self) -> None:
        before = os.umask(0o027)
        self.addCleanup(os.umask, before)
        connection = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        path = download(connection, b"a", self.path(b"a"))
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)

    def test_name_as_long_as_a_name_can_be(self) -> None:
        name = b"n" * 255
        connection = self.play([(b"DOWNLOAD " + name + b"\n", b"OK 2\nhi")])
        self.assertEqual(self.read(download(connection, name, self.path(b""))), b"hi")
