"""Concurrent downloads to one path, and directories that are replaced meanwhile."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

from natproxy.client import ConnectionBroken, Event, LocalError, Phase, Session
from natproxy.client.retry import RetryPolicy
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.partial import ClaimLost
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from natproxy.client.transfer.tree import LocalTree
from tests.support.downloads import NEW, OLD, DownloadCase
from tests.support.served_files import MTIME, Fault

ALONE = DownloadOptions(existing=Existing.REPLACE)
CONCURRENT = DownloadOptions(existing=Existing.REPLACE, concurrent=True)


class MeanwhileCase(DownloadCase):
    """A callback runs in the middle of a download, after its first bytes."""

    def setUp(self) -> None:
        super().setUp()
        piece = mock.patch("natproxy.client.transfer.request.CHUNK_SIZE", 4000)
        piece.start()
        self.addCleanup(piece.stop)

    def download_and(
        self,
        act: Callable[[], object],
        options: DownloadOptions = ALONE,
        request: DownloadRequest | None = None,
    ) -> DownloadResult:
        acted: list[object] = []

        def note(event: Event) -> None:
            if event.phase is Phase.RECEIVING and event.done and not acted:
                acted.append(None)
                acted[0] = act()

        request = request or DownloadRequest(b"d/a", self.path(b"a"))
        try:
            return Download(self.session, request, options, note).run()
        finally:
            self.assertEqual(len(acted), 1)

    def other(self, options: DownloadOptions) -> Callable[[], object]:
        """Return a function that downloads the same file over another connection."""

        def download() -> DownloadResult:
            with Session(self.server.address, 5) as session:
                return Download(session, DownloadRequest(b"d/a", self.path(b"a")), options).run()

        return download


class ConcurrentTests(MeanwhileCase):
    def test_second_concurrent_download_succeeds(self) -> None:
        seen = []

        def second() -> None:
            self.other(CONCURRENT)()
            seen.append((self.read(b"a"), self.files()))

        self.download_and(second, CONCURRENT)
        self.assertEqual(seen, [(NEW, [b".a.part", b".a.part.json", b"a"])])
        self.assert_whole()

    def test_second_download_is_an_error_by_default(self) -> None:
        def second() -> None:
            error = self.assertRaises(LocalError, self.other(ALONE))
            self.assertEqual(error.errno, errno.EBUSY)

        self.download_and(second)
        self.assert_whole()

    def test_file_saved_by_another_download_is_unchanged(self) -> None:
        options = DownloadOptions(concurrent=True)
        self.assertTrue(self.download_and(self.other(options), options).unchanged)
        self.assert_whole()

    def test_concurrent_downloads_of_the_api_succeed(self) -> None:
        waiting = threading.Barrier(4, timeout=10)
        self.server.fail(b"GET", *[Fault(act=waiting.wait)] * 4)
        failures: list[BaseException] = []

        def download() -> None:
            try:
                with Session(self.server.address, 5) as session:
                    session.download(b"d/a", self.path(b"a"), overwrite=True)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=download) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assert_whole()


class UselessLockTests(MeanwhileCase):
    """``flock`` succeeds without excluding other processes."""

    def setUp(self) -> None:
        super().setUp()
        lock = mock.patch("fcntl.flock", return_value=None)
        lock.start()
        self.addCleanup(lock.stop)

    def test_slower_download_never_writes_to_the_complete_file(self) -> None:
        seen: list[os.stat_result] = []

        def second() -> None:
            self.other(ALONE)()
            seen.append(os.stat(self.path(b"a")))

        self.assertRaises(ClaimLost, self.download_and, second)
        now = os.stat(self.path(b"a"))
        self.assertEqual((now.st_ino, now.st_mtime_ns), (seen[0].st_ino, MTIME))
        self.assertEqual(now.st_ctime_ns, seen[0].st_ctime_ns)
        self.assert_whole()

    def test_slower_download_of_a_changed_file(self) -> None:
        def second() -> None:
            self.server.put(b"d/a", OLD)
            self.other(ALONE)()

        self.assertRaises(ClaimLost, self.download_and, second)
        self.assert_whole(OLD)

    def test_concurrent_downloads_all_succeed(self) -> None:
        self.download_and(self.other(CONCURRENT), CONCURRENT)
        self.assert_whole()

    def test_download_that_lost_its_claim_does_not_affect_the_other(self) -> None:
        # The other one claims the usual partial file and fails there.
        def second() -> None:
            self.server.fail(b"GET", Fault(cut=4000))
            self.assertRaises(
                ConnectionBroken,
                self.other(DownloadOptions(existing=Existing.REPLACE, retry_policy=RetryPolicy())),
            )

        self.download_and(second, CONCURRENT)
        self.assertEqual(self.files(), [b".a.part", b".a.part.json", b"a"])
        self.assertEqual(self.read(b"a"), NEW)


class TreeTests(MeanwhileCase):
    """Replacing directories of a tree never leads to an access outside."""

    def setUp(self) -> None:
        super().setUp()
        self.outside = self.path(b"outside")
        self.z = self.path(b"root", b"z")
        self.write(b"outside/a", b"precious", 1)
        self.write(b"outside/.a.part", b"precious", 1)
        os.makedirs(self.z)
        self.tree = LocalTree(self.path(b"root"))
        self.addCleanup(self.tree.close)

    def request(self, below: bytes = b"z/a") -> DownloadRequest:
        return DownloadRequest(b"d/a", self.path(b"root", below), None, self.tree, below)

    def replace(self) -> None:
        """Replace the directory by a link to the outside."""
        os.rename(self.z, self.z + b".old")
        os.symlink(self.outside, self.z)

    def assert_outside_untouched(self) -> None:
        self.assertEqual(sorted(os.listdir(self.outside)), [b".a.part", b"a"])
        for name in (b"a", b".a.part"):
            self.assertEqual(self.read(b"outside", name), b"precious")
            self.assertEqual(os.stat(self.path(b"outside", name)).st_mtime_ns, 1)

    def test_directory_replaced_by_a_link_while_it_is_written_to(self) -> None:
        for options in (ALONE, DownloadOptions(existing=Existing.UPDATE, verify=True)):
            error = self.assertRaises(
                LocalError, self.download_and, self.replace, options, self.request()
            )
            self.assertIn(error.errno, (errno.ELOOP, errno.ENOTDIR))
            self.assert_outside_untouched()
            # The received bytes are still in the renamed directory.
            old = sorted(os.listdir(self.z + b".old"))
            self.assertEqual(old, [b".a.part", b".a.part.json"])
            os.unlink(self.z)
            os.rename(self.z + b".old", self.z)

    def test_directory_that_is_a_link(self) -> None:
        self.replace()
        for existing in Existing:
            options = DownloadOptions(existing=existing)
            transfer = Download(self.session, self.request(), options)
            error = self.assertRaises(LocalError, transfer.run)
            self.assertIn(error.errno, (errno.ELOOP, errno.ENOTDIR))
        self.assert_outside_untouched()

    def test_directory_that_becomes_a_link_before_the_file_is_created(self) -> None:
        find = LocalTree.lstat

        def lstat(tree: LocalTree, path: bytes) -> Any:
            found = find(tree, path)
            self.replace()
            return found

        with mock.patch.object(LocalTree, "lstat", lstat):
            self.assertRaises(LocalError, Download(self.session, self.request(), ALONE).run)
        self.assert_outside_untouched()

    def test_link_in_place_of_the_file_is_replaced(self) -> None:
        for verify in (False, True):
            os.symlink(self.path(b"outside", b"a"), self.path(b"root", b"z", b"a"))
            options = DownloadOptions(existing=Existing.UPDATE, verify=verify)
            Download(self.session, self.request(), options).run()
            self.assertEqual(self.read(b"root", b"z", b"a"), NEW)
            self.assertFalse(os.path.islink(self.path(b"root", b"z", b"a")))
            os.unlink(self.path(b"root", b"z", b"a"))
        self.assert_outside_untouched()

    def test_links_named_like_partial_files_are_not_followed(self) -> None:
        for suffix in (b"", b".json"):
            place = self.path(b"root", b"z", b".a.part" + suffix)
            os.symlink(self.path(b"outside", b".a.part"), place)
        Download(self.session, self.request(), ALONE).run()
        self.assertEqual(self.read(b"root", b"z", b"a"), NEW)
        self.assert_outside_untouched()

    def test_directories_are_created(self) -> None:
        Download(self.session, self.request(b"n/o/a"), ALONE).run()
        self.assertEqual(self.read(b"root", b"n", b"o", b"a"), NEW)

    def test_file_with_the_same_digest_is_unchanged(self) -> None:
        self.write(b"root/z/a", NEW, MTIME)
        options = DownloadOptions(existing=Existing.UPDATE, verify=True)
        self.assertTrue(Download(self.session, self.request(), options).run().unchanged)
        self.write(b"root/z/a", OLD, MTIME)
        self.assertFalse(Download(self.session, self.request(), options).run().unchanged)

    def test_server_of_version_1(self) -> None:
        self.server.version = 1
        Download(self.session, self.request(), ALONE).run()
        self.assertEqual(os.listdir(self.z), [b"a"])
        self.replace()
        self.assertRaises(LocalError, Download(self.session, self.request(), ALONE).run)
        self.assert_outside_untouched()


class LinkedDestinationTests(MeanwhileCase):
    def test_links_in_the_path_of_a_single_file_are_followed(self) -> None:
        os.mkdir(self.path(b"real"))
        os.symlink(b"real", self.path(b"link"))
        Download(self.session, DownloadRequest(b"d/a", self.path(b"link", b"a"))).run()
        self.assertEqual(self.read(b"real", b"a"), NEW)

    def test_replacing_the_directory_does_not_affect_the_download(self) -> None:
        os.mkdir(self.path(b"z"))
        os.mkdir(self.path(b"other"))

        def replace() -> None:
            os.rename(self.path(b"z"), self.path(b"old"))
            os.symlink(b"other", self.path(b"z"))

        self.download_and(replace, request=DownloadRequest(b"d/a", self.path(b"z", b"a")))
        self.assertEqual((os.listdir(self.path(b"other")), self.read(b"old", b"a")), ([], NEW))
