from __future__ import annotations

import csv
import json
import os
from unittest import mock

from natproxy.records.record import format_time
from tests.support.commands import Terminal
from tests.support.journal_runs import Translations
from tests.support.observed_daemon import SECOND, START, ObservedCase, entry


class HistoryTests(ObservedCase):
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

    def test_gaps_of_the_journal_of_a_daemon_are_reported(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        run = Translations(directory)
        self.addCleanup(run.close)
        run.start()
        run.flush()
        run.kill()
        run.wait(10 * SECOND)
        run.start()
        run.flush()
        self.daemon.status["journal"] = {"directory": directory}
        for command in ("history", "export"):
            _, _, err = self.main(command)
            self.assertIn("this may be incomplete: the record has a gap from", err)
            self.assertEqual(err.count("incomplete"), 1)
        self.daemon.status["journal"] = {"directory": "nowhere"}
        _, _, err = self.main("history")
        self.assertIn("the gaps of the journal cannot be read: ", err)

    def test_columns_are_those_of_the_past(self) -> None:
        header, first, _ = self.out("history")
        titles = ["STARTED", "PORT", "CLIENT", "VERB", "NAME", "BYTES", "DURATION", "OUTCOME"]
        self.assertEqual(header.split(), titles)
        self.assertEqual(
            first,
            "2023-11-14 23:13:21.000000 +01:00  40001  10.0.0.1:50001  GET   images/1.iso"
            "  10.0 MB      0.5s  completed",
        )

    def test_times_are_shorter_if_the_terminal_is_narrow(self) -> None:
        for columns, time in (
            ("200", "2023-11-14 23:13:21.000000 +01:00  40001"),
            ("100", "2023-11-14 23:13:21 +01:00  40001"),
        ):
            with mock.patch.dict(os.environ, {"COLUMNS": columns}):
                _, out, _ = self.main("history", output=Terminal)
            _, first, *_ = out.decode().splitlines()
            self.assertTrue(first.startswith(time), first)
        # A pipe has no width.
        self.assertIn(".000000 +01:00", self.out("history")[1])

    def test_selection_is_sent(self) -> None:
        self.out(
            "history", "verb GET", "--since", "@1700000000", "--until", "@1700000060", "--last=9"
        )
        self.assertEqual(
            self.queries("/v1/history"),
            [
                {
                    "filter": "verb GET",
                    "since": format_time(START),
                    "until": format_time(START + 61 * SECOND),
                    "limit": "9",
                }
            ],
        )

    def test_json_lines_and_csv_have_all_members(self) -> None:
        expected = [record.json() for record in self.daemon.past]
        self.assertEqual(list(map(json.loads, self.out("history", "--json"))), expected)
        rows = list(csv.DictReader(self.out("history", "--csv")))
        self.assertEqual([row["serial"] for row in rows], ["1", "2"])
        self.assertEqual(list(rows[0]), [*expected[0], "files", "others"])

    def test_columns_select_members(self) -> None:
        lines = self.out("history", "--json", "--columns", "serial,name")
        self.assertEqual(json.loads(lines[0]), {"serial": 1, "name": "images/1.iso"})
        self.assertEqual(self.out("history", "--columns", "serial")[0], "SERIAL")

    def test_nothing_is_reported_apart_from_the_output(self) -> None:
        status, out, err = self.main("history", "verb LS")
        self.assertEqual((status, out), (0, b""))
        self.assertIn("none matches", err)
        self.assertEqual(self.out("history", "verb LS", "--json"), [])

    def test_later_row_widens_its_column(self) -> None:
        self.daemon.past = [entry(number, name="a" * (number // 250 + 1)) for number in range(300)]
        rows = self.out("history", "--columns", "name,serial")
        self.assertEqual((rows[1], rows[-1]), ("a          0", "aa       299"))
