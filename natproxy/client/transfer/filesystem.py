"""What local file systems do differently: locks, synchronization, times, owners.

Some have no locks, some cannot synchronize, some store years up to 2038 only. What an operation
does not support is passed over; its real failures are raised. Which is which is listed here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress

_UNSUPPORTED = frozenset((errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL))

LOCK_UNSUPPORTED = _UNSUPPORTED | {errno.ENOLCK}
"""Error numbers of ``flock(2)`` where there are no locks, as on NFS without a lock service."""

LOCK_HELD = frozenset((errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES))
"""Error numbers of ``flock(2)`` for a file that is locked by another."""

SYNC_UNSUPPORTED = _UNSUPPORTED | {errno.EROFS}
"""Error numbers of ``fsync(2)`` for files that cannot be synchronized."""

DIRECTORY_SYNC_UNSUPPORTED = SYNC_UNSUPPORTED | {
    errno.EBADF,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
}
"""Error numbers of ``fsync(2)``, and of opening for it, for such directories.

A directory in which files may be created need not be readable.
"""

MODE_UNSUPPORTED = _UNSUPPORTED | {errno.EPERM}
"""Error numbers of ``fchmod(2)`` where there are no permissions, as on FAT."""

# What file systems make of a time in nanoseconds: exact, NTFS, micro-, milliseconds, seconds, FAT.
_GRAINS = (1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)

EARLIEST = 315_619_200 * 10**9
"""The earliest time that every file system can store, in nanoseconds since the epoch.

FAT begins with 1980, in local time.
"""

LATEST = (2**31 - 1) * 10**9
"""The latest time that every file system can store, in nanoseconds since the epoch."""


def lock(file: int) -> bool:
    """Lock a file without waiting.

    :return: whether it is locked now; false where there are no locks.
    :raises BlockingIOError: if it is locked by another process, or through another descriptor.
    :raises OSError: for any other failure.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in LOCK_HELD:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        if error.errno not in LOCK_UNSUPPORTED:
            raise
        return False
    return True


def sync_file(file: int) -> None:
    """Bring a file's bytes to the disk, where that is supported.

    :raises OSError: if they may not be there, as with EIO, ENOSPC or EDQUOT.
    """
    _sync(file, SYNC_UNSUPPORTED)


def sync_directory(directory: int) -> None:
    """Bring the names in an open directory to the disk, where that is supported.

    :raises OSError: if they may not be there.
    """
    _sync(directory, DIRECTORY_SYNC_UNSUPPORTED)


def _sync(file: int, unsupported: frozenset[int]) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in unsupported:
            raise


def set_time(file: int, mtime_ns: int) -> None:
    """Set a file's time of last writing, as near as the file system can store it.

    A time that it does not store is replaced by `EARLIEST` or `LATEST`: so `stored_as` can tell
    what becomes of any time, without knowing the limits of the file system. A time that cannot
    be set at all is no failure.

    :param mtime_ns: nanoseconds since the epoch, in any year.
    """
    with suppress(OSError):
        accessed = os.fstat(file).st_atime_ns
        # Python refuses what does not fit into 64 bits, the kernel lowers what does not fit.
        with suppress(OSError, OverflowError):
            os.utime(file, ns=(accessed, mtime_ns))
        if not _rounded(os.fstat(file).st_mtime_ns, mtime_ns):
            os.utime(file, ns=(accessed, max(EARLIEST, min(mtime_ns, LATEST))))


def stored_as(found_ns: int, mtime_ns: int) -> bool:
    """Return whether `set_time` leaves this time of last writing on some file system.

    :param found_ns: of a local file, in nanoseconds since the epoch.
    :param mtime_ns: that was to be set.
    """
    return _rounded(found_ns, mtime_ns) or _rounded(found_ns, max(EARLIEST, min(mtime_ns, LATEST)))


def _rounded(found_ns: int, mtime_ns: int) -> bool:
    return any(found_ns == mtime_ns - mtime_ns % grain for grain in _GRAINS)


def restrict(file: int, replaced: os.stat_result) -> None:
    """Take from a new file the permissions that the file which it will replace does not give.

    Its owner may read and write it until it is complete.

    :raises OSError: if that fails where there are permissions.
    """
    _set_mode(file, os.fstat(file).st_mode & (replaced.st_mode | 0o600))


def keep_permissions(file: int, replaced: os.stat_result) -> None:
    """Give a file the permissions of the one that it is about to replace.

    The read, write and execute bits are kept. Owner and group are kept if the process may set
    them; if not the group, its members get what everybody gets. The other bits of the mode,
    access control lists and extended attributes are not kept.

    :raises OSError: if that fails where there are permissions.
    """
    mode = replaced.st_mode & 0o777
    now = os.fstat(file)
    if (now.st_uid, now.st_gid) != (replaced.st_uid, replaced.st_gid):
        try:
            os.fchown(file, replaced.st_uid, replaced.st_gid)
        except OSError:
            try:
                os.fchown(file, -1, replaced.st_gid)
            except OSError:
                mode &= 0o707 | (mode & 0o007) << 3
    _set_mode(file, mode)


def _set_mode(file: int, mode: int) -> None:
    try:
        os.fchmod(file, stat.S_IMODE(mode))
    except OSError as error:
        if error.errno not in MODE_UNSUPPORTED:
            raise
