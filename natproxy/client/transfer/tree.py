"""A local directory tree that is never left: what `sync` writes, replaces and deletes in.

Every path below the root is resolved from the root's open descriptor, and no component of it
may be a symbolic link. So nothing outside is reached, even if a directory of the tree is
replaced by a link while it is in use.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.transfer.directory import LocalDirectory, create_directories, sync_names
from natproxy.kernel.openat2 import DIRECTORY, SEARCH, choose_opener, open_without_links


class LocalTree(Closing):
    """A tree, held by a descriptor of its root. Threads may share it.

    Paths are relative to the root: names between single slashes, none of them ``.`` or ``..``;
    empty for the root itself. All methods raise `LocalError`, which names the whole path; its
    ``errno`` is ELOOP or ENOTDIR where something else takes the place of a directory.

    :param root: path of the root, in which links are followed. If nothing is there, the tree is
        empty until `create`.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._open = choose_opener(open_without_links)
        self._root = -1
        with self._blaming(b""):
            try:
                self._root = os.open(root or b".", SEARCH)
            except FileNotFoundError:
                # A link that leads nowhere is not an empty tree.
                if root and os.path.islink(root):
                    raise

    @property
    def exists(self) -> bool:
        """Whether there is a root."""
        return self._root >= 0

    def create(self) -> None:
        """Create the root, and the directories above it, if it is missing."""
        if not self.exists:
            with self._blaming(b""):
                create_directories(self.root)
                self._root = os.open(self.root, SEARCH)

    def directory(self, path: bytes, create: bool = False) -> LocalDirectory:
        """Open a directory; the caller closes it.

        :param create: whether it and the directories above it are created if they are missing.
        """
        with self._blaming(path):
            try:
                descriptor = self._descend(path, SEARCH)
            except FileNotFoundError:
                if not create:
                    raise
                self.create()
                descriptor = self._create(path)
        return LocalDirectory(descriptor, self.path_of(path))

    def parent(self, path: bytes, create: bool = False) -> LocalDirectory:
        """Open the directory that a path is in; see `directory`."""
        return self.directory(os.path.dirname(path), create)

    def path_of(self, path: bytes) -> bytes:
        """Return the whole path, for messages."""
        return os.path.join(self.root, path) if path else self.root

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Return what ``lstat(2)`` says of a path, `None` if nothing is there."""
        try:
            with self.parent(path) as directory, self._blaming(path):
                return directory.look(os.path.basename(path) or b".")
        except LocalError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def target(self, path: bytes) -> os.stat_result | None:
        """Return what ``stat(2)`` says of the file that a link leads to, `None` if there is none.

        The file may be outside; links in the path above are not followed.
        """
        with self.parent(path) as directory:
            return directory.target(os.path.basename(path))

    def entries(self, path: bytes) -> list[tuple[bytes, bool]]:
        """Return the names in a directory, in no order, each with whether it is a directory.

        A link to a directory is not one. A tree without a root has no names.
        """
        if not path and not self.exists:
            return []
        with self._blaming(path):
            descriptor = self._descend(path, DIRECTORY)
            try:
                with os.scandir(descriptor) as entries:
                    return [
                        (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False))
                        for entry in entries
                    ]
            finally:
                os.close(descriptor)

    def unlink(self, path: bytes) -> None:
        """Remove a file, or a link."""
        with self.parent(path) as directory, self._blaming(path):
            directory.unlink(os.path.basename(path))

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        with self.parent(path) as directory, self._blaming(path):
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
        """Create what is missing of a directory's path; return a descriptor of it."""
        above = os.dup(self._root)
        try:
            for name in path.split(b"/") if path else ():
                # What is there already may be anything; only a directory can be opened now.
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=above)
                    sync_names(above)
                below = os.open(name, SEARCH | os.O_NOFOLLOW, dir_fd=above)
                os.close(above)
                above = below
        except BaseException:
            os.close(above)
            raise
        return above

    @contextmanager
    def _blaming(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LocalError(self.path_of(path), error) from error
