from __future__ import annotations

import csv
import json

from natproxy.records.record import format_time
from tests.support.observed_daemon import SECOND, START, ObservedCase, entry


class ExportTests(ObservedCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.past = [
            entry(
                number,
                ended=START + 60 * SECOND,
                state="removed",
                outcome="completed",
                bytes=10_000_000,
                duration=0.5,
            )
            for number in (1, 2)
        ]

    def test_json_lines_are_the_default(self) -> None:
        expected = [record.json() for record in self.daemon.past]
        self.assertEqual(list(map(json.loads, self.out("export"))), expected)

    def test_csv(self) -> None:
        rows = list(csv.DictReader(self.out("export", "--format", "csv")))
        self.assertEqual([row["serial"] for row in rows], ["1", "2"])
        self.assertEqual(list(rows[0]), [*self.daemon.past[0].json(), "files", "others"])

    def test_ipfix_names(self) -> None:
        events = [json.loads(line) for line in self.out("export", "--ipfix-names")]
        self.assertEqual([event["natEvent"] for event in events], [4, 5, 4, 5])
        self.assertEqual(events[0]["postNAPTSourceTransportPort"], 40001)

    def test_selection_is_sent(self) -> None:
        self.out(
            "export", "verb GET", "--since", "@1700000000", "--until", "@1700000060", "--last=3"
        )
        self.assertEqual(
            self.queries("/v1/history"),
            [
                {
                    "filter": "verb GET",
                    "since": format_time(START),
                    "until": format_time(START + 61 * SECOND),
                    "limit": "3",
                }
            ],
        )

    def test_explain(self) -> None:
        self.assertEqual(self.out("export", "verb GET", "--explain"), ["The verb is GET."])
        self.assertEqual(self.queries("/v1/history"), [])
