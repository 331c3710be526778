"""From a reply into a file: whole, or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from natproxy.client.connection import Connection, Reply
from natproxy.client.errors import LocalError


def download(connection: Connection, name: bytes, destination: bytes | None = None) -> bytes:
    """Fetch a file.

    The bytes go into a file of another name in the same folder, which takes the final
    name when all of them are on the disk. Whatever goes wrong, nothing is under the final
    name that was not there before.

    :param name: of the file on the server.
    :param destination: a file, or a folder that exists or ends with a slash; missing
        folders are created. Without it: the working directory.
    :return: the path of the file.
    :raises ClientError: as `Connection.request` does, `LocalError` for what is wrong here.
    """
    reply = connection.request(b"DOWNLOAD", name)
    path = _path(name, destination)
    folder, last = os.path.split(path)
    # Two at once must not share it, and a name may be as long as a name can be.
    part = os.path.join(folder, b".%s.%s.part" % (last[:200], os.urandom(6).hex().encode()))
    if os.path.exists(path) and not os.path.isfile(path):
        raise LocalError(path, OSError(errno.EEXIST, "it is there, and not a regular file"))
    try:
        if folder:
            os.makedirs(folder, exist_ok=True)
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise LocalError(path, error) from error
    try:
        _receive(reply, file, part)
        os.replace(part, path)
    except OSError as error:
        raise LocalError(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
    return path


def _path(name: bytes, destination: bytes | None) -> bytes:
    last = os.path.basename(name)
    if destination is None:
        return last
    if destination.endswith(b"/") or os.path.isdir(destination):
        return os.path.join(destination, last)
    return destination


def _receive(reply: Reply, file: int, part: bytes) -> None:
    try:
        for piece in reply:
            written = 0
            while written < len(piece):
                try:
                    written += os.write(file, memoryview(piece)[written:])
                except OSError as error:
                    raise LocalError(part, error) from error
        os.fsync(file)
    finally:
        os.close(file)
