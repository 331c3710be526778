"""Deferred sessions: temporary failures, and for how long they are retried."""

from __future__ import annotations

import math
import random
from typing import Any

from twisted.internet import error
from twisted.internet.defer import CancelledError
from twisted.internet.testing import StringTransport

from natproxy.client import (
    CannotConnect,
    Changed,
    ConnectionBroken,
    GaveUp,
    Interrupted,
    NotFound,
    UsageError,
)
from natproxy.client.retry import RetryPolicy
from natproxy.client.twisted import Session
from tests.support.deferred_sessions import FACTS, METADATA, DeferredCase

NOT_NOW = b"ERR 503 not now\n"
STAT = b"OK type=file size=5 " + FACTS + b"\n"


class RetryCase(DeferredCase):
    def new_client(self, **options: Any) -> Session:
        return super().new_client(**{"retry_policy": RetryPolicy(60), **options})


class RetryTests(RetryCase):
    def test_every_command_is_retried(self) -> None:
        digest = b"OK sha256=%b size=5 etag=e\n" % (b"0" * 64)
        for ask, reply in (
            (lambda: self.client.list(), b"OK\na\nEND\n"),
            (lambda: self.client.ls(), b"OK 0\n"),
            (lambda: self.client.stat("a"), STAT),
            (lambda: self.client.hash("a"), digest),
            (lambda: self.client.read("a"), b"OK 5 offset=0 size=5 " + FACTS + b"\nthe a"),
        ):
            self.client = self.new_client()
            self.client.version()
            connection = self.accept()
            connection.wire.clear()
            result = ask()
            command = connection.wire.taken()
            connection.send(NOT_NOW)
            self.assertNoResult(result)
            self.clock.advance(0.75)
            self.assertEqual(connection.wire.taken(), command)
            connection.send(reply)
            self.successResultOf(result)

    def test_silence_while_a_digest_is_computed_counts_as_no_failure(self) -> None:
        self.client = self.new_client(retry_policy=RetryPolicy(60, 1))
        digest = self.client.hash("a")
        connection = self.accept()
        for _ in range(5):
            self.clock.advance(60)
            connection = self.accept(of_version=None)
            if connection.wire.taken() == b"STAT a\n":
                connection.send(STAT)
        connection.send(b"OK sha256=%b size=5 etag=e\n" % (b"0" * 64))
        self.assertEqual(self.successResultOf(digest).size, 5)

    def test_missing_file_is_reported_at_once_if_stat_fails_for_now(self) -> None:
        digest = self.client.hash("a")
        connection = self.accept()
        connection.wire.clear()
        connection.send(b"ERR 404 file not found\n")
        self.assertEqual(connection.wire.taken(), b"STAT a\n")
        connection.send(NOT_NOW)
        self.failureResultOf(digest, NotFound)

    def test_feat_is_retried(self) -> None:
        version = self.client.version()
        connection = self.accept(of_version=None)
        connection.send(b"ERR proxy error: no server\n")
        self.clock.advance(0.75)
        connection.send(b"OK\nNATPROXY 2\nEND\n")
        self.assertEqual(self.successResultOf(version), 2)

    def test_patience_has_an_end(self) -> None:
        # Longer waits than 30 s would replace the connection.
        self.patch(random, "random", lambda: 0.0)
        names = self.client.list()
        connection = self.accept(of_version=None)
        for _ in range(1000):
            if connection.wire.taken():
                connection.send(NOT_NOW)
            self.clock.advance(1)
        gave_up = self.failureResultOf(names, GaveUp).value
        self.assertEqual(str(gave_up), "not now (gave up after 1 min without progress)")

    def test_nothing_is_retried_by_default(self) -> None:
        self.client = super().new_client(retry_policy=None)
        names = self.client.list()
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        self.failureResultOf(names, CannotConnect)

    def test_first_connect_is_retried_only_with_wait(self) -> None:
        connected = self.client.connect()
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        self.failureResultOf(connected, CannotConnect)
        self.client = self.new_client(retry_policy=RetryPolicy(60, wait=True))
        connected = self.client.connect()
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        self.assertNoResult(connected)
        self.clock.advance(0.75)
        self.accept(of_version=None)
        self.successResultOf(connected)

    def test_server_that_was_there_is_waited_for(self) -> None:
        names = self.client.list()
        connection = self.play((b"LIST\n", b"OK\nEND\n"), of_version=None)
        self.successResultOf(names)
        self.lose(connection)
        names = self.client.list()
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        self.assertNoResult(names)
        self.clock.advance(0.75)
        self.play((b"LIST\n", b"OK\nEND\n"), of_version=None)
        self.successResultOf(names)

    def test_wait_is_cancelled_and_ended(self) -> None:
        for end, kind in (("cancel", CancelledError), ("close", Interrupted)):
            self.client = self.new_client()
            names = self.client.list()
            self.accept(of_version=None).send(NOT_NOW)
            if end == "cancel":
                names.cancel()
            else:
                self.client.close()
            self.failureResultOf(names, kind)


class RefusedOptionsTests(RetryCase):
    def test_time_out_that_is_none(self) -> None:
        for seconds in (0, -1, math.nan, math.inf):
            for options in ({"timeout": seconds}, {"connect_timeout": seconds}):
                self.assertRaises(UsageError, Session, self.endpoint, self.clock, **options)


class DownloadTests(RetryCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.version()
        self.accept()
        self.sink = StringTransport()

    def cut_off(self, command: bytes, reply: bytes) -> None:
        """Send a part of a reply, and lose the connection."""
        connection = self.endpoint.last
        if connection.protocol is None:
            connection.accept()
        self.assertEqual(connection.wire.taken().split(b"FEAT\n")[-1], command)
        connection.send(reply)
        self.lose(connection)
        self.clock.advance(1)

    def test_download_that_breaks_off_is_continued(self) -> None:
        got = self.client.get("a", self.sink, 1, 4)
        self.cut_off(b"GET a offset=1 length=4\n", b"OK 4 offset=1 size=5 " + FACTS + b"\nhe")
        self.assertIsNone(self.sink.producer)
        rest = b"OK 2 offset=3 size=5 " + FACTS + b"\n"
        self.cut_off(b"GET a offset=3 length=2 if-match=e\n", rest + b" ")
        self.clock.advance(2)
        self.play(
            (
                b"GET a offset=4 length=1 if-match=e\n",
                b"OK 1 offset=4 size=5 " + FACTS + b"\na",
            ),
            of_version=None,
        )
        part = self.successResultOf(got)
        self.assertEqual((part.offset, part.length, part.metadata), (1, 4, METADATA))
        self.assertEqual(self.sink.value(), b"he a")

    def test_file_that_has_changed_meanwhile_is_not_mixed_in(self) -> None:
        got = self.client.get("a", self.sink)
        self.cut_off(b"GET a\n", b"OK 5 offset=0 size=5 " + FACTS + b"\nthe")
        self.play(
            (b"GET a offset=3 length=2 if-match=e\n", b"ERR 412 changed etag=f\n"),
            of_version=None,
        )
        self.failureResultOf(got, Changed)
        self.assertEqual(self.sink.value(), b"the")

    def test_without_patience_it_fails(self) -> None:
        self.client = self.new_client(retry_policy=RetryPolicy())
        self.client.version()
        self.accept()
        got = self.client.get("a", self.sink)
        self.cut_off(b"GET a\n", b"OK 5 offset=0 size=5 " + FACTS + b"\nthe")
        self.failureResultOf(got, ConnectionBroken)
