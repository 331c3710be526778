"""Trees of many small files: made, copied to fresh places, and compared."""

from __future__ import annotations

import array
import fcntl
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.plan import Tree

_OLDEST = 1_600_000_000
"""Modification time of the first file. HTTP knows whole seconds only, and so do these."""
_SAMPLE = 50
"""One file in so many is compared byte by byte."""
_GET_FLAGS, _SET_FLAGS, _TOPDIR = 0x80086601, 0x40086602, 0x00020000


@dataclass(frozen=True)
class Source:
    """A tree in the directory that is served.

    :ivar files: the directory that is served.
    :ivar tree: what it holds.
    """

    files: Path
    tree: Tree

    @property
    def path(self) -> Path:
        """The tree's own directory."""
        return self.files / self.tree.name

    def names(self) -> Iterator[str]:
        """Return the names of the files, relative to the tree."""
        tree = self.tree
        for number in range(tree.files):
            yield f"d{number % tree.directories:03}/f{number:06}.bin"

    def make(self) -> None:
        """Create the files, unless they are there."""
        if self.path.exists():
            return
        for number in range(self.tree.directories):
            (self.path / f"d{number:03}").mkdir(parents=True)
        for number, name in enumerate(self.names()):
            path = self.path / name
            path.write_bytes(random.Random(number).randbytes(self.tree.size))
            os.utime(path, (_OLDEST + number,) * 2)

    def check(self, copy: Path) -> None:
        """Compare a copy with the tree: all sizes and times, and the bytes of some files.

        :raises BenchmarkError: if it differs.
        """
        for number, name in enumerate(self.names()):
            try:
                found = os.stat(copy / name)
                differs = found.st_size != self.tree.size
                differs |= int(found.st_mtime) != _OLDEST + number
                if not number % _SAMPLE:
                    differs |= (copy / name).read_bytes() != (self.path / name).read_bytes()
            except FileNotFoundError:
                raise BenchmarkError(f"{name} has not been copied") from None
            if differs:
                raise BenchmarkError(f"the copy of {name} differs")


def inodes(directory: Path) -> dict[str, int]:
    """Return the number of each file's inode, by path."""
    return {
        entry.path: entry.inode()
        for path, _, _ in os.walk(directory)
        for entry in os.scandir(path)
        if entry.is_file()
    }


@contextmanager
def fresh_directory(scratch: Path) -> Iterator[Path]:
    """Create an empty directory, far from others on the disk; remove it with the block.

    ext4 without a journal skips the inodes of files that have been deleted lately one by one, so
    that a directory beside deleted ones is slow. Directories in one with the flag ``TOPDIR`` are
    distributed over the disk.
    """
    _distribute(scratch)
    path = Path(tempfile.mkdtemp(prefix="copy-", dir=scratch))
    try:
        os.sync()
        yield path
    finally:
        shutil.rmtree(path)


def _distribute(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Other file systems have no such flag, and no need of it.
        with suppress(OSError):
            flags = array.array("i", [0])
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
            flags[0] |= _TOPDIR
            fcntl.ioctl(descriptor, _SET_FLAGS, flags)
    finally:
        os.close(descriptor)
