"""The partial file: the bytes of a download until the file is complete and gets its name."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from natproxy.client.context import Closing
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.filesystem import (
    keep_permissions,
    lock,
    restrict,
    set_time,
    sync_file,
)

SUFFIX = b".part"
RECORD_SUFFIX = SUFFIX + b".json"

LONGEST_NAME = 255
"""Bytes of a file name: the limit of Linux's file systems."""


# Attempts to create a file that another process takes for a leftover before it is locked.
_ATTEMPTS = 100


class StaleFile(OSError):
    """Another file has replaced a partial file."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "another file took the place of what was received")


class PartFile(Closing):
    """An open partial file. All methods raise ``OSError``.

    :param directory: of the partial file, and of the complete file later.
    :param name: of the partial file.
    :param descriptor: of the partial file; owned by this object.
    :ivar created: whether this object created the file, so that no other process writes to it.
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

        :param final: the name of the complete file. If it exists, the partial file does not get
            permissions that it lacks.
        :raises FileExistsError: if ``name`` exists.
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
    def create_private(
        cls, directory: LocalDirectory, final: bytes, suffix: bytes = SUFFIX
    ) -> PartFile:
        """Create a file with a random name, which no other process uses.

        It is locked: another process removes it if its lock is free.

        :param suffix: that of a partial file or of a record.
        """
        for _ in range(_ATTEMPTS):
            part = cls.create(directory, random_name(final, suffix), final)
            try:
                lock(part.descriptor)
                if part.in_place():
                    return part
            except BlockingIOError:
                pass
            except BaseException:
                part.remove()
                part.close()
                raise
            part.close()
        raise OSError(errno.EBUSY, "other processes keep removing it")

    def in_place(self) -> bool:
        """Return whether the name still refers to this file."""
        found = self._directory.lstat(self.name)
        return found is not None and os.path.samestat(found, self._metadata)

    def write(self, data: memoryview, offset: int) -> int:
        """Write bytes and return the number of written ones, which may be smaller."""
        return os.pwrite(self.descriptor, data, offset)

    def complete(self, final: bytes, mtime_ns: int | None = None) -> None:
        """Set permissions and modification time after all bytes have been written.

        :param final: the name of the complete file; an existing one passes on its permissions.
        :param mtime_ns: the modification time in nanoseconds since the epoch; ``None`` for the
            time of the download.
        """
        pass_on_permissions(self.descriptor, self._directory, final)
        if mtime_ns is not None:
            set_time(self.descriptor, mtime_ns)

    def sync(self) -> None:
        """Synchronize the bytes to the disk."""
        sync_file(self.descriptor)

    def publish(self, final: bytes, replace: bool = True) -> None:
        """Rename the file to its final name.

        It is renamed twice, first to a random name. Another process may replace the partial
        file between the check of its name and the rename: the other file must not get the final
        name.

        :param replace: whether an existing file with the final name is replaced.
        :raises FileExistsError: if the final name exists and is not to be replaced.
        :raises StaleFile: if another file has replaced the partial file; that one is kept.
        """
        usual = self.name
        if not self.in_place():
            raise StaleFile
        random = random_name(final, SUFFIX)
        self._directory.rename(usual, random)
        self.name = random
        try:
            if not self.in_place():
                raise StaleFile
            if replace:
                self._directory.rename(self.name, final)
            else:
                self._directory.rename_new(self.name, final)
        except BaseException:
            with suppress(OSError):
                self._directory.rename_new(random, usual)
                self.name = usual
            raise

    def remove(self) -> None:
        """Remove the file, unless another file has its name now."""
        if self.in_place():
            self._directory.unlink(self.name)

    def close(self) -> None:
        """Close the file; its directory stays open."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def stem_of(name: bytes) -> bytes:
    """Return the common prefix of the names of a file's partial file and record."""
    if len(name) + 1 + len(RECORD_SUFFIX) > LONGEST_NAME:
        import hashlib

        digest = hashlib.blake2b(name, digest_size=8).hexdigest().encode("ascii")
        name = name[:200] + b"~" + digest
    return b"." + name


def random_name(final: bytes, suffix: bytes) -> bytes:
    """Return a random name for a partial file or its record."""
    # The final name may already have the maximal length.
    return b".%s.%s%s" % (final[:200], os.urandom(6).hex().encode(), suffix)


def pass_on_permissions(file: int, directory: LocalDirectory, name: bytes) -> None:
    """Set the permissions of a complete file to those of the file that it will replace, if any.

    :param file: a descriptor of the complete file.
    :param name: the name in the directory that it will get.
    :raises OSError: if that fails on a file system with permissions.
    """
    replaced, through_link = _replaced(directory, name)
    if replaced is not None:
        (restrict if through_link else keep_permissions)(file, replaced)


def _replaced(directory: LocalDirectory, name: bytes) -> tuple[os.stat_result | None, bool]:
    """Return the metadata of the regular file to be replaced, and whether it is a link's target."""
    found = directory.lstat(name)
    through_link = found is not None and stat.S_ISLNK(found.st_mode)
    if through_link:
        found = directory.stat_target(name)
    regular = found is not None and stat.S_ISREG(found.st_mode)
    return (found if regular else None), through_link
