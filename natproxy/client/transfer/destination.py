"""The local file that a download creates, replaces or leaves as it is."""

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
    """What a download does with an existing local file."""

    REFUSE = "refuse"
    """Fail if the file differs."""
    REPLACE = "replace"
    """Replace the file, even if its size and time are the same."""
    UPDATE = "update"
    """Replace the file if it differs."""
    KEEP = "keep"
    """Keep the file, even if it differs."""

    @property
    def replaces(self) -> bool:
        """Whether a file that appears during the download may be replaced."""
        return self in (Existing.REPLACE, Existing.UPDATE)


class LocalFile(NamedTuple):
    """The local path of a download.

    :ivar path: of the file; links in its directory part are followed if there is no tree.
    :ivar tree: the tree that the file must be in; ``None`` for no restriction.
    :ivar below: the path below the tree's root, of the same file as ``path``.
    """

    path: bytes
    tree: LocalTree | None = None
    below: bytes = b""

    @property
    def name(self) -> bytes:
        """The name in its directory."""
        return os.path.basename(self.path)

    def open_directory(self, create: bool = False) -> LocalDirectory:
        """Open the directory that contains the file; the caller closes it.

        :param create: whether missing directories are created.
        :raises LocalError: if that fails.
        """
        if self.tree is not None:
            return self.tree.parent(self.below, create)
        above = os.path.dirname(self.path)
        if create and above:
            create_directories(above)
        return LocalDirectory.at(above)

    def stat(self) -> os.stat_result | None:
        """Return the metadata of the file that a download would replace; ``None`` if there is none.

        In a tree, links are not followed: the link itself would be replaced.

        :raises LocalError: if it is not a regular file, or its metadata cannot be read.
        """
        if self.tree is None:
            return _stat(self.path)
        found = self.tree.lstat(self.below)
        if found is None or stat.S_ISLNK(found.st_mode):
            return found
        return _regular(self.path, found)

    def open(self) -> FileIO:
        """Open the file for reading; a link is followed only if there is no tree.

        :raises LocalError: if that fails.
        """
        try:
            if self.tree is None:
                return FileIO(self.path)
            with self.open_directory() as directory:
                return FileIO(
                    self.path,
                    opener=lambda _, flags: directory.open(self.name, flags | os.O_NONBLOCK),
                )
        except OSError as error:
            raise LocalError(self.path, error) from error


def destination_path(name: bytes, destination: str | bytes | None) -> bytes:
    """Return the local path for a download.

    :param name: of the file on the server.
    :param destination: a file, or a directory that exists or ends with a slash; by default the
        working directory.
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


def _stat(path: bytes) -> os.stat_result | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        # A dangling link would be replaced.
        with suppress(FileNotFoundError):
            return os.lstat(path)
        return None
    except OSError as error:
        raise LocalError(path, error) from error
    return _regular(path, found)


def same_size_and_time(found: os.stat_result, metadata: Metadata) -> bool:
    """Return whether a local file has the size and, as far as stored, the time of a remote one."""
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_size == metadata.size
        and stored_as(found.st_mtime_ns, metadata.mtime_ns)
    )


def keeps_existing(file: LocalFile, existing: Existing, metadata: Metadata) -> bool:
    """Return whether an existing local file stays; false if there is none.

    :param metadata: of the file on the server.
    :raises LocalError: if it differs and may not be replaced, or is not a regular file.
    """
    found = file.stat()
    if found is None or existing is Existing.REPLACE:
        return False
    if existing is Existing.KEEP or same_size_and_time(found, metadata):
        return True
    if existing is Existing.REFUSE:
        raise exists_error(file.path)
    return False


def exists_error(path: bytes, reason: str = "it is there, and differs") -> LocalError:
    """Return the error for an existing file that is not to be replaced."""
    choice = "--overwrite replaces it, --no-clobber keeps it"
    return LocalError(path, OSError(errno.EEXIST, f"{reason}: {choice}"))


def _regular(path: bytes, found: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise LocalError(path, OSError(errno.EEXIST, "it is there, and not a regular file"))
    return found
