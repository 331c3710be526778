"""A whole reply into a file: what version 1 can do."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from natproxy.client.connection import CHUNK, Reply
from natproxy.client.destination import destination_of, find, make_folders
from natproxy.client.errors import LocalError

if TYPE_CHECKING:
    from natproxy.client.session import Session


def download_whole(
    reply: Reply,
    path: bytes,
    count: Callable[[int, int], object] = lambda size, done: None,
    saving: Callable[[int], object] = lambda size: None,
) -> int:
    """Save a counted reply's body.

    The bytes go into a file of another name in the same folder, which takes the final
    name when all of them are on the disk. Whatever goes wrong, nothing is under the final
    name that was not there before.

    :param path: of the file; what is there is replaced.
    :param count: is told of each piece: its bytes, and those that are there by now.
    :param saving: is called with the size before the bytes are brought to the disk.
    :return: the size of the file, in bytes.
    :raises ConnectionBroken: if the reply doesn't come whole.
    :raises LocalError: if it can't be written.
    """
    folder, last = os.path.split(path)
    # Two at once must not share it, and a name may be as long as a name can be.
    part = os.path.join(folder, b".%s.%s.part" % (last[:200], os.urandom(6).hex().encode()))
    try:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise LocalError(path, error) from error
    try:
        size = _receive(reply, file, path, count, saving)
        os.replace(part, path)
    except OSError as error:
        raise LocalError(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
    return size


def download(session: Session, name: bytes, destination: bytes | None = None) -> bytes:
    """Fetch a file with ``DOWNLOAD``; what is there under its name is replaced.

    :param destination: a file, or a folder that exists or ends with a slash; missing
        folders are made. Without it: the working directory.
    :return: the path of the file.
    :raises ClientError: if it can't be had, or can't be written.
    """
    with session.whole(name) as reply:
        path = destination_of(name, destination)
        find(path)
        make_folders(path)
        download_whole(reply, path)
    return path


def _receive(
    reply: Reply,
    file: int,
    path: bytes,
    count: Callable[[int, int], object],
    saving: Callable[[int], object],
) -> int:
    buffer = memoryview(bytearray(CHUNK))
    done = 0
    try:
        while size := reply.receive_into(buffer):
            written = 0
            while written < size:
                try:
                    written += os.write(file, buffer[written:size])
                except OSError as error:
                    raise LocalError(path, error) from error
            done += size
            count(size, done)
        saving(done)
        os.fsync(file)
    finally:
        os.close(file)
    return done
