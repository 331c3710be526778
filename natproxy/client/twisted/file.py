"""A file on the server that is read by Deferreds."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.python.failure import Failure

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
        # Only one read at a time holds a connection and a reply in memory.
        self._lock = DeferredLock()

    def tell(self) -> int:
        """Return the offset at which the next call of `read` begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the offset at which the next call of `read` begins, and return it.

        Nothing is sent, and reads that have been called before are not affected.

        :raises ValueError: if the offset would be negative, or if ``whence`` is unknown.
        """
        self._position = seek_from(self._position, self.metadata.size, offset, whence)
        return self._position

    def read(self, size: int | None = -1) -> Deferred[bytes]:
        """Read the next bytes; all that follow by default, or if ``size`` is ``None``.

        The offset advances when this is called, so that any number of calls may overlap: they
        are carried out in order. A read that fails resets the offset, unless it has been
        changed since.

        :return: fires with up to ``size`` bytes, none at the end of the file; fails with
            `Changed` if the file is no longer the one that was opened, and with `UsageError`
            if more bytes follow than a reply in memory may have.
        """
        start = self._position
        rest = self.metadata.size - start
        wanted = rest if size is None or size < 0 else min(size, rest)
        if wanted <= 0:
            return succeed(b"")
        end = self._position = start + wanted

        def reset(failure: Failure) -> Failure:
            if self._position == end:
                self._position = start
            return failure

        etag = self.metadata.etag
        return self._lock.run(self._read, self._name, start, wanted, etag).addErrback(reset)

    async def __aenter__(self) -> RemoteFile:
        return self

    async def __aexit__(self, *_: Any) -> None:
        """Do nothing: the file holds no connection."""
