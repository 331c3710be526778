"""A file on the server as a Python file object."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from natproxy.client.rate import RateMonitor
from natproxy.protocol import Metadata

if TYPE_CHECKING:
    from natproxy.client.blocking.session import Session

BLOCK = 1 << 20
"""Bytes that a buffered file asks for at once."""


class RemoteRange(io.RawIOBase):
    """The bytes of one file, each read a ``GET`` of its own that holds the file to its etag.

    :param session: that asks.
    :param status: of the file when it was opened.
    """

    def __init__(self, session: Session, name: bytes, metadata: Metadata) -> None:
        super().__init__()
        self._session = session
        self._name = name
        self._position = 0
        self.metadata = metadata

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """Any byte of it can be asked for."""
        return True

    def tell(self) -> int:
        """Give the offset of the next byte."""
        if self.closed:
            raise ValueError("the file is closed")
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to another byte; nothing is sent."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.metadata.size}
        if whence not in start or start[whence] + offset < 0:
            raise ValueError(f"cannot seek to {offset} from {whence}")
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Read the next bytes.

        :raises Changed: if the file isn't the one that was opened any more.
        """
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), self.metadata.size - self._position)
        if wanted <= 0:
            return 0
        got = 0
        pace = RateMonitor(self._session.server, self._session.timeout)
        with self._session.get(self._name, self._position, wanted, self.metadata.etag) as (
            reply,
            _,
        ):
            while got < wanted:
                began = time.monotonic()
                size = reply.receive_into(target[got:wanted])
                if not size:
                    break
                got += size
                pace.received(size, time.monotonic() - began)
        self._position += got
        return got

    def readall(self) -> bytes:
        """Return all that follows, with one command.

        Memory is allocated as bytes are received, whatever size the server claims.

        :raises Changed: as `readinto` does.
        """
        wanted = self.metadata.size - self._position
        if wanted <= 0:
            return b""
        rest = self._session.read(self._name, self._position, wanted, self.metadata.etag)
        self._position += len(rest)
        return rest


class RemoteFile(io.BufferedReader):
    """A buffered, seekable, read-only binary file on the server.

    :ivar status: of the file when it was opened.
    """

    def __init__(self, session: Session, name: bytes, metadata: Metadata) -> None:
        super().__init__(RemoteRange(session, name, metadata), BLOCK)
        self.metadata = metadata
