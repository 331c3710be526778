"""What killed downloads have left is removed; what is used, resumed or another's is not."""

from __future__ import annotations

import os
import tempfile
from shutil import rmtree
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.leftovers import may_be_leftover, remove_leftover_files
from natproxy.client.transfer.part_file import PartFile, random_name
from natproxy.client.transfer.partial import PartialDownload
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import FILE, Metadata

METADATA = Metadata(FILE, 3, 10**18, "e")


class LeftoverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.top = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(rmtree, self.top)
        self.tree = LocalTree(self.top)
        self.addCleanup(self.tree.close)

    def remove(self) -> list[bytes]:
        names = sorted(os.listdir(self.top))
        remove_leftover_files(self.tree, filter(may_be_leftover, names))
        return sorted(os.listdir(self.top))

    def put(self, name: bytes, content: bytes = b"") -> None:
        with open(os.path.join(self.top, name), "wb") as file:
            file.write(content)

    def download(self, **options: bool) -> PartialDownload:
        file = LocalFile(os.path.join(self.top, b"a"))
        return PartialDownload(file, b"a", METADATA, **options)

    def later(self) -> int:
        """Return a time after the last change of ``a``."""
        return os.stat(os.path.join(self.top, b"a")).st_ctime_ns + 10**9

    def receive(self) -> PartialDownload:
        """Return a download of which one byte has been received."""
        download = self.download()
        download.write(download.segments[0], memoryview(b"x"))
        return download

    def crash(self, download: PartialDownload) -> None:
        """Close the files as the end of a process does."""
        for each in (download._part, download._record):
            if each is not None:
                each.close()
        download._directory.close()

    def test_names(self) -> None:
        for name in (b".a.part.json", b".a.0123456789ab.part", b".a.0123456789ab.part.json"):
            self.assertTrue(may_be_leftover(name), name)
        for name in (b".a.part", b".0123456789ab.part", b".a.0123456789aB.part", b"a.part"):
            self.assertFalse(may_be_leftover(name), name)

    def test_files_with_random_names_are_removed_once_their_process_has_ended(self) -> None:
        download = self.download(private=True)
        name = download._part.name
        with LocalDirectory.at(self.top) as directory:
            record = PartFile.create_private(directory, b"a", b".part.json")
            self.assertEqual(self.remove(), sorted([name, record.name]))
            record.close()
        self.crash(download)
        self.assertEqual(self.remove(), [])

    def test_record_is_removed_once_its_partial_file_has_the_final_name(self) -> None:
        download = self.download()
        os.rename(os.path.join(self.top, b".a.part"), os.path.join(self.top, b"a"))
        self.assertEqual(self.remove(), [b".a.part.json", b"a"])
        self.crash(download)
        self.assertEqual(self.remove(), [b"a"])

    def test_partial_download_that_can_be_resumed_stays(self) -> None:
        self.receive().close()
        self.assertEqual(self.remove(), [b".a.part", b".a.part.json"])

    def test_partial_download_without_a_byte_is_removed(self) -> None:
        download = self.download()
        self.assertEqual(self.remove(), [b".a.part", b".a.part.json"])
        download.close()
        self.assertEqual(self.remove(), [])

    def test_partial_download_is_removed_once_the_file_has_been_saved_otherwise(self) -> None:
        download = self.receive()
        download.save()
        # An older version of the file, which the partial download is to replace.
        self.put(b"a", b"old")
        for name in (b".a.part", b".a.part.json"):
            os.utime(os.path.join(self.top, name), ns=(self.later(), self.later()))
        everything = [b".a.part", b".a.part.json", b"a"]
        self.assertEqual(self.remove(), everything)
        for name in (b".a.part", b".a.part.json"):
            os.utime(os.path.join(self.top, name), ns=(10**18, 10**18))
        # It is used.
        self.assertEqual(self.remove(), everything)
        self.crash(download)
        with mock.patch("os.geteuid", return_value=os.geteuid() + 1):
            self.assertEqual(self.remove(), everything)
        self.assertEqual(self.remove(), [b"a"])

    def test_other_files_with_these_names_stay(self) -> None:
        self.put(b".a.part", b"mine")
        self.put(b".a.part.json", b'{"mine": 1}\n')
        for name in (b".a.part", b".a.part.json"):
            os.utime(os.path.join(self.top, name), ns=(10**18, 10**18))
        self.put(b"a", b"new")
        self.assertEqual(self.remove(), [b".a.part", b".a.part.json", b"a"])

    def test_what_is_no_record_a_link_a_directory_or_another_users_stays(self) -> None:
        self.put(b".b.part.json", b'{"mine": 1}\n')
        self.put(b".c.part.json")
        os.symlink(b".c.part.json", os.path.join(self.top, b".d.part.json"))
        os.mkdir(os.path.join(self.top, b".e.0123456789ab.part"))
        os.mkfifo(os.path.join(self.top, b".f.0123456789ab.part"))
        before = sorted(os.listdir(self.top))
        self.assertEqual(self.remove(), before)
        self.put(b".g.0123456789ab.part")
        with mock.patch("os.geteuid", return_value=os.geteuid() + 1):
            self.assertEqual(len(self.remove()), len(before) + 1)

    def test_private_file_is_created_again_if_it_is_removed_before_it_is_locked(self) -> None:
        names = [b".a.000000000001.part", b".a.000000000002.part", b".a.000000000003.part"]
        holders: list[int] = []

        def lock(file: int) -> bool:
            if len(holders) == 0:
                holders.append(file)
                raise BlockingIOError
            if len(holders) == 1:
                holders.append(file)
                os.unlink(os.path.join(self.top, names[1]))
            return True

        module = "natproxy.client.transfer.part_file"
        with (
            LocalDirectory.at(self.top) as directory,
            mock.patch(f"{module}.random_name", side_effect=names),
            mock.patch(f"{module}.lock", lock),
            PartFile.create_private(directory, b"a") as part,
        ):
            self.assertEqual(part.name, names[2])
        self.assertTrue(may_be_leftover(random_name(b"a", b".part")))
