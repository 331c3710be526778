"""Where a download goes, and what of it is there already."""

from __future__ import annotations

import enum
import errno
import os
import stat
from contextlib import suppress

from natproxy import wire
from natproxy.client.errors import LocalError, UsageError

# What file systems make of a time in nanoseconds: exact, NTFS, micro-, milliseconds, seconds, FAT.
_GRAINS = (1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)


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


def destination_of(name: bytes, destination: bytes | None) -> bytes:
    """Give the path that a file is to have.

    :param name: of the file on the server.
    :param destination: a file, or a folder that exists or ends with a slash. Without it:
        the working directory.
    """
    last = os.path.basename(name)
    if last in (b"", b".", b".."):
        raise UsageError(f"'{wire.printable(name)}' is not the name of a file")
    if destination is None:
        return last
    if not destination:
        raise UsageError("an empty name is not one to save a file under")
    if destination.endswith(b"/") or os.path.isdir(destination):
        return os.path.join(destination, last)
    return destination


def make_folder(path: bytes) -> None:
    """Make a folder, and those it is in, unless it is there.

    :raises LocalError: if that can't be done.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise LocalError(path, error) from error


def make_folders(path: bytes) -> None:
    """Make the folders that a file's path needs.

    :raises LocalError: if that can't be done.
    """
    folder = os.path.dirname(path)
    if folder:
        make_folder(folder)


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
    if not stat.S_ISREG(found.st_mode):
        raise LocalError(path, OSError(errno.EEXIST, "it is there, and not a regular file"))
    return found


def looks_the_same(found: os.stat_result, status: wire.Status) -> bool:
    """Compare size and time of last writing, as precisely as the file system here can."""
    theirs = status.mtime_ns
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_size == status.size
        and any(found.st_mtime_ns == theirs - theirs % grain for grain in _GRAINS)
    )


def already_there(path: bytes, what: str = "it is there, and differs") -> LocalError:
    """Make the error for a file that is not to be replaced."""
    choice = "--overwrite replaces it, --no-clobber keeps it"
    return LocalError(path, OSError(errno.EEXIST, f"{what}: {choice}"))
