"""A whole reply into a file: what version 1 can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from natproxy.client.blocking.connection import CHUNK, Reply
from natproxy.client.errors import LocalError
from natproxy.client.transfer.destination import LocalFile, destination_path
from natproxy.client.transfer.part_file import PartFile

if TYPE_CHECKING:
    from natproxy.client.blocking.session import Session


def save_body(
    reply: Reply,
    file: LocalFile,
    count: Callable[[int, int], object] = lambda size, done: None,
    saving: Callable[[int], object] = lambda size: None,
    replace: bool = True,
) -> int:
    """Save a counted reply's body.

    The bytes go into a file of another name in the same directory, which takes the final
    name when all of them are on the disk. Whatever goes wrong, nothing is under the final
    name that was not there before.

    :param file: to save it in; missing directories are created.
    :param count: is told of each piece: its bytes, and those that are there by now.
    :param saving: is called with the size before the bytes are brought to the disk.
    :param replace: whether a file that is there is replaced.
    :return: the size of the file, in bytes.
    :raises ConnectionBroken: if the reply doesn't come whole, or much too slowly.
    :raises FileExistsError: if a file is there, and is not to be replaced.
    :raises LocalError: if it can't be written.
    """
    with file.directory(create=True) as directory:
        try:
            # Two at once must not share it.
            with PartFile.create_private(directory, file.name) as part:
                try:
                    size = _receive(reply, part, file.path, count)
                    part.complete(file.name)
                    saving(size)
                    part.sync()
                    part.publish(file.name, replace)
                finally:
                    with suppress(OSError):
                        part.remove()
            directory.sync()
        except OSError as error:
            if isinstance(error, FileExistsError) and not replace:
                raise
            raise LocalError(file.path, error) from error
    return size


def download_version1(session: Session, name: bytes, destination: bytes | None = None) -> bytes:
    """Fetch a file with ``DOWNLOAD``; what is there under its name is replaced.

    :param destination: a file, or a directory that exists or ends with a slash; missing
        directories are made. Without it: the working directory.
    :return: the path of the file.
    :raises ClientError: if it can't be had, or can't be written.
    """
    with session.whole(name) as reply:
        file = LocalFile(destination_path(name, destination))
        file.find()
        save_body(reply, file)
    return file.path


def _receive(reply: Reply, part: PartFile, path: bytes, count: Callable[[int, int], object]) -> int:
    buffer = memoryview(bytearray(CHUNK))
    done = 0
    pace = reply.pace()
    began = time.monotonic()
    while size := reply.receive_into(buffer):
        pace.received(size, time.monotonic() - began)
        end = done + size
        while done < end:
            done += _write(part, buffer[size - (end - done) : size], done, path)
        count(size, done)
        began = time.monotonic()
    return done


def _write(part: PartFile, data: memoryview, offset: int, path: bytes) -> int:
    # A connection's errors are not the disk's.
    try:
        return part.write(data, offset)
    except OSError as error:
        raise LocalError(path, error) from error
