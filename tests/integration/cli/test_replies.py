"""Replies about many names: sent ahead, one by one after a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.cli.records import AHEAD, Replies
from natproxy.client import NotFound, NotUnderstood, Session, Unavailable
from natproxy.client.requests import Hash, Request, Stat
from natproxy.client.retry import Cancellation, Retrier, RetryPolicy
from natproxy.protocol import Metadata
from tests.support.answering_server import AnsweringServer, Version2

T = TypeVar("T")

NAMES = [b"f%d" % number for number in range(3 * AHEAD)]
BROKEN = b"f%d" % (AHEAD + 3)


class RepliesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.version2 = Version2({name: name for name in NAMES})
        self.faults: dict[bytes, list[bytes]] = {}
        self.complaints: list[str] = []
        self.waited: list[str] = []
        self.server = AnsweringServer(self.reply)
        self.addCleanup(self.server.close)
        self.session = Session(Address("127.0.0.1", self.server.port), 10)
        self.addCleanup(self.session.close)

    def reply(self, line: bytes) -> bytes:
        faults = self.faults.get(line)
        return faults.pop(0) if faults else self.version2(line)

    def replies(
        self,
        request: type[Request[T]],
        send: Callable[[bytes], T],
        policy: RetryPolicy,
    ) -> Replies[T]:
        retry = Retrier(self.session.retry_context, policy, Cancellation(), self.waited.append)
        return Replies(NAMES, self.session, request, send, retry, self.complaints.append)

    def stat(self, retry_for: float = 60) -> Replies[Metadata]:
        return self.replies(Stat, self.session.stat, RetryPolicy(retry_for))

    def names(self, replies: Replies[Metadata]) -> list[bytes]:
        return [name for name, _ in replies]

    def test_replies_are_in_order(self) -> None:
        self.assertEqual(self.names(self.stat()), NAMES)
        self.assertEqual(self.server.connections, 1)

    def test_name_that_is_missing_is_skipped(self) -> None:
        del self.version2.files[BROKEN]
        replies = self.stat()
        self.assertEqual(self.names(replies), [name for name in NAMES if name != BROKEN])
        self.assertEqual(len(self.complaints), 1)
        self.assertIn(BROKEN.decode(), self.complaints[0])
        self.assertEqual(replies.exit_status, NotFound("").exit_status)

    def test_connection_that_ends_is_replaced(self) -> None:
        self.faults[b"STAT " + BROKEN] = [b""]
        self.assertEqual(self.names(self.stat()), NAMES)
        # The name is requested again at once: only a second failure is waited for.
        self.assertEqual((self.server.connections, self.waited), (2, []))

    def test_server_that_is_busy_is_asked_again(self) -> None:
        self.faults[b"STAT " + BROKEN] = [b"ERR 429 busy\n"]
        self.assertEqual(self.names(self.stat()), NAMES)
        self.assertEqual(self.complaints, [])

    def test_server_that_stays_busy_ends_it(self) -> None:
        self.faults[b"STAT " + BROKEN] = [b"ERR 429 busy\n"] * 2
        with self.assertRaises(Unavailable):
            self.names(self.stat(0))

    def test_reply_that_is_malformed_ends_it(self) -> None:
        self.faults[b"STAT " + BROKEN] = [b"OK mtime=x\n"]
        with self.assertRaises(NotUnderstood):
            self.names(self.stat())

    def test_directory_has_no_digest(self) -> None:
        self.faults[b"HASH " + BROKEN] = [b"ERR 404 file not found\n"] * 2
        self.faults[b"STAT " + BROKEN] = [b"OK type=dir size=0 mtime=1.0 etag=e\n"]
        replies = self.replies(Hash, self.session.hash, RetryPolicy(0))
        self.assertEqual(len(list(replies)), len(NAMES) - 1)
        self.assertEqual(len(self.complaints), 1)
        self.assertIn("directory", self.complaints[0])
