"""Writing a whole file system to the disk, and renames that replace nothing."""

from __future__ import annotations

import errno
import os
import tempfile
from shutil import rmtree
from types import SimpleNamespace
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.kernel import syncfs
from natproxy.kernel.openat2 import DIRECTORY


class SyncfsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.top = os.fsencode(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.top)
        self.directory = os.open(self.top, DIRECTORY)
        self.addCleanup(os.close, self.directory)

    def put(self, name: bytes, content: bytes) -> None:
        with open(os.path.join(self.top, name), "wb") as file:
            file.write(content)

    def names(self) -> list[bytes]:
        return sorted(os.listdir(self.top))


class SynchronizationTests(SyncfsCase):
    def has(
        self, release: str = "5.8.0-generic", platform: str = "linux", kind: int = 0xEF53
    ) -> bool:
        with (
            mock.patch("os.uname", return_value=SimpleNamespace(release=release)),
            mock.patch.object(syncfs.sys, "platform", platform),
            mock.patch.object(syncfs, "_type_of", return_value=kind),
        ):
            return syncfs.has_syncfs(self.directory)

    def test_only_local_file_systems_of_kernels_that_report_failures(self) -> None:
        if not hasattr(syncfs._libc(), "syncfs"):
            return
        self.assertTrue(self.has())
        self.assertTrue(self.has("6.18.44"))
        for release in ("5.7.19", "4.19.0", "strange"):
            self.assertFalse(self.has(release))
        self.assertFalse(self.has(platform="darwin"))
        for kind in (0x6969, 0x65735546, 0x794C7630, 0):
            self.assertFalse(self.has(kind=kind))

    def test_failure_is_raised(self) -> None:
        if not hasattr(syncfs._libc(), "syncfs"):
            return
        syncfs.syncfs(self.directory)
        error = self.assertRaises(OSError, syncfs.syncfs, -1)
        self.assertEqual(error.errno, errno.EBADF)

    def test_library_without_the_calls(self) -> None:
        with mock.patch.object(syncfs, "_libc", return_value=SimpleNamespace()):
            self.assertFalse(self.has())
            self.assertFalse(syncfs.rename_new(self.directory, b"a", self.directory, b"b"))


class RenameTests(SyncfsCase):
    def rename(self, old: bytes, new: bytes) -> bool:
        return syncfs.rename_new(self.directory, old, self.directory, new)

    def test_existing_names_are_not_replaced(self) -> None:
        self.put(b"a", b"1")
        self.put(b"b", b"2")
        os.mkdir(os.path.join(self.top, b"d"))
        os.mkdir(os.path.join(self.top, b"empty"))
        if not self.rename(b"a", b"c"):
            return
        for old, new in ((b"c", b"b"), (b"d", b"empty"), (b"c", b"d"), (b"d", b"b")):
            self.assertRaises(FileExistsError, self.rename, old, new)
        self.assertRaises(FileNotFoundError, self.rename, b"none", b"x")
        self.assertTrue(self.rename(b"d", b"e"))
        self.assertEqual(self.names(), [b"b", b"c", b"e", b"empty"])

    def test_file_system_that_cannot_do_that(self) -> None:
        self.put(b"a", b"1")
        for code, expected in ((errno.EINVAL, False), (errno.ENOSYS, False)):
            calls = SimpleNamespace(renameat2=lambda *_: -1)
            with (
                mock.patch.object(syncfs, "_libc", return_value=calls),
                mock.patch("ctypes.get_errno", return_value=code),
            ):
                self.assertIs(self.rename(b"a", b"b"), expected)
        self.assertEqual(self.names(), [b"a"])
