"""A local directory tree in which `sync` writes, replaces and deletes, and never outside of it.

Every path below the root is resolved from the root's open descriptor, and no component may be a
symbolic link. So nothing outside is accessed, even if a directory of the tree is replaced by a
link meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.transfer.directory import (
    LocalDirectory,
    create_directories,
    sync_open_directory,
)
from natproxy.kernel.openat2 import DIRECTORY, SEARCH, choose_opener, open_without_links

_ENCODING = sys.getfilesystemencoding()
_ERRORS = sys.getfilesystemencodeerrors()

Scanned = tuple[bytes, int, int, int]
"""A name in a directory with its mode; of a file, also with its size in bytes and the time of its
last modification in nanoseconds since the epoch. There may be a million: it has no class."""


class LocalTree(Closing):
    """A directory tree, accessed by a descriptor of its root. Threads may share it.

    Paths are relative to the root: names separated by single slashes, none of them ``.`` or
    ``..``; empty for the root itself. All methods raise `LocalError`, which names the whole path;
    its ``errno`` is ELOOP or ENOTDIR if a component is not a directory.

    :param root: path of the root; links in it are followed. If it does not exist, the tree is
        empty until `create`.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._open = choose_opener(open_without_links)
        self._root = -1
        with self._errors_at(b""):
            try:
                self._root = os.open(root or b".", SEARCH)
            except FileNotFoundError:
                # A dangling link is an error, not an empty tree.
                if root and os.path.islink(root):
                    raise

    @property
    def exists(self) -> bool:
        """Whether the root exists."""
        return self._root >= 0

    @property
    def _longest_name(self) -> int:
        """Bytes of a name at most."""
        return os.fstatvfs(self._root).f_namemax

    def create(self) -> None:
        """Create the root and missing parents, unless the root exists."""
        if not self.exists:
            with self._errors_at(b""):
                create_directories(self.root)
                self._root = os.open(self.root, SEARCH)

    def directory(self, path: bytes, create: bool = False) -> LocalDirectory:
        """Open a directory; the caller closes it.

        :param create: whether missing directories are created.
        """
        with self._errors_at(path):
            try:
                descriptor = self._descend(path, SEARCH)
            except FileNotFoundError:
                if not create:
                    raise
                self.create()
                descriptor = self._create(path)
        return LocalDirectory(descriptor, self.path_of(path))

    def parent(self, path: bytes, create: bool = False) -> LocalDirectory:
        """Open the parent directory of a path; see `directory`."""
        return self.directory(os.path.dirname(path), create)

    def path_of(self, path: bytes) -> bytes:
        """Return the whole path, for messages."""
        return os.path.join(self.root, path) if path else self.root

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Return the metadata of a path, as ``lstat(2)`` does; ``None`` if it does not exist."""
        try:
            with self.parent(path) as directory, self._errors_at(path):
                return directory.lstat(os.path.basename(path) or b".")
        except LocalError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def stat_target(self, path: bytes) -> os.stat_result | None:
        """Return the metadata of a link's target, as ``stat(2)`` does; ``None`` if that fails.

        The target may be outside of the tree; links in the parent path are not followed.
        """
        with self.parent(path) as directory:
            return directory.stat_target(os.path.basename(path))

    def scan(self, path: bytes) -> tuple[list[Scanned], dict[bytes, OSError]]:
        """Return what is in a directory, unsorted, and by its name each that cannot be read.

        Links are not followed. Without a root there is nothing.
        """
        found: list[Scanned] = []
        errors: dict[bytes, OSError] = {}
        if not path and not self.exists:
            return found, errors
        with self._errors_at(path):
            descriptor = self._descend(path, DIRECTORY)
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        # Not `os.fsencode`, which takes as long as the rest.
                        name = entry.name.encode(_ENCODING, _ERRORS)
                        try:
                            # The type of most entries is known without a system call.
                            if entry.is_file(follow_symlinks=False):
                                status = entry.stat(follow_symlinks=False)
                                found.append(
                                    (name, status.st_mode, status.st_size, status.st_mtime_ns)
                                )
                            elif entry.is_dir(follow_symlinks=False):
                                found.append((name, stat.S_IFDIR, 0, 0))
                            else:
                                status = entry.stat(follow_symlinks=False)
                                found.append((name, status.st_mode, 0, 0))
                        except FileNotFoundError:
                            # Another process has removed it.
                            continue
                        except OSError as error:
                            errors[name] = error
            finally:
                os.close(descriptor)
        return found, errors

    def check_new(self, path: bytes, alone: bool) -> None:
        """Check that a directory may be created; nothing is changed.

        :param alone: whether its parent exists.
        """
        with self._errors_at(path):
            if len(os.path.basename(path)) > self._longest_name:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if not alone:
            return
        with self.parent(path) as directory, self._errors_at(path):
            if not directory.is_writable():
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def mkdir(self, path: bytes) -> bool:
        """Create a directory, not yet on the disk; return false if it exists."""
        with self.parent(path) as directory, self._errors_at(path):
            name = os.path.basename(path)
            try:
                directory.mkdir(name)
            except FileExistsError:
                found = directory.lstat(name)
                if found is None or not stat.S_ISDIR(found.st_mode):
                    raise
                return False
        return True

    def unlink(self, path: bytes) -> None:
        """Remove a file or a link."""
        with self.parent(path) as directory, self._errors_at(path):
            directory.unlink(os.path.basename(path))

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        with self.parent(path) as directory, self._errors_at(path):
            directory.rmdir(os.path.basename(path))

    def close(self) -> None:
        """Close the root."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _descend(self, path: bytes, flags: int) -> int:
        if not self.exists:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._open(self._root, path or b".", flags)

    def _create(self, path: bytes) -> int:
        """Create the missing directories of a path and return a descriptor of the last one."""
        above = os.dup(self._root)
        try:
            for name in path.split(b"/") if path else ():
                # An existing name may be of any type; opening it fails unless it is a directory.
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=above)
                    sync_open_directory(above)
                below = os.open(name, SEARCH | os.O_NOFOLLOW, dir_fd=above)
                os.close(above)
                above = below
        except BaseException:
            os.close(above)
            raise
        return above

    @contextmanager
    def _errors_at(self, path: bytes) -> Iterator[None]:
        """Turn ``OSError`` into `LocalError` with a path below the root."""
        try:
            yield
        except OSError as error:
            raise LocalError(self.path_of(path), error) from error
