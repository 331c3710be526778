"""Files that are read at once: what is read, and what is not."""

from __future__ import annotations

import os
import shutil
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from natproxy.kernel.small_file import (
    FOR_ITS_OWNER,
    WRITTEN_BY_ITS_OWNER,
    UnsuitableFile,
    read_small_file,
)


class SmallFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.path = os.path.join(directory, "file")

    def write(self, content: bytes, mode: int = 0o600) -> None:
        with open(self.path, "wb") as file:
            file.write(content)
        os.chmod(self.path, mode)

    def assert_unsuitable(self, reason: str, *arguments: int, regular: bool = False) -> None:
        error = self.assertRaises(
            UnsuitableFile, read_small_file, self.path, *arguments, regular=regular
        )
        self.assertEqual(str(error), reason)

    def test_size(self) -> None:
        self.write(b"12345")
        self.assertEqual(read_small_file(self.path, 5), b"12345")
        self.assert_unsuitable("larger than 4 bytes", 4)

    def test_mode(self) -> None:
        for mode, without, allowed in (
            (0o600, FOR_ITS_OWNER, True),
            (0o640, FOR_ITS_OWNER, False),
            (0o601, FOR_ITS_OWNER, False),
            (0o644, WRITTEN_BY_ITS_OWNER, True),
            (0o620, WRITTEN_BY_ITS_OWNER, False),
            (0o602, WRITTEN_BY_ITS_OWNER, False),
            (0o666, 0, True),
        ):
            self.write(b"x", mode)
            if allowed:
                self.assertEqual(read_small_file(self.path, 9, without), b"x")
            else:
                self.assertRaises(UnsuitableFile, read_small_file, self.path, 9, without)

    def test_message_of_a_mode_says_what_to_do(self) -> None:
        self.write(b"x", 0o666)
        self.assert_unsuitable(
            "other users can use the file (mode 0666): chmod go-rwx", 9, FOR_ITS_OWNER
        )
        self.assert_unsuitable(
            "other users can write the file (mode 0666): chmod go-w", 9, WRITTEN_BY_ITS_OWNER
        )

    def test_fifo_does_not_block(self) -> None:
        os.mkfifo(self.path, 0o600)
        self.assertEqual(read_small_file(self.path, 9), b"")
        self.assert_unsuitable("not a regular file", 9, regular=True)

    def test_device_without_an_end(self) -> None:
        self.path = "/dev/zero"
        self.assert_unsuitable("larger than 9 bytes", 9)

    def test_errors_of_the_system(self) -> None:
        self.assertRaises(FileNotFoundError, read_small_file, self.path, 9)
        self.assertRaises(IsADirectoryError, read_small_file, os.path.dirname(self.path), 9)
