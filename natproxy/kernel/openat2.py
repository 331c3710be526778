"""Opening a path below an open directory without leaving that directory.

By ``openat2`` where the kernel has it (Linux 5.6), otherwise by a walk of one component at a time.
The kernel decides what is inside: path strings are never compared.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable
from functools import cache

# <linux/openat2.h>; the system call has this number on every architecture but Alpha.
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_OPENAT2_TRIES = 8

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags that open a directory whose entries are to be listed."""

SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags that open a directory in which names are to be looked up.

On systems with ``O_PATH``, the directory need not be readable.
"""

Opener = Callable[[int, bytes, int], int]
"""Opens a path below a directory's descriptor, with the flags of ``open(2)``."""


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """Open a path by ``openat2``: the kernel refuses a path that leads outside.

    Symbolic links that stay inside are followed.

    :raises OSError: as ``openat2(2)`` does; ``ENOSYS`` if the kernel does not have it.
    """
    return _openat2(directory, path, flags, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)


def open_without_links(directory: int, path: bytes, flags: int) -> int:
    """Open a path by ``openat2``; no component of it may be a symbolic link.

    :raises OSError: as ``openat2(2)`` does: ``ELOOP`` for a link, ``ENOSYS`` as above.
    """
    return _openat2(directory, path, flags, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)


def open_by_walk(directory: int, path: bytes, flags: int) -> int:
    """Open a path one component at a time, following no link at all.

    :raises OSError: as ``open(2)`` does; ``ELOOP`` or ``ENOTDIR`` for a link.
    """
    *directories, last = path.split(b"/")
    above = directory
    try:
        for component in directories:
            below = os.open(component, SEARCH | os.O_NOFOLLOW, dir_fd=above)
            if above != directory:
                os.close(above)
            above = below
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=above)
    finally:
        if above != directory:
            os.close(above)


def choose_opener(preferred: Opener = open_beneath) -> Opener:
    """Return the preferred opener if the kernel and the sandbox support it; else the walk.

    :param preferred: `open_beneath` or `open_without_links`.
    """
    if sys.platform != "linux":
        return open_by_walk
    directory = os.open("/", DIRECTORY)
    try:
        os.close(preferred(directory, b".", DIRECTORY))
    except OSError:
        return open_by_walk
    finally:
        os.close(directory)
    return preferred


def _openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    # struct open_how: flags, mode, resolve.
    how = struct.pack("=QQQ", flags, 0, resolve)
    syscall, last_error = _system_calls()
    for _ in range(_OPENAT2_TRIES):
        opened = syscall(_SYS_OPENAT2, directory, path, how, len(how))
        if opened >= 0:
            return opened
        code = last_error()
        # EAGAIN: after a rename elsewhere in the tree, the kernel cannot verify a "..".
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code))


@cache
def _system_calls() -> tuple[Callable[[int, int, bytes, bytes, int], int], Callable[[], int]]:
    # The client imports this module for every download, and ctypes only if it needs openat2.
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
    )
    return syscall, ctypes.get_errno
