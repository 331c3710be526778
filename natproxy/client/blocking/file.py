"""A file on the server as a Python file object."""

from __future__ import annotations

import io
import time
from contextlib import AbstractContextManager
from typing import Protocol

from natproxy.client.blocking.reply import Reply
from natproxy.protocol import Metadata, Range

BLOCK = 1 << 20
"""Bytes that a buffered file requests at once."""


class GetRange(Protocol):
    """Sends ``GET``: `natproxy.client.blocking.session.Session.get`."""

    def __call__(
        self, name: bytes, offset: int, length: int | None, if_match: str | None
    ) -> AbstractContextManager[tuple[Reply, Range]]:
        """Request a part of a file."""


class RemoteRange(io.RawIOBase):
    """The bytes of one file; each read is a ``GET`` with the etag of the opened file.

    :ivar metadata: of the file when it was opened.
    """

    def __init__(self, get: GetRange, name: bytes, metadata: Metadata) -> None:
        super().__init__()
        self._get = get
        self._name = name
        self._position = 0
        self.metadata = metadata

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the offset of the next byte."""
        if self.closed:
            raise ValueError("the file is closed")
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Set the offset of the next byte and return it; nothing is sent."""
        self._position = seek_from(self._position, self.metadata.size, offset, whence)
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Read the next bytes into a buffer; return how many, 0 at the end of the file.

        :raises Changed: if the file is no longer the one that was opened.
        """
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), self.metadata.size - self._position)
        if wanted <= 0:
            return 0
        received = 0
        with self._get(self._name, self._position, wanted, self.metadata.etag) as (reply, _):
            monitor = reply.rate_monitor()
            while received < wanted:
                began = time.monotonic()
                size = reply.receive_into(target[received:wanted])
                if not size:
                    break
                received += size
                monitor.received(size, time.monotonic() - began)
        self._position += received
        return received

    def readall(self) -> bytes:
        """Return all bytes that follow, by one command.

        Memory is allocated as bytes are received, whatever size the server claims.

        :raises Changed: as `readinto` does.
        """
        wanted = self.metadata.size - self._position
        if wanted <= 0:
            return b""
        with self._get(self._name, self._position, wanted, self.metadata.etag) as (reply, _):
            rest = reply.read()
        self._position += len(rest)
        return rest


class RemoteFile(io.BufferedReader):
    """A buffered, seekable, read-only binary file on the server.

    :ivar metadata: of the file when it was opened.
    """

    def __init__(self, get: GetRange, name: bytes, metadata: Metadata) -> None:
        super().__init__(RemoteRange(get, name, metadata), BLOCK)
        self.metadata = metadata


def seek_from(position: int, size: int, offset: int, whence: int) -> int:
    """Return the position in a file after a seek, which may be beyond its end.

    :param position: before it.
    :param size: of the file.
    :raises ValueError: if the new position would be negative, or if ``whence`` is unknown.
    """
    start = {io.SEEK_SET: 0, io.SEEK_CUR: position, io.SEEK_END: size}
    if whence not in start or start[whence] + offset < 0:
        raise ValueError(f"cannot seek to {offset} from {whence}")
    return start[whence] + offset
