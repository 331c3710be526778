"""The boundary of the served directory: how a name below it is opened, or refused.

By ``openat2`` where there is one (Linux 5.6), otherwise by a walk of one component at
a time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# <linux/openat2.h>; the system call has this number on every architecture but Alpha.
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_OPENAT2_TRIES = 8

# O_NONBLOCK: whatever else takes the file's place after the check, a FIFO in
# particular, must not be waited for.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
LOOK = getattr(os, "O_PATH", READ) | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

MAX_PATH = 4095
"""The longest path below the served directory, in bytes: what one system call takes.

Percent-encoded, it still fits on a line.
"""

# Resource and I/O errors must not be reported as "not found".
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))
_OUR_OWN_LACK = _OUT_OF_RESOURCES | {errno.EIO}

# EXDEV is a link that leads outside.
_NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EXDEV))

Opener = Callable[[int, bytes, int], int]
"""Opens a name below a directory's descriptor, with ``open(2)``'s flags."""


class FileNotFound(Exception):
    """There is nothing to serve under this name; why is not for the client to know."""


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(folder: int, name: bytes, flags: int) -> int:
    """Open by ``openat2``: the kernel refuses whatever would lead outside.

    Links that stay inside are followed.

    :raises OSError: as ``openat2(2)`` does; ``ENOSYS`` where there is none.
    """
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_OPENAT2_TRIES):
        opened: int = _syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(folder),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if opened >= 0:
            return opened
        code = ctypes.get_errno()
        # A rename elsewhere in the tree can make the kernel unsure of a "..".
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code))


def open_by_walk(folder: int, name: bytes, flags: int) -> int:
    """Open one component at a time, following no link at all.

    :raises OSError: as ``open(2)`` does; ``ELOOP`` or ``ENOTDIR`` for a link.
    """
    *folders, last = name.split(b"/")
    above = folder
    try:
        for component in folders:
            below = os.open(component, FOLDER | os.O_NOFOLLOW, dir_fd=above)
            if above != folder:
                os.close(above)
            above = below
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=above)
    finally:
        if above != folder:
            os.close(above)


def choose_opener() -> Opener:
    """Give `open_beneath` if this kernel, and its sandbox, let it work; else the walk."""
    if sys.platform != "linux":
        return open_by_walk
    folder = os.open("/", FOLDER)
    try:
        os.close(open_beneath(folder, b".", FOLDER))
    except OSError:
        return open_by_walk
    finally:
        os.close(folder)
    return open_beneath


def plain(name: bytes) -> bool:
    """Tell whether a name is a path to be resolved at all.

    It is if its components stand between single slashes and none is ``.`` or ``..``.
    """
    return (
        len(name) <= MAX_PATH
        and b"\0" not in name
        and {b"", b".", b".."}.isdisjoint(name.split(b"/"))
    )


def own_lack(error: OSError) -> bool:
    """Tell what the server lacks from what is not there."""
    return error.errno in _OUR_OWN_LACK


def out_of_resources(error: OSError) -> bool:
    """Return whether the server lacks descriptors or memory, for the moment."""
    return error.errno in _OUT_OF_RESOURCES


def not_there(error: OSError) -> bool:
    """Return whether an error means that there is nothing under a name.

    After any other error there may be something that the server cannot look at.
    """
    return error.errno in _NOT_THERE


@contextmanager
def blame() -> Iterator[None]:
    """Raise `FileNotFound` for an `OSError` that is none of the server's own."""
    try:
        yield
    except OSError as error:
        if own_lack(error):
            raise
        raise FileNotFound from error


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
