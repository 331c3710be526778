"""Several downloads at once: independent of each other, and cancelled by one Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading

from natproxy.client import CannotConnect, Event, LocalError, NotFound, Phase
from natproxy.client.transfer.batch import download_all, download_and_count
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from tests.support.served_files import Fault, ServedFilesCase

CONTENT = bytes(range(256)) * 8


class BatchTests(ServedFilesCase):
    def setUp(self) -> None:
        super().setUp()
        self.names = [b"%d" % number for number in range(9)]
        for name in self.names:
            self.server.put(name, name + CONTENT)

    def requests(self, *more: bytes) -> list[DownloadRequest]:
        return [DownloadRequest(name, self.path(name)) for name in (*self.names, *more)]

    def test_every_file_is_downloaded_with_any_number_of_jobs(self) -> None:
        self.server.lacking.add(b"PACK")
        for jobs in (1, 2, 20):
            results = download_all(
                self.session, self.requests(), DownloadOptions(), jobs, self.note
            )
            self.assertEqual([type(result) for result in results], [DownloadResult] * 9)
            self.assertEqual(
                [result.path for result in results], [each.path for each in self.requests()]
            )
            for name in self.names:
                self.assertEqual(self.read(name), name + CONTENT)
        self.assertEqual(self.server.sent, 9 * len(b"0" + CONTENT))

    def test_no_requests(self) -> None:
        self.assertEqual(download_all(self.session, [], DownloadOptions(), 4), [])
        self.assertEqual(self.server.commands, [])

    def test_one_failure_does_not_affect_the_others(self) -> None:
        self.names[1:1] = [b"none"]
        self.write(b"3", b"in the way")
        for jobs in (1, 4):
            results = download_all(self.session, self.requests(), DownloadOptions(), jobs)
            self.assertIsInstance(results[1], NotFound)
            self.assertIsInstance(results[4], LocalError)
            received = [result for result in results if isinstance(result, DownloadResult)]
            self.assertEqual(len(received), 8)
        self.assertEqual(self.read(b"3"), b"in the way")

    def test_files_are_counted_and_errors_kept_in_their_order(self) -> None:
        self.names[1:1] = [b"none"]
        self.write(b"3", b"in the way")
        totals = download_and_count(
            self.session, iter(self.requests(b"last")), DownloadOptions(), 4
        )
        self.assertEqual((totals.downloaded, totals.received), (8, 8 * len(b"0" + CONTENT)))
        self.assertEqual(
            [type(each.error) for each in totals.failures], [NotFound, LocalError, NotFound]
        )
        names = [each.request.name for each in totals.failures]
        self.assertEqual(names, [b"none", b"3", b"last"])

    def test_unreachable_server_fails_all_downloads(self) -> None:
        self.server.close()
        results = download_all(self.session, self.requests(), DownloadOptions(), 3)
        self.assertEqual([type(result) for result in results], [CannotConnect] * 9)
        self.assertEqual(self.slept, [])

    def test_jobs_run_at_the_same_time(self) -> None:
        self.server.lacking.add(b"PACK")
        # Without packs, each file that is verified is downloaded alone.
        options = DownloadOptions(verify=True)
        together = threading.Barrier(3, timeout=10)
        self.server.fail(b"GET", *[Fault(act=together.wait)] * 9)
        results = download_all(self.session, self.requests(), options, 3)
        self.assertEqual([type(result) for result in results], [DownloadResult] * 9)

    def test_interrupt_cancels_all_downloads_and_received_bytes_are_kept(self) -> None:
        self.server.lacking.add(b"PACK")
        # Without packs, each file that is verified is downloaded alone.
        options = DownloadOptions(verify=True)

        def press(event: Event) -> None:
            if event.phase is Phase.RECEIVING and event.name == b"1" and event.done:
                raise KeyboardInterrupt

        for jobs in (1, 3):
            with self.assertRaises(KeyboardInterrupt):
                download_all(self.session, self.requests(), options, jobs, press)
            results = download_all(self.session, self.requests(), options, jobs)
            self.assertEqual([type(result) for result in results], [DownloadResult] * 9)
            if jobs == 1:
                self.assertEqual(self.server.sent, 9 * len(b"0" + CONTENT))
            for name in self.names:
                self.assertEqual(self.read(name), name + CONTENT)
                os.unlink(self.path(name))

    def test_interrupt_cancels_waiting_downloads(self) -> None:
        self.server.lacking.add(b"PACK")
        waiting = threading.Event()
        main = threading.main_thread()
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, handler)
        self.server.fail(b"GET", Fault(silent=True, act=waiting.set))

        def press(event: Event) -> None:
            if event.phase is Phase.COMPLETE:
                self.assertTrue(waiting.wait(10))
                signal.pthread_kill(main.ident or 0, signal.SIGINT)

        self.names = self.names[:2]
        with self.assertRaises(KeyboardInterrupt):
            options = DownloadOptions(verify=True)
            download_all(self.session, self.requests(), options, 2, press)
        self.assertFalse([t for t in threading.enumerate() if "ThreadPool" in t.name])
