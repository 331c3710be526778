from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from unittest import mock

from natproxy.cli.translations import table as table_report
from natproxy.cli.translations.table import Sampler
from natproxy.client.errors import Interrupted
from tests.support.commands import Terminal
from tests.support.control_server import ControlServer, Request
from tests.support.observed_daemon import ObservedCase, entry


class TableTests(ObservedCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.table = [entry(1), entry(2, verb="LS", name="", promised=None), entry(3)]

    def test_columns_are_aligned_under_a_header(self) -> None:
        self.daemon.table = [entry(1), entry(2, client="10.0.0.222", verb="LS", name="")]
        self.assertEqual(
            self.out("table"),
            [
                " PORT  CLIENT            VERB  NAME                BYTES   AGE  STATE",
                "40001  10.0.0.1:50001    GET   images/1.iso  1.0/10.0 MB  9.0s  relaying",
                "40002  10.0.0.222:50002  LS    -             2.0/10.0 MB  8.0s  relaying",
            ],
        )

    def test_empty_table_is_reported_apart_from_the_output(self) -> None:
        self.daemon.table = []
        self.assertEqual(self.main("table"), (0, b"", "natproxy: no command in flight\n"))
        self.daemon.table = [entry(1)]
        expected = "natproxy: no command in flight matches the filter\n"
        self.assertEqual(self.main("table", "verb LS"), (0, b"", expected))
        self.assertEqual(self.out("table", "--json", "verb LS"), ["[]"])

    def test_words_of_a_filter_are_joined(self) -> None:
        (_, row) = self.out("table", "verb", "ls", "and", "nat-port", "40002")
        self.assertTrue(row.startswith("40002"))
        self.assertEqual(self.queries("/v1/table"), [{"filter": "verb ls and nat-port 40002"}])

    def test_wrong_filter_points_at_the_word_and_sends_nothing(self) -> None:
        status, out, err = self.main("table", "verb GET and clinet 10.0.0.1")
        self.assertEqual((status, out), (2, b""))
        message, text, caret = err.splitlines()
        self.assertIn("did you mean client", message)
        self.assertEqual(caret.index("^"), text.index("clinet"))
        self.assertEqual(self.control.requests, [])

    def test_filter_is_explained_without_a_daemon(self) -> None:
        self.control.close()
        (line,) = self.out("table", "client 10.0.0.0/24 and not verb STAT", "--explain")
        self.assertEqual(line, "The client is in 10.0.0.0/24, and the verb is not STAT.")

    def test_orders(self) -> None:
        clients = ("10.0.0.10", "9.0.0.1", "::1", "unix")
        ages, sent = (5.0, 1.0, 9.0, 2.0), (100, 500, 50, 900)
        self.daemon.table = [
            entry(place, client=client, duration=age, bytes=size, promised=None)
            for place, (client, age, size) in enumerate(zip(clients, ages, sent, strict=True))
        ]
        for order, expected in {
            "age": [2, 0, 3, 1],
            "bytes": [3, 1, 0, 2],
            "rate": [1, 3, 0, 2],
            "client": [1, 0, 2, 3],
        }.items():
            rows = self.out("table", "--sort", order, "--columns", "serial")
            self.assertEqual(rows[1:], [f"{each:>6}" for each in expected], order)

    def test_names_are_decoded_and_printable(self) -> None:
        names = ("%1B%5B2J%0A", "a%20b", "<script>", "%E2%80%AE", "%FF", "broken%")
        self.daemon.table = [entry(1, name=name) for name in names]
        rows = self.out("table", "--columns", "name")
        expected = ["NAME", r"\x1b[2J\x0a", "a b", "<script>", r"\u202e", r"\xff", "broken%"]
        self.assertEqual(rows, expected)

    def test_hostile_members_are_printable(self) -> None:
        self.daemon.table = [entry(1, client="\x1b[2J", verb="A\nB", state="\x07")]
        (_, row) = self.out("table", "--columns", "client,verb,state")
        self.assertEqual(row.split("  "), [r"\x1b[2J:50001", r"A\x0aB", r"\x07"])

    def test_name_is_cut_for_the_terminal_only(self) -> None:
        self.daemon.table = [entry(1, name="d/" * 200)]
        with mock.patch.dict(os.environ, {"COLUMNS": "80"}):
            _, out, _ = self.main("table", output=Terminal)
        rows = out.decode().splitlines()
        self.assertEqual(len(rows[1]), 79)
        self.assertIn("...", rows[1])
        self.assertIn("d/" * 200, self.out("table")[1])

    def test_wide_characters_are_aligned(self) -> None:
        self.daemon.table = [entry(1, name="%E4%B8%AD%E6%96%87"), entry(2, name="abcdef")]
        rows = self.out("table", "--columns", "name,port")
        self.assertEqual(rows, ["NAME     PORT", "中文    40001", "abcdef  40002"])

    def test_json_is_a_list_of_whole_records(self) -> None:
        found = json.loads("\n".join(self.out("table", "--json")))
        self.assertEqual(found, [record.json() for record in self.daemon.table])

    def test_columns_select_members_of_json_and_csv(self) -> None:
        found = json.loads("\n".join(self.out("table", "--json", "--columns", "port,rate,age")))
        self.assertEqual(found[0], {"port": 40001, "rate": 111111.111, "age": 9.0})
        lines = self.out("table", "--csv", "--columns", "nat-port, verb")
        self.assertEqual(lines, ["nat_port,verb", "40001,GET", "40002,LS", "40003,GET"])

    def test_csv_has_all_members(self) -> None:
        rows = list(csv.DictReader(self.out("table", "--csv")))
        self.assertEqual(list(rows[0]), [*entry(1).json(), "files", "others"])
        self.assertEqual(rows[0]["started"], "2023-11-14T22:13:21.000000Z")

    def test_unknown_option_is_no_name_of_a_file(self) -> None:
        status, _, err = self.main("table", "-x")
        self.assertEqual(status, 2)
        self.assertTrue(err.endswith("unrecognized arguments: -x\n"), err)

    def test_unknown_column_lists_those_that_there_are(self) -> None:
        self.assert_fails(
            2, "no column 'prot'; there are: port, age, rate, proxy", "table", "--columns", "prot"
        )

    def test_file_server_has_no_table(self) -> None:
        self.daemon._table = lambda request: self.daemon.reply(  # type: ignore[method-assign]
            Request("GET", "/v1/other", {}, b"")
        )
        self.assert_fails(1, "has no /v1/table: it is a file server", "table")


class WatchTests(ObservedCase):
    """`time.sleep` of the command changes the table, and interrupts it in the end."""

    def setUp(self) -> None:
        super().setUp()
        self.daemon.table = [entry(1, bytes=1_000_000)]
        self.slept: list[float] = []
        self.patch(table_report.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == 2:
            raise KeyboardInterrupt
        self.daemon.table = [entry(1, bytes=9_000_000), entry(2)]

    def test_blocks_are_separated_by_empty_lines(self) -> None:
        status, out, err = self.main("table", "--watch", "5")
        self.assertEqual((status, err), (Interrupted.exit_status, ""))
        first, second, end = out.decode().split("\n\n")
        self.assertEqual((len(first.splitlines()), len(second.splitlines()), end), (2, 3, ""))
        self.assertIn("RATE", first)
        self.assertTrue(4.0 < self.slept[0] <= 5.0)

    def test_rate_is_that_between_two_samples(self) -> None:
        times = iter((100.0, 104.0))
        self.patch(table_report, "Sampler", lambda: Sampler(lambda: next(times)))
        _, out, _ = self.main("table", "--watch", "--columns", "serial,rate")
        self.assertEqual(
            [line.split() for line in out.decode().splitlines()],
            [
                *(["SERIAL", "RATE"], ["1", "111", "kB/s"], []),
                *(["SERIAL", "RATE"], ["1", "2.0", "MB/s"], ["2", "250", "kB/s"], []),
            ],
        )

    def test_terminal_is_redrawn(self) -> None:
        with mock.patch.dict(os.environ, {"COLUMNS": "100", "LINES": "24"}):
            _, out, _ = self.main("table", "--watch", output=Terminal)
        states = out.decode().split("\x1b[H")
        self.assertEqual(len(states), 3)
        self.assertIn("1 in flight", states[1])
        self.assertIn("2 in flight", states[2])
        for state in states[1:]:
            self.assertTrue(state.endswith("\x1b[J"))

    def test_daemon_that_ends_is_waited_for(self) -> None:
        def sleep(_: float) -> None:
            self.slept.append(0.0)
            if len(self.slept) == 1:
                self.control.close()
            elif len(self.slept) == 3:
                os.unlink(self.control.path)
                self.control = ControlServer(Path(self.control.path), self.daemon.reply)
                self.addCleanup(self.control.close)
            elif len(self.slept) == 4:
                raise KeyboardInterrupt

        for output in (None, Terminal):
            with self.subTest(output=output):
                self.slept.clear()
                self.patch(table_report.time, "sleep", sleep)
                options = {} if output is None else {"output": output}
                with mock.patch.dict(os.environ, {"COLUMNS": "200"}):
                    status, out, err = self.main("table", "--watch", **options)
                self.assertEqual((status, out.count(b"40001")), (130, 2))
                if output is None:
                    self.assertEqual(err.count("no daemon listens"), 1)
                else:
                    self.assertEqual((out.count(b"no daemon listens"), err), (2, ""))

    def test_no_daemon_is_an_error(self) -> None:
        self.control.close()
        self.assert_fails(4, "no daemon listens", "table", "--watch")

    def test_lines_are_cut_at_the_end_of_the_terminal(self) -> None:
        with mock.patch.dict(os.environ, {"COLUMNS": "40", "LINES": "24"}):
            _, out, _ = self.main("table", "--watch", output=Terminal)
        rows = out.decode().split("\x1b[H")[1].splitlines()[2:4]
        self.assertEqual([len(row.removesuffix("\x1b[K")) for row in rows], [39, 39])

    def test_rows_beyond_the_terminal_are_counted(self) -> None:
        self.daemon.table = [entry(number) for number in range(1, 50)]
        with mock.patch.dict(os.environ, {"COLUMNS": "100", "LINES": "10"}):
            _, out, _ = self.main("table", "--watch", output=Terminal)
        lines = out.decode().split("\x1b[H")[1].splitlines()
        self.assertEqual((len(lines), lines[8]), (10, "and 44 more\x1b[K"))

    def test_word_after_watch_is_explained(self) -> None:
        status, _, err = self.main("table", "--watch", "verb")
        self.assertEqual(status, 2)
        self.assertIn("a filter is written before --watch", err)
