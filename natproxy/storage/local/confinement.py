"""How names below the served directory are opened, and what the errors of that mean.

Which names are opened is in `natproxy.storage.local.storage`, how the kernel confines them in
`natproxy.kernel.openat2`.
"""

from __future__ import annotations

import errno
import os

# O_NONBLOCK: a FIFO that takes the file's place after the check must not block.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Flags that open a file for reading."""

PATH = getattr(os, "O_PATH", READ) | os.O_CLOEXEC
"""Flags that open a name for its metadata only, where the system has such."""

MAX_PATH = 4095
"""The longest path below the served directory, in bytes: what one system call takes.

Percent-encoded, it still fits on a line of the protocol.
"""

_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))
_FAILURES = _OUT_OF_RESOURCES | {errno.EIO}

# EXDEV is a link that leads outside.
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EXDEV))


def is_valid(name: bytes) -> bool:
    """Return whether a name may be resolved.

    Its components stand between single slashes, and none is ``.`` or ``..``.
    """
    return (
        len(name) <= MAX_PATH
        and b"\0" not in name
        and {b"", b".", b".."}.isdisjoint(name.split(b"/"))
    )


def is_out_of_resources(error: OSError) -> bool:
    """Return whether the server lacks descriptors or memory at present."""
    return error.errno in _OUT_OF_RESOURCES


def is_absent(error: OSError) -> bool:
    """Return whether an error means that there is nothing under a name.

    After any other error there may be something that cannot be read.
    """
    return error.errno in _ABSENT


def is_failure(error: OSError) -> bool:
    """Return whether the server lacks resources, or the disk fails.

    It must not be reported as "not found"; every other error of opening is.
    """
    return error.errno in _FAILURES
