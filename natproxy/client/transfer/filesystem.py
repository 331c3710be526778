"""Differences between local file systems: locks, synchronization, times, permissions.

Some have no locks, some cannot synchronize, some store years up to 2038 only. An operation that
a file system does not support is skipped; real failures are raised. The error numbers that
distinguish the two are listed here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from contextlib import suppress

_UNSUPPORTED = frozenset((errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL))

LOCK_UNSUPPORTED = _UNSUPPORTED | {errno.ENOLCK}
"""Error numbers of ``flock(2)`` on file systems without locks, such as some NFS mounts."""

LOCK_HELD = frozenset((errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES))
"""Error numbers of ``flock(2)`` for a file that another process has locked."""

SYNC_UNSUPPORTED = _UNSUPPORTED | {errno.EROFS}
"""Error numbers of ``fsync(2)`` on file systems that cannot synchronize files."""

DIRECTORY_SYNC_UNSUPPORTED = SYNC_UNSUPPORTED | {
    errno.EBADF,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
}
"""Error numbers of ``fsync(2)``, and of opening for it, where directories cannot be synchronized.

A directory in which files may be created need not be readable.
"""

MODE_UNSUPPORTED = _UNSUPPORTED | {errno.EPERM}
"""Error numbers of ``fchmod(2)`` on file systems without permissions, such as FAT."""

# Resolutions of stored times in nanoseconds: exact, NTFS, µs, ms, s, FAT.
_GRAINS = (1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)

_DEFAULT_ACL = "system.posix_acl_default"

EARLIEST = 315_619_200 * 10**9
"""The earliest time that every file system can store, in nanoseconds since the epoch.

FAT begins with 1980, in local time.
"""

LATEST = (2**31 - 1) * 10**9
"""The latest time that every file system can store, in nanoseconds since the epoch."""


def lock(file: int) -> bool:
    """Lock a file without waiting.

    :return: whether it is locked now; false on file systems without locks.
    :raises BlockingIOError: if another process or another descriptor has locked it.
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
    """Synchronize a file's bytes to the disk, where that is supported.

    :raises OSError: if they may not be on the disk, as with EIO, ENOSPC or EDQUOT.
    """
    _sync(file, SYNC_UNSUPPORTED)


def sync_directory(directory: int) -> None:
    """Synchronize the names in an open directory to the disk, where that is supported.

    :raises OSError: if they may not be on the disk.
    """
    _sync(directory, DIRECTORY_SYNC_UNSUPPORTED)


def _sync(file: int, unsupported: frozenset[int]) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in unsupported:
            raise


def set_time(file: int, mtime_ns: int) -> None:
    """Set a file's modification time, as closely as the file system can store it.

    A time out of the file system's range is replaced by `EARLIEST` or `LATEST`, so that
    `stored_as` recognizes any stored time without the limits of the file system. Failing to
    set the time is not an error.

    :param mtime_ns: nanoseconds since the epoch, in any year.
    """
    with suppress(OSError):
        accessed = os.fstat(file).st_atime_ns
        # Python raises OverflowError beyond 64 bits; the kernel clamps to the file system's range.
        with suppress(OSError, OverflowError):
            os.utime(file, ns=(accessed, mtime_ns))
        if not _rounded(os.fstat(file).st_mtime_ns, mtime_ns):
            os.utime(file, ns=(accessed, max(EARLIEST, min(mtime_ns, LATEST))))


def stored_as(found_ns: int, mtime_ns: int) -> bool:
    """Return whether a file system may store a modification time as another one: see `set_time`.

    :param found_ns: the stored time, in nanoseconds since the epoch.
    :param mtime_ns: the time that was to be set.
    """
    return _rounded(found_ns, mtime_ns) or _rounded(found_ns, max(EARLIEST, min(mtime_ns, LATEST)))


def _rounded(found_ns: int, mtime_ns: int) -> bool:
    return any(found_ns == mtime_ns - mtime_ns % grain for grain in _GRAINS)


def inheritance(directory: int) -> tuple[int, int | None, bytes]:
    """Return what decides where and with which permissions a new file in a directory is created.

    Files may be created in one directory and renamed into another if both have the same one.

    :param directory: a descriptor, which may be one for looking up names only.
    :return: the file system, the group that files inherit (``None``: the process's own), and the
        access control list that they inherit.
    """
    found = os.fstat(directory)
    inherits = bool(found.st_mode & stat.S_ISGID) or sys.platform != "linux"
    acl = b""
    if sys.platform == "linux":
        # Attributes cannot be read by a descriptor for looking up names only.
        with suppress(OSError):
            acl = os.getxattr(f"/proc/self/fd/{directory}", _DEFAULT_ACL)
    return found.st_dev, found.st_gid if inherits else None, acl


def restrict(file: int, replaced: os.stat_result) -> None:
    """Remove from a new file the permissions that the file it will replace does not have.

    The owner may read and write the new file until it is complete.

    :raises OSError: if that fails on a file system with permissions.
    """
    _set_mode(file, os.fstat(file).st_mode & (replaced.st_mode | 0o600))


def keep_permissions(file: int, replaced: os.stat_result) -> None:
    """Copy the permissions of the file that is about to be replaced.

    The read, write and execute bits are copied; owner and group if the process may set them. If
    it may not set the group, the group gets the permissions of others. The other bits of the
    mode, access control lists and extended attributes are not copied.

    :raises OSError: if that fails on a file system with permissions.
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
