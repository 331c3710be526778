"""Downloads while the server is still listing."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import closing
from unittest import mock

from natproxy.client import ClientError, LocalError, TooManyEntries
from natproxy.client.events import Event, Phase, ignore_event
from natproxy.client.listing import FIRST_PAGE, LONGEST_PAGE
from natproxy.client.transfer import small_files, volumes
from natproxy.client.transfer.batch import Totals, download_and_count
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.listed import ListedDownloads
from natproxy.client.transfer.mirror import MirrorRules, compare_pages, plan_for, run_once
from natproxy.client.transfer.plan import MirrorPlan
from natproxy.client.transfer.request import DownloadOptions
from natproxy.protocol import MAX_PACKED
from tests.support.mirrors import MirrorCase
from tests.support.served_files import MTIME, Fault


class ListedCase(MirrorCase):
    def setUp(self) -> None:
        super().setUp()
        self.totals: list[tuple[int, int | None, bool]] = []
        self.plan: MirrorPlan | None = None

    def put(self, count: int, size: int = 3) -> None:
        for number in range(count):
            self.server.put(b"d/%03d" % number, b"x" * size)

    def expect(self, files: int, size: int | None, more: bool = False) -> None:
        self.totals.append((files, size, more))

    def download(self, jobs: int = 2, rules: MirrorRules = MirrorRules()) -> Totals:  # noqa: B008
        plan = self.plan = plan_for(b"", self.tree(), rules)
        with closing(compare_pages(self.session, plan, rules, run_once)) as pages:
            requests = ListedDownloads(self.directory, self.expect).add(plan, pages)
            options = DownloadOptions(Existing.UPDATE)
            return download_and_count(self.session, requests, options, jobs, self.note)

    def found(self) -> list[bytes]:
        return sorted(os.listdir(self.path(b"d")))


class OverlapTests(ListedCase):
    def setUp(self) -> None:
        super().setUp()
        self.server.page = 10
        self.received = threading.Event()
        self.waited: list[bool] = []

    def wait(self) -> None:
        self.waited.append(self.received.wait(10))

    def test_small_files_are_received_while_the_next_page_is(self) -> None:
        self.put(40)
        # The third page does not come before a pack has been requested.
        self.server.fail(b"LS", Fault(), Fault(), Fault(act=self.wait))
        self.server.fail(b"PACK", Fault(act=self.received.set))
        with mock.patch.object(small_files, "MAX_NAMES", 4):
            self.assertEqual(self.download().downloaded, 40)
        self.assertEqual(self.waited, [True])
        self.assertEqual(len(self.found()), 40)

    def test_large_file_is_received_while_the_next_page_is(self) -> None:
        self.put(40)
        self.server.put(b"a", b"x" * (MAX_PACKED + 1))
        self.server.fail(b"LS", Fault(), Fault(), Fault(act=self.wait))
        self.server.fail(b"GET", Fault(act=self.received.set))
        self.assertEqual(self.download().downloaded, 41)
        self.assertEqual(self.waited, [True])

    def test_server_without_packs(self) -> None:
        self.put(40)
        self.server.lacking.add(b"PACK")
        self.server.fail(b"LS", Fault(), Fault(), Fault(act=self.wait))
        self.server.fail(b"GET", Fault(act=self.received.set))
        with mock.patch.object(small_files, "GETS_AHEAD", 4):
            self.assertEqual(self.download().downloaded, 40)
        self.assertEqual(self.waited, [True])

    def test_only_the_next_page_is_requested_ahead(self) -> None:
        self.put(40)
        rules = MirrorRules()
        plan = plan_for(b"", self.tree(), rules)
        with closing(compare_pages(self.session, plan, rules, run_once)) as pages:
            for number, more in enumerate(pages, 1):
                self.assertEqual(more, number < 5)
                self.assertLessEqual(len(self.server.arguments_of(b"LS")), number + 1)

    def test_first_page_is_small(self) -> None:
        self.put(40)
        self.download()
        limits = [
            next(word for word in line.split() if word.startswith(b"limit="))
            for line in self.server.arguments_of(b"LS")
        ]
        self.assertEqual(limits[0], b"limit=%d" % FIRST_PAGE)
        self.assertEqual(set(limits[1:]), {b"limit=%d" % LONGEST_PAGE})


class TotalsTests(ListedCase):
    def test_totals_grow_until_the_last_page(self) -> None:
        self.server.page = 10
        self.put(24)
        self.download()
        # The directory has an entry of its own.
        self.assertEqual(self.totals, [(9, 27, True), (19, 57, True), (24, 72, False)])

    def test_totals_of_one_page_are_final(self) -> None:
        self.put(3)
        self.download()
        self.assertEqual(self.totals, [(3, 9, False)])


class FailureTests(ListedCase):
    def setUp(self) -> None:
        super().setUp()
        self.server.page = 10
        self.put(40)
        self.write(b"old", b"mine")

    def assert_first_pages_are_whole(self, least: int) -> None:
        found = self.found()
        self.assertEqual(found, [b"%03d" % number for number in range(len(found))])
        self.assertTrue(least <= len(found) < 40, found)
        for name in found:
            self.assertEqual(self.read(b"d/" + name), b"xxx")
        assert self.plan is not None
        self.assertEqual((self.plan.extra, self.read(b"old")), ([], b"mine"))

    def test_failed_listing_ends_after_the_files_that_are_listed(self) -> None:
        for fault in (Fault(reply=b"ERR 500 internal\n"), Fault(cut=5)):
            self.server.fail(b"LS", Fault(), Fault(), fault)
            self.assertRaises(ClientError, self.download)
            self.assert_first_pages_are_whole(19)

    def test_too_many_entries(self) -> None:
        self.assertRaises(TooManyEntries, self.download, rules=MirrorRules(limit=25))
        self.assert_first_pages_are_whole(19)

    def test_space_is_checked_before_each_page_is_downloaded(self) -> None:
        free = mock.patch.object(volumes, "free_space", return_value=60)
        later = mock.patch("natproxy.client.transfer.space.free_space", return_value=2)
        with free, later, mock.patch.object(volumes, "_UNNAMED", 0):
            error = self.assertRaises(LocalError, self.download)
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assert_first_pages_are_whole(19)

    def test_interrupt_ends_the_listing(self) -> None:
        silent = Fault(silent=True)
        self.server.fail(b"LS", Fault(), Fault(), silent)
        before = threading.active_count()

        def press(event: Event) -> None:
            if event.phase is Phase.RECEIVING:
                raise KeyboardInterrupt

        self.note = press  # type: ignore[method-assign]
        with mock.patch.object(small_files, "MAX_NAMES", 4):
            self.assertRaises(KeyboardInterrupt, self.download)
        self.assertLessEqual(threading.active_count(), before + 4)
        self.note = ignore_event  # type: ignore[method-assign,assignment]
        self.assertEqual(self.download().failures, [])
        self.assertEqual(len(self.found()), 40)


class DirectoryTests(ListedCase):
    def test_content_of_a_directory_that_cannot_be_created_is_dropped_on_each_page(self) -> None:
        self.server.page = 4
        long = b"y" * 300
        for number in range(10):
            self.server.put(long + b"/%d" % number, b"abc", MTIME)
        self.server.put(b"a", b"abc")
        totals = self.download()
        assert self.plan is not None
        self.assertEqual((totals.downloaded, totals.failures, self.plan.blocked), (1, [], 10))
        self.assertEqual(len(self.plan.obstacles), 1)
