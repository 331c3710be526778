"""Files that a Deferred session opens."""

from __future__ import annotations

import io

from twisted.internet.defer import CancelledError

from natproxy.client import Changed, UsageError
from natproxy.client.twisted import RemoteFile
from natproxy.client.version import Features, State
from tests.support.deferred_sessions import FACTS, METADATA, DeferredCase


class FileTests(DeferredCase):
    def setUp(self) -> None:
        super().setUp()
        self.client._negotiation.record(Features(2, {}))
        self.client._negotiation.state = State.CONFIRMED

    def open(self) -> RemoteFile:
        opened = self.client.open("a")
        reply = b"OK type=file size=5 " + FACTS + b"\n"
        self.server = self.play((b"STAT a\n", reply), of_version=None)
        return self.successResultOf(opened)

    def expect(self, command: bytes, offset: int, body: bytes) -> None:
        self.assertEqual(self.server.wire.taken(), command)
        self.server.send(b"OK %d offset=%d size=5 " % (len(body), offset) + FACTS + b"\n" + body)

    def test_reads_follow_each_other(self) -> None:
        file = self.open()
        self.assertEqual((file.metadata, file.tell()), (METADATA, 0))
        first, rest = file.read(2), file.read()
        self.expect(b"GET a length=2 if-match=e\n", 0, b"bo")
        self.assertEqual(self.successResultOf(first), b"bo")
        self.assertNoResult(rest)
        # As after two reads of a blocking file.
        self.assertEqual(file.tell(), 5)
        self.expect(b"GET a offset=2 length=3 if-match=e\n", 2, b"dy!")
        self.assertEqual(self.successResultOf(rest), b"dy!")
        self.assertEqual(file.tell(), 5)
        for size in (0, 1, -1):
            self.assertEqual(self.successResultOf(file.read(size)), b"")
        self.assertEqual(self.server.wire.taken(), b"")

    def test_seek(self) -> None:
        file = self.open()
        self.assertEqual(file.seek(2), 2)
        self.assertEqual(file.seek(1, io.SEEK_CUR), 3)
        self.assertEqual(file.seek(-1, io.SEEK_END), 4)
        last = file.read(10)
        self.expect(b"GET a offset=4 length=1 if-match=e\n", 4, b"!")
        self.assertEqual(self.successResultOf(last), b"!")
        self.assertRaises(ValueError, file.seek, -1)
        self.assertRaises(ValueError, file.seek, 0, 3)
        self.assertEqual(file.seek(9), 9)
        self.assertEqual(self.successResultOf(file.read()), b"")

    def test_seek_does_not_affect_reads_that_have_been_called(self) -> None:
        file = self.open()
        first, second = file.read(2), file.read(2)
        file.seek(1)
        third = file.read(2)
        for result, offset, body in ((first, 0, b"bo"), (second, 2, b"dy"), (third, 1, b"od")):
            shown = b"offset=%d " % offset if offset else b""
            self.expect(b"GET a " + shown + b"length=2 if-match=e\n", offset, body)
            self.assertEqual(self.successResultOf(result), body)
        self.assertEqual(file.tell(), 3)

    def test_cancelled_read_does_not_delay_the_next(self) -> None:
        file = self.open()
        first, second = file.read(2), file.read(2)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(file.tell(), 2)
        rest = file.read(None)
        self.expect(b"GET a length=2 if-match=e\n", 0, b"bo")
        self.assertEqual(self.successResultOf(first), b"bo")
        self.expect(b"GET a offset=2 length=3 if-match=e\n", 2, b"dy!")
        self.assertEqual(self.successResultOf(rest), b"dy!")

    def test_failed_read_moves_nothing(self) -> None:
        file = self.open()
        read = file.read(2)
        self.server.wire.clear()
        self.server.send(b"ERR 412 changed\n")
        self.assert_fails(read, Changed, "a: changed on the server")
        self.assertEqual(file.tell(), 0)

    def test_directory_cannot_be_opened(self) -> None:
        opened = self.client.open("")
        reply = b"OK type=dir size=0 " + FACTS + b"\n"
        self.play((b"STAT .\n", reply), of_version=None)
        self.assert_fails(opened, UsageError, ".: is a directory")
