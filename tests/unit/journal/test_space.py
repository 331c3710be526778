"""The reserve of the file system, and the reasons of faults."""

from __future__ import annotations

import errno
import os
import sqlite3
from types import SimpleNamespace
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.space import RESERVE, Unwritable, check_space, reason_of


def file_system(size: int, free: int) -> SimpleNamespace:
    """Return what ``statvfs`` returns, in blocks of 4 KiB."""
    return SimpleNamespace(f_frsize=4096, f_blocks=size // 4096, f_bavail=free // 4096)


class SpaceTests(SynchronousTestCase):
    def check(self, size: int, free: int) -> None:
        with patch("os.statvfs", return_value=file_system(size, free)):
            check_space("/journal")

    def test_reserve_of_a_large_file_system(self) -> None:
        self.check(1 << 40, RESERVE)
        error = self.assertRaises(Unwritable, self.check, 1 << 40, RESERVE - 4096)
        self.assertEqual(
            str(error),
            "only 65532 KiB of its file system are free, and 65536 KiB are left to others; free"
            " some space, or lower --journal-max-size",
        )

    def test_reserve_of_a_small_file_system_is_a_share(self) -> None:
        self.check(100 << 20, 6 << 20)
        self.assertRaises(Unwritable, self.check, 100 << 20, 4 << 20)


class ReasonTests(SynchronousTestCase):
    def test_full_disk(self) -> None:
        for error in (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
            sqlite3.OperationalError("database or disk is full"),
            sqlite3.OperationalError("disk I/O error"),
        ):
            self.assertIn("the disk is full", reason_of(error))
            self.assertIn("lower --journal-max-size", reason_of(error))

    def test_other_faults(self) -> None:
        self.assertEqual(
            reason_of(PermissionError(errno.EACCES, "Permission denied")),
            "Permission denied; check the directory and its permissions",
        )
        self.assertEqual(
            reason_of(sqlite3.OperationalError("unable to open database file")),
            "unable to open database file; check the directory and its permissions",
        )
