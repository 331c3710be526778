"""A file on the server that is read by Deferreds."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock

from natproxy.client.blocking.file import seek_from
from natproxy.protocol import Metadata


class RemoteFile:
    """A seekable, read-only binary file on the server; it holds no connection.

    There is no buffer: each `read` is a ``GET`` with the etag of the opened file.

    :param read: `natproxy.client.twisted.Session.read`.
    :ivar metadata: of the file when it was opened.
    """

    def __init__(
        self, read: Callable[..., Deferred[bytes]], name: bytes, metadata: Metadata
    ) -> None:
        self.metadata = metadata
        self._read = read
        self._name = name
        self._position = 0
        # Reads that overlap are carried out one after the other, as if by a blocking file.
        self._lock = DeferredLock()

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the offset of the next byte and return it; nothing is sent.

        :raises ValueError: if the offset would be negative.
        """
        self._position = seek_from(self._position, self.metadata.size, offset, whence)
        return self._position

    def read(self, size: int = -1) -> Deferred[bytes]:
        """Read the next bytes, all that follow by default.

        :return: fires with up to ``size`` bytes, none at the end of the file; fails with
            `Changed` if the file is no longer the one that was opened, and with `UsageError`
            if more bytes follow than a reply in memory may have.
        """
        return self._lock.run(self._read_next, size)

    async def _read_next(self, size: int) -> bytes:
        rest = self.metadata.size - self._position
        wanted = rest if size < 0 else min(size, rest)
        if wanted <= 0:
            return b""
        data = await self._read(self._name, self._position, wanted, self.metadata.etag)
        self._position += len(data)
        return data

    async def __aenter__(self) -> RemoteFile:
        return self

    async def __aexit__(self, *_: Any) -> None:
        """Do nothing: the file holds no connection."""
