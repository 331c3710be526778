"""The boundary of the served directory: which names below it are opened, and which are refused.

How a name is opened is in `natproxy.kernel.openat2`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

# O_NONBLOCK: whatever else takes the file's place after the check, a FIFO in
# particular, must not be waited for.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
LOOK = getattr(os, "O_PATH", READ) | os.O_CLOEXEC

MAX_PATH = 4095
"""The longest path below the served directory, in bytes: what one system call takes.

Percent-encoded, it still fits on a line.
"""

# Resource and I/O errors must not be reported as "not found".
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))
_OUR_OWN_LACK = _OUT_OF_RESOURCES | {errno.EIO}

# EXDEV is a link that leads outside.
_NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EXDEV))


class FileNotFound(Exception):
    """There is nothing to serve under this name; why is not for the client to know."""


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
