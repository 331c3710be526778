"""Existing local files, and downloads with random histories."""

from __future__ import annotations

import contextlib
import errno
import os
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.client import ConnectionBroken, LocalError, Phase, Unavailable
from natproxy.client.retry import RetryPolicy
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.partial import PartialDownload
from natproxy.client.transfer.request import DownloadOptions
from tests.support.downloads import NEW, OLD, DownloadCase
from tests.support.partials import kill
from tests.support.served_files import MTIME, Fault


class ExistingTests(DownloadCase):
    """Each value of `Existing` with each type of existing file."""

    def outcome(self, existing: Existing) -> str:
        try:
            received = self.download(DownloadOptions(existing=existing))
        except LocalError as error:
            self.assertEqual(self.phases(), [Phase.FAILED])
            return "refused" if error.exit_status == 9 else ""
        finally:
            self.events.clear()
        return "left" if received.unchanged else "received"

    def outcomes(self) -> list[str]:
        before = os.lstat(self.path(b"a")) if os.path.lexists(self.path(b"a")) else None
        outcomes = []
        for existing in (Existing.REFUSE, Existing.KEEP, Existing.UPDATE, Existing.REPLACE):
            outcomes.append(self.outcome(existing))
            if outcomes[-1] == "received":
                self.assert_whole()
                os.unlink(self.path(b"a"))
                if before is not None:
                    self.there()
            else:
                self.assertTrue(os.path.samestat(before, os.lstat(self.path(b"a"))))
        return outcomes

    def there(self) -> None:
        """Create the existing file."""

    def test_no_file(self) -> None:
        self.assertEqual(self.outcomes(), ["received"] * 4)

    def test_same_file(self) -> None:
        self.there = lambda: self.write(b"a", NEW, MTIME)
        self.there()
        self.assertEqual(self.outcomes(), ["left", "left", "left", "received"])

    def test_different_files(self) -> None:
        for content, mtime in ((NEW, MTIME + 1), (NEW[1:], MTIME), (b"", MTIME)):
            self.there = lambda c=content, m=mtime: self.write(b"a", c, m)
            self.there()
            self.assertEqual(self.outcomes(), ["refused", "left", "received", "received"])

    def test_special_files(self) -> None:
        for make in (os.mkdir, os.mkfifo):
            make(self.path(b"a"))
            self.assertEqual(self.outcomes(), ["refused"] * 4)
            os.rmdir(self.path(b"a")) if make is os.mkdir else os.unlink(self.path(b"a"))

    def test_dangling_link(self) -> None:
        self.there = lambda: os.symlink(b"nowhere", self.path(b"a"))
        self.there()
        self.assertEqual(self.outcomes(), ["refused", "left", "received", "received"])

    def test_link_is_replaced_and_its_target_is_kept(self) -> None:
        target = self.path(b"..", os.path.basename(self.directory) + b".target")
        self.addCleanup(os.unlink, target)
        self.write(target, b"precious")
        os.symlink(target, self.path(b"a"))
        self.download(DownloadOptions(existing=Existing.UPDATE))
        self.assert_whole()
        self.assertEqual(self.read(target), b"precious")

    def test_same_size_and_time_with_different_bytes(self) -> None:
        self.write(b"a", OLD, MTIME)
        error = self.assertRaises(LocalError, self.download, DownloadOptions(verify=True))
        self.assertIn("--overwrite", str(error))
        self.download(DownloadOptions(verify=True, existing=Existing.UPDATE))
        self.assert_whole()
        self.assertTrue(self.download(DownloadOptions(verify=True)).unchanged)

    def test_file_that_appears_during_the_download(self) -> None:
        for existing, content in ((Existing.REFUSE, None), (Existing.KEEP, b"other")):
            appear = Fault(act=lambda: self.write(b"a", b"other"))
            self.server.fail(b"GET", appear)
            if content is None:
                self.assertRaises(LocalError, self.download, DownloadOptions(existing=existing))
                self.assertEqual(self.read(b"a"), b"other")
            else:
                self.assertTrue(self.download(DownloadOptions(existing=existing)).unchanged)
                self.assert_whole(content)
            os.unlink(self.path(b"a"))
            self.server.put(b"d/a", NEW)

    def test_file_that_appears_during_the_synchronization(self) -> None:
        # The synchronization of bytes to the disk can take minutes.
        sync = os.fsync
        for linked in (True, False):
            for existing in (Existing.REFUSE, Existing.KEEP):
                options = DownloadOptions(existing=existing)

                def appear(file: int) -> None:
                    self.write(b"a", b"other")
                    sync(file)

                error = None if linked else OSError(errno.EPERM, "no hard links here")
                link = mock.patch("os.link", side_effect=error, wraps=os.link)
                with mock.patch("os.fsync", appear), link:
                    if existing is Existing.KEEP:
                        self.assertTrue(self.download(options).unchanged)
                        self.assert_whole(b"other")
                    else:
                        self.assertRaises(LocalError, self.download, options)
                        self.assertEqual(self.read(b"a"), b"other")
                os.unlink(self.path(b"a"))
                with link:
                    self.download(options)
                self.assert_whole()
                os.unlink(self.path(b"a"))

    def test_file_that_appears_during_a_download_by_version_1(self) -> None:
        self.server.version = 1
        self.server.put(b"a", NEW)
        for existing in (Existing.REFUSE, Existing.KEEP, Existing.REPLACE):
            options = DownloadOptions(existing=existing)
            self.server.fail(b"DOWNLOAD", Fault(act=lambda: self.write(b"a", b"other")))
            if existing is Existing.REFUSE:
                self.assertRaises(LocalError, self.download, options, b"a")
            else:
                kept = self.download(options, b"a").unchanged
                self.assertEqual(kept, existing is Existing.KEEP)
            self.assert_whole(NEW if existing is Existing.REPLACE else b"other")
            os.unlink(self.path(b"a"))


class AnyHistoryTests(DownloadCase):
    """After any faults, the file is one that the server had, and no byte is downloaded twice."""

    @settings(deadline=None)
    @given(st.data())
    def test_resuming_never_mixes(self, data: st.DataObject) -> None:
        contents = st.integers(0, 3 << 12).flatmap(
            lambda size: st.integers(0, 255).map(lambda byte: bytes([byte]) * size)
        )
        current = data.draw(contents)
        self.server.put(b"d/a", current)
        self.server.sent = 0
        for name in self.files():
            os.unlink(self.path(name))
        changes, kills = 0, 0
        segments = data.draw(st.integers(1, 3))
        history = ("cut", "kill", "replace", "restart", "error")
        for what in data.draw(st.lists(st.sampled_from(history), max_size=8)):
            if what == "replace":
                current = data.draw(contents)
                self.server.put(b"d/a", current)
                changes += 1
                continue
            if what == "error":
                self.server.fail(b"STAT", Fault(reply=b"ERR 503 not now\n"))
            elif what == "restart":
                self.server.cut_off()
            faults = [Fault(cut=data.draw(st.integers(-1, 8000))) for _ in range(segments)]
            self.server.fail(b"GET", *faults)
            closing = PartialDownload.close if what != "kill" else kill
            kills += what == "kill"
            with (
                mock.patch.object(PartialDownload, "close", closing),
                mock.patch("natproxy.client.transfer.record.SMALLEST_SEGMENT", 1000),
                mock.patch("natproxy.client.transfer.partial.CHECKPOINT", 500),
                mock.patch("natproxy.client.transfer.request.CHUNK_SIZE", 700),
                # A module attribute named "suppress" has a meaning for trial.
                contextlib.suppress(ConnectionBroken, Unavailable),
            ):
                self.download(
                    DownloadOptions(
                        Existing.REPLACE,
                        data.draw(st.booleans()),
                        segments,
                        retry_policy=RetryPolicy(),
                    )
                )
                # The fault came too late: that download is complete, and another one follows.
                self.assert_whole(current)
                os.unlink(self.path(b"a"))
                self.server.sent, changes, kills = 0, 0, 0
            self.server._faults.clear()
        received = self.download(DownloadOptions(Existing.REPLACE)).received
        self.assert_whole(current)
        self.assertLessEqual(received, len(current))
        if segments == 1 and not changes:
            self.assertLess(self.server.sent, len(current) + 500 * kills + 1)
