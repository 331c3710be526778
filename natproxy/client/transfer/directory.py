"""An open local directory: files in it are reached by its descriptor and a name."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.transfer.filesystem import DIRECTORY_SYNC_UNSUPPORTED, sync_directory
from natproxy.kernel.openat2 import DIRECTORY, SEARCH


class LocalDirectory(Closing):
    """A directory, open, so that it stays the same whatever happens to its path.

    Names are single components; a symbolic link of such a name is never followed. All methods
    raise `OSError`.

    :param descriptor: of the directory; `close` closes it.
    :param path: of the directory, for messages.
    """

    def __init__(self, descriptor: int, path: bytes) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: bytes) -> LocalDirectory:
        """Open a directory by its path; links in the path are followed.

        :param path: empty for the working directory.
        :raises LocalError: if it is not there, or not a directory.
        """
        try:
            return cls(os.open(path or b".", SEARCH), path)
        except OSError as error:
            raise LocalError(path or b".", error) from error

    def path_of(self, name: bytes) -> bytes:
        """Return the path of a name, for messages."""
        return os.path.join(self.path, name)

    def open(self, name: bytes, flags: int, mode: int = 0o666) -> int:
        """Open a file and return its descriptor, which a program that is started does not inherit.

        :param flags: as for ``open(2)``.
        :param mode: of a file that this creates, before the umask.
        """
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(name, flags, mode, dir_fd=self._descriptor)

    def look(self, name: bytes) -> os.stat_result | None:
        """Return what ``lstat(2)`` says of a name, `None` if there is no such name."""
        try:
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def target(self, name: bytes) -> os.stat_result | None:
        """Return what ``stat(2)`` says of the file that a link leads to, `None` if there is none.

        This is the one method that follows a link, and it does not open the file.
        """
        with suppress(OSError):
            return os.stat(name, dir_fd=self._descriptor)
        return None

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename a file; a file that has the new name is replaced."""
        os.replace(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def rename_new(self, old: bytes, new: bytes) -> None:
        """Rename a file, unless anything has the new name.

        Where there are no hard links, a file that gets the new name at the same moment is
        replaced.

        :raises FileExistsError: if anything has the new name.
        """
        try:
            os.link(
                old,
                new,
                src_dir_fd=self._descriptor,
                dst_dir_fd=self._descriptor,
                follow_symlinks=False,
            )
        except FileExistsError:
            raise
        except OSError:
            if self.look(new) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            self.rename(old, new)
        else:
            self.unlink(old)

    def unlink(self, name: bytes) -> None:
        """Remove a name that is not a directory's."""
        os.unlink(name, dir_fd=self._descriptor)

    def rmdir(self, name: bytes) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=self._descriptor)

    def sync(self) -> None:
        """Bring names that were given and removed to the disk, where that is supported."""
        sync_names(self._descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def sync_names(directory: int) -> None:
    """Bring the names in an open directory to the disk, where that is supported.

    :raises OSError: if they may not be there.
    """
    # A descriptor that is good for looking up names only cannot be synchronized.
    try:
        descriptor = os.open(b".", DIRECTORY, dir_fd=directory)
    except OSError as error:
        if error.errno in DIRECTORY_SYNC_UNSUPPORTED:
            return
        raise
    try:
        sync_directory(descriptor)
    finally:
        os.close(descriptor)


def create_directories(path: bytes) -> None:
    """Create a directory and those above it, unless it is there; bring their names to the disk.

    :raises LocalError: if that fails.
    """
    missing = []
    above = path.rstrip(b"/") or path
    while above and not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above).rstrip(b"/")
    try:
        for directory in reversed(missing):
            try:
                os.mkdir(directory)
            except FileExistsError:
                if not os.path.isdir(directory):
                    raise
            with LocalDirectory.at(os.path.dirname(directory)) as parent:
                parent.sync()
    except OSError as error:
        raise LocalError(path, error) from error
