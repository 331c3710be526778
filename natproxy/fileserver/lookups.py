"""Metadata and open files of a storage that may wait for a network: looked up in threads."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from natproxy.metadata import Metadata
from natproxy.server.threads import BoundedExecutor, InThread, Limits, Work
from natproxy.storage import OpenFile, Storage

CONCURRENT_LOOKUPS = 16
"""Look-ups at a time."""

QUEUED_LOOKUPS = 1000
"""Look-ups that wait for a thread."""


class _Opening:
    """A file that is being opened in a thread.

    A Deferred drops its result if it was cancelled or took too long; the file is closed then.
    """

    def __init__(self, storage: Storage, name: bytes) -> None:
        self._storage = storage
        self._name = name
        self._file: OpenFile | None = None
        self._unwanted = False

    def run(self) -> OpenFile:
        """Open the file, in a thread."""
        self._file = self._storage.open(self._name)
        return self._file

    def cancel(self) -> None:
        """Note that the result is dropped."""
        self._unwanted = True

    def released(self) -> None:
        """Close the file, if its result is dropped: the thread has returned."""
        if self._unwanted and self._file is not None:
            with suppress(OSError):
                self._file.close()


class Lookups:
    """Calls a storage's `metadata` and `open` in threads.

    :param in_thread: of `CONCURRENT_LOOKUPS` threads.
    :param clock: for the longest time that a client waits; ``None`` for no time-out.
    :ivar executor: runs the work.
    """

    def __init__(
        self, storage: Storage, in_thread: InThread, clock: IReactorTime | None = None
    ) -> None:
        self._storage = storage
        limits = Limits(CONCURRENT_LOOKUPS, QUEUED_LOOKUPS)
        self.executor = BoundedExecutor(in_thread, "look-ups", limits, clock)

    def metadata(self, name: bytes, client: Hashable) -> Deferred[Metadata]:
        """Return the metadata of a file or a directory.

        :param client: who requests it, for a fair order.
        :return: fails as `Storage.metadata` does, or with `WorkRefused`. May be cancelled.
        :raises WorkRefused: if too many look-ups are waiting, or all threads hang.
        """
        return self.executor.submit(Work(lambda: self._storage.metadata(name), client))

    def open(self, name: bytes, client: Hashable) -> Deferred[OpenFile]:
        """Open a file; the caller closes it.

        :param client: who requests it, for a fair order.
        :return: fails as `Storage.open` does, or with `WorkRefused`. May be cancelled.
        :raises WorkRefused: if too many look-ups are waiting, or all threads hang.
        """
        opening = _Opening(self._storage, name)
        work = Work(opening.run, client, None, opening.cancel, opening.released)
        return self.executor.submit(work)
