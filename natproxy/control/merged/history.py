"""The past of a daemon with workers: their journal, or what each of them remembers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from twisted.internet.defer import Deferred, succeed

from natproxy.control.merged.errors import Missing, NoReply
from natproxy.control.merged.whois import merge_replies
from natproxy.control.merged.workers import Fleet, Worker
from natproxy.journal.history import JournalHistory, Pages, until_now
from natproxy.journal.ports import LivePorts
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import Record, microseconds_of
from natproxy.records.whois import WhoisQuery, WhoisReply
from natproxy.server.threads import InThread

FLUSH = "/v1/flush"

MOST_OPEN = 200
"""Translations of a page that are open, and of which the workers report how far they are."""


class Found(NamedTuple):
    """What lookups have found in all workers.

    :ivar replies: in the order of the lookups.
    :ivar missing: the workers whose part is missing.
    """

    replies: list[WhoisReply]
    missing: list[Missing]


class Past(Protocol):
    """The past of all workers: who was behind a port."""

    def search(self, queries: list[WhoisQuery]) -> Deferred[Found]:
        """Return what is found, and whose part is missing in it."""
        ...


class FlushedJournal:
    """The journal of the workers, which have written what is new before it is searched."""

    @property
    def complete_to(self) -> int:
        """The end of time: nothing is waited for. What a worker has not written is a gap."""
        return sys.maxsize

    @property
    def ports(self) -> LivePorts | None:
        """Nothing: the workers have the ports of their live segments."""
        return None

    def flush(self) -> Deferred[None]:
        """Do nothing: see `MergedJournal.flush`."""
        return succeed(None)


class MergedJournal:
    """The past as the segments of all workers have it.

    :param fleet: the workers.
    :param directory: of the journal.
    :param wall_clock: returns seconds since the epoch.
    :param in_thread: calls a function in a thread.
    """

    def __init__(
        self,
        fleet: Fleet,
        directory: str,
        wall_clock: Callable[[], float],
        in_thread: InThread | None = None,
    ) -> None:
        self._fleet = fleet
        self._wall_clock = wall_clock
        self._history = JournalHistory(
            fleet.reactor,
            FlushedJournal(),
            directory,
            wall_clock=wall_clock,
            in_thread=in_thread,
        )

    async def flush(self) -> list[Missing]:
        """Have the workers write what is new; return those that do not."""
        return (await self._fleet.objects(FLUSH, {})).missing

    def search(self, queries: list[WhoisQuery]) -> Deferred[Found]:
        """Return what is found; the workers that have not written what is new are missing."""
        return Deferred.fromCoroutine(self._search(queries))

    async def _search(self, queries: list[WhoisQuery]) -> Found:
        # Before the workers write: what comes later may be missing.
        queries = until_now(queries, microseconds_of(self._wall_clock()))
        missing = await self.flush()
        replies: list[WhoisReply] = await self._history.whois(queries)
        records = [record for reply in replies for record in reply.translations]
        current = iter(await self.current(records, missing))
        return Found(
            [
                reply._replace(translations=tuple(next(current) for _ in reply.translations))
                for reply in replies
            ],
            missing,
        )

    def pages(self, query: HistoryQuery, missing: Sequence[Missing]) -> CurrentPages:
        """Return the records of translations, oldest first, in pages.

        :param missing: of `flush`, which is called before.
        """
        return CurrentPages(
            self._history.pages(query), lambda records: self.current(records, missing)
        )

    async def current(self, records: list[Record], missing: Sequence[Missing]) -> list[Record]:
        """Return records, those of translations that are open now as their workers have them.

        :param missing: workers that are not waited for.
        """
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
        silent = {one.worker for one in missing}

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
    """

    def __init__(self, fleet: Fleet, wall_clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._wall_clock = wall_clock

    def search(self, queries: list[WhoisQuery]) -> Deferred[Found]:
        """Return what is found; the workers that have not replied are missing."""
        return Deferred.fromCoroutine(self._search(queries))

    async def _search(self, queries: list[WhoisQuery]) -> Found:
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
        now = microseconds_of(self._wall_clock())
        columns: Sequence[Sequence[WhoisReply]] = [
            [replies[place] for replies in gathered.values] for place in range(len(queries))
        ]
        return Found(
            [
                merge_replies(query, replies, gathered.missing, now)
                for query, replies in zip(queries, columns, strict=True)
            ],
            gathered.missing,
        )


def target_of(path: str, **query: Any) -> str:
    """Return a path with the members of a query that have a value, percent-encoded."""
    pairs = [f"{name}={quote(str(value))}" for name, value in query.items() if value is not None]
    return f"{path}?{'&'.join(pairs)}" if pairs else path
