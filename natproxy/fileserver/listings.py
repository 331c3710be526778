"""Replies to ``LIST``: scans of the top directory, shared by all clients that wait."""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy.counts import counted
from natproxy.protocol import END, listable, printable
from natproxy.server.rotation import fire_in_turns
from natproxy.server.threads import BoundedExecutor, CancellationToken, InThread, Limits, Work
from natproxy.storage import Storage
from natproxy.storage.interface import in_runs

_NAMES_LOGGED = 10


class SharedListings:
    """Scans of the top directory, in a thread and one at a time.

    A client that sends ``LIST`` during a scan waits for the next one, and all that wait share
    it: a listing is never older than the command, and a thousand commands cost two scans. A
    scan that found nothing new shares the memory of the one before.

    :ivar executor: runs the scans.
    """

    _log = Logger()

    def __init__(
        self, storage: Storage, in_thread: InThread, clock: IReactorTime | None = None
    ) -> None:
        self._storage = storage
        self.executor = BoundedExecutor(in_thread, "listings", Limits(1, 0), clock)
        self._clock = clock
        # Clients of the scan that runs, and clients of the next one.
        self._served: OrderedDict[Deferred[bytes], None] = OrderedDict()
        self._waiting: OrderedDict[Deferred[bytes], None] = OrderedDict()
        self._token: CancellationToken | None = None
        self._scanning = False
        self._reply = b""
        self._omitted: dict[str, tuple[bytes, ...]] = {}

    def reply(self) -> Deferred[bytes]:
        """Return the whole reply to a ``LIST``; fails with the error of the scan."""
        waiting: Deferred[bytes] = Deferred(self._withdraw)
        self._waiting[waiting] = None
        if not self._scanning:
            self._scan()
        return waiting

    def _withdraw(self, waiter: Deferred[bytes]) -> None:
        if waiter in self._waiting:
            del self._waiting[waiter]
        elif waiter in self._served:
            del self._served[waiter]
            if not self._served and self._token is not None:
                self._token.cancel()

    def _scan(self) -> None:
        self._scanning = True
        self._served = served = self._waiting
        self._waiting = OrderedDict()
        self._token = token = CancellationToken()

        def scanned(listing: tuple[bytes, dict[str, tuple[bytes, ...]]]) -> None:
            reply, omitted = listing
            if reply != self._reply:
                self._reply = reply
            self._log_omitted(omitted)
            fire_in_turns(served, self._reply, self._clock)

        def failed(failure: Failure) -> None:
            fire_in_turns(served, failure, self._clock)

        def done(_: object) -> None:
            self._scanning = False
            if self._waiting:
                self._scan()

        work = Work(lambda: self._listing(token), cancel=token.cancel, progress=token.progress)
        maybeDeferred(self.executor.submit, work).addCallbacks(scanned, failed).addBoth(done)

    def _listing(self, token: CancellationToken) -> tuple[bytes, dict[str, tuple[bytes, ...]]]:
        """Scan, in a thread.

        :return: the reply, and the names that it omits, by the reason.
        """
        names, unread = self._storage.top_files(token.check)
        lines = [b"OK\n"]
        omitted: list[bytes] = []
        for run in in_runs(names):
            listed = [name for name in run if listable(name)]
            lines.append(b"".join([name + b"\n" for name in listed]))
            if len(listed) < len(run):
                omitted += [name for name in run if not listable(name)]
        lines.append(END + b"\n")
        reasons = {"that no line can contain": tuple(omitted), "whose type cannot be read": unread}
        return b"".join(lines), reasons

    def _log_omitted(self, omitted: dict[str, tuple[bytes, ...]]) -> None:
        for why, names in omitted.items():
            if names and names != self._omitted.get(why):
                self._log.warn(
                    "LIST omits {count} {why}: {names}",
                    count=counted(len(names), "name"),
                    why=why,
                    names=", ".join(printable(name) for name in names[:_NAMES_LOGGED]),
                )
        self._omitted = omitted
