"""The space that several downloads need."""

from __future__ import annotations

import errno
import os
import tempfile
from shutil import rmtree
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import LocalError
from natproxy.client.transfer import volumes
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.volumes import require_space_for
from natproxy.protocol import FILE, Metadata


class VolumeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.fsencode(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.directory)
        self.free = 0

        def free_space(_: int | bytes) -> int:
            return self.free

        for module in ("volumes", "space"):
            name = f"natproxy.client.transfer.{module}.free_space"
            replaced = mock.patch(name, free_space)
            replaced.start()
            self.addCleanup(replaced.stop)

    def path(self, name: bytes) -> bytes:
        return os.path.join(self.directory, name)

    def check(self, *sizes: int, under: bytes = b"") -> None:
        requests = [
            DownloadRequest(b"f", self.path(under + b"%d" % index), Metadata(FILE, size, 0, "e"))
            for index, size in enumerate(sizes)
        ]
        require_space_for(requests, sum(sizes), self.directory)

    def assert_refused(self, needed: int, *sizes: int, under: bytes = b"") -> None:
        error = self.assertRaises(LocalError, self.check, *sizes, under=under)
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertIn(f"{needed} bytes are needed, {self.free} are free", str(error))

    def write(self, name: bytes, size: int) -> int:
        """Create a file; return the bytes that are allocated for it."""
        with open(self.path(name), "wb") as file:
            file.write(b"x" * size)
            os.fsync(file.fileno())
        return os.stat(self.path(name)).st_blocks * 512

    def test_files_are_added_up(self) -> None:
        self.free = 10
        self.check(4, 6)
        self.assert_refused(11, 4, 7)
        self.assert_refused(12, 12, under=b"new/deep/")

    def test_what_is_allocated_already_is_not_needed(self) -> None:
        size = 1 << 20
        allocated = self.write(b"0", 5000) + self.write(b".1.part", 9000)
        self.free = 2 * size - allocated
        self.check(size, size)
        self.free -= 1
        self.assert_refused(self.free + 1, size, size)

    def test_smaller_file_frees_no_space_for_another(self) -> None:
        self.write(b"0", 50_000)
        self.free = 10
        self.assert_refused(11, 1, 11)

    def test_downloads_that_become_known_later_are_added(self) -> None:
        check = volumes.SpaceCheck(self.directory)
        requests = []
        with mock.patch.object(volumes, "_UNNAMED", 5):
            for number, free in enumerate((30, 22, 14)):
                self.free = free
                metadata = Metadata(FILE, 10, 0, "e")
                requests.append(DownloadRequest(b"f", self.path(b"%d" % number), metadata))
                # None of them has its name yet; the first two may be in two groups.
                check.require(requests, 10 * len(requests))
            self.free = 34
            requests.append(DownloadRequest(b"f", self.path(b"3"), metadata))
            error = self.assertRaises(LocalError, check.require, requests, 40)
        self.assertIn("35 bytes are needed, 34 are free", str(error))

    def test_each_volume_is_checked_alone(self) -> None:
        self.free = 10
        with mock.patch.object(volumes, "_volume_of", side_effect=[1, 2]):
            require_space_for(
                [
                    DownloadRequest(b"f", self.path(name), Metadata(FILE, 8, 0, "e"))
                    for name in (b"a/f", b"b/f")
                ],
                16,
                self.directory,
            )

    def test_volume_that_reports_no_size_is_not_checked(self) -> None:
        with mock.patch.object(volumes, "free_space", return_value=None):
            self.check(1 << 40)
