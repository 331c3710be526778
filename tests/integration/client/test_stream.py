"""Downloads to a stream: in order, resumed, and never of two versions of a file."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from unittest import mock

from twisted.internet.task import Clock

from natproxy.client import (
    Changed,
    ConnectionBroken,
    DigestMismatch,
    Event,
    GaveUp,
    Interrupted,
    NotFound,
    NotUnderstood,
    Phase,
    Unsupported,
    UsageError,
)
from natproxy.client.blocking.reply import Reply
from natproxy.client.rate import RateLimit
from natproxy.client.retry import RETRY_FOR, Cancellation, RetryPolicy
from natproxy.client.transfer.request import DownloadOptions
from natproxy.client.transfer.stream import stream
from natproxy.protocol import Digest, format_digest
from tests.support.served_files import Fault, ServedFilesCase

NEW = bytes(range(256)) * 40
OLD = NEW[::-1]


class StreamCase(ServedFilesCase):
    def setUp(self) -> None:
        super().setUp()
        self.server.put(b"a", NEW)
        self.out = bytearray()

    def stream(self, options: DownloadOptions | None = None, name: bytes = b"a") -> int:
        return stream(self.session, name, self.out.extend, options, self.note)

    def change(self) -> None:
        self.server.put(b"a", OLD)


class WholeStreamTests(StreamCase):
    def test_every_byte_is_written_once(self) -> None:
        self.assertEqual((self.stream(), bytes(self.out)), (len(NEW), NEW))
        self.assertEqual(self.events[0], Event(b"a", Phase.RECEIVING, 0, len(NEW)))
        self.assertEqual(self.events[-1], Event(b"a", Phase.COMPLETE, len(NEW), len(NEW)))

    def test_empty_file(self) -> None:
        self.server.put(b"a", b"")
        for options in (DownloadOptions(), DownloadOptions(verify=True)):
            self.assertEqual(self.stream(options), 0)

    def test_bytes_are_requested_by_the_first_command(self) -> None:
        self.stream()
        self.assertEqual(self.server.commands, [b"FEAT", b"GET a", b"STAT a"])

    def test_digest_replaces_the_metadata_after_the_bytes(self) -> None:
        self.stream(DownloadOptions(verify=True))
        self.assertEqual(self.server.commands, [b"FEAT", b"GET a", b"HASH a"])

    def test_digest_is_compared(self) -> None:
        self.stream(DownloadOptions(verify=True))
        self.assertEqual(self.phases(), [Phase.RECEIVING, Phase.VERIFYING, Phase.COMPLETE])

    def test_rate_limit_is_observed(self) -> None:
        self.stream(DownloadOptions(limit=RateLimit(2048.0, clock=lambda: 0.0)))
        self.assertEqual(self.slept[-1], len(NEW) / 2048)

    def measured(self, take: Callable[[memoryview], object], slow: bool) -> None:
        """Stream 100 bytes at a time; either the server or the reader is slow."""
        clock = Clock()
        received = Reply.receive_into

        def receive(reply: Reply, buffer: memoryview) -> int:
            clock.advance(100 if slow else 0)
            return received(reply, buffer[:100])

        def write(piece: memoryview) -> None:
            clock.advance(0 if slow else 100)
            take(piece)

        self.session.retry_context.clock = clock.seconds
        with mock.patch.object(Reply, "receive_into", receive):
            stream(
                self.session, b"a", write, DownloadOptions(retry_policy=RetryPolicy()), self.note
            )

    def test_too_slow_body_fails_without_retries(self) -> None:
        self.assertRaises(GaveUp, self.measured, self.out.extend, slow=True)
        self.assertLess(len(self.out), 500)

    def test_slow_reader_is_not_an_error(self) -> None:
        self.measured(self.out.extend, slow=False)
        self.assertEqual(bytes(self.out), NEW)

    def test_version_1(self) -> None:
        self.server.version = 1
        self.assertEqual((self.stream(), bytes(self.out)), (len(NEW), NEW))
        self.assertEqual(self.events[-1], Event(b"a", Phase.COMPLETE, len(NEW), len(NEW)))
        self.assertRaises(Unsupported, self.stream, DownloadOptions(verify=True))

    def test_interrupt_is_not_reported_as_a_failure(self) -> None:
        cancellation = Cancellation()

        def take(_: memoryview) -> None:
            cancellation.cancel()

        self.assertRaises(
            Interrupted, stream, self.session, b"a", take, None, self.note, cancellation
        )
        self.assertEqual(set(self.phases()), {Phase.RECEIVING})

    def test_exception_of_the_writer_is_raised(self) -> None:
        def enough(_: memoryview) -> None:
            raise BrokenPipeError

        self.assertRaises(BrokenPipeError, stream, self.session, b"a", enough)
        self.stream()
        self.assertEqual(self.out, NEW)


class Short(io.RawIOBase):
    """A raw file object that accepts a few bytes at a time, with errors in between.

    :param obstacles: what the first calls return or raise.
    """

    def __init__(self, *obstacles: object) -> None:
        self.taken = bytearray()
        self.obstacles = list(obstacles)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        if self.obstacles:
            obstacle = self.obstacles.pop(0)
            if isinstance(obstacle, Exception):
                raise obstacle
            return obstacle  # type: ignore[return-value]
        piece = bytes(data[:1000])
        self.taken += piece
        return len(piece)


class FileObjectTests(StreamCase):
    """File objects that accept only some of the bytes, or none at the moment."""

    def test_short_writes_are_completed(self) -> None:
        for obstacles in ((), (InterruptedError(),), (3, InterruptedError())):
            file = Short(*obstacles)
            taken = sum(each for each in obstacles if isinstance(each, int))
            self.assertEqual(stream(self.session, b"a", file.write), len(NEW))
            self.assertEqual(file.taken, NEW[taken:])

    def test_function_may_return_the_number_of_accepted_bytes(self) -> None:
        def take(piece: memoryview) -> int:
            self.out.extend(piece[:7])
            return len(piece[:7])

        stream(self.session, b"a", take, DownloadOptions(verify=True))
        self.assertEqual(self.out, NEW)

    def test_non_blocking_file_is_waited_for(self) -> None:
        self.server.put(b"a", NEW * 100)
        for buffering in (0, 100, 1 << 17):
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            received = bytearray()

            def read(reader: int = reader, received: bytearray = received) -> None:
                while piece := os.read(reader, 4096):
                    received.extend(piece)

            thread = threading.Thread(target=read)
            with os.fdopen(writer, "wb", buffering) as pipe:
                thread.start()
                stream(self.session, b"a", pipe.write)
                os.set_blocking(writer, True)
            thread.join(30)
            os.close(reader)
            self.assertEqual(bytes(received), NEW * 100)

    def test_non_blocking_file_without_a_descriptor_is_an_error(self) -> None:
        for obstacle in (None, BlockingIOError(errno.EAGAIN, "not now")):
            file = Short(obstacle)
            self.assertRaises(BlockingIOError, stream, self.session, b"a", file.write)

    def test_impossible_number_of_accepted_bytes_is_an_error(self) -> None:
        for taken in (0, -1, len(NEW) + 1):
            self.assertRaises(OSError, stream, self.session, b"a", Short(taken).write)


class BrokenStreamTests(StreamCase):
    def test_lost_connection_is_resumed(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000), Fault(cut=-1), Fault(cut=0), Fault(cut=5))
        for options in (DownloadOptions(), DownloadOptions(verify=True)):
            self.out.clear()
            self.stream(options)
            self.assertEqual(self.out, NEW)
        self.assertEqual(self.server.sent, 2 * len(NEW))
        self.assertIn(Phase.WAITING, self.phases())

    def test_version_1_cannot_resume(self) -> None:
        self.server.version = 1
        self.server.fail(b"DOWNLOAD", Fault(cut=4000))
        self.assertRaises(ConnectionBroken, self.stream)
        self.assertEqual(self.out, NEW[:4000])

    def test_changed_file_fails_the_stream(self) -> None:
        change = Fault(act=self.change)
        for verb, faults, options in (
            (b"GET", [Fault(cut=4000), change], DownloadOptions()),
            (b"STAT", [change], DownloadOptions()),
            (b"HASH", [change], DownloadOptions(verify=True)),
        ):
            self.out.clear()
            self.events.clear()
            self.server.put(b"a", NEW)
            self.server.fail(verb, *faults)
            error = self.assertRaises(Changed, self.stream, options)
            self.assertEqual(error.exit_status, 8)
            self.assertTrue(NEW.startswith(self.out))
            self.assertEqual(self.phases()[-1], Phase.FAILED)

    def test_file_removed_at_the_end_has_changed(self) -> None:
        for verb, options in (
            (b"STAT", DownloadOptions()),
            (b"HASH", DownloadOptions(verify=True)),
        ):
            self.server.put(b"a", NEW)
            self.server.fail(verb, Fault(act=lambda: self.server.remove(b"a")))
            self.assertRaises(Changed, self.stream, options)

    def test_missing_file(self) -> None:
        self.assertRaises(NotFound, self.stream, None, b"none")
        self.assertEqual(self.phases(), [Phase.FAILED])

    def test_directory(self) -> None:
        self.server.put(b"d/a", b"")
        self.assertRaises(UsageError, self.stream, None, b"d")

    def test_digest_that_differs(self) -> None:
        digest = format_digest(Digest("0" * 64, len(NEW), "e1"))
        self.server.fail(b"HASH", Fault(reply=b"OK " + digest + b"\n"))
        self.assertRaises(DigestMismatch, self.stream, DownloadOptions(verify=True))

    def test_short_reply_is_never_complete(self) -> None:
        lie = b"OK 4 offset=0 size=4 mtime=1.0 etag=e1\nlies"
        self.server.fail(b"GET", Fault(reply=lie))
        self.assertRaises(NotUnderstood, self.stream)

    def test_retries_are_limited(self) -> None:
        self.server.fail(b"GET", *[Fault(reply=b"ERR 503 not now\n")] * 9)
        self.assertRaises(
            GaveUp, self.stream, DownloadOptions(retry_policy=RetryPolicy(RETRY_FOR, 2))
        )
        self.assertEqual(self.phases()[-1], Phase.FAILED)
