"""The journal of a running daemon: written and searched by threads at the same time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from natproxy.journal import writer
from natproxy.journal.history import JournalHistory
from natproxy.journal.search import Journal
from natproxy.journal.service import JournalService, JournalSettings
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.whois import FOUND, NOBODY, WhoisQuery
from tests.support.journals import Traffic

PORT = 50_000


@pytest_twisted.ensureDeferred
async def test_searches_beside_the_writer_miss_nothing(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    # Segments are sealed all the time.
    monkeypatch.setattr(writer, "ROWS", 20)
    directory = str(tmp_path / "journal")
    traffic = Traffic(wall=time.time())

    def advance() -> None:
        traffic.wall = time.time()

    service = JournalService(
        reactor,
        traffic.ring,
        directory,
        JournalSettings(1e9, 1 << 40),
    )
    service.startService()
    history = JournalHistory(reactor, service, directory)
    advance()
    # The clock's float may be rounded the other way in the ring.
    started = traffic.now + 1
    lasting = traffic.register(PORT)
    for number in range(1, 120):
        advance()
        entry = traffic.register(PORT + number, f"10.0.0.{number}")
        advance()
        if number % 5:
            traffic.remove(entry)
        queries = [WhoisQuery(PORT), WhoisQuery(PORT + number), WhoisQuery(PORT + 900)]
        advance()
        searches = [history.whois(queries)]
        if not number % 20:
            searches += [history.whois(queries) for _ in range(3)]
        for replies in await gatherResults(searches):
            assert [reply.result for reply in replies] == [
                FOUND,
                NOBODY if number % 5 else FOUND,
                NOBODY,
            ]
    records = [record async for page in _pages(history.pages(HistoryQuery())) for record in page]
    assert [record.serial for record in records] == list(range(1, 121))
    events = [record async for page in _pages(history.events(EventsQuery())) for record in page]
    assert [record.seq for record in events] == list(range(1, traffic.ring.next))
    traffic.remove(lasting)
    advance()
    await service.stopService()
    with Journal(directory) as journal:
        assert len(journal.segments()) > 3
        assert journal.whois(WhoisQuery(PORT, since=started, until=started)).result == FOUND
        later = traffic.now + 10**9
        assert journal.whois(WhoisQuery(PORT, since=later, until=later)).result == NOBODY
        assert [check.problems for check in journal.verify() if check.problems] == []


async def _pages(pages):  # type: ignore[no-untyped-def]
    """Yield the pages of a search until an empty one."""
    for page in pages:
        records = await page
        if not records:
            return
        yield records
