"""The past of a daemon with workers: what is open now is as its worker has it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from natproxy.control.merged.history import MergedJournal
from natproxy.records.record import Record
from tests.support.merged import MergedCase


class CurrentTests(MergedCase):
    def setUp(self) -> None:
        super().setUp()
        # As the journal has them.
        self.records = [Record.from_json(worker.record(0, bytes=0)) for worker in self.workers]

    def current(self, *replies: Any) -> list[int]:
        """Return the bytes of the records, with what the workers reply to the master."""
        self.each("/v1/table", *replies)
        journal = MergedJournal(self.fleet, "/nonexistent", self.wall)
        found = self.successResultOf(Deferred.fromCoroutine(journal._current(self.records)))
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
