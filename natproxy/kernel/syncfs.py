"""System calls on file systems that Python lacks: ``syncfs``, ``renameat2`` and ``fstatfs``.

Each is optional: a caller has another way where the system or the file system lacks it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_RENAME_NOREPLACE = 1

# <linux/magic.h>: file systems of one machine whose `syncfs` writes all and reports failures.
# Those on a network may not send what other machines need; an overlay does not report failures.
_LOCAL = frozenset(
    (
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0xF2F52010,  # F2FS
        0x01021994,  # tmpfs
    )
)

_REPORTING = (5, 8)
"""The first version of Linux whose ``syncfs`` reports failed writes."""


def has_syncfs(directory: int) -> bool:
    """Return whether `syncfs` writes everything on a directory's file system, or fails.

    :param directory: a descriptor of the directory, not one for looking up names only.
    """
    found = re.match(r"([0-9]+)\.([0-9]+)", os.uname().release)
    if sys.platform != "linux" or found is None or (int(found[1]), int(found[2])) < _REPORTING:
        return False
    calls = _libc()
    if not (hasattr(calls, "syncfs") and hasattr(calls, "fstatfs")):
        return False
    return _type_of(directory) in _LOCAL


def syncfs(directory: int) -> None:
    """Write everything on a directory's file system to the disk.

    :param directory: a descriptor that is open since before the first write: failures of
        earlier writes are not reported.
    :raises OSError: if anything could not be written since the descriptor was opened, or since
        the last call with it.
    """
    import ctypes

    while _libc().syncfs(directory) < 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def rename_new(source: int, old: bytes, target: int, new: bytes) -> bool:
    """Rename a file or a directory unless the new name exists, in one step.

    :param source: a descriptor of the directory that contains ``old``.
    :param target: a descriptor of the directory for ``new``.
    :return: false if the system or the file system cannot do that; nothing is renamed then.
    :raises FileExistsError: if the new name exists.
    :raises OSError: for any other failure.
    """
    import ctypes

    renameat2 = getattr(_libc(), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(source, old, target, new, _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), new)


def _type_of(directory: int) -> int:
    """Return the type of a directory's file system; 0 if it is unknown."""
    import ctypes

    # struct statfs begins with the type, a long; it has less than 256 bytes everywhere.
    buffer = (ctypes.c_long * 64)()
    if _libc().fstatfs(directory, buffer) < 0:
        return 0
    return int(buffer[0]) & 0xFFFFFFFF


@cache
def _libc() -> ctypes.CDLL:
    # The client imports this module for every download, and ctypes only for many files.
    import ctypes

    calls = ctypes.CDLL(None, use_errno=True)
    if hasattr(calls, "renameat2"):
        calls.renameat2.argtypes = (
            ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
        )  # fmt: skip
    return calls
