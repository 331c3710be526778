"""The past of a running daemon: written first, searched in threads, ended when nobody waits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from natproxy.journal import history
from natproxy.journal.directory import JournalError
from natproxy.journal.history import SEARCHES, JournalHistory
from natproxy.journal.ports import LivePorts
from natproxy.records.filter import FilterError
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.record import Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery
from natproxy.server.threads import Overloaded
from tests.support.journal_runs import SECOND, START, RunsCase, Translations

PORT = 50_000


class Threads:
    """Runs functions when a test wants it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[[], Any], /) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((function, done))
        return done

    def run(self) -> None:
        """Run what waits, and what it leads to."""
        while self.waiting:
            function, done = self.waiting.pop(0)
            try:
                result = function()
            except BaseException:
                done.errback(Failure())
            else:
                done.callback(result)


class Service:
    """Writes the journal at once."""

    def __init__(self, daemon: Translations) -> None:
        self.daemon = daemon
        self.flushes = 0
        self.failure: Exception | None = None
        self.pending: Deferred[None] | None = None

    @property
    def complete_to(self) -> int:
        assert self.daemon.writer is not None
        return self.daemon.writer.complete_to

    @property
    def ports(self) -> LivePorts:
        assert self.daemon.writer is not None
        return self.daemon.writer.ports

    def flush(self) -> Deferred[None]:
        self.flushes += 1
        if self.failure is not None:
            return fail(self.failure)
        self.daemon.flush()
        return succeed(None) if self.pending is None else self.pending


class Table:
    """Has one entry."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def holding(self, port: int) -> tuple[Record, ...]:
        return (self.record,) if port == self.record.nat_port else ()


class JournalHistoryTests(RunsCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.start()
        self.daemon.wait(SECOND)
        self.service = Service(self.daemon)
        self.threads = Threads()
        self.history = self.made()

    def made(self, table: Table | None = None) -> JournalHistory:
        return JournalHistory(
            Clock(),
            self.service,
            str(self.directory),
            table,
            lambda: self.daemon.now / SECOND,
            self.threads,
        )

    def result(self, deferred: Deferred[Any]) -> Any:
        self.threads.run()
        return self.successResultOf(deferred)

    def test_present_is_written_before_it_is_searched(self) -> None:
        self.daemon.register(PORT)
        self.daemon.wait(SECOND)
        replies = self.result(self.history.whois([WhoisQuery(PORT), WhoisQuery(PORT + 1)]))
        self.assertEqual([reply.result for reply in replies], [FOUND, NOBODY])
        self.assertEqual(self.service.flushes, 1)

    def test_past_is_searched_without_a_write(self) -> None:
        self.daemon.wait(SECOND)
        self.daemon.flush()
        query = WhoisQuery(PORT, since=START + SECOND, until=START + SECOND)
        (reply,) = self.result(self.history.whois([query]))
        self.assertEqual((reply.result, self.service.flushes), (NOBODY, 0))

    def test_what_cannot_be_written_is_unknown(self) -> None:
        self.daemon.register(PORT)
        self.daemon.wait(SECOND)
        self.service.failure = JournalError("the disk is full")
        (reply,) = self.result(self.history.whois([WhoisQuery(PORT)]))
        self.assertEqual(reply.result, UNKNOWN)

    def test_directory_that_was_deleted_is_unknown(self) -> None:
        directory = self.daemon.directory
        shutil.rmtree(directory)
        self.service.failure = JournalError("no such directory")
        (reply,) = self.result(self.history.whois([WhoisQuery(PORT)]))
        assert reply.gap is not None
        self.assertEqual(reply.result, UNKNOWN)
        self.assertIn(directory, reply.gap.cause)
        os.mkdir(directory)

    def test_many_questions_keep_their_order(self) -> None:
        self.daemon.register(PORT + 7)
        self.daemon.wait(SECOND)
        queries = [WhoisQuery(PORT + number % 10) for number in range(1000)]
        replies = self.result(self.history.whois(queries))
        found = [number for number, reply in enumerate(replies) if reply.result == FOUND]
        self.assertEqual(found, list(range(7, 1000, 10)))

    def test_cancelled_whois_ends(self) -> None:
        asked = self.history.whois([WhoisQuery(PORT)])
        asked.addErrback(lambda _: None)
        asked.cancel()
        self.threads.run()
        self.assertEqual(self.result(self.history.whois([WhoisQuery(PORT)]))[0].result, NOBODY)

    def test_pages_end_with_an_empty_one(self) -> None:
        for _ in range(3):
            self.daemon.remove(self.daemon.register(PORT))
        self.patch(history, "PAGE", 2)
        found = [
            [record.serial for record in self.result(page)]
            for page in self.history.pages(HistoryQuery())
        ]
        self.assertEqual(found, [[1, 2], [3], []])
        self.assertEqual(self.service.flushes, 1)

    def test_events_come_in_pages_too(self) -> None:
        self.daemon.remove(self.daemon.register(PORT))
        pages = self.history.events(EventsQuery())
        self.assertEqual(
            [record.event for record in self.result(next(pages))], ["registered", "removed"]
        )
        self.assertEqual(self.result(next(pages)), [])
        with self.assertRaises(StopIteration):
            next(pages)

    def test_closed_search_reads_no_further(self) -> None:
        for _ in range(3):
            self.daemon.remove(self.daemon.register(PORT))
        self.patch(history, "PAGE", 1)
        pages = self.history.pages(HistoryQuery())
        self.assertEqual(len(self.result(next(pages))), 1)
        page = next(pages)
        page.addErrback(lambda _: None)
        pages.close()  # type: ignore[attr-defined]
        self.threads.run()
        with self.assertRaises(StopIteration):
            next(pages)
        # Its segments are free for another search.
        self.assertEqual(len(self.history._idle), 1)

    def test_search_closed_while_the_journal_is_written_never_begins(self) -> None:
        self.service.pending = Deferred()
        pages = self.history.pages(HistoryQuery())
        next(pages).addErrback(lambda _: None)
        pages.close()  # type: ignore[attr-defined]
        self.service.pending.callback(None)
        self.assertEqual(self.threads.waiting, [])

    def test_error_fails_the_page(self) -> None:
        page = next(self.history.pages(HistoryQuery("client (")))
        self.threads.run()
        self.failureResultOf(page, FilterError)
        self.history = JournalHistory(
            Clock(), self.service, str(self.directory / "absent"), None, lambda: 0, self.threads
        )
        page = next(self.history.pages(HistoryQuery()))
        self.threads.run()
        self.failureResultOf(page, JournalError)

    def test_too_many_searches_are_refused(self) -> None:
        self.patch(history, "WAITING", 1)
        self.history = self.made()
        searches = [self.history.whois([WhoisQuery(PORT)]) for _ in range(SEARCHES + 2)]
        self.failureResultOf(searches.pop(), Overloaded)
        for search in searches:
            self.result(search)

    def test_table_replaces_what_is_open_now_and_nothing_is_told_twice(self) -> None:
        ended = self.daemon.register(PORT)
        self.daemon.remove(ended)
        serial = self.daemon.register(PORT)
        assert self.daemon.writer is not None
        record = Record(boot="b0000001", serial=serial, nat_port=PORT, bytes=77, state="relaying")
        self.history = self.made(Table(record))
        records = self.result(next(self.history.pages(HistoryQuery())))
        self.assertEqual([record.bytes for record in records], [1000, 77])
        self.daemon.wait(SECOND)
        (reply,) = self.result(self.history.whois([WhoisQuery(PORT)]))
        self.assertEqual([record.bytes for record in reply.translations], [77])
