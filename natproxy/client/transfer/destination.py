"""Where a download goes, and what of it is there already."""

from __future__ import annotations

import enum
import errno
import os
import stat
from contextlib import suppress
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple

from natproxy.client.errors import LocalError, UsageError
from natproxy.client.transfer.directory import LocalDirectory, create_directories
from natproxy.client.transfer.filesystem import stored_as
from natproxy.protocol import Metadata, printable

if TYPE_CHECKING:
    from natproxy.client.transfer.tree import LocalTree


class Existing(enum.Enum):
    """What becomes of a file that is there already, and not as it is on the server."""

    REFUSE = "refuse"
    """It stays, and that is an error."""
    REPLACE = "replace"
    """It is replaced, even if it looks the same."""
    UPDATE = "update"
    """It is replaced if it looks different."""
    KEEP = "keep"
    """It stays, whatever it is."""

    @property
    def replaces(self) -> bool:
        """Whether a file may be replaced that has appeared during the download."""
        return self in (Existing.REPLACE, Existing.UPDATE)


class LocalFile(NamedTuple):
    """A path that a download is to have.

    :ivar path: of the file; links in its directory part are followed if there is no tree.
    :ivar tree: that is not to be left.
    :ivar below: with a tree, the path below its root: the same file as ``path``.
    """

    path: bytes
    tree: LocalTree | None = None
    below: bytes = b""

    @property
    def name(self) -> bytes:
        """The name in its directory."""
        return os.path.basename(self.path)

    def directory(self, create: bool = False) -> LocalDirectory:
        """Open the directory that it is in; the caller closes it.

        :param create: whether the directory, and those above it, are created if missing.
        :raises LocalError: if that fails.
        """
        if self.tree is not None:
            return self.tree.parent(self.below, create)
        above = os.path.dirname(self.path)
        if create and above:
            create_directories(above)
        return LocalDirectory.at(above)

    def find(self) -> os.stat_result | None:
        """Return the status of what a download would replace; `None` if there is nothing.

        In a tree, a link is not followed: it is what would be replaced.

        :raises LocalError: if it is not a regular file, or cannot be looked at.
        """
        if self.tree is None:
            return find(self.path)
        found = self.tree.lstat(self.below)
        if found is None or stat.S_ISLNK(found.st_mode):
            return found
        return _regular(self.path, found)

    def open(self) -> FileIO:
        """Open it for reading; a link is followed only if there is no tree.

        :raises LocalError: if that fails.
        """
        try:
            if self.tree is None:
                return FileIO(self.path)
            with self.directory() as directory:
                return FileIO(
                    self.path,
                    opener=lambda _, flags: directory.open(self.name, flags | os.O_NONBLOCK),
                )
        except OSError as error:
            raise LocalError(self.path, error) from error


def destination_path(name: bytes, destination: str | bytes | None) -> bytes:
    """Return the path that a file is to have.

    :param name: of the file on the server.
    :param destination: a file, or a directory that exists or ends with a slash. Without it:
        the working directory.
    :raises UsageError: if no file can have the path.
    """
    last = os.path.basename(name)
    if last in (b"", b".", b"..") or b"\0" in last:
        raise UsageError(f"'{printable(name)}' is not the name of a file")
    if destination is None:
        return last
    if not destination:
        raise UsageError("an empty name is not one to save a file under")
    try:
        path = os.fsencode(destination)
    except UnicodeEncodeError as error:
        raise UsageError(f"{destination!a}: has no bytes in the locale's encoding") from error
    if b"\0" in path:
        raise UsageError(f"'{printable(path)}': a path has no NUL in it")
    if path.endswith(b"/") or os.path.isdir(path):
        return os.path.join(path, last)
    return path


def find(path: bytes) -> os.stat_result | None:
    """Look at what a download would replace; `None` if there is nothing.

    :raises LocalError: if it isn't a regular file, or can't be looked at.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        # A link that leads nowhere is something, too.
        with suppress(FileNotFoundError):
            return os.lstat(path)
        return None
    except OSError as error:
        raise LocalError(path, error) from error
    return _regular(path, found)


def same_size_and_time(found: os.stat_result, metadata: Metadata) -> bool:
    """Compare size and time of last writing, as the file system here stores it."""
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_size == metadata.size
        and stored_as(found.st_mtime_ns, metadata.mtime_ns)
    )


def exists_error(path: bytes, what: str = "it is there, and differs") -> LocalError:
    """Make the error for a file that is not to be replaced."""
    choice = "--overwrite replaces it, --no-clobber keeps it"
    return LocalError(path, OSError(errno.EEXIST, f"{what}: {choice}"))


def _regular(path: bytes, found: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise LocalError(path, OSError(errno.EEXIST, "it is there, and not a regular file"))
    return found
