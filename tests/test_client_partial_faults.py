"""What is kept of a download, when the disk, the system or somebody else is in the way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from shutil import rmtree
from typing import Any
from unittest import mock

from natproxy import wire
from natproxy.client import LocalError
from natproxy.client.partial import Partial
from tests.kept import MTIME, OURS, PartialCase, full


class FinishingTests(PartialCase):
    def complete(self) -> Partial:
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
                is_part = isinstance(target, int) and os.path.samestat(os.fstat(target), status)
                done.append((name, "part" if is_part else target))
                return real(target, *rest, **named)

            return call

        part = self.complete()
        status = os.fstat(part._file)
        with (
            mock.patch("os.fsync", noted("fsync")),
            mock.patch("os.utime", noted("utime")),
            mock.patch("os.replace", noted("replace")),
            mock.patch("os.unlink", noted("unlink")),
        ):
            part.finish()
        self.assertEqual(
            done[:4],
            [("utime", "part"), ("fsync", "part"), ("replace", self.part), ("unlink", self.record)],
        )
        self.assertEqual([name for name, _ in done[4:]], ["fsync"])

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

    def test_what_goes_wrong_after_it_has_its_name_is_no_failure(self) -> None:
        with self.complete() as part, mock.patch(f"{OURS}._sync_folder", full):
            os.unlink(self.record)
            part.finish()
        self.assertEqual(self.files(), [b"a"])

    def test_times_that_no_file_can_have(self) -> None:
        for mtime in (10**28, -(10**28), 2**63, -1):
            with Partial(self.path, b"a", wire.Status(wire.FILE, 0, mtime, "e")) as part:
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
    def test_link_in_its_place_is_not_followed(self) -> None:
        target = os.path.join(self.folder, b"target")
        for place in (self.part, self.record):
            self.put(target, b"precious")
            os.symlink(target, place)
            error = self.assertRaises(LocalError, self.open)
            self.assertTrue(str(error).startswith(place.decode()), error)
            self.assertEqual(self.content(target), b"precious")
            os.unlink(place)

    def test_other_things_in_its_place(self) -> None:
        for make in (os.mkdir, os.mkfifo):
            for place in (self.part, self.record):
                make(place)
                self.assertRaises(LocalError, self.open)
                rmtree(self.folder)
                os.mkdir(self.folder)

    def test_folder_that_is_missing_or_may_not_be_written_to(self) -> None:
        self.path = os.path.join(self.folder, b"none", b"a")
        self.assertEqual(self.assertRaises(LocalError, self.open).errno, errno.ENOENT)
        with mock.patch("os.open", side_effect=PermissionError(errno.EACCES, "denied")):
            self.assertEqual(self.assertRaises(LocalError, self.open).errno, errno.EACCES)

    def test_two_at_once_are_one_too_many(self) -> None:
        with self.open():
            error = self.assertRaises(LocalError, self.open)
            self.assertEqual(str(error), f"{self.path.decode()}: another process is fetching it")
        self.open()

    def test_other_process_is_noticed_and_its_end_too(self) -> None:
        hold = (
            "import sys; from natproxy.client.partial import Partial; from natproxy import wire\n"
            "p = Partial(sys.argv[1].encode(), b'd/a', wire.Status('file', 10, 0, 'e'))\n"
            "p.write(p.segments[0], memoryview(b'01234')); p.save()\n"
            "print('ready', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            (sys.executable, "-c", hold, self.path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=os.path.dirname(os.path.dirname(__file__)),
        ) as process:
            self.assertEqual(process.stdout.readline(), b"ready\n")
            self.assertRaises(LocalError, self.open)
            process.kill()
            process.wait()
        self.assertEqual(self.open().kept, 5)

    def test_file_that_another_process_finishes_meanwhile_is_not_opened_as_ours(self) -> None:
        first = self.open(size=0)
        real = os.open

        def open_late(path: bytes, *rest: Any) -> int:
            file = real(path, *rest)
            if path == self.part and os.path.exists(self.record) and first._file >= 0:
                first.finish()
                first.close()
            return file

        with mock.patch("os.open", open_late):
            second = self.open(size=10)
        self.assertTrue(os.path.samestat(os.fstat(second._file), os.stat(self.part)))
        self.assertEqual(self.files(), [b".a.part", b".a.part.json", b"a"])
