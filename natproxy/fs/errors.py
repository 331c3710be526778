"""The client's errors as the ``OSError`` that programs expect of a file system."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from natproxy.client.errors import (
    CannotConnect,
    Changed,
    ClientError,
    ConnectionBroken,
    Forbidden,
    GaveUp,
    Interrupted,
    LocalError,
    NotFound,
    Unauthorized,
    Unavailable,
    Unsupported,
    UsageError,
)

_ERRNO: dict[type[ClientError], int] = {
    Interrupted: errno.EINTR,
    Unauthorized: errno.EACCES,
    Unavailable: errno.EBUSY,
    Unsupported: errno.EOPNOTSUPP,
    UsageError: errno.EINVAL,
}


def local_path(path: Any) -> bytes:
    """Return a local path in the locale's encoding.

    :raises OSError: if the locale has no such characters (``EILSEQ``).
    """
    try:
        return os.fsencode(path)
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        remedy = "" if encoding == "utf-8" else "; set PYTHONUTF8=1 for UTF-8"
        raise OSError(
            errno.EILSEQ,
            f"cannot be a local name: local names are encoded in {encoding}{remedy}",
            ascii(path)[1:-1],
        ) from error


class FileChanged(Changed, OSError):
    """The file on the server is not the version that was opened (``ESTALE``)."""

    # That of `ClientError` has no file name.
    __reduce__ = OSError.__reduce__


def file_changed(path: str) -> FileChanged:
    """Return the error for a file of which another version was read before."""
    return FileChanged(errno.ESTALE, "changed on the server", path)


def os_error(error: ClientError, path: str) -> OSError:
    """Return the error for a path; the caller raises it from the client's."""
    last = error
    if isinstance(error, GaveUp) and isinstance(error.__cause__, ClientError):
        last = error.__cause__
    if isinstance(last, NotFound):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if isinstance(last, Forbidden):
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    if isinstance(last, Changed):
        return file_changed(path)
    if isinstance(last, (CannotConnect, ConnectionBroken)):
        return ConnectionError(str(error))
    if isinstance(last, LocalError):
        return OSError(last.errno, str(error))
    numbers = (number for kind, number in _ERRNO.items() if isinstance(last, kind))
    return OSError(next(numbers, errno.EIO), str(error))
