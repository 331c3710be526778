"""An open local directory: its files are accessed by its descriptor and a name."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.transfer.filesystem import DIRECTORY_SYNC_UNSUPPORTED, sync_directory
from natproxy.kernel.openat2 import DIRECTORY, SEARCH


class LocalDirectory(Closing):
    """An open directory. It stays the same if its path is renamed or replaced.

    Names are single path components. A name that is a symbolic link is not followed, except by
    `stat_target`. All methods raise ``OSError``.

    :param descriptor: of the directory; owned by this object.
    :param path: of the directory, for messages.
    """

    def __init__(self, descriptor: int, path: bytes) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: bytes) -> LocalDirectory:
        """Open a directory by its path; links in the path are followed.

        :param path: empty for the working directory.
        :raises LocalError: if it does not exist or is not a directory.
        """
        try:
            return cls(os.open(path or b".", SEARCH), path)
        except OSError as error:
            raise LocalError(path or b".", error) from error

    def path_of(self, name: bytes) -> bytes:
        """Return the path of a file in the directory, for messages."""
        return os.path.join(self.path, name)

    def open(self, name: bytes, flags: int, mode: int = 0o666) -> int:
        """Open a file and return its descriptor, which child processes do not inherit.

        :param flags: as for ``open(2)``.
        :param mode: of a created file, before the umask is applied.
        """
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(name, flags, mode, dir_fd=self._descriptor)

    def lstat(self, name: bytes) -> os.stat_result | None:
        """Return the metadata of a name, as ``lstat(2)`` does; ``None`` if it does not exist."""
        try:
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def stat_target(self, name: bytes) -> os.stat_result | None:
        """Return the metadata of a link's target, as ``stat(2)`` does; ``None`` if that fails.

        This is the only method that follows a link, and it does not open the file.
        """
        with suppress(OSError):
            return os.stat(name, dir_fd=self._descriptor)
        return None

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename a file; an existing file with the new name is replaced."""
        os.replace(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def rename_new(self, old: bytes, new: bytes) -> None:
        """Rename a file unless the new name exists.

        On a file system without hard links this is not atomic: a file that gets the new name
        at the same moment is replaced.

        :raises FileExistsError: if the new name exists.
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
            if self.lstat(new) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            self.rename(old, new)
        else:
            self.unlink(old)

    def unlink(self, name: bytes) -> None:
        """Remove a file or a link."""
        os.unlink(name, dir_fd=self._descriptor)

    def mkdir(self, name: bytes, mode: int = 0o777) -> None:
        """Create a directory.

        :param mode: of the directory, before the umask is applied.
        """
        os.mkdir(name, mode, dir_fd=self._descriptor)

    def rmdir(self, name: bytes) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=self._descriptor)

    def names(self) -> list[bytes]:
        """Return the names in the directory, unsorted."""
        descriptor = os.open(b".", DIRECTORY, dir_fd=self._descriptor)
        try:
            return [os.fsencode(name) for name in os.listdir(descriptor)]
        finally:
            os.close(descriptor)

    def is_writable(self) -> bool:
        """Return whether files may be created in the directory."""
        # Where the identifiers that count cannot be used, creating a file shows it.
        return (
            os.access not in os.supports_effective_ids
            or os.access not in os.supports_dir_fd
            or os.access(b".", os.W_OK | os.X_OK, dir_fd=self._descriptor, effective_ids=True)
        )

    def fileno(self) -> int:
        """Return the descriptor, which may be one for looking up names only."""
        return self._descriptor

    def sync(self) -> None:
        """Synchronize created, renamed and removed names to the disk, where that is supported."""
        sync_open_directory(self._descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def sync_open_directory(directory: int) -> None:
    """Synchronize the names in a directory to the disk, where that is supported.

    :param directory: a descriptor, which may be one for looking up names only.
    :raises OSError: if the names may not be on the disk.
    """
    # A descriptor for looking up names only (O_PATH) cannot be synchronized: open another.
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
    """Create a directory and missing parents; synchronize their names to the disk.

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
