"""Downloads for which the local file system has no space."""

from __future__ import annotations

from unittest import mock

from natproxy.client import LocalError, Session
from tests.support.downloads import NEW, DownloadCase

FREE = "natproxy.client.transfer.space.free_space"


class SpaceTests(DownloadCase):
    def test_file_that_does_not_fit_is_not_begun(self) -> None:
        for version in (2, 1):
            self.server.version = version
            with mock.patch(FREE, return_value=len(NEW) - 1):
                error = self.assertRaises(LocalError, self.download)
            self.assertIn("/a: not enough space: 10240 bytes are needed, 10239", str(error))
            self.assertEqual(self.files(), [])
            self.session = Session(self.server.address, 5)
            self.addCleanup(self.session.close)

    def test_file_that_just_fits_is_downloaded(self) -> None:
        with mock.patch(FREE, return_value=len(NEW)):
            self.download()
        self.assert_whole()

    def test_received_bytes_need_no_space_and_are_kept(self) -> None:
        # A whole block: what it allocates is not more than what was received.
        self.interrupted(8192)
        with mock.patch(FREE, return_value=2047):
            error = self.assertRaises(LocalError, self.download)
            self.assertIn("2048 bytes are needed, 2047 are free", str(error))
            self.assertEqual(self.files(), [b".a.part", b".a.part.json"])
        with mock.patch(FREE, return_value=2048):
            self.assertEqual(self.download().received, 2048)
        self.assert_whole()
