"""What is kept of a download, when the disk, the system or somebody else is in the way."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

from natproxy.client import LocalError
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.partial import PartialDownload
from natproxy.protocol import FILE, Metadata
from tests.support.partials import MTIME, PartialCase, full
from tests.support.paths import ROOT


class FinishingTests(PartialCase):
    def complete(self) -> PartialDownload:
        part = self.open(size=5)
        part.write(part.segments[0], memoryview(b"01234"))
        return part

    def test_file_has_its_name_and_time_and_nothing_else_is_left(self) -> None:
        self.put(self.path, b"old")
        with self.complete() as part:
            part.finish()
        self.assertEqual((self.files(), self.content(self.path)), ([b"a"], b"01234"))
        self.assertEqual(os.stat(self.path).st_mtime_ns, MTIME)

    def test_bytes_are_on_the_disk_before_the_name_is_theirs(self) -> None:
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
        # To a name that no other process knows, and from there to the final one.
        self.assertEqual(done[3][0], "replace")
        self.assertRegex(done[3][1], rb"\A\.a\.[0-9a-f]{12}\.part\Z")
        self.assertEqual([name for name, _ in done[5:]], ["fsync"])

    def test_record_that_is_written_in_part_is_not_believed(self) -> None:
        # 999999 bytes were kept: with the first digits of the next number, that is a million more.
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

    def test_bytes_that_cannot_be_brought_to_the_disk_are_not_kept(self) -> None:
        # Nobody can say which of them are lost, and the next time it may seem to work.
        self.put(self.path, b"old")
        with self.complete() as part, mock.patch("os.fsync", side_effect=OSError(errno.EIO, "bad")):
            error = self.assertRaises(LocalError, part.finish)
        self.assertEqual(error.errno, errno.EIO)
        self.assertEqual((self.files(), self.content(self.path)), ([b"a"], b"old"))

    def test_name_that_cannot_be_given_leaves_everything_to_try_again_with(self) -> None:
        with self.complete() as part:
            os.mkdir(self.path)
            self.assertRaises(LocalError, part.finish)
        os.rmdir(self.path)
        with self.open(size=5) as part:
            self.assertEqual(part.kept, 5)
            part.finish()
        self.assertEqual(self.content(self.path), b"01234")

    def test_record_that_is_gone_when_the_file_has_its_name_is_no_failure(self) -> None:
        with (
            self.complete() as part,
            mock.patch("os.unlink", side_effect=OSError(errno.EIO, "bad")),
        ):
            part.finish()
        self.assertEqual(self.content(self.path), b"01234")

    def test_name_that_cannot_be_brought_to_the_disk_is_a_failure(self) -> None:
        real = os.fsync

        def fsync(file: int) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode):
                raise OSError(errno.EIO, "bad")
            real(file)

        with self.complete() as part, mock.patch("os.fsync", fsync):
            error = self.assertRaises(LocalError, part.finish)
        self.assertEqual(str(error), f"{self.directory.decode()}: bad")
        self.assertEqual((self.files(), self.content(self.path)), ([b"a"], b"01234"))

    def test_times_that_no_file_can_have(self) -> None:
        for mtime in (10**28, -(10**28), 2**63, -1):
            with PartialDownload(LocalFile(self.path), b"a", Metadata(FILE, 0, mtime, "e")) as part:
                part.finish()
            self.assertEqual(self.files(), [b"a"])

    def test_what_somebody_put_in_its_place_is_not_taken_for_it(self) -> None:
        with self.complete() as part:
            os.unlink(self.part)
            self.put(self.part, b"other")
            self.assertRaises(LocalError, part.finish)
        self.assertFalse(os.path.exists(self.path))

    def test_discarding_leaves_nothing(self) -> None:
        with self.complete() as part:
            part.discard()
        self.assertEqual(self.files(), [])


class FullDiskTests(PartialCase):
    def test_what_was_written_before_the_disk_was_full_is_kept(self) -> None:
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

    def test_disk_without_room_for_a_record(self) -> None:
        with mock.patch("os.pwrite", full):
            error = self.assertRaises(LocalError, self.open)
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertEqual(self.open().kept, 0)

    def test_bytes_that_cannot_be_read_back(self) -> None:
        part = self.open()
        with mock.patch("os.preadv", side_effect=OSError(errno.EIO, "bad")):
            self.assertRaises(LocalError, part.read, 0, memoryview(bytearray(1)))


class PlaceTests(PartialCase):
    def test_missing_directories_are_created(self) -> None:
        self.path = os.path.join(self.directory, b"x", b"y", b"a")
        self.open()
        self.assertEqual(self.content(os.path.join(self.directory, b"x", b"y", b".a.part")), b"")

    def test_directory_that_may_not_be_written_to(self) -> None:
        with mock.patch("os.open", side_effect=PermissionError(errno.EACCES, "denied")):
            self.assertEqual(self.assertRaises(LocalError, self.open).errno, errno.EACCES)

    def test_two_at_once_are_one_too_many(self) -> None:
        with self.open():
            error = self.assertRaises(LocalError, self.open)
            expected = f"{self.path.decode()}: another process is downloading it"
            self.assertEqual((str(error), error.errno), (expected, errno.EBUSY))
        self.open()

    def test_other_process_is_noticed_and_its_end_too(self) -> None:
        hold = (
            "import sys\n"
            "from natproxy.client.transfer.partial import PartialDownload\n"
            "from natproxy.protocol import Metadata\n"
            "from natproxy.client.transfer.destination import LocalFile\n"
            "metadata = Metadata('file', 10, 0, 'e')\n"
            "p = PartialDownload(LocalFile(sys.argv[1].encode()), b'd/a', metadata)\n"
            "p.write(p.segments[0], memoryview(b'01234')); p.save()\n"
            "print('ready', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            (sys.executable, "-c", hold, self.path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ) as process:
            self.assertEqual(process.stdout.readline(), b"ready\n")
            self.assertRaises(LocalError, self.open)
            process.kill()
            process.wait()
        self.assertEqual(self.open().kept, 5)

    def test_file_that_another_process_finishes_meanwhile_is_not_opened_as_ours(self) -> None:
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
