"""The past of a daemon with workers: their journal, or what each of them remembers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from natproxy.control.merged.errors import Missing, NoReply
from natproxy.control.merged.whois import merge_replies
from natproxy.control.merged.workers import Fleet, Worker
from natproxy.journal.history import JournalHistory, Pages
from natproxy.journal.ports import LivePorts
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.record import Record, microseconds_of
from natproxy.records.whois import WhoisQuery, WhoisReply

FLUSH = "/v1/flush"

MOST_OPEN = 200
"""Translations of a page that are open, and of which the workers report how far they are."""


class FlushedJournal:
    """The journal of the workers: to flush it, each of them writes what is new.

    :ivar missing: the workers that have not done so last time.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.missing: list[Missing] = []
        self._fleet = fleet

    @property
    def complete_to(self) -> int:
        """Until when the journal is complete: it is not known before the workers are gathered."""
        return 0

    @property
    def ports(self) -> LivePorts | None:
        """Nothing: the workers have the ports of their live segments."""
        return None

    def flush(self) -> Deferred[None]:
        """Make all workers write what is new. What one does not write is a gap."""
        return Deferred.fromCoroutine(self._flush())

    async def _flush(self) -> None:
        self.missing = (await self._fleet.objects(FLUSH, {})).missing


class MergedJournal:
    """The past as the segments of all workers have it; a ``History`` of the control socket.

    :param fleet: the workers.
    :param directory: of the journal.
    :param wall_clock: returns seconds since the epoch.
    """

    def __init__(self, fleet: Fleet, directory: str, wall_clock: Callable[[], float]) -> None:
        self.journal = FlushedJournal(fleet)
        self._fleet = fleet
        self._history = JournalHistory(
            fleet.reactor, self.journal, directory, wall_clock=wall_clock
        )

    @property
    def missing(self) -> list[Missing]:
        """The workers that have not written last time."""
        return self.journal.missing

    async def flush(self) -> list[Missing]:
        """Have the workers write what is new; return those that do not."""
        await self.journal.flush()
        return self.journal.missing

    def whois(self, queries: list[WhoisQuery]) -> Deferred[list[WhoisReply]]:
        """Return a `WhoisReply` for each `WhoisQuery`, in their order."""
        return Deferred.fromCoroutine(self._whois(queries))

    async def _whois(self, queries: list[WhoisQuery]) -> list[WhoisReply]:
        replies: list[WhoisReply] = await self._history.whois(queries)
        records = [record for reply in replies for record in reply.translations]
        current = iter(await self._current(records))
        return [
            reply._replace(translations=tuple(next(current) for _ in reply.translations))
            for reply in replies
        ]

    def pages(self, query: HistoryQuery) -> CurrentPages:
        """Return the records of translations, oldest first, in pages."""
        return CurrentPages(self._history.pages(query), self._current)

    def events(self, query: EventsQuery) -> Pages:
        """Return the records of events in the same manner, by worker and ``seq``."""
        return self._history.events(query)

    async def _current(self, records: list[Record]) -> list[Record]:
        """Return records, those of translations that are open now as their workers have them."""
        open_ = [
            record
            for record in records
            if record.outcome is None and record.nat_port is not None and record.serial is not None
        ][-MOST_OPEN:]
        if not open_:
            return records
        serials: dict[tuple[int, str], list[int]] = {}
        for record in open_:
            serials.setdefault((record.worker, record.boot), []).append(record.serial or 0)
        found: dict[tuple[int, str, int | None], Record] = {}
        silent = {one.worker for one in self.journal.missing}

        async def call(worker: Worker) -> None:
            for (number, boot), some in serials.items():
                if number != worker.number or number in silent:
                    continue
                listed = ", ".join(map(str, some))
                target = target_of("/v1/table", filter=f"boot '{boot}' and serial in ({listed})")
                stream = await worker.lines(target)
                try:
                    while True:
                        await stream.wait()
                        if not stream.lines:
                            break
                        try:
                            record = Record.from_json(json.loads(stream.take()))
                        except (KeyError, ValueError, TypeError):
                            raise NoReply("it has sent malformed JSON") from None
                        found[record.worker, record.boot, record.serial] = record
                finally:
                    stream.close()

        await self._fleet.gather(call)
        return [
            found.get((record.worker, record.boot, record.serial), record) for record in records
        ]


class CurrentPages:
    """The pages of a search, with what is open as the workers have it.

    :param current: returns the records in place of those of a page.
    """

    def __init__(self, pages: Pages, current: Callable[[list[Record]], Any]) -> None:
        self._pages = pages
        self._current = current

    def __iter__(self) -> Iterator[Deferred[list[Record]]]:
        for page in self._pages:
            yield page.addCallback(lambda records: Deferred.fromCoroutine(self._current(records)))

    def close(self) -> None:
        """End the search."""
        self._pages.close()


class MergedRings:
    """What the workers remember, without a journal: who was behind a port.

    :param fleet: the workers.
    :param wall_clock: returns seconds since the epoch.
    :ivar missing: the workers that have not replied last time.
    """

    def __init__(self, fleet: Fleet, wall_clock: Callable[[], float]) -> None:
        self.missing: list[Missing] = []
        self._fleet = fleet
        self._wall_clock = wall_clock

    def whois(self, queries: list[WhoisQuery]) -> Deferred[list[WhoisReply]]:
        """Return a `WhoisReply` for each `WhoisQuery`, in their order."""
        return Deferred.fromCoroutine(self._whois(queries))

    async def _whois(self, queries: list[WhoisQuery]) -> list[WhoisReply]:
        body = "".join(json.dumps(query.json()) + "\n" for query in queries).encode("ascii")

        async def call(worker: Worker) -> list[WhoisReply]:
            lines = (await worker.post("/v1/whois", body)).splitlines()
            try:
                replies = [WhoisReply.from_json(json.loads(line)) for line in lines]
            except (KeyError, ValueError, TypeError):
                raise NoReply("it has sent malformed JSON") from None
            if len(replies) != len(queries):
                raise NoReply("it has not replied to each lookup")
            return replies

        gathered = await self._fleet.gather(call)
        self.missing = gathered.missing
        now = microseconds_of(self._wall_clock())
        columns: Sequence[Sequence[WhoisReply]] = [
            [replies[place] for replies in gathered.values] for place in range(len(queries))
        ]
        return [
            merge_replies(query, replies, gathered.missing, now)
            for query, replies in zip(queries, columns, strict=True)
        ]


def target_of(path: str, **query: Any) -> str:
    """Return a path with the members of a query that have a value, percent-encoded."""
    pairs = [f"{name}={quote(str(value))}" for name, value in query.items() if value is not None]
    return f"{path}?{'&'.join(pairs)}" if pairs else path
