"""The past of a running daemon: its journal, searched in threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from natproxy.journal.directory import JournalError
from natproxy.journal.files import ALL, Share
from natproxy.journal.ports import LivePorts
from natproxy.journal.search import Journal
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.record import Record, microseconds_of
from natproxy.records.whois import UNKNOWN, Gap, WhoisQuery, WhoisReply
from natproxy.server.threads import (
    BoundedExecutor,
    CancellationToken,
    InThread,
    Limits,
    Threads,
    Work,
    WorkRefused,
)

T = TypeVar("T")

SEARCHES = 2
"""Searches that run at the same time."""

OPEN = 16
"""Segments that stay open for one search: their descriptors are the daemon's."""

WAITING = 256
"""Searches that wait."""

PAGE = 500
"""Records of a page at most."""

PAGE_TIME = 0.1
"""Seconds after which a page is passed on that has a record."""

BATCH = 200
"""Queries that are looked for at once; between two batches a search can be cancelled."""


class Written(Protocol):
    """What a search needs of `natproxy.journal.service.JournalService`."""

    @property
    def complete_to(self) -> int:
        """Until when the journal is complete, in microseconds since the epoch."""
        ...

    @property
    def ports(self) -> LivePorts | None:
        """The ports of the entries of the live segment, if they are known."""
        ...

    def flush(self) -> Deferred[None]:
        """Write what is new."""
        ...


class Holding(Protocol):
    """The table, which has more of what is open now than the journal; see `TableSource`."""

    def holding(self, port: int) -> tuple[Record, ...]:
        """Return the records of the entries with a local port."""
        ...


class JournalHistory:
    """The past as the journal of a running daemon has it; a ``History`` of the control socket.

    What reaches up to now is written first. A few searches run at the same time, in threads of
    their own; further ones wait, and fail with `WorkRefused` if too many do.

    :param reactor: has the clock, and delivers what the threads return.
    :param journal: the service that writes it.
    :param directory: of the journal.
    :param table: replaces the records of translations that are open now.
    :param wall_clock: returns seconds since the epoch.
    :param in_thread: calls a function in a thread.
    :param share: whose segments are searched; by default, those of all workers.
    """

    def __init__(
        self,
        reactor: Any,
        journal: Written,
        directory: str,
        table: Holding | None = None,
        wall_clock: Callable[[], float] = time.time,
        in_thread: InThread | None = None,
        share: Share = ALL,
    ) -> None:
        self._share = share
        self._journal = journal
        self._directory = directory
        self._table = table
        self._wall_clock = wall_clock
        if in_thread is None:
            in_thread = Threads(reactor, SEARCHES, "journal search")
        self._executor = BoundedExecutor(
            in_thread, "searches of the journal", Limits(SEARCHES, WAITING), reactor
        )
        # Those of searches that have ended, with their open segments.
        self._idle: list[Journal] = []

    def whois(self, queries: list[WhoisQuery]) -> Deferred[list[WhoisReply]]:
        """Return a `WhoisReply` for each `WhoisQuery`, in their order.

        If the directory cannot be read, each result is `UNKNOWN`. The search ends if it is
        cancelled.
        """
        complete = until_now(queries, self._now())
        latest = max((query.until or 0 for query in complete), default=0)
        token = CancellationToken()
        return self.run(partial(self._whois, complete, token), token, latest).addCallback(
            self._current_replies
        )

    def pages(self, query: HistoryQuery) -> Pages:
        """Return the records of translations, oldest first, in pages; an empty page is the end.

        The search ends when the iterator is closed.
        """
        return Pages(self, lambda journal, check: journal.history(query, check), query.until)

    def events(self, query: EventsQuery) -> Pages:
        """Return the records of events in the same manner, by worker and ``seq``."""
        return Pages(self, lambda journal, check: journal.events(query, check), query.until)

    def run(
        self,
        function: Callable[[], T],
        token: CancellationToken,
        until: int | None,
        released: Callable[[], object] | None = None,
    ) -> Deferred[T]:
        """Call a function in a thread, when what it searches is written.

        :param until: the end of that, in microseconds since the epoch; ``None`` for now.
        :param released: see `Work`.
        """
        work = Work(
            function,
            client=token,
            cancel=token.cancel,
            released=released,
            progress=token.progress,
        )

        def submit(_: object) -> Deferred[T]:
            try:
                return self._executor.submit(work)
            except WorkRefused as error:
                return fail(error)

        if until is not None and until < self._journal.complete_to:
            return submit(None)
        return self._journal.flush().addErrback(_not_written).addCallback(submit)

    def open(self) -> Journal:
        """Return a `Journal`, which `release` takes back."""
        try:
            return self._idle.pop()
        except IndexError:
            return Journal(self._directory, OPEN, self._journal.ports, self._share)

    def release(self, journal: Journal) -> None:
        """Keep a `Journal` for another search, or close it."""
        if len(self._idle) < SEARCHES:
            self._idle.append(journal)
        else:
            journal.close()

    def current(self, records: list[Record]) -> list[Record]:
        """Return records with what the table has in place of translations that are open now."""
        return [self._current(record) for record in records]

    def _current(self, record: Record) -> Record:
        if (
            self._table is None
            or record.event is not None
            or record.outcome is not None
            or record.nat_port is None
        ):
            return record
        for entry in self._table.holding(record.nat_port):
            if (entry.serial, entry.worker, entry.boot) == (
                record.serial,
                record.worker,
                record.boot,
            ):
                return entry
        return record

    def _current_replies(self, replies: list[WhoisReply]) -> list[WhoisReply]:
        return [
            reply._replace(translations=tuple(map(self._current, reply.translations)))
            for reply in replies
        ]

    def _whois(self, queries: list[WhoisQuery], token: CancellationToken) -> list[WhoisReply]:
        journal = self.open()
        replies: list[WhoisReply] = []
        try:
            for start in range(0, len(queries), BATCH):
                token.check()
                some = queries[start : start + BATCH]
                try:
                    replies += journal.whois_all(some)
                except JournalError as error:
                    gap = Gap(None, None, str(error))
                    replies += [WhoisReply(UNKNOWN, gap=gap)] * len(some)
        finally:
            self.release(journal)
        return replies

    def _now(self) -> int:
        return microseconds_of(self._wall_clock())


def until_now(queries: list[WhoisQuery], now: int) -> list[WhoisQuery]:
    """Return queries in which a time that is left out is the present.

    What is written after that is complete up to it, that moment not included.

    :param now: microseconds since the epoch.
    """
    return [
        query._replace(
            since=now - 1 if query.since is None else query.since,
            until=now - 1 if query.until is None else query.until,
        )
        for query in queries
    ]


def _not_written(failure: Failure) -> Failure | None:
    """Continue with what is in the journal: the rest is a gap."""
    return failure if failure.check(CancelledError) else None


class State(Enum):
    """What a search in pages does."""

    WAITING = "waiting"  # for the next page to be wanted
    READING = "reading"  # a thread reads, or will
    CLOSED = "closed"


class Pages:
    """The pages of a search, each read when it is wanted.

    :param search: returns the records; calls its second argument while it works.
    :param until: the end of what is searched, in microseconds since the epoch; ``None`` for now.
    """

    def __init__(
        self,
        history: JournalHistory,
        search: Callable[[Journal, Callable[[], object]], Iterator[Record]],
        until: int | None,
    ) -> None:
        self._history = history
        self._search = search
        self._until = until
        self._token = CancellationToken()
        self._state = State.WAITING
        self._journal: Journal | None = None
        self._records: Iterator[Record] = iter(())
        self._reading: Deferred[list[Record]] = succeed([])

    def __iter__(self) -> Pages:
        return self

    def __next__(self) -> Deferred[list[Record]]:
        """Return a Deferred that fires with the next page.

        It fails with `JournalError` if the directory cannot be read, and with `FilterError` if
        the filter is malformed. It is called when the last one has fired.
        """
        if self._state is not State.WAITING:
            raise StopIteration
        self._state = State.READING
        # The first page waits until everything is written.
        until = self._until if self._journal is None else 0
        self._reading = self._history.run(self._read, self._token, until, self._returned)
        return self._reading.addCallbacks(self._read_page, self._failed)

    def close(self) -> None:
        """End the search; a page that is being read fails or is dropped."""
        reading = self._state is State.READING
        self._state = State.CLOSED
        self._token.cancel()
        if reading:
            # The thread ends soon; see `_returned`.
            self._reading.addErrback(lambda _: None)
            self._reading.cancel()
        else:
            self._release()

    def _read(self) -> list[Record]:
        """Read a page, in a thread."""
        try:
            self._token.check()
            if self._journal is None:
                self._journal = self._history.open()
                self._records = self._search(self._journal, self._token.check)
            page: list[Record] = []
            end = time.monotonic() + PAGE_TIME
            for record in islice(self._records, PAGE):
                page.append(record)
                if time.monotonic() > end:
                    break
        except BaseException:
            self._release()
            raise
        if not page:
            self._release()
        return page

    def _returned(self) -> None:
        """Release the segments of a search that was closed while a thread read them."""
        if self._state is State.CLOSED:
            self._release()

    def _read_page(self, page: list[Record]) -> list[Record]:
        self._state = State.WAITING if page else State.CLOSED
        return self._history.current(page)

    def _failed(self, failure: T) -> T:
        self._state = State.CLOSED
        return failure

    def _release(self) -> None:
        """Close the search's segments, or leave them to another one."""
        journal, self._journal = self._journal, None
        if journal is not None:
            self._records = iter(())
            self._history.release(journal)
