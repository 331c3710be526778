"""Partial downloads with failures of the disk or the system, or other processes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any
from unittest import mock

from natproxy.client import LocalError
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.partial import PartialDownload
from natproxy.protocol import FILE, Metadata
from tests.support.partials import MTIME, PartialCase, full


class FinishingTests(PartialCase):
    def complete(self) -> PartialDownload:
        part = self.open(size=5)
        part.write(part.segments[0], memoryview(b"01234"))
        return part

    def test_finished_file_has_its_name_and_time_and_no_other_file_remains(self) -> None:
        self.put(self.path, b"old")
        with self.complete() as part:
            part.finish()
        self.assertEqual((self.files(), self.content(self.path)), ([b"a"], b"01234"))
        self.assertEqual(os.stat(self.path).st_mtime_ns, MTIME)

    def test_bytes_are_synchronized_before_the_rename(self) -> None:
        done = []

        def noted(name: str) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(target: Any, *rest: Any, **named: Any) -> Any:
                is_part = isinstance(target, int) and os.path.samestat(os.fstat(target), metadata)
                done.append((name, "part" if is_part else target))
                return real(target, *rest, **named)

            return call

        part = self.complete()
        metadata = os.fstat(part._part.descriptor)
        with (
            mock.patch("os.fsync", noted("fsync")),
            mock.patch("os.utime", noted("utime")),
            mock.patch("os.replace", noted("replace")),
            mock.patch("os.unlink", noted("unlink")),
        ):
            part.finish()
        self.assertEqual(
            [*done[:3], *done[4:5]],
            [
                ("utime", "part"),
                ("fsync", "part"),
                ("replace", b".a.part"),
                ("unlink", b".a.part.json"),
            ],
        )
        # To a random name, and from there to the final one.
        self.assertEqual(done[3][0], "replace")
        self.assertRegex(done[3][1], rb"\A\.a\.[0-9a-f]{12}\.part\Z")
        self.assertEqual([name for name, _ in done[5:]], ["fsync"])

    def test_partly_written_record_is_ignored(self) -> None:
        # 999999 bytes are kept: with the first digits of the next number, it is a million more.
        write = os.pwrite
        with self.open(size=1 << 30) as part:
            segment = part.segments[0]
            segment.done = 999999
            part.save()
            before = self.content(self.record)
            segment.done = 1 << 20
            cut = before.index(b"[[0, ") + 6

            def short(file: int, data: memoryview, offset: int) -> int:
                return write(file, data[:cut], offset)

            with mock.patch("os.pwrite", short):
                self.assertRaises(OSError, part.save)
            self.assertEqual(self.content(self.record), b"")
            part.save()
            self.assertIn(b"[[0, 1048576, ", self.content(self.record))

    def test_bytes_that_cannot_be_synchronized_are_discarded(self) -> None:
        # The system does not report which bytes are lost, and the next call may succeed.
        self.put(self.path, b"old")
        with self.complete() as part, mock.patch("os.fsync", side_effect=OSError(errno.EIO, "bad")):
            error = self.assertRaises(LocalError, part.finish)
        self.assertEqual(error.errno, errno.EIO)
        self.assertEqual((self.files(), self.content(self.path)), ([b"a"], b"old"))

    def test_failed_rename_keeps_the_partial_download(self) -> None:
        with self.complete() as part:
            os.mkdir(self.path)
            self.assertRaises(LocalError, part.finish)
        os.rmdir(self.path)
        with self.open(size=5) as part:
            self.assertEqual(part.kept, 5)
            part.finish()
        self.assertEqual(self.content(self.path), b"01234")

    def test_missing_record_after_the_rename_is_ignored(self) -> None:
        with (
            self.complete() as part,
            mock.patch("os.unlink", side_effect=OSError(errno.EIO, "bad")),
        ):
            part.finish()
        self.assertEqual(self.content(self.path), b"01234")

    def test_name_that_cannot_be_synchronized_is_an_error(self) -> None:
        real = os.fsync

        def fsync(file: int) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode):
                raise OSError(errno.EIO, "bad")
            real(file)

        with self.complete() as part, mock.patch("os.fsync", fsync):
            error = self.assertRaises(LocalError, part.finish)
        self.assertEqual(str(error), f"{self.directory.decode()}: bad")
        self.assertEqual((self.files(), self.content(self.path)), ([b"a"], b"01234"))

    def test_times_that_cannot_be_stored(self) -> None:
        for mtime in (10**28, -(10**28), 2**63, -1):
            with PartialDownload(LocalFile(self.path), b"a", Metadata(FILE, 0, mtime, "e")) as part:
                part.finish()
            self.assertEqual(self.files(), [b"a"])

    def test_replaced_partial_file_is_not_published(self) -> None:
        with self.complete() as part:
            os.unlink(self.part)
            self.put(self.part, b"other")
            self.assertRaises(LocalError, part.finish)
        self.assertFalse(os.path.exists(self.path))

    def test_discard_removes_both_files(self) -> None:
        with self.complete() as part:
            part.discard()
        self.assertEqual(self.files(), [])


class FullDiskTests(PartialCase):
    def test_bytes_written_before_the_disk_is_full_are_kept(self) -> None:
        real = os.pwrite

        def pwrite(file: int, data: Any, offset: int) -> int:
            return real(file, data[:3], offset) if offset < 6 else full()

        with self.open() as part, mock.patch("os.pwrite", pwrite):
            error = self.assertRaises(
                LocalError, part.write, part.segments[0], memoryview(b"0123456789")
            )
            self.assertEqual(str(error), f"{self.path.decode()}: No space left on device")
        part = self.open()
        self.assertEqual((part.kept, self.content(self.part)), (6, b"012345"))

    def test_disk_without_space_for_a_record(self) -> None:
        with mock.patch("os.pwrite", full):
            error = self.assertRaises(LocalError, self.open)
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertEqual(self.open().kept, 0)

    def test_bytes_that_cannot_be_read_back(self) -> None:
        part = self.open()
        with mock.patch("os.preadv", side_effect=OSError(errno.EIO, "bad")):
            self.assertRaises(LocalError, part.read, 0, memoryview(bytearray(1)))


class DirectoryTests(PartialCase):
    def test_missing_directories_are_created(self) -> None:
        self.path = os.path.join(self.directory, b"x", b"y", b"a")
        self.open()
        self.assertEqual(self.content(os.path.join(self.directory, b"x", b"y", b".a.part")), b"")

    def test_directory_without_write_permission(self) -> None:
        with mock.patch("os.open", side_effect=PermissionError(errno.EACCES, "denied")):
            self.assertEqual(self.assertRaises(LocalError, self.open).errno, errno.EACCES)

    def test_second_download_is_an_error(self) -> None:
        with self.open():
            error = self.assertRaises(LocalError, self.open)
            expected = f"{self.path.decode()}: another process is downloading it"
            self.assertEqual((str(error), error.errno), (expected, errno.EBUSY))
        self.open()

    def test_file_finished_by_another_process_meanwhile_is_not_opened(self) -> None:
        first = self.open(size=0)
        finished: list[None] = []
        real = os.open

        def open_late(path: bytes, *rest: Any, **named: Any) -> int:
            file = real(path, *rest, **named)
            if path == b".a.part" and not finished:
                finished.append(first.finish())
                first.close()
            return file

        with mock.patch("os.open", open_late):
            second = self.open(size=10)
        self.assertTrue(os.path.samestat(os.fstat(second._part.descriptor), os.stat(self.part)))
        self.assertEqual(self.files(), [b".a.part", b".a.part.json", b"a"])
