"""Claims of partial files: one process at a time, and never of other users' files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from unittest import mock, skipIf

from natproxy.client import LocalError
from natproxy.client.transfer.filesystem import LOCK_UNSUPPORTED
from natproxy.client.transfer.partial import ClaimLost, PartialDownload, is_partial
from tests.support.partials import MTIME, PartialCase, kill


class ClaimCase(PartialCase):
    def write(self, part: PartialDownload, content: bytes) -> None:
        part.write(part.segments[0], memoryview(content))

    def private(self, part: PartialDownload) -> bytes:
        """Return the name of the private partial file."""
        (name,) = set(self.files()) - self.there
        self.assertTrue(is_partial(name))
        self.assertEqual(os.stat(os.path.join(self.directory, name)).st_nlink, 1)
        self.assertEqual((part.kept, part.segments[0].end), (0, 10))
        return name

    def assert_private(self, part: PartialDownload, reason: str) -> None:
        """Check that a download succeeds beside the existing files, and leaves no other file."""
        self.assertIn(reason, part.discard_reason)
        self.private(part)
        self.write(part, b"0123456789")
        part.finish()
        part.close()
        self.assertEqual(self.content(self.path), b"0123456789")
        os.unlink(self.path)
        self.assertEqual(set(self.files()), self.there)

    def there_is_now(self) -> None:
        self.there = set(self.files())


class DiscardingTests(ClaimCase):
    def test_discarded_bytes_are_removed_and_never_overwritten(self) -> None:
        for change in ({"etag": "f"}, {"size": 11}, {"name": b"d/b"}):
            self.keep(b"01234")
            with open(self.part, "rb") as before:
                with self.open(**change) as part:
                    self.write(part, b"abcdef")
                    self.assertEqual(self.content(self.part), b"abcdef")
                self.assertEqual(before.read(), b"01234")
            os.unlink(self.part)

    def test_partial_file_without_a_record_is_not_used(self) -> None:
        # As after ``get .a.part``, or from another program.
        self.put(self.part, b"precious")
        self.there_is_now()
        self.assert_private(self.open(), "no record")
        self.assertEqual(self.content(self.part), b"precious")

    def test_partial_file_never_remains_without_a_record(self) -> None:
        self.keep(b"01234")
        unlink = os.unlink
        seen: list[list[bytes]] = []

        def note(name: bytes, **options: int) -> None:
            unlink(name, **options)
            seen.append(self.files())

        with mock.patch("os.unlink", note), self.open(etag="f") as part:
            self.write(part, b"abc")
            part.discard()
        self.assertEqual(len(seen), 3)
        for files in seen:
            self.assertNotEqual(files, [b".a.part"])

    def test_partial_file_with_a_damaged_record_or_without_bytes_is_replaced(self) -> None:
        for content in (b"", b"01234"):
            self.put(self.part, content)
            if content:
                self.put(self.record, b"")
            with open(self.part, "rb") as before:
                with self.open() as part:
                    self.write(part, b"abc")
                self.assertEqual(before.read(), content)
            os.unlink(self.part)
            os.unlink(self.record)

    def test_record_is_a_new_file_each_time(self) -> None:
        self.keep(b"01234")
        before = os.stat(self.record)
        with open(self.record, "rb") as held, self.open() as part:
            content = held.read()
            self.write(part, b"56")
            part.save()
            self.assertFalse(os.path.samestat(before, os.stat(self.record)))
            held.seek(0)
            self.assertEqual(held.read(), content)
        self.assertEqual(self.files(), [b".a.part", b".a.part.json"])


class UselessLockTests(ClaimCase):
    """``flock`` succeeds without excluding others, as on some network file systems."""

    def setUp(self) -> None:
        super().setUp()
        patch = mock.patch("fcntl.flock", return_value=None)
        patch.start()
        self.addCleanup(patch.stop)

    def overtaken(self, first: PartialDownload) -> None:
        self.assertRaises(ClaimLost, self.write, first, b"x")
        self.assertRaises(ClaimLost, first.finish)
        first.close()

    def test_later_process_continues_and_the_earlier_one_stops_writing(self) -> None:
        first = self.open()
        self.write(first, b"01234")
        first.save()
        second = self.open()
        self.assertEqual(second.kept, 5)
        self.overtaken(first)
        self.write(second, b"56789")
        second.finish()
        self.assertEqual(self.content(self.path), b"0123456789")

    def test_complete_file_is_not_written_to(self) -> None:
        # The slower download is not complete when the other one publishes the file.
        for change in ({}, {"etag": "f"}):
            first = self.open()
            self.write(first, b"01234")
            first.save()
            with self.open(**change) as second:
                self.write(second, b"0123456789"[second.kept :])
                second.finish()
            done = os.stat(self.path)
            self.overtaken(first)
            now = os.stat(self.path)
            self.assertEqual((now.st_mtime_ns, now.st_ctime_ns), (MTIME, done.st_ctime_ns))
            self.assertEqual(self.content(self.path), b"0123456789")
            self.assertEqual(self.files(), [b"a"])
            os.unlink(self.path)

    def test_changed_file_uses_a_new_partial_file(self) -> None:
        first = self.open()
        self.write(first, b"01234")
        second = self.open(etag="f")
        self.write(second, b"abcde")
        self.overtaken(first)
        self.assertEqual(self.content(self.part), b"abcde")
        second.close()
        self.assertEqual(self.open(etag="f").kept, 5)

    def test_partial_file_of_another_process_is_not_published(self) -> None:
        # It replaces a complete one just before the rename.
        first = self.open()
        self.write(first, b"0123456789")
        second: list[PartialDownload] = []
        rename = os.replace

        def replace(old: bytes, new: bytes, **directories: int) -> None:
            if old == b".a.part" and not second:
                second.append(self.open(etag="f"))
                self.write(second[0], b"abc")
            rename(old, new, **directories)

        with mock.patch("os.replace", replace):
            self.assertRaises(ClaimLost, first.finish)
        first.close()
        self.assertEqual(self.files(), [b".a.part", b".a.part.json"])
        self.write(second[0], b"defghij")
        second[0].finish()
        self.assertEqual((self.files(), self.content(self.path)), ([b"a"], b"abcdefghij"))

    def test_partial_file_that_cannot_be_published_is_kept(self) -> None:
        os.mkdir(self.path)
        with self.open() as part:
            self.write(part, b"0123456789")
            self.assertRaises(LocalError, part.finish)
        self.assertEqual(self.files(), [b".a.part", b".a.part.json", b"a"])
        self.assertEqual(self.open().kept, 10)

    def test_removed_partial_file_is_detected_before_the_next_write(self) -> None:
        for place in (self.part, self.record):
            part = self.open()
            os.unlink(place)
            self.overtaken(part)

    def test_partial_download_of_a_killed_process_is_resumed(self) -> None:
        part = self.open()
        self.write(part, b"01234")
        part.save()
        kill(part)
        self.assertEqual(self.open().kept, 5)


class NoLockTests(ClaimCase):
    def test_downloads_work_without_locks(self) -> None:
        for number in sorted(LOCK_UNSUPPORTED):
            unsupported = mock.patch("fcntl.flock", side_effect=OSError(number, "unsupported"))
            with unsupported:
                self.keep(b"01234")
                with self.open() as part:
                    self.assertEqual(part.kept, 5, number)
                    self.write(part, b"56789")
                    part.finish()
            self.assertEqual(self.content(self.path), b"0123456789")
            os.unlink(self.path)

    def test_error_numbers_are_those_that_file_systems_return(self) -> None:
        for number in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL):
            self.assertIn(number, LOCK_UNSUPPORTED)

    def test_other_errors_of_a_lock_are_raised(self) -> None:
        for number in (errno.EIO, errno.EINTR, errno.ENOMEM):
            with mock.patch("fcntl.flock", side_effect=OSError(number, "bad")):
                self.assertEqual(self.assertRaises(LocalError, self.open).errno, number)

    def test_permission_denied_means_locked(self) -> None:
        with mock.patch("fcntl.flock", side_effect=OSError(errno.EACCES, "denied")):
            self.assertEqual(self.assertRaises(LocalError, self.open).errno, errno.EBUSY)


class ConcurrentTests(ClaimCase):
    def test_second_download_uses_a_private_partial_file(self) -> None:
        with self.open() as first:
            self.write(first, b"01234")
            self.there_is_now()
            self.assert_private(self.open(concurrent=True), "another process or thread")
            self.write(first, b"56789")
            first.finish()
        self.assertEqual(self.content(self.path), b"0123456789")

    def test_incomplete_private_partial_file_is_removed(self) -> None:
        with self.open():
            self.there_is_now()
            with self.open(concurrent=True) as part:
                self.write(part, b"01234")
            self.assertEqual(set(self.files()), self.there)

    def test_removed_private_partial_file_is_an_error(self) -> None:
        part = self.open(private=True)
        for name in self.files():
            os.unlink(os.path.join(self.directory, name))
        self.assertEqual(self.assertRaises(LocalError, part.finish).errno, errno.ESTALE)
        part.close()
        self.assertEqual(self.files(), [])

    def test_private_partial_file_on_request(self) -> None:
        self.keep(b"01234")
        self.there_is_now()
        self.assert_private(self.open(private=True), "")

    def test_single_concurrent_download_resumes(self) -> None:
        self.keep(b"01234")
        self.assertEqual(self.open(concurrent=True).kept, 5)


class ForeignFileTests(ClaimCase):
    """Other files have the names of the partial file or its record."""

    def planted(self, plant: Callable[[bytes], object], reason: str = "something else") -> None:
        for place in (self.part, self.record):
            plant(place)
            before = os.lstat(place)
            self.there_is_now()
            if place == self.part:
                self.assert_private(self.open(), reason)
                self.assertTrue(os.path.samestat(before, os.lstat(place)))
            else:
                with self.open() as part:
                    self.write(part, b"0123456789")
                    part.finish()
                self.assertEqual(self.content(self.path), b"0123456789")
                os.unlink(self.path)
            for name in self.files():
                path = os.path.join(self.directory, name)
                os.rmdir(path) if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink(path)

    def test_links_are_not_followed(self) -> None:
        outside = os.path.join(self.mktemp().encode())
        self.put(outside, b"precious")
        self.planted(lambda place: os.symlink(os.path.abspath(outside), place))
        self.assertEqual(self.content(outside), b"precious")

    def test_dangling_links_are_not_followed(self) -> None:
        self.planted(lambda place: os.symlink(os.path.join(self.directory, b"new"), place))

    def test_other_types_of_files_are_not_changed(self) -> None:
        self.planted(os.mkfifo)
        self.planted(os.mkdir)

    def test_file_with_a_second_name_is_not_written_to(self) -> None:
        outside = os.path.join(self.directory, b"precious")
        self.put(outside, b"precious")
        for place in (self.part, self.record):
            os.link(outside, place)
            with self.open() as part:
                self.write(part, b"0123456789")
                part.finish()
            self.assertEqual((self.content(outside), os.stat(outside).st_nlink), (b"precious", 1))
            self.assertEqual(self.content(self.path), b"0123456789")
            os.unlink(self.path)

    def test_partial_file_with_a_second_name_is_not_resumed(self) -> None:
        self.keep(b"01234")
        copy = os.path.join(self.directory, b"copy")
        os.link(self.part, copy)
        with self.open() as part:
            self.assertEqual(
                (part.kept, part.discard_reason), (0, "the partial file has a second name")
            )
            self.write(part, b"abc")
        self.assertEqual(self.content(copy), b"01234")

    @skipIf(os.geteuid(), "only root can create another user's file")
    def test_file_of_another_user_is_not_written_to(self) -> None:
        def plant(place: bytes) -> None:
            self.put(place, b"01234")
            os.chown(place, 12345, -1)
            os.chmod(place, 0o666)

        self.planted(plant)

    @skipIf(os.geteuid(), "only root can create another user's file")
    def test_record_of_another_user_is_ignored(self) -> None:
        self.keep(b"01234")
        os.chown(self.record, 12345, -1)
        with self.open() as part:
            self.assertEqual(
                (part.kept, part.discard_reason),
                (0, "the record of the received bytes is missing or damaged"),
            )

    def test_file_system_with_one_owner_for_all_files(self) -> None:
        with mock.patch("os.geteuid", return_value=os.geteuid() + 1):
            self.keep(b"01234")
            self.assertEqual(self.open().kept, 5)
        self.assertEqual(self.files(), [b".a.part", b".a.part.json"])

    def test_record_that_cannot_be_replaced(self) -> None:
        real = os.replace

        def replace(old: bytes, new: bytes, **named: int) -> None:
            if new == b".a.part.json":
                raise PermissionError(errno.EPERM, "sticky")
            real(old, new, **named)

        with mock.patch("os.replace", replace):
            part = self.open()
        self.there = set()
        self.assert_private(part, "name of the record")

    def test_continuous_replacement_is_an_error(self) -> None:
        self.put(self.part, b"")
        with mock.patch("natproxy.client.transfer.part_file.PartFile.in_place", return_value=False):
            self.assertEqual(self.assertRaises(LocalError, self.open).errno, errno.EBUSY)
