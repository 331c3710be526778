"""The past of a daemon with workers: what is open now is as its worker has it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from natproxy.control.merged.errors import NoReply
from natproxy.control.merged.history import MergedJournal
from natproxy.records.record import Record
from tests.support.merged import SILENT, MergedCase


class FlushTests(MergedCase):
    def setUp(self) -> None:
        super().setUp()
        # What is searched does not matter: there is no such directory.
        self.past = MergedJournal(self.fleet, "/nonexistent", self.wall, maybeDeferred)
        self.make_site()
        self.waiting: list[Deferred[dict[str, Any]]] = []
        first, second = self.workers
        first.replies["/v1/flush"] = {}
        second.read = self.read_later  # type: ignore[method-assign]

    async def read_later(self, target: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        self.assertEqual(target, "/v1/flush")
        self.waiting.append(Deferred())
        return await self.waiting[-1]

    def test_each_reply_names_the_workers_that_are_missing_in_it(self) -> None:
        for target in ("/v1/whois?port=7", "/v1/history"):
            self.waiting.clear()
            clients = [self.request(target) for _ in range(2)]
            first, second = self.waiting
            first.callback({})
            second.errback(NoReply(SILENT))
            self.turns()
            found = [self.missing(client.received()) for client in clients]
            self.assertEqual(found, [[], [1]], target)

    def test_flushes_once_for_a_search(self) -> None:
        for target in ("/v1/whois?port=7", "/v1/history"):
            self.waiting.clear()
            client = self.request(target)
            (flush,) = self.waiting
            flush.callback({})
            self.turns()
            self.assertTrue(client.received().complete)
            self.assertEqual(len(self.waiting), 1)


class CurrentTests(MergedCase):
    def setUp(self) -> None:
        super().setUp()
        # As the journal has them.
        self.records = [Record.from_json(worker.record(0, bytes=0)) for worker in self.workers]

    def current(self, *replies: Any) -> list[int]:
        """Return the bytes of the records, with what the workers reply to the master."""
        self.each("/v1/table", *replies)
        journal = MergedJournal(self.fleet, "/nonexistent", self.wall)
        found = self.successResultOf(Deferred.fromCoroutine(journal.current(self.records, ())))
        return [record.bytes or 0 for record in found]

    def test_open_translations_are_as_their_workers_have_them(self) -> None:
        first, second = self.workers
        replies = [first.record(0, bytes=7)], [second.record(0, bytes=8)]
        self.assertEqual(self.current(*replies), [7, 8])
        (call,) = first.calls
        self.assertIn("boot0", call.target)
        self.assertNotIn("boot1", call.target)

    def test_worker_that_fails_leaves_its_records_as_they_were_written(self) -> None:
        first, second = self.workers
        for wrong in ([{}], [[]], ["x"], [{**first.record(0), "started": "soon"}]):
            self.assertEqual(self.current(wrong, [second.record(0, bytes=8)]), [0, 8], wrong)
        first.hangs = True
        self.assertEqual(self.current([], [second.record(0, bytes=8)]), [0, 8])
