"""A transfer on a bad day: tries, waits, rates, segments, Ctrl-C, and servers of version 1."""

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
from natproxy.client.transfer.record import Segment
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from tests.support.served_files import Fault
from tests.support.transfers import NEW, OLD, ONCE, TransferCase, at_most

BREAK = Fault(cut=-1)


class RetryingTests(TransferCase):
    def test_lost_connection_is_made_anew_and_the_rest_is_asked_for(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000), Fault(cut=3000))
        self.assertEqual(self.fetch().received, len(NEW))
        offsets = [asked.split()[1] for asked in self.server.asked(b"GET")[1:]]
        self.assertEqual(offsets, [b"offset=4000", b"offset=7000"])
        self.assertEqual(self.server.sent, len(NEW))
        self.assert_whole()

    def test_every_passing_failure_is_tried_again_and_said(self) -> None:
        for answer in (
            b"503 not now",
            b"429 too many",
            b"proxy error: x",
            b"empty response from server",
        ):
            self.server.fail(b"GET", Fault(answer=b"ERR " + answer + b"\n"))
        self.fetch()
        messages = self.messages(Phase.WAITING)
        self.assertEqual([len(messages), len(self.slept)], [4, 4])
        for message, said in zip(messages, ("not now", "too many", "x", "empty"), strict=True):
            self.assertIn(said, message)
            self.assertIn("trying again in", message)
            # Whoever shows the event puts the name before it.
            self.assertNotIn("d/a", message)
        self.assert_whole()

    def test_question_at_the_beginning_is_tried_again_too(self) -> None:
        self.server.fail(b"STAT", Fault(answer=b"ERR proxy error: no server\n"))
        self.server.fail(b"HASH", Fault(answer=b"ERR 503 the file is changing\n"))
        self.fetch(DownloadOptions(verify=True))
        self.assert_whole()

    def test_failures_that_do_not_pass_are_not_tried_again(self) -> None:
        for answer, kind in (
            (b"ERR 404 file not found\n", NotFound),
            (b"ERR 500 internal\n", ServerError),
            (b"ERR 416 range size=1\n", ServerError),
            (b"OK nonsense\n", NotUnderstood),
        ):
            self.server.fail(b"GET", Fault(answer=answer))
            self.assertRaises(kind, self.fetch)
        self.assertEqual(self.slept, [])

    def test_patience_ends_and_what_came_is_kept(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000), *[BREAK] * 8)
        error = self.assertRaises(GaveUp, self.fetch, DownloadOptions(retry_policy=at_most(3)))
        self.assertEqual(error.exit_status, 5)
        self.assertEqual(
            str(error),
            f"d/a: {self.server.address} closed the connection without a reply (gave up after 4"
            " tries); what was received is kept, and the same command continues it",
        )
        self.assertEqual(self.phases()[-1], Phase.FAILED)
        self.server._faults.clear()
        self.assertEqual(self.fetch().received, 6240)
        self.assert_whole()

    def test_waits_grow_and_begin_anew_with_progress(self) -> None:
        failing = [Fault(answer=b"ERR 503 not now\n")] * 3
        self.server.fail(b"GET", *failing, Fault(cut=4000), *failing)
        with mock.patch("random.random", return_value=0.5):
            # At such a limit, 4000 bytes are progress.
            self.fetch(
                DownloadOptions(retry_policy=at_most(4), limit=RateLimit(3000.0, lambda: 0.0))
            )
        waits = [seconds for seconds in self.slept if seconds in (0.5, 1.0, 2.0, 4.0)]
        self.assertEqual(waits, [0.5, 1.0, 2.0, 0.5, 1.0, 2.0, 4.0])

    def test_nothing_is_tried_again_if_nobody_wants_it(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000))
        self.assertRaises(ConnectionBroken, self.fetch, ONCE)
        self.server.fail(b"GET", Fault(answer=b"ERR 503 not now\n"))
        self.assertRaises(Unavailable, self.fetch, ONCE)
        self.assertEqual(self.slept, [])

    def test_failure_names_the_file_and_says_nothing_of_what_is_not_kept(self) -> None:
        self.server.fail(b"GET", *[Fault(answer=b"ERR 503 not now\n")] * 2)
        for how in (DownloadOptions(retry_policy=at_most(1)), ONCE):
            self.server._faults.clear()
            self.server.fail(b"GET", *[Fault(answer=b"ERR 503 not now\n")] * 2)
            error = self.assertRaises(ClientError, self.fetch, how)
            self.assertTrue(str(error).startswith("d/a: not now"), error)
            self.assertNotIn("kept", str(error))

    def test_outage_of_ten_minutes_is_survived_by_all_segments(self) -> None:
        now = [0.0]

        def sleep(stop: Cancellation, seconds: float) -> None:
            stop.check()
            now[0] += seconds / 4

        def act() -> None:
            if now[0] < 600:
                raise ConnectionResetError

        self.server.fail(b"GET", *[Fault(act=act)] * 1000)
        with (
            mock.patch("natproxy.client.transfer.record.SMALLEST_SEGMENT", 1000),
            mock.patch("natproxy.client.retry.Cancellation.sleep", sleep),
            mock.patch("natproxy.client.retry.time.monotonic", side_effect=lambda: now[0]),
        ):
            self.fetch(DownloadOptions(segments=4))
        self.assertGreaterEqual(now[0], 600)
        self.assert_whole()

    def test_server_that_was_never_there_is_waited_for_if_that_is_wanted(self) -> None:
        connect = Connection.connect
        failures = [CannotConnect("refused")] * 3

        def refused(connection: Connection) -> None:
            if failures:
                raise failures.pop()
            connect(connection)

        with mock.patch.object(Connection, "connect", refused):
            self.fetch(DownloadOptions(retry_policy=RetryPolicy(RETRY_FOR, wait=True)))
        self.assertEqual(len(self.slept), 3)
        self.assert_whole()

    def test_server_that_was_never_there_is_not_waited_for(self) -> None:
        self.server.close()
        error = self.assertRaises(CannotConnect, self.fetch)
        self.assertEqual((error.exit_status, self.slept, self.files()), (4, [], []))

    def test_server_that_goes_is_waited_for(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000, act=self.server.stop_listening))
        self.assertRaises(GaveUp, self.fetch, DownloadOptions(retry_policy=at_most(2)))
        self.assertEqual(len(self.slept), 2)

    def test_silent_server_is_given_up_after_the_time_out(self) -> None:
        self.session.close()
        self.session = Session(self.server.address, 0.1)
        self.addCleanup(self.session.close)
        # The first is sent once more at once: its connection had been used before.
        self.server.fail(b"GET", *[Fault(silent=True)] * 2)
        self.fetch()
        self.assertIn("silent for 0.1 s", self.messages(Phase.WAITING)[0])
        self.assert_whole()


class RateTests(TransferCase):
    def test_bytes_come_no_faster_than_they_may(self) -> None:
        limit = RateLimit(2048.0, clock=lambda: 100.0)
        self.fetch(DownloadOptions(limit=limit))
        # The clock stands still: the last wait is for all of them.
        self.assertEqual(self.slept[-1], len(NEW) / 2048)
        self.assertEqual(len(self.slept), 3)
        self.assert_whole()

    def test_nobody_waits_who_is_slow_already(self) -> None:
        now = iter(range(0, 10**6, 1000))
        self.fetch(DownloadOptions(limit=RateLimit(10_000.0, clock=lambda: float(next(now)))))
        self.assertTrue(all(seconds < 1 for seconds in self.slept), self.slept)


class SegmentTests(TransferCase):
    def setUp(self) -> None:
        super().setUp()
        small = mock.patch("natproxy.client.transfer.record.SMALLEST_SEGMENT", 1000)
        small.start()
        self.addCleanup(small.stop)
        self.how = DownloadOptions(segments=4)

    def test_each_is_a_range_of_its_own(self) -> None:
        self.assertEqual(self.fetch(self.how).received, len(NEW))
        self.assertEqual(
            {tuple(asked.split()[1:]) for asked in self.server.asked(b"GET")},
            {
                (b"length=2560", b"if-match=e1"),
                (b"offset=2560", b"length=2560", b"if-match=e1"),
                (b"offset=5120", b"length=2560", b"if-match=e1"),
                (b"offset=7680", b"length=2560", b"if-match=e1"),
            },
        )
        self.assert_whole()

    def test_one_that_fails_is_tried_again_alone(self) -> None:
        self.server.fail(b"GET", Fault(cut=1000))
        self.fetch(self.how)
        self.assertEqual((len(self.server.asked(b"GET")), self.server.sent), (5, len(NEW)))
        self.assert_whole()

    def test_what_each_has_received_is_kept(self) -> None:
        self.server.fail(b"GET", *[Fault(cut=1000)] * 4)
        self.assertRaises(
            ConnectionBroken, self.fetch, DownloadOptions(segments=4, retry_policy=RetryPolicy())
        )
        record = json.loads(self.read(b".a.part.json"))
        kept = sum(done - start for start, done, _ in record["segments"])
        self.assertGreaterEqual(kept, 1000)
        self.assertEqual(self.fetch().received, len(NEW) - kept)
        self.assert_whole()

    def test_digest_of_each_is_compared(self) -> None:
        self.fetch(DownloadOptions(segments=4, verify=True))
        self.assertEqual(len(self.server.asked(b"HASH")), 4)
        self.assert_whole()

    def test_failure_of_one_ends_all(self) -> None:
        # The others are in the middle of the old file, which is of no use any more.
        big = bytes(8 << 20)
        self.server.put(b"d/a", big)
        waiting = threading.Barrier(4, timeout=10)
        gone = Fault(answer=b"ERR 412 changed etag=x\n", act=waiting.wait)
        self.server.fail(b"GET", gone, *[Fault(act=waiting.wait)] * 3)
        self.server.fail(b"STAT", Fault(), Fault(answer=b"ERR 404 file not found\n"))
        fetch = Download._receive_segment
        failed: list[threading.Event] = []

        def noted(transfer: Download, part: PartialDownload, segment: Segment, event: Any) -> str:
            failed.append(event)
            return fetch(transfer, part, segment, event)

        def note(event: Event) -> None:
            if event.phase is Phase.RECEIVING and event.done:
                failed[0].wait(10)

        transfer = Download(self.session, DownloadRequest(b"d/a", self.path(b"a")), self.how, note)
        with (
            mock.patch.object(Download, "_receive_segment", noted),
            mock.patch("natproxy.client.transfer.request.CHUNK_SIZE", 1 << 16),
        ):
            self.assertRaises(NotFound, transfer.run)
        record = json.loads(self.read(b".a.part.json"))
        kept = sum(done - start for start, done, _ in record["segments"])
        self.assertLessEqual(kept, 3 << 16)

    def test_file_that_changes_is_fetched_afresh_by_all(self) -> None:
        change = Fault(cut=1000, act=lambda: self.server.put(b"d/a", OLD))
        self.server.fail(b"GET", Fault(), Fault(), change)
        self.fetch(self.how)
        self.assert_whole(OLD)


class InterruptedTests(TransferCase):
    def fetch_and(self, act: Callable[[Cancellation], object], how: DownloadOptions) -> None:
        """Begin, act in another thread as soon as bytes have come, and be interrupted."""
        stop = Cancellation()
        came = threading.Event()

        def note(event: Event) -> None:
            if event.done:
                came.set()

        def other() -> None:
            came.wait(10)
            act(stop)

        thread = threading.Thread(target=other)
        thread.start()
        self.addCleanup(thread.join)
        wanted = DownloadRequest(b"d/a", self.path(b"a"))
        error = self.assertRaises(Interrupted, Download(self.session, wanted, how, note, stop).run)
        self.assertEqual(error.exit_status, 130)

    def test_other_thread_ends_what_waits_for_bytes(self) -> None:
        # The rest of the reply never comes.
        header = b"OK 10240 offset=0 size=10240 mtime=1.0 etag=e1\n"
        self.server.fail(b"GET", Fault(answer=header + NEW[:4000]))

        # Not the next one: what has seen `stop` may be over before it is interrupted.
        session = self.session

        def act(stop: Cancellation) -> None:
            stop.cancel()
            session.interrupt()

        self.fetch_and(act, DownloadOptions())
        self.session = Session(self.server.address)
        session.close()
        self.addCleanup(self.session.close)
        self.assertEqual(self.fetch().received, 6240)
        self.assert_whole()

    def test_nobody_sleeps_through_it(self) -> None:
        stop = Cancellation()
        stop.cancel()
        wanted = DownloadRequest(b"d/a", self.path(b"a"))
        self.assertRaises(Interrupted, Download(self.session, wanted, None, self.note, stop).run)
        self.assertEqual(self.server.commands, [])


class Version1Tests(TransferCase):
    def setUp(self) -> None:
        super().setUp()
        self.server.version = 1

    def test_file_comes_whole(self) -> None:
        fetched = self.fetch()
        self.assertEqual(fetched, DownloadResult(self.path(b"a"), len(NEW), len(NEW), False))
        self.assertEqual(self.server.commands, [b"FEAT", b"DOWNLOAD d/a"])
        self.assertIn("version 1 only", self.events[0].message)
        self.assertEqual(self.events[-1], Event(b"d/a", Phase.COMPLETE, len(NEW), len(NEW)))
        self.assert_whole()

    def test_lost_connection_begins_from_the_first_byte(self) -> None:
        self.server.fail(b"DOWNLOAD", Fault(cut=4000))
        self.assertEqual(self.fetch().received, 4000 + len(NEW))
        self.assert_whole()

    def test_tries_that_lead_nowhere_come_to_an_end(self) -> None:
        # Bytes that are thrown away again are no progress.
        self.server.fail(b"DOWNLOAD", *[Fault(cut=4000)] * 50)
        self.assertRaises(GaveUp, self.fetch, DownloadOptions(retry_policy=at_most(3)))
        self.assertEqual((len(self.server.asked(b"DOWNLOAD")), self.files()), (4, []))

    def test_what_is_there_is_refused_kept_or_replaced(self) -> None:
        self.write(b"a", b"other")
        self.assertRaises(LocalError, self.fetch)
        self.assertTrue(self.fetch(DownloadOptions(existing=Existing.KEEP)).unchanged)
        self.assertEqual(self.server.asked(b"DOWNLOAD"), [])
        self.fetch(DownloadOptions(existing=Existing.REPLACE))
        self.assert_whole()


class ChangedAtConnectTests(TransferCase):
    def test_other_etag_in_the_reply_is_no_answer_to_what_was_asked(self) -> None:
        other = b"OK 10240 offset=0 size=10240 mtime=1.0 etag=e2\n" + OLD
        self.server.fail(b"GET", Fault(answer=other))
        self.assertRaises((NotUnderstood, Changed), self.fetch)
        self.assertNotIn(b"a", self.files())
