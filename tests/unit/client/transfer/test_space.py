"""The check of the free space of a file system."""

from __future__ import annotations

import errno
import os
import tempfile
from shutil import rmtree
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import LocalError
from natproxy.client.transfer.space import free_space, require_space


def reported(free: int, blocks: int = 10**6) -> os.statvfs_result:
    """Return the statistics of a file system with blocks of 1024 bytes."""
    return os.statvfs_result((4096, 1024, blocks, free + 50, free, 0, 0, 0, 0, 255))


class SpaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.fsencode(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.directory)

    def test_unit_is_the_byte_and_reserved_blocks_do_not_count(self) -> None:
        with mock.patch("os.statvfs", return_value=reported(7)):
            self.assertEqual(free_space(b"/x"), 7 * 1024)

    def test_directory_above_a_path_that_does_not_exist_is_used(self) -> None:
        file = os.path.join(self.directory, b"file")
        with open(file, "wb"):
            pass
        for below in ((b"a", b"b", b"c"), (b"file", b"x")):
            asked = []
            real = os.statvfs

            def statvfs(
                where: int | bytes, asked: list[int | bytes] = asked, real: object = real
            ) -> object:
                asked.append(where)
                return real(where)  # type: ignore[operator]

            with mock.patch("os.statvfs", statvfs):
                self.assertIsNotNone(free_space(os.path.join(self.directory, *below)))
            self.assertIn(asked[-1], (self.directory, file))
        self.assertIsNotNone(free_space(b"no-such-directory/x"))

    def test_file_system_without_a_size_is_not_checked(self) -> None:
        for result in (reported(0, blocks=0), OSError(errno.ENOSYS, "")):
            with mock.patch("os.statvfs", side_effect=[result]):
                require_space(b"x", 10**18, b"/")

    def test_error_has_the_name_what_is_needed_and_what_is_free(self) -> None:
        with mock.patch("os.statvfs", return_value=reported(7)):
            require_space(b"d/x", 7 * 1024, b"/")
            error = self.assertRaises(LocalError, require_space, b"d/x", 7 * 1024 + 1, b"/")
        self.assertEqual(str(error), "d/x: not enough space: 7169 bytes are needed, 7168 are free")
        self.assertEqual((error.errno, error.exit_status), (errno.ENOSPC, 9))

    def test_nothing_needs_no_space(self) -> None:
        with mock.patch("os.statvfs", return_value=reported(0)):
            require_space(b"x", 0, b"/")
