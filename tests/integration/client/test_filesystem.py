"""File systems that lack features: which errors are ignored, and which are raised."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock, skipIf

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import LocalError, Session
from natproxy.client.transfer import filesystem
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.directory import create_directories
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.filesystem import (
    DIRECTORY_SYNC_UNSUPPORTED,
    EARLIEST,
    LATEST,
    SYNC_UNSUPPORTED,
    set_time,
    stored_as,
)
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest
from natproxy.client.transfer.version1 import download_version1
from tests.support.downloads import NEW, DownloadCase
from tests.support.served_files import MTIME

REPLACE = DownloadOptions(existing=Existing.REPLACE)
UPDATE = DownloadOptions(existing=Existing.UPDATE)
SECOND = 10**9
MOST = 10**28 - 1
"""The latest time that the protocol can represent, in nanoseconds."""


class AnyDownloadCase(DownloadCase):
    """Tests for ``get``, ``download``, and ``get`` from a server of version 1."""

    def each(self) -> list[Callable[[], object]]:
        def version_1() -> None:
            self.server.version = 1
            try:
                with Session(self.server.address, 5) as session:
                    Download(session, DownloadRequest(b"d/a", self.path(b"a")), REPLACE).run()
            finally:
                self.server.version = 2

        return [
            lambda: self.download(REPLACE),
            lambda: download_version1(self.session, b"d/a", self.path(b"a")),
            version_1,
        ]


class SyncTests(AnyDownloadCase):
    def failing(self, number: int, directories: bool) -> Any:
        real = os.fsync

        def fsync(file: int) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode) == directories:
                raise OSError(number, os.strerror(number))
            real(file)

        return mock.patch("os.fsync", fsync)

    def test_file_system_that_cannot_synchronize(self) -> None:
        for directories, numbers in (
            (False, SYNC_UNSUPPORTED),
            (True, DIRECTORY_SYNC_UNSUPPORTED),
        ):
            for number in sorted(numbers):
                for get in self.each():
                    with self.failing(number, directories):
                        get()
                    self.assert_whole()
                    os.unlink(self.path(b"a"))

    def test_error_numbers_are_those_that_file_systems_return(self) -> None:
        for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS):
            self.assertIn(number, SYNC_UNSUPPORTED)
            self.assertIn(number, DIRECTORY_SYNC_UNSUPPORTED)

    def test_failed_synchronization_of_bytes_is_an_error(self) -> None:
        self.write(b"a", b"old")
        for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            for get in self.each():
                with self.failing(number, directories=False):
                    self.assertEqual(self.assertRaises(LocalError, get).errno, number)
                self.assert_whole(b"old")

    def test_failed_synchronization_of_names_is_an_error(self) -> None:
        for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            for get in self.each():
                with self.failing(number, directories=True):
                    self.assertEqual(self.assertRaises(LocalError, get).errno, number)
                self.assert_whole()

    def test_names_of_new_directories_are_synchronized(self) -> None:
        synced = []
        real = os.fsync

        def fsync(file: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{file}").encode())
            real(file)

        with mock.patch("os.fsync", fsync):
            create_directories(self.path(b"x", b"y"))
        self.assertEqual(synced, [self.directory, self.path(b"x")])

    def test_directory_that_is_not_readable_is_not_synchronized(self) -> None:
        real = os.open

        def open_unreadable(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if path == b"." and not flags & getattr(os, "O_PATH", 0):
                raise PermissionError(errno.EACCES, "denied")
            return real(path, flags, *rest, **named)

        with mock.patch("os.open", open_unreadable):
            self.download()
        self.assert_whole()


class DirectoryTests(DownloadCase):
    def test_missing_directories_are_created(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        for path in (b"a", b"b/", b"c/d//e", b"f/../g", self.path(b"h", b"i"), b"a", b"/", b""):
            create_directories(path)
            self.assertTrue(os.path.isdir(path or b"."), path)

    def test_directory_that_another_process_creates_meanwhile(self) -> None:
        real = os.mkdir

        def mkdir(path: bytes) -> None:
            real(path)
            real(path)

        with mock.patch("os.mkdir", mkdir):
            create_directories(self.path(b"x", b"y"))
        self.assertTrue(os.path.isdir(self.path(b"x", b"y")))

    def test_file_in_place_of_a_directory_is_an_error(self) -> None:
        self.write(b"file", b"")
        os.symlink(b"nowhere", self.path(b"link"))
        for name in (b"file", b"link"):
            for path in (self.path(name), self.path(name, b"x")):
                error = self.assertRaises(LocalError, create_directories, path)
                self.assertTrue(str(error).startswith(os.fsdecode(path) + ": "), error)

    def test_name_that_cannot_be_synchronized_is_an_error(self) -> None:
        with mock.patch("os.fsync", side_effect=OSError(errno.EIO, "bad")):
            error = self.assertRaises(LocalError, create_directories, self.path(b"x"))
        self.assertEqual(error.errno, errno.EIO)

    def test_directory_that_cannot_be_opened_for_synchronization_is_an_error(self) -> None:
        real = os.open

        def open_out_of_descriptors(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if path == b"." and "dir_fd" in named:
                raise OSError(errno.EMFILE, "Too many open files")
            return real(path, flags, *rest, **named)

        with mock.patch("os.open", open_out_of_descriptors):
            self.assertEqual(self.assertRaises(LocalError, self.download).errno, errno.EMFILE)

    def test_existing_file_that_cannot_be_read_is_an_error(self) -> None:
        self.write(b"a", NEW, MTIME)
        for error in (PermissionError(errno.EACCES, "denied"), OSError(errno.EIO, "bad")):
            with mock.patch("natproxy.client.transfer.destination.FileIO", side_effect=error):
                raised = self.assertRaises(LocalError, self.download, DownloadOptions(verify=True))
            self.assertEqual(raised.errno, error.errno)


class PermissionTests(AnyDownloadCase):
    def mode(self) -> int:
        return stat.S_IMODE(os.stat(self.path(b"a")).st_mode)

    def test_replaced_file_keeps_its_mode(self) -> None:
        for mode in (0o600, 0o640, 0o755, 0o400, 0o666):
            for get in self.each():
                self.write(b"a", b"old")
                os.chmod(self.path(b"a"), mode)
                get()
                self.assertEqual(self.mode(), mode)
                self.assert_whole()
                os.unlink(self.path(b"a"))

    def test_new_file_has_permissions_by_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0o027))
        for get in self.each():
            get()
            self.assertEqual(self.mode(), 0o640)
            os.unlink(self.path(b"a"))

    def test_set_user_id_is_not_kept(self) -> None:
        self.write(b"a", b"old")
        os.chmod(self.path(b"a"), 0o4755)
        self.download(REPLACE)
        self.assertEqual(self.mode(), 0o755)

    def test_partial_file_is_no_more_readable_than_the_replaced_file(self) -> None:
        self.write(b"a", b"old")
        os.chmod(self.path(b"a"), 0o600)
        modes = []
        real = os.pwrite

        def pwrite(file: int, *rest: Any) -> int:
            modes.append(stat.S_IMODE(os.fstat(file).st_mode))
            return real(file, *rest)

        for get in self.each():
            with mock.patch("os.pwrite", pwrite):
                get()
        self.assertEqual(set(modes), {0o600})

    def test_link_to_a_private_file_is_replaced_by_a_private_file(self) -> None:
        self.write(b"target", b"old")
        os.chmod(self.path(b"target"), 0o600)
        os.symlink(b"target", self.path(b"a"))
        self.download(REPLACE)
        self.assertEqual((self.mode(), self.read(b"target")), (0o600, b"old"))

    def test_link_target_does_not_add_permissions(self) -> None:
        self.addCleanup(os.umask, os.umask(0o022))
        self.write(b"target", b"old")
        os.chmod(self.path(b"target"), 0o777)
        os.symlink(b"target", self.path(b"a"))
        self.download(REPLACE)
        self.assertEqual(self.mode(), 0o644)

    @skipIf(os.geteuid(), "only root can create another user's file")
    def test_owner_and_group_are_kept_if_possible(self) -> None:
        self.write(b"a", b"old")
        os.chown(self.path(b"a"), 12345, 12346)
        self.download(REPLACE)
        found = os.stat(self.path(b"a"))
        self.assertEqual((found.st_uid, found.st_gid), (12345, 12346))

    @skipIf(os.geteuid(), "only root can create another user's file")
    def test_group_that_cannot_be_kept_gets_the_permissions_of_others(self) -> None:
        denied = PermissionError(errno.EPERM, "denied")
        for before, after in ((0o660, 0o600), (0o664, 0o644), (0o640, 0o600)):
            self.write(b"a", b"old")
            os.chown(self.path(b"a"), 12345, 12346)
            os.chmod(self.path(b"a"), before)
            with mock.patch("os.fchown", side_effect=denied):
                self.download(REPLACE)
            self.assertEqual(self.mode(), after)
            os.unlink(self.path(b"a"))

    def test_file_system_without_permissions(self) -> None:
        self.write(b"a", b"old")
        with mock.patch("os.fchmod", side_effect=PermissionError(errno.EPERM, "no")):
            self.download(REPLACE)
        self.assert_whole()
        with mock.patch("os.fchmod", side_effect=OSError(errno.EIO, "bad")):
            self.assertEqual(self.assertRaises(LocalError, self.download, REPLACE).errno, errno.EIO)


class ExtremeTimeTests(DownloadCase):
    """Times that only some file systems, or none, can store."""

    TIMES = (
        -1,
        -MOST,
        -(2**31) * SECOND - 1,
        LATEST + 1,
        2**33 * SECOND,
        2**40 * SECOND + 5,
        2**63 * SECOND,
        MOST,
    )

    def synchronized(self) -> None:
        """Check that a second download finds the file unchanged."""
        for mtime_ns in self.TIMES:
            self.server.put(b"d/a", NEW, mtime_ns)
            self.assertFalse(self.download(UPDATE).unchanged, mtime_ns)
            self.assertTrue(self.download(UPDATE).unchanged, mtime_ns)
            self.assert_whole()
            os.unlink(self.path(b"a"))

    def test_local_file_system(self) -> None:
        self.synchronized()

    def test_file_systems_with_other_limits(self) -> None:
        real = os.utime
        for least, most, grain in (
            (-(2**31), 2**31 - 1, 1),
            (0, 2**32 - 1, SECOND),
            (315_532_800, 4_354_819_198, 2 * SECOND),
        ):

            def utime(file: Any, ns: tuple[int, int]) -> None:
                clamped = max(least * SECOND, min(ns[1], most * SECOND))  # noqa: B023
                real(file, ns=(ns[0], clamped - clamped % grain))  # noqa: B023

            with mock.patch("os.utime", utime):
                self.synchronized()

    def test_file_system_that_rejects_far_times(self) -> None:
        real = os.utime

        def utime(file: Any, ns: tuple[int, int]) -> None:
            if not EARLIEST <= ns[1] <= LATEST:
                raise OSError(errno.EINVAL, "refused")
            real(file, ns=ns)

        with mock.patch("os.utime", utime):
            self.synchronized()

    def test_failing_to_set_a_time_is_ignored(self) -> None:
        with mock.patch("os.utime", side_effect=PermissionError(errno.EPERM, "no")):
            self.download(UPDATE)
        self.assert_whole()

    def test_far_time_that_becomes_near_is_a_change(self) -> None:
        self.server.put(b"d/a", NEW, MOST)
        self.download(UPDATE)
        self.server.put(b"d/a", NEW, 1_600_000_000 * SECOND)
        self.assertFalse(self.download(UPDATE).unchanged)


class StoredTimeTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.integers(-(2**90), 2**90))
    def test_stored_time_is_recognized(self, mtime_ns: int) -> None:
        with tempfile.TemporaryFile() as file:
            set_time(file.fileno(), mtime_ns)
            self.assertTrue(stored_as(os.fstat(file.fileno()).st_mtime_ns, mtime_ns))

    @given(st.integers(EARLIEST, LATEST), st.integers(EARLIEST, LATEST))
    def test_different_storable_times_are_distinguished(self, one: int, two: int) -> None:
        apart = abs(one - two) >= 2 * SECOND
        self.assertFalse(apart and stored_as(one, two))

    def test_other_errors_of_a_lock_are_not_listed(self) -> None:
        for numbers in (
            filesystem.LOCK_UNSUPPORTED,
            filesystem.SYNC_UNSUPPORTED,
            filesystem.DIRECTORY_SYNC_UNSUPPORTED,
            filesystem.MODE_UNSUPPORTED,
        ):
            for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                self.assertNotIn(number, numbers)
