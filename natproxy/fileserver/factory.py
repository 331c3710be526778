"""The factory of the file server's connections, and the services that they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from natproxy.fileserver.digests import Digests
from natproxy.fileserver.listings import SharedListings
from natproxy.fileserver.pages import CONCURRENT_PAGES, Pages
from natproxy.fileserver.protocol import FileServerProtocol, Services
from natproxy.fileserver.resets import ResetWatch
from natproxy.relay import ReadInThread, Relays
from natproxy.server.admission import Admission
from natproxy.server.command_log import log_finished
from natproxy.server.factory import CommandFactory
from natproxy.server.threads import BoundedExecutor, InThread, Limits, Work, WorkRefused
from natproxy.storage import Storage

LISTING_THREADS = CONCURRENT_PAGES + 1
"""Threads that ``LS`` and ``LIST`` need."""

CONCURRENT_READS = 16
"""Reads of files that may not be in memory, at a time."""

QUEUED_READS = 1000
"""Such reads that wait for a thread."""

T = TypeVar("T")


class FileServerFactory(CommandFactory):
    """Makes the file server's connections, and logs the end of each command.

    :param clock: for every time-out.
    :param storage: what is served.
    :param in_thread: where directories are listed; of `LISTING_THREADS` threads.
    :param idle_timeout: seconds that a client may take to send its next command, or to
        continue to read; then its connection is closed or aborted.
    :param relays: send the files.
    :param hash_in_thread: where files are read for their digests; ``in_thread`` by default.
    :param admission: limits the number of clients.
    :param first_command_timeout: seconds that a client may take for its first command; 0
        for no limit but ``idle_timeout``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        storage: Storage,
        in_thread: InThread,
        idle_timeout: float,
        relays: Relays | None = None,
        hash_in_thread: InThread | None = None,
        admission: Admission | None = None,
        first_command_timeout: float = 0.0,
    ) -> None:
        super().__init__(clock, idle_timeout, admission, first_command_timeout)
        self.services = Services(
            storage,
            relays or Relays(),
            SharedListings(storage, in_thread, clock),
            Pages(storage, in_thread, clock),
            Digests(hash_in_thread or in_thread, clock),
            ResetWatch(clock),
        )
        self.protocol = partial(FileServerProtocol, self.services)
        self.subscribe(log_finished)

    def drain(self) -> Deferred[None]:
        """Let every client finish; then cancel the digests that no client waits for."""
        return super().drain().addCallback(lambda _: self.services.digests.cancel())

    def abort(self) -> None:
        """Abort the remaining connections, and cancel what is computed for them."""
        super().abort()
        self.services.digests.cancel()


def read_in(in_thread: InThread, clock: IReactorTime) -> ReadInThread:
    """Return a function that reads files that may not be in memory.

    :param in_thread: of `CONCURRENT_READS` threads. At most half of them read one device: one
        that hangs leaves the other half for others.
    """
    limits = Limits(CONCURRENT_READS, QUEUED_READS, CONCURRENT_READS // 2)
    executor = BoundedExecutor(in_thread, "reads", limits, clock)

    def read(work: Callable[[], T], device: int, returned: Callable[[], object]) -> Deferred[T]:
        try:
            return executor.submit(Work(work, source=device, released=returned))
        except WorkRefused:
            returned()
            return fail()

    return read
