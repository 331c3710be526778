"""The directory in which a run writes small files until they get their names.

It is in the root of the destination, so that a rename suffices. It is locked while the run
lasts: the lock of a killed process is free, and the next run removes what that one has left.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from natproxy.client.context import Closing
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.filesystem import lock
from natproxy.kernel.openat2 import DIRECTORY

_NAME = re.compile(rb"\.natproxy-[0-9a-f]{12}\.part")

# Attempts to create a directory that another run takes for a leftover before it is locked.
_ATTEMPTS = 100


def is_run_directory(name: bytes) -> bool:
    """Return whether a directory's name is that of a run directory."""
    return _NAME.fullmatch(name) is not None


class RunDirectory(Closing):
    """A new, locked directory, which only its owner can enter. All methods raise ``OSError``.

    :param root: the directory to create it in; it stays open until `close`.
    :ivar name: its name in the root.
    :ivar descriptor: open for reading since before anything is written in it.
    """

    def __init__(self, root: LocalDirectory) -> None:
        self._root = root
        for _ in range(_ATTEMPTS):
            self.name = b".natproxy-%s.part" % os.urandom(6).hex().encode()
            root.mkdir(self.name, 0o700)
            try:
                self.descriptor = root.open(self.name, DIRECTORY)
            except FileNotFoundError:
                continue
            except BaseException:
                # With some umasks, its owner cannot open it.
                self._remove()
                raise
            try:
                lock(self.descriptor)
                if self._in_place():
                    return
            except BlockingIOError:
                pass
            except BaseException:
                os.close(self.descriptor)
                self._remove()
                raise
            os.close(self.descriptor)
        raise OSError(errno.EBUSY, "other processes keep removing it")

    def close(self) -> None:
        """Remove the directory with its content."""
        if self.descriptor >= 0:
            with suppress(OSError):
                _empty(self.descriptor)
                if self._in_place():
                    self._root.rmdir(self.name)
            os.close(self.descriptor)
            self.descriptor = -1

    def _remove(self) -> None:
        with suppress(OSError):
            self._root.rmdir(self.name)

    def _in_place(self) -> bool:
        found = self._root.lstat(self.name)
        return found is not None and os.path.samestat(found, os.fstat(self.descriptor))


def remove_leftovers(root: LocalDirectory) -> None:
    """Remove the directories that killed runs of this user have left in a root.

    One that is locked, or on a file system without locks, stays. A failure is not an error.
    """
    with suppress(OSError):
        for name in root.names():
            if is_run_directory(name):
                with suppress(OSError):
                    _remove_leftover(root, name)


def _remove_leftover(root: LocalDirectory, name: bytes) -> None:
    descriptor = root.open(name, DIRECTORY)
    try:
        found = os.fstat(descriptor)
        if found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode) and lock(descriptor):
            _empty(descriptor)
            root.rmdir(name)
    finally:
        os.close(descriptor)


def _empty(directory: int) -> None:
    """Remove the content of an open directory; no link is followed."""
    for _, directories, files, descriptor in os.fwalk(b".", topdown=False, dir_fd=directory):
        for name in files:
            os.unlink(name, dir_fd=descriptor)
        for name in directories:
            # A link to a directory is listed as a directory.
            if stat.S_ISLNK(os.lstat(name, dir_fd=descriptor).st_mode):
                os.unlink(name, dir_fd=descriptor)
            else:
                os.rmdir(name, dir_fd=descriptor)
