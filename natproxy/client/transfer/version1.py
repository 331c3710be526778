"""Downloads by version 1 of the protocol: whole files, neither resumed nor verified."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from natproxy.client.blocking.connection import CHUNK
from natproxy.client.blocking.reply import Reply
from natproxy.client.errors import LocalError
from natproxy.client.transfer.destination import LocalFile, destination_path
from natproxy.client.transfer.part_file import PartFile
from natproxy.client.transfer.space import require_space

if TYPE_CHECKING:
    from natproxy.client.blocking.session import Session


def save_body(
    reply: Reply,
    file: LocalFile,
    count: Callable[[int, int], object] = lambda size, done: None,
    saving: Callable[[int], object] = lambda size: None,
    replace: bool = True,
) -> int:
    """Save the body of a reply, whose header states its size, to a file.

    The bytes are written to a file with a random name in the same directory, which is renamed
    when all of them are on the disk. After a failure, the final name is as it was before.

    :param file: the file; missing directories are created.
    :param count: called after each chunk with its size and the total of received bytes.
    :param saving: called with the size before the bytes are synchronized to the disk.
    :param replace: whether an existing file is replaced.
    :return: the size of the file, in bytes.
    :raises ConnectionBroken: if the body is incomplete or much too slow.
    :raises FileExistsError: if the file exists and is not to be replaced.
    :raises LocalError: if it cannot be written.
    """
    with file.open_directory(create=True) as directory:
        try:
            # The name is private: two downloads of the same file must not share it.
            with PartFile.create_private(directory, file.name) as part:
                try:
                    require_space(file.path, reply.header.size, part.descriptor)
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
    """Download a file with ``DOWNLOAD``; an existing local file is replaced.

    :param destination: a file, or a directory that exists or ends with a slash; missing
        directories are created. By default: the working directory.
    :return: the path of the file.
    :raises ClientError: if the file cannot be downloaded or written.
    """
    with session.get_v1(name) as reply:
        file = LocalFile(destination_path(name, destination))
        # Refuse a directory or a device before any byte is written.
        file.stat()
        save_body(reply, file)
    return file.path


def _receive(reply: Reply, part: PartFile, path: bytes, count: Callable[[int, int], object]) -> int:
    buffer = memoryview(bytearray(CHUNK))
    done = 0
    monitor = reply.rate_monitor()
    began = time.monotonic()
    while size := reply.receive_into(buffer):
        monitor.received(size, time.monotonic() - began)
        end = done + size
        while done < end:
            done += _write(part, buffer[size - (end - done) : size], done, path)
        count(size, done)
        began = time.monotonic()
    return done


def _write(part: PartFile, data: memoryview, offset: int, path: bytes) -> int:
    # Errors of the disk must not be mistaken for errors of the connection.
    try:
        return part.write(data, offset)
    except OSError as error:
        raise LocalError(path, error) from error
