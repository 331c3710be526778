"""The free space of a local file system, checked before bytes are received."""

from __future__ import annotations

import errno
import os

from natproxy.client.errors import LocalError


def free_space(where: int | bytes) -> int | None:
    """Return the bytes that this user may still write to a file system.

    :param where: a descriptor, or a path, on it; of a path that does not exist, the directory
        above that does.
    :return: ``None`` if the file system does not report it.
    """
    while True:
        try:
            found = os.statvfs(where)
        except (FileNotFoundError, NotADirectoryError):
            if isinstance(where, int) or where in (b".", b"/"):
                return None
            where = os.path.dirname(where) or b"."
        except OSError:
            return None
        else:
            # Some file systems, over a network for example, have no size.
            return found.f_bavail * found.f_frsize if found.f_blocks else None


def require_space(path: bytes, needed: int, where: int | bytes) -> None:
    """Check that there is space for bytes that are to be received.

    It is a check of the present: other programs, and other downloads, may use the space.

    :param path: of the file or the directory that needs it, for the message.
    :param needed: bytes that will be allocated.
    :param where: as for `free_space`.
    :raises LocalError: if there is less; its ``errno`` is ``ENOSPC``.
    """
    free = free_space(where) if needed > 0 else None
    if free is not None and free < needed:
        reason = f"not enough space: {needed} bytes are needed, {free} are free"
        raise LocalError(path, OSError(errno.ENOSPC, reason))
