"""Downloads with faults: retries, rates, segments, cancellation, and servers of version 1."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

from natproxy.client import (
    CannotConnect,
    Changed,
    ClientError,
    Connection,
    ConnectionBroken,
    Event,
    GaveUp,
    Interrupted,
    LocalError,
    NotFound,
    NotUnderstood,
    Phase,
    ServerError,
    Session,
    Unavailable,
)
from natproxy.client.rate import RateLimit
from natproxy.client.retry import RETRY_FOR, Cancellation, RetryPolicy
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.partial import PartialDownload
from natproxy.client.transfer.reception import Reception
from natproxy.client.transfer.record import Segment
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from tests.support.downloads import NEW, OLD, ONCE, DownloadCase, at_most
from tests.support.served_files import Fault

BREAK = Fault(cut=-1)


class RetryingTests(DownloadCase):
    def test_lost_connection_is_resumed(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000), Fault(cut=3000))
        self.assertEqual(self.download().received, len(NEW))
        offsets = [arguments.split()[1] for arguments in self.server.arguments_of(b"GET")[1:]]
        self.assertEqual(offsets, [b"offset=4000", b"offset=7000"])
        self.assertEqual(self.server.sent, len(NEW))
        self.assert_whole()

    def test_every_temporary_failure_is_retried_and_reported(self) -> None:
        # Then the server is known to speak version 2.
        self.session.stat(b"d/a")
        for reply in (
            b"503 not now",
            b"429 too many",
            b"proxy error: x",
            b"empty response from server",
        ):
            self.server.fail(b"GET", Fault(reply=b"ERR " + reply + b"\n"))
        self.download()
        messages = self.messages(Phase.WAITING)
        self.assertEqual([len(messages), len(self.slept)], [4, 4])
        for message, expected in zip(messages, ("not now", "too many", "x", "empty"), strict=True):
            self.assertIn(expected, message)
            self.assertIn("trying again in", message)
            # The event has the name in a field of its own.
            self.assertNotIn("d/a", message)
        self.assert_whole()

    def test_first_command_is_retried(self) -> None:
        self.server.fail(b"STAT", Fault(reply=b"ERR proxy error: no server\n"))
        self.server.fail(b"HASH", Fault(reply=b"ERR 503 the file is changing\n"))
        self.download(DownloadOptions(verify=True))
        self.assert_whole()

    def test_permanent_failures_are_not_retried(self) -> None:
        for reply, kind in (
            (b"ERR 404 file not found\n", NotFound),
            (b"ERR 500 internal\n", ServerError),
            (b"ERR 416 range size=1\n", ServerError),
            (b"OK nonsense\n", NotUnderstood),
        ):
            # After 404, STAT shows that it is no directory.
            self.server.fail(b"GET", *[Fault(reply=reply)] * (2 if kind is NotFound else 1))
            self.assertRaises(kind, self.download)
        self.assertEqual(self.slept, [])

    def test_retries_are_limited_and_received_bytes_are_kept(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000), *[BREAK] * 8)
        error = self.assertRaises(GaveUp, self.download, DownloadOptions(retry_policy=at_most(3)))
        self.assertEqual(error.exit_status, 5)
        self.assertEqual(
            str(error),
            f"d/a: {self.server.address} closed the connection without a reply (gave up after 4"
            " tries); what was received is kept, and the same command continues it",
        )
        self.assertEqual(self.phases()[-1], Phase.FAILED)
        self.server._faults.clear()
        self.assertEqual(self.download().received, 6240)
        self.assert_whole()

    def test_delays_grow_and_are_reset_by_progress(self) -> None:
        failing = [Fault(reply=b"ERR 503 not now\n")] * 3
        self.server.fail(b"GET", *failing, Fault(cut=4000), *failing)
        with mock.patch("random.random", return_value=0.5):
            # With this limit, 4000 bytes count as progress.
            self.download(
                DownloadOptions(retry_policy=at_most(4), limit=RateLimit(3000.0, lambda: 0.0))
            )
        waits = [seconds for seconds in self.slept if seconds in (0.5, 1.0, 2.0, 4.0)]
        self.assertEqual(waits, [0.5, 1.0, 2.0, 0.5, 1.0, 2.0, 4.0])

    def test_nothing_is_retried_without_a_policy(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000))
        self.assertRaises(ConnectionBroken, self.download, ONCE)
        self.server.fail(b"GET", Fault(reply=b"ERR 503 not now\n"))
        self.assertRaises(Unavailable, self.download, ONCE)
        self.assertEqual(self.slept, [])

    def test_failure_names_the_file_and_mentions_only_kept_bytes(self) -> None:
        self.server.fail(b"GET", *[Fault(reply=b"ERR 503 not now\n")] * 2)
        for options in (DownloadOptions(retry_policy=at_most(1)), ONCE):
            self.server._faults.clear()
            self.server.fail(b"GET", *[Fault(reply=b"ERR 503 not now\n")] * 2)
            error = self.assertRaises(ClientError, self.download, options)
            self.assertTrue(str(error).startswith("d/a: not now"), error)
            self.assertNotIn("kept", str(error))

    def test_outage_of_ten_minutes_is_survived_by_all_segments(self) -> None:
        now = [0.0]

        def sleep(cancellation: Cancellation, seconds: float) -> None:
            cancellation.check()
            now[0] += seconds / 4

        def act() -> None:
            if now[0] < 600:
                raise ConnectionResetError

        self.server.fail(b"GET", *[Fault(act=act)] * 1000)
        self.session.retry_context.clock = lambda: now[0]
        with (
            mock.patch("natproxy.client.transfer.record.SMALLEST_SEGMENT", 1000),
            mock.patch("natproxy.client.retry.Cancellation.sleep", sleep),
        ):
            self.download(DownloadOptions(segments=4))
        self.assertGreaterEqual(now[0], 600)
        self.assert_whole()

    def test_first_connection_is_retried_with_wait(self) -> None:
        connect = Connection.connect
        failures = [CannotConnect("refused")] * 3

        def refused(connection: Connection) -> None:
            if failures:
                raise failures.pop()
            connect(connection)

        with mock.patch.object(Connection, "connect", refused):
            self.download(DownloadOptions(retry_policy=RetryPolicy(RETRY_FOR, wait=True)))
        self.assertEqual(len(self.slept), 3)
        self.assert_whole()

    def test_first_connection_is_not_retried(self) -> None:
        self.server.close()
        error = self.assertRaises(CannotConnect, self.download)
        self.assertEqual((error.exit_status, self.slept, self.files()), (4, [], []))

    def test_later_connections_are_retried(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000, act=self.server.stop_listening))
        self.assertRaises(GaveUp, self.download, DownloadOptions(retry_policy=at_most(2)))
        self.assertEqual(len(self.slept), 2)

    def test_silent_server_times_out(self) -> None:
        self.session.close()
        self.session = Session(self.server.address, 0.1)
        self.addCleanup(self.session.close)
        # The first command is repeated at once, because its connection was reused.
        self.server.fail(b"GET", *[Fault(silent=True)] * 2)
        self.download()
        self.assertIn("silent for 0.1 s", self.messages(Phase.WAITING)[0])
        self.assert_whole()


class RateTests(DownloadCase):
    def test_rate_limit_is_observed(self) -> None:
        limit = RateLimit(2048.0, clock=lambda: 100.0)
        self.download(DownloadOptions(limit=limit))
        # The clock does not advance: the last delay is for all bytes.
        self.assertEqual(self.slept[-1], len(NEW) / 2048)
        self.assertEqual(len(self.slept), 3)
        self.assert_whole()

    def test_slow_transfer_is_not_delayed(self) -> None:
        now = iter(range(0, 10**6, 1000))
        self.download(DownloadOptions(limit=RateLimit(10_000.0, clock=lambda: float(next(now)))))
        self.assertTrue(all(seconds < 1 for seconds in self.slept), self.slept)


class SegmentTests(DownloadCase):
    def setUp(self) -> None:
        super().setUp()
        small = mock.patch("natproxy.client.transfer.record.SMALLEST_SEGMENT", 1000)
        small.start()
        self.addCleanup(small.stop)
        self.options = DownloadOptions(segments=4)

    def test_each_segment_is_a_range(self) -> None:
        self.assertEqual(self.download(self.options).received, len(NEW))
        self.assertEqual(
            {tuple(arguments.split()[1:]) for arguments in self.server.arguments_of(b"GET")},
            {
                (b"length=2560", b"if-match=e1"),
                (b"offset=2560", b"length=2560", b"if-match=e1"),
                (b"offset=5120", b"length=2560", b"if-match=e1"),
                (b"offset=7680", b"length=2560", b"if-match=e1"),
            },
        )
        self.assert_whole()

    def test_failed_segment_is_retried_alone(self) -> None:
        self.server.fail(b"GET", Fault(cut=1000))
        self.download(self.options)
        self.assertEqual((len(self.server.arguments_of(b"GET")), self.server.sent), (5, len(NEW)))
        self.assert_whole()

    def test_received_bytes_of_each_segment_are_kept(self) -> None:
        self.server.fail(b"GET", *[Fault(cut=1000)] * 4)
        self.assertRaises(
            ConnectionBroken, self.download, DownloadOptions(segments=4, retry_policy=RetryPolicy())
        )
        record = json.loads(self.read(b".a.part.json"))
        kept = sum(done - start for start, done, _ in record["segments"])
        self.assertGreaterEqual(kept, 1000)
        self.assertEqual(self.download().received, len(NEW) - kept)
        self.assert_whole()

    def test_digest_of_each_segment_is_compared(self) -> None:
        self.download(DownloadOptions(segments=4, verify=True))
        self.assertEqual(len(self.server.arguments_of(b"HASH")), 4)
        self.assert_whole()

    def test_failure_of_one_segment_cancels_the_others(self) -> None:
        # The others are receiving bytes of the old version, which are useless now.
        big = bytes(8 << 20)
        self.server.put(b"d/a", big)
        waiting = threading.Barrier(4, timeout=10)
        gone = Fault(reply=b"ERR 412 changed etag=x\n", act=waiting.wait)
        self.server.fail(b"GET", gone, *[Fault(act=waiting.wait)] * 3)
        self.server.fail(b"STAT", Fault(), Fault(reply=b"ERR 404 file not found\n"))
        receive = Reception._receive_segment
        failed: list[threading.Event] = []

        def noted(
            reception: Reception, part: PartialDownload, segment: Segment, event: Any, last: bool
        ) -> str:
            failed.append(event)
            return receive(reception, part, segment, event, last)

        def note(event: Event) -> None:
            if event.phase is Phase.RECEIVING and event.done:
                failed[0].wait(10)

        transfer = Download(
            self.session, DownloadRequest(b"d/a", self.path(b"a")), self.options, note
        )
        with (
            mock.patch.object(Reception, "_receive_segment", noted),
            mock.patch("natproxy.client.transfer.request.CHUNK_SIZE", 1 << 16),
        ):
            self.assertRaises(NotFound, transfer.run)
        record = json.loads(self.read(b".a.part.json"))
        kept = sum(done - start for start, done, _ in record["segments"])
        self.assertLessEqual(kept, 3 << 16)

    def test_changed_file_is_downloaded_again_by_all_segments(self) -> None:
        change = Fault(cut=1000, act=lambda: self.server.put(b"d/a", OLD))
        self.server.fail(b"GET", Fault(), Fault(), change)
        self.download(self.options)
        self.assert_whole(OLD)


class InterruptedTests(DownloadCase):
    def download_and(self, act: Callable[[Cancellation], object], options: DownloadOptions) -> None:
        """Start a download, and call a function in another thread after the first bytes."""
        cancellation = Cancellation()
        came = threading.Event()

        def note(event: Event) -> None:
            if event.done:
                came.set()

        def other() -> None:
            came.wait(10)
            act(cancellation)

        thread = threading.Thread(target=other)
        thread.start()
        self.addCleanup(thread.join)
        request = DownloadRequest(b"d/a", self.path(b"a"))
        error = self.assertRaises(
            Interrupted, Download(self.session, request, options, note, cancellation).run
        )
        self.assertEqual(error.exit_status, 130)

    def test_other_thread_cancels_a_blocking_read(self) -> None:
        # The server never sends the rest of the reply.
        header = b"OK 10240 offset=0 size=10240 mtime=1.0 etag=e1\n"
        self.server.fail(b"GET", Fault(reply=header + NEW[:4000]))
        self.server.fail(b"STAT", Fault(silent=True))

        # The step may have checked the cancellation and ended before it is interrupted.
        session = self.session

        def act(cancellation: Cancellation) -> None:
            cancellation.cancel()
            session.interrupt()

        self.download_and(act, DownloadOptions())
        self.session = Session(self.server.address)
        session.close()
        self.addCleanup(self.session.close)
        self.assertEqual(self.download().received, 6240)
        self.assert_whole()

    def test_cancellation_ends_a_delay(self) -> None:
        cancellation = Cancellation()
        cancellation.cancel()
        request = DownloadRequest(b"d/a", self.path(b"a"))
        self.assertRaises(
            Interrupted, Download(self.session, request, None, self.note, cancellation).run
        )
        self.assertEqual(self.server.commands, [])


class Version1Tests(DownloadCase):
    def setUp(self) -> None:
        super().setUp()
        self.server.version = 1

    def test_whole_file(self) -> None:
        received = self.download()
        self.assertEqual(received, DownloadResult(self.path(b"a"), len(NEW), len(NEW), False))
        self.server.close()
        commands = self.server.commands
        # The reply to FEAT suffices: the server may be reading the others still.
        self.assertEqual(commands[:2], [b"FEAT", b"GET d/a"])
        self.assertEqual(set(commands[2:]), {b"STAT d/a", b"DOWNLOAD d/a"})
        self.assertEqual(len(commands), 4)
        self.assertIn("version 1 only", self.events[0].message)
        self.assertEqual(self.events[-1], Event(b"d/a", Phase.COMPLETE, len(NEW), len(NEW)))
        self.assert_whole()

    def test_lost_connection_begins_from_the_first_byte(self) -> None:
        self.server.fail(b"DOWNLOAD", Fault(cut=4000))
        self.assertEqual(self.download().received, 4000 + len(NEW))
        self.assert_whole()

    def test_retries_without_progress_are_limited(self) -> None:
        # Discarded bytes are no progress.
        self.server.fail(b"DOWNLOAD", *[Fault(cut=4000)] * 50)
        self.assertRaises(GaveUp, self.download, DownloadOptions(retry_policy=at_most(3)))
        self.assertEqual((len(self.server.arguments_of(b"DOWNLOAD")), self.files()), (4, []))

    def test_existing_file_is_refused_kept_or_replaced(self) -> None:
        self.write(b"a", b"other")
        self.assertRaises(LocalError, self.download)
        self.assertTrue(self.download(DownloadOptions(existing=Existing.KEEP)).unchanged)
        self.assertEqual(self.server.arguments_of(b"DOWNLOAD"), [])
        self.download(DownloadOptions(existing=Existing.REPLACE))
        self.assert_whole()


class ChangedAtConnectTests(DownloadCase):
    def test_reply_with_another_etag_is_malformed(self) -> None:
        other = b"OK 10240 offset=0 size=10240 mtime=1.0 etag=e2\n" + OLD
        self.server.fail(b"GET", Fault(reply=other))
        metadata = self.session.stat(b"d/a")
        self.assertRaises((NotUnderstood, Changed), self.download, metadata=metadata)
        self.assertNotIn(b"a", self.files())
