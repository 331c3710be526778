"""Downloads by version 1 of the protocol."""

from __future__ import annotations

import errno
import os
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import (
    Address,
    ConnectionBroken,
    LocalError,
    NotFound,
    Session,
    UsageError,
)
from natproxy.client.rate import RateMonitor
from natproxy.client.transfer import version1
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.version1 import download_version1
from tests.support.scripted_server import Scene, ScriptedServer


class DownloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.fsencode(self.mktemp())
        os.makedirs(self.directory)

    def play(self, *scenes: Scene) -> Session:
        """Return a session with a server that plays the scenes."""
        self.server = ScriptedServer(*scenes)
        session = Session(Address("127.0.0.1", self.server.port), 10)
        self.addCleanup(self.server.close)
        self.addCleanup(session.close)
        return session

    def path(self, *names: bytes) -> bytes:
        return os.path.join(self.directory, *names)

    def files(self) -> list[bytes]:
        """Return the names in the directory, hidden files included."""
        return sorted(os.listdir(self.directory))

    def read(self, path: bytes) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def test_version_is_not_requested(self) -> None:
        session = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        download_version1(session, b"a", self.path(b"a"))
        self.server.close()
        self.assertEqual(self.server.received, b"DOWNLOAD a\n")

    def test_directories_of_the_destination_are_created(self) -> None:
        session = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        path = download_version1(session, b"a", self.path(b"x", b"y", b"b"))
        self.assertEqual((path, self.read(path)), (self.path(b"x", b"y", b"b"), b"hi"))

    def test_default_destination_is_the_working_directory(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.directory)
        session = self.play([(b"DOWNLOAD s/a\n", b"OK 2\nhi")])
        self.assertEqual(download_version1(session, b"s/a"), b"a")
        self.assertEqual(self.read(b"a"), b"hi")

    def test_file_keeps_its_name_in_a_destination_directory(self) -> None:
        for destination in (self.directory, self.path(b"new", b"")):
            session = self.play([(b"DOWNLOAD s/a b\n", b"OK 2\nhi")])
            path = download_version1(session, b"s/a b", destination)
            self.assertEqual(path, os.path.join(destination, b"a b"))
            self.assertEqual(self.read(path), b"hi")

    def test_names_that_no_local_file_can_have_are_rejected(self) -> None:
        for name in (b"..", b"s/.", b"s/", b"a\0b"):
            session = self.play([(b"DOWNLOAD " + name + b"\n", b"OK 2\nhi")])
            self.assertRaises(UsageError, download_version1, session, name, self.path(b""))
        self.assertEqual(self.files(), [])

    def test_large_file_is_saved_whole_and_counted(self) -> None:
        content = bytes(range(256)) * 5000
        session = self.play([(b"DOWNLOAD a\n", b"OK %d\n%b" % (len(content), content))])
        counted: list[tuple[int, int]] = []
        with session.get_v1("a") as reply:
            size = version1.save_body(
                reply, LocalFile(self.path(b"a")), lambda size, done: counted.append((size, done))
            )
        self.assertEqual((size, self.read(self.path(b"a"))), (len(content), content))
        self.assertEqual(sum(piece for piece, _ in counted), len(content))
        self.assertEqual(counted[-1][1], len(content))

    def test_existing_file_is_replaced(self) -> None:
        with open(self.path(b"a"), "wb") as file:
            file.write(b"old")
        session = self.play([(b"DOWNLOAD a\n", b"OK 0\n")])
        self.assertEqual(self.read(download_version1(session, b"a", self.path(b"a"))), b"")

    def test_short_reply_leaves_the_existing_file(self) -> None:
        with open(self.path(b"a"), "wb") as file:
            file.write(b"old")
        session = self.play([(b"DOWNLOAD a\n", b"OK 5\nhi")])
        error = self.assertRaises(
            ConnectionBroken, download_version1, session, b"a", self.path(b"a")
        )
        self.assertIn("3 bytes missing", str(error))
        self.assertEqual((self.files(), self.read(self.path(b"a"))), ([b"a"], b"old"))

    def test_too_slow_body_fails_and_leaves_no_file(self) -> None:
        session = self.play([(b"DOWNLOAD a\n", b"OK 9\nhi there!")])
        dripping = RateMonitor("h:1", 0)
        dripping.received(1, 60)
        clock = mock.Mock(monotonic=mock.Mock(side_effect=[0, 0.1]))
        with (
            mock.patch("natproxy.client.blocking.reply.RateMonitor", return_value=dripping),
            mock.patch.object(version1, "time", clock),
        ):
            error = self.assertRaises(
                ConnectionBroken, download_version1, session, b"a", self.path(b"a")
            )
        self.assertEqual(str(error), "h:1 sent less than 1024 bytes a second")
        self.assertEqual(self.files(), [])

    def test_ctrl_c_leaves_no_file(self) -> None:
        session = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        with mock.patch("os.pwrite", side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, download_version1, session, b"a", self.path(b"a"))
        self.assertEqual(self.files(), [])

    def test_missing_file_creates_no_directory(self) -> None:
        session = self.play([(b"DOWNLOAD a\n", b"ERR file not found\n")])
        self.assertRaises(NotFound, download_version1, session, b"a", self.path(b"x", b"a"))
        self.assertEqual(self.files(), [])

    def test_full_disk_is_reported_in_one_line_and_leaves_no_file(self) -> None:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for failing in ("pwrite", "fsync", "replace"):
            session = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
            with mock.patch(f"os.{failing}", side_effect=full):
                error = self.assertRaises(
                    LocalError, download_version1, session, b"a", self.path(b"a")
                )
            self.assertEqual(str(error), f"{os.fsdecode(self.path(b'a'))}: No space left on device")
            self.assertEqual(self.files(), [])

    def test_short_writes(self) -> None:
        write = os.pwrite
        session = self.play([(b"DOWNLOAD a\n", b"OK 5\nhello")])
        with mock.patch("os.pwrite", lambda file, data, offset: write(file, data[:2], offset)):
            path = download_version1(session, b"a", self.path(b"a"))
        self.assertEqual(self.read(path), b"hello")

    def test_error_names_the_destination(self) -> None:
        with open(self.path(b"file"), "wb"):
            pass
        session = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        target = self.path(b"file", b"a")
        error = self.assertRaises(LocalError, download_version1, session, b"a", target)
        self.assertIn(os.fsdecode(target), str(error))

    def test_read_only_directory_is_reported_in_one_line(self) -> None:
        session = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        refused = OSError(errno.EROFS, os.strerror(errno.EROFS))
        with mock.patch("os.open", side_effect=refused):
            error = self.assertRaises(LocalError, download_version1, session, b"a", self.path(b"a"))
        self.assertIn("Read-only file system", str(error))

    def test_special_file_is_not_replaced(self) -> None:
        os.mkfifo(self.path(b"fifo"))
        session = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        error = self.assertRaises(LocalError, download_version1, session, b"a", self.path(b"fifo"))
        self.assertIn("not a regular file", str(error))
        self.assertEqual(self.files(), [b"fifo"])

    def test_new_file_has_the_permissions_of_the_umask(self) -> None:
        before = os.umask(0o027)
        self.addCleanup(os.umask, before)
        session = self.play([(b"DOWNLOAD a\n", b"OK 2\nhi")])
        path = download_version1(session, b"a", self.path(b"a"))
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)

    def test_longest_name(self) -> None:
        name = b"n" * 255
        session = self.play([(b"DOWNLOAD " + name + b"\n", b"OK 2\nhi")])
        self.assertEqual(self.read(download_version1(session, name, self.path(b""))), b"hi")
