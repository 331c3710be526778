"""The bytes of a download until they have their name: a file that one process writes to."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress

from natproxy.client.context import Closing
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.filesystem import keep_permissions, restrict, set_time, sync_file

SUFFIX = b".part"
RECORD_SUFFIX = SUFFIX + b".json"

LONGEST_NAME = 255
"""Bytes of a file name: the limit of Linux's file systems."""


class StaleFile(OSError):
    """Another file has taken the place of a partial file."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "another file took the place of what was received")


class PartFile(Closing):
    """An open partial file. All methods raise `OSError`.

    :param directory: that it is in, and that the complete file will be in.
    :param name: of the partial file.
    :param descriptor: of the partial file; `close` closes it.
    :ivar created: whether this process created it: no other has bytes to write to it.
    """

    def __init__(
        self, directory: LocalDirectory, name: bytes, descriptor: int, created: bool = False
    ) -> None:
        self.name = name
        self.descriptor = descriptor
        self.created = created
        self._directory = directory
        self._metadata = os.fstat(descriptor)

    @classmethod
    def create(cls, directory: LocalDirectory, name: bytes, final: bytes) -> PartFile:
        """Create a partial file.

        :param final: the name that it will have. What may not be read under it may not be read
            while it is downloaded, either.
        :raises FileExistsError: if anything has the name.
        """
        descriptor = directory.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            replaced, _ = _replaced(directory, final)
            if replaced is not None:
                restrict(descriptor, replaced)
            return cls(directory, name, descriptor, created=True)
        except BaseException:
            os.close(descriptor)
            directory.unlink(name)
            raise

    @classmethod
    def create_private(cls, directory: LocalDirectory, final: bytes) -> PartFile:
        """Create a partial file that no other process, and no later one, looks for."""
        return cls.create(directory, random_name(final, SUFFIX), final)

    def in_place(self) -> bool:
        """Return whether its name is still that of this file."""
        found = self._directory.look(self.name)
        return found is not None and os.path.samestat(found, self._metadata)

    def write(self, data: memoryview, offset: int) -> int:
        """Write bytes; return how many were written, which may be fewer."""
        return os.pwrite(self.descriptor, data, offset)

    def complete(self, final: bytes, mtime_ns: int | None = None) -> None:
        """Set permissions and time: all bytes have been written.

        :param final: the name that it will have; a file of this name passes on its permissions.
        :param mtime_ns: the time of last writing that it is to have, in nanoseconds since the
            epoch; `None` for that of its download.
        """
        replaced, through_link = _replaced(self._directory, final)
        if replaced is not None:
            (restrict if through_link else keep_permissions)(self.descriptor, replaced)
        if mtime_ns is not None:
            set_time(self.descriptor, mtime_ns)

    def sync(self) -> None:
        """Bring all bytes to the disk."""
        sync_file(self.descriptor)

    def publish(self, final: bytes, replace: bool = True) -> None:
        """Give the file its final name.

        It is renamed twice, first to a name that no other process looks for. Another process
        may create a partial file of the same name between a look at it and a rename: that
        one must not get the final name.

        :param replace: whether a file that has the final name is replaced.
        :raises FileExistsError: if it is not to be replaced, and anything has the final name.
        :raises StaleFile: if the partial file is another one by now, which is left as it is.
        """
        usual = self.name
        if not self.in_place():
            raise StaleFile
        unknown = random_name(final, SUFFIX)
        self._directory.rename(usual, unknown)
        self.name = unknown
        try:
            if not self.in_place():
                raise StaleFile
            if replace:
                self._directory.rename(self.name, final)
            else:
                self._directory.rename_new(self.name, final)
        except BaseException:
            with suppress(OSError):
                self._directory.rename_new(unknown, usual)
                self.name = usual
            raise

    def remove(self) -> None:
        """Remove its name, unless that is another file's by now."""
        if self.in_place():
            self._directory.unlink(self.name)

    def close(self) -> None:
        """Close the file; its directory stays open."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def stem_of(name: bytes) -> bytes:
    """Return what the names of a file's partial file and record begin with."""
    if len(name) + 1 + len(RECORD_SUFFIX) > LONGEST_NAME:
        digest = hashlib.blake2b(name, digest_size=8).hexdigest().encode("ascii")
        name = name[:200] + b"~" + digest
    return b"." + name


def random_name(final: bytes, suffix: bytes) -> bytes:
    """Return a name for a partial file, or its record, that no other file has."""
    # A name may be as long as a name can be.
    return b".%s.%s%s" % (final[:200], os.urandom(6).hex().encode(), suffix)


def _replaced(directory: LocalDirectory, name: bytes) -> tuple[os.stat_result | None, bool]:
    """Return what a regular file's replacement must know of it, and whether a link led to it."""
    found = directory.look(name)
    through_link = found is not None and stat.S_ISLNK(found.st_mode)
    if through_link:
        found = directory.target(name)
    regular = found is not None and stat.S_ISREG(found.st_mode)
    return (found if regular else None), through_link
