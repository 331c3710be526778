"""The factory of the file server's connections, and the services that they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from natproxy.fileserver.digests import Digests
from natproxy.fileserver.listings import SharedListings
from natproxy.fileserver.lookups import Lookups
from natproxy.fileserver.packs import CONCURRENT_PACKS, Packs
from natproxy.fileserver.pages import CONCURRENT_PAGES, Pages
from natproxy.fileserver.protocol import FileServerProtocol, Services
from natproxy.fileserver.waiting import WaitingFileServerProtocol
from natproxy.relay import Relays
from natproxy.server.admission import Admission
from natproxy.server.command_log import log_finished
from natproxy.server.factory import CommandFactory
from natproxy.server.threads import BoundedExecutor, InThread, Limits, Work, WorkRefused
from natproxy.storage import Storage

LISTING_THREADS = CONCURRENT_PAGES + CONCURRENT_PACKS + 1
"""Threads that ``LS``, ``PACK`` and ``LIST`` need."""

CONCURRENT_READS = 16
"""Reads of files that may not be in memory, at a time."""

QUEUED_READS = 1000
"""Such reads that wait for a thread."""

T = TypeVar("T")


class Reads:
    """Reads files that may not be in memory; see `natproxy.relay.ReadInThread`.

    At most half of the threads read one device: one that hangs leaves the other half for others.

    :param in_thread: of `CONCURRENT_READS` threads.
    :ivar executor: runs the reads.
    """

    def __init__(self, in_thread: InThread, clock: IReactorTime) -> None:
        limits = Limits(CONCURRENT_READS, QUEUED_READS, CONCURRENT_READS // 2)
        self.executor = BoundedExecutor(in_thread, "reads", limits, clock)

    def __call__(
        self, read: Callable[[], T], device: int, returned: Callable[[], object], /
    ) -> Deferred[T]:
        """Read in a thread."""
        try:
            return self.executor.submit(Work(read, source=device, released=returned))
        except WorkRefused:
            returned()
            return fail()


class FileServerFactory(CommandFactory):
    """Makes the file server's connections, and logs the end of each command.

    :param clock: for every time-out.
    :param storage: what is served.
    :param in_thread: where directories are listed and packs are made; of `LISTING_THREADS` threads.
    :param idle_timeout: seconds that a client may take to send its next command, or to
        continue to read; then its connection is closed or aborted.
    :param relays: send the files.
    :param hash_in_thread: where files are read for their digests; ``in_thread`` by default.
    :param admission: limits the number of clients.
    :param first_command_timeout: seconds that a client may take for its first command; 0
        for no limit but ``idle_timeout``.
    :param reads: where files that may not be in memory are read.
    :param look_up_in_thread: where metadata are read and files opened, if `Storage.blocking` is
        true; ``in_thread`` by default.
    :ivar stop_logging: ends the log of commands.
    :ivar executors: run the work that is done in threads, by its kind.
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
        reads: Reads | None = None,
        look_up_in_thread: InThread | None = None,
    ) -> None:
        super().__init__(clock, idle_timeout, admission, first_command_timeout)
        self.services = Services(
            storage,
            relays or Relays(),
            SharedListings(storage, in_thread, clock),
            Pages(storage, in_thread, clock),
            Packs(storage, in_thread, clock),
            Digests(hash_in_thread or in_thread, clock),
            Lookups(storage, look_up_in_thread or in_thread, clock),
        )
        services = self.services
        self.executors = {
            "listings": services.listings.executor,
            "pages": services.pages.executor,
            "packs": services.packs.executor,
            "short digests": services.digests.short,
            "long digests": services.digests.long,
        }
        if reads is not None:
            self.executors["reads"] = reads.executor
        protocol = FileServerProtocol
        if storage.blocking:
            protocol = WaitingFileServerProtocol
            self.executors["lookups"] = services.lookups.executor
        self.protocol = partial(protocol, services)
        self.stop_logging = self.subscribe(log_finished)

    def drain(self) -> Deferred[None]:
        """Let every client finish; then cancel the digests that no client waits for."""
        return super().drain().addCallback(lambda _: self.services.digests.cancel())

    def abort(self) -> None:
        """Abort the remaining connections, and cancel what is computed for them."""
        super().abort()
        self.services.digests.cancel()
