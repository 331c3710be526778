from __future__ import annotations

import json
import os
import time
from typing import Any
from unittest import mock

from natproxy.cli.translations import whois
from natproxy.client.errors import NotUnderstood
from natproxy.records.record import format_time
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, Gap, WhoisReply
from tests.support.control_server import lines
from tests.support.observed_daemon import SECOND, START, ObservedCase, entry

ENDED = entry(
    2,
    ended=START + 3 * SECOND + 5,
    state="removed",
    outcome="completed",
    bytes=10_000_000,
    name="a%20b",
)
GAP = Gap(START, START + SECOND, "the daemon was killed")


class WhoisTests(ObservedCase):
    def test_live_translation_is_a_sentence(self) -> None:
        self.daemon.table = [entry(1)]
        self.assertEqual(
            self.out("whois", "40001"),
            [
                "port 40001 is held by 10.0.0.1:50001 since 2023-11-14 23:13:21.000000 +01:00:"
                " GET images/1.iso, from 127.0.0.1:9001, 1.0/10.0 MB, relaying"
            ],
        )
        self.assertEqual(self.queries("/v1/whois"), [{}])
        self.assertEqual(self.bodies("/v1/whois"), [{"port": 40001}])

    def test_translation_of_the_past_has_its_end(self) -> None:
        self.daemon.answers[40002] = WhoisReply(FOUND, (ENDED,))
        self.assertEqual(
            self.out("whois", "127.0.0.1:40002", "--at", "2023-11-14T22:13:22Z"),
            [
                "port 127.0.0.1:40002 was held by 10.0.0.2:50002"
                " from 2023-11-14 23:13:22.000000 +01:00 to 2023-11-14 23:13:23.000005 +01:00:"
                " GET a b, from 127.0.0.1:9001, 10.0 MB, completed"
            ],
        )
        (body,) = self.bodies("/v1/whois")
        self.assertEqual((body["port"], body["nat"]), (40002, "127.0.0.1"))
        self.assertEqual(body["since"], format_time(START + 2 * SECOND))
        self.assertEqual(body["until"], format_time(START + 3 * SECOND))

    def test_another_attempt_than_the_first_is_named(self) -> None:
        self.daemon.table = [entry(1)._replace(serial=2, attempt=2)]
        (line,) = self.out("whois", "40001")
        self.assertIn(
            ": GET images/1.iso, from 127.0.0.1:9001, attempt 2 of command 1, 1.0/10.0 MB", line
        )

    def test_interval(self) -> None:
        arguments = ("--since", "2023-11-14T22:13Z", "--until", "2023-11-14T22:14Z")
        self.out("whois", "40001", *arguments, status=3)
        (body,) = self.bodies("/v1/whois")
        self.assertEqual(body["since"], format_time(START - 20 * SECOND))
        self.assertEqual(body["until"], format_time(START + 100 * SECOND))
        for reason, *arguments in (
            ("--at excludes --since", "40001", "--at", "-1min", "--since", "-1h"),
            ("--until needs --since", "40001", "--until", "-1h"),
            ("--since is in the future", "40001", "--since", "2099-01-01"),
            ("--since and --until: not with '-'", "-", "--since", "-1h"),
        ):
            self.assert_fails(2, reason, "whois", *arguments)

    def test_no_client_is_a_status_with_the_last_translation(self) -> None:
        self.daemon.answers[40002] = WhoisReply(NOBODY, last=ENDED)
        first, last = self.out("whois", "40002", status=3)
        self.assertEqual(first, "port 40002 now: no client holds it")
        self.assertIn("before: port 40002 was held by 10.0.0.2:50002 from", last)

    def test_unknown_is_a_status_with_the_gap_and_what_it_may_have_been(self) -> None:
        lost = ENDED._replace(ended=None, state="lost", outcome="lost")
        self.daemon.answers[40002] = WhoisReply(UNKNOWN, (lost,), GAP)
        first, second = self.out("whois", "40002", "--at", "2023-11-14T22:14Z", status=10)
        self.assertEqual(
            first,
            "port 40002 between 2023-11-14 23:14:00.000000 +01:00 and"
            " 2023-11-14 23:15:00.000000 +01:00: unknown: the record has a gap from"
            " 2023-11-14 23:13:20.000000 +01:00 to 2023-11-14 23:13:21.000000 +01:00"
            " (the daemon was killed)",
        )
        self.assertIn("it may have been: port 40002 was held by 10.0.0.2:50002", second)
        self.assertIn("the end is not known", second)

    def test_gap_without_a_begin_or_an_end(self) -> None:
        for gap, expected in (
            (Gap(None, START, "retention"), "there is no record before 2023-11-14"),
            (Gap(START, None, "no journal"), "there is no record after 2023-11-14"),
            (Gap(None, None, "the daemon has no journal"), "unknown: the daemon has no journal"),
        ):
            self.daemon.answers[1] = WhoisReply(UNKNOWN, gap=gap)
            (line,) = self.out("whois", "1", status=10)
            self.assertIn(expected, line)

    def test_incomplete_record_is_shown_with_what_was_found(self) -> None:
        self.daemon.answers[40002] = WhoisReply(FOUND, (ENDED,), GAP)
        _, line = self.out("whois", "40002")
        self.assertIn("this may be incomplete: the record has a gap", line)

    def test_json_is_the_reply(self) -> None:
        found = WhoisReply(UNKNOWN, (ENDED,), GAP)
        self.daemon.answers[40002] = found
        (line,) = self.out("whois", "40002", "--json", status=10)
        self.assertEqual(json.loads(line), found.json())

    def test_time_around_the_time(self) -> None:
        self.daemon.table = [entry(1)]
        arguments = (
            "--at",
            "2023-11-14T22:13:22Z",
            "--within",
            "5s",
            "--upstream",
            "10.0.0.9:9001",
        )
        self.out("whois", "40001", *arguments)
        (body,) = self.bodies("/v1/whois")
        self.assertEqual(body["since"], format_time(START - 3 * SECOND))
        self.assertEqual(body["until"], format_time(START + 8 * SECOND))
        self.assertEqual(body["upstream"], "10.0.0.9:9001")

    def test_time_ago_is_no_option(self) -> None:
        self.daemon.table = [entry(1)]
        self.out("whois", "40001", "--at", "-10min")
        self.assertIn("since", self.bodies("/v1/whois")[0])

    def test_usage_errors_send_nothing(self) -> None:
        later = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3600))
        for reason, *arguments in (
            ("is in the future", "40001", "--at", later),
            ("is no time", "40001", "--at", "noonish"),
            ("must be [ADDRESS:]PORT", "0"),
            ("must be [ADDRESS:]PORT", "http"),
            ("must be [ADDRESS:]PORT", ":1"),
            ("must be [ADDRESS:]PORT", "::1:40001"),
            ("--within needs --at", "40001", "--within", "5"),
            ("at most 366 days", "40001", "--at", "now", "--within", "9000h"),
        ):
            self.assert_fails(2, reason, "whois", *arguments)
        self.assertEqual(self.control.requests, [])

    def test_ipv6_has_brackets_and_stand_ins_are_ports(self) -> None:
        self.out("whois", "[::1]:40001", status=3)
        self.out("whois", "70001", status=3)
        self.assertEqual([each.get("nat") for each in self.bodies("/v1/whois")], ["::1", None])

    def test_no_daemon_is_a_status(self) -> None:
        self.control.close()
        self.assert_fails(4, "no daemon listens on this socket", "whois", "40001")


class BatchTests(ObservedCase):
    def batch(self, text: bytes, *arguments: str) -> tuple[int, list[str], list[str]]:
        """Return status, output and messages for lines of standard input."""
        reading, writing = os.pipe()
        with open(reading) as stdin, open(writing, "wb") as theirs:
            theirs.write(text)
            theirs.close()
            with mock.patch("sys.stdin", stdin):
                status, out, err = self.main("whois", "-", *arguments)
        return status, out.decode().splitlines(), err.splitlines()

    def test_each_line_has_a_line_in_its_order(self) -> None:
        self.daemon.table = [entry(1), entry(2)]
        text = b"40002 2023-11-14T22:13:22Z\n\n# noted\n40001 yesterday 17:00\n40002"
        status, out, err = self.batch(text)
        self.assertEqual((status, err), (0, ["natproxy: 3 lines: 3 found"]))
        self.assertEqual([line.split()[1] for line in out], ["40002", "40001", "40002"])
        sent = [line for each in self.control.requests for line in each.body.splitlines()]
        bodies = list(map(json.loads, sent))
        self.assertEqual([("since" in body) for body in bodies], [True, True, False])

    def test_malformed_line_is_named_and_skipped(self) -> None:
        self.daemon.table = [entry(1)]
        status, out, err = self.batch(b"40001 now\nx now\n40001 2999-01-01\n\xff\n40001\n")
        self.assertEqual((status, len(out)), (2, 2))
        self.assertIn("natproxy: line 2: 'x': must be [ADDRESS:]PORT", err[0])
        self.assertIn("natproxy: line 3: '2999-01-01' is in the future", err[1])
        self.assertIn("natproxy: line 4: ", err[2])
        self.assertEqual(err[3], "natproxy: 5 lines: 2 found, 3 malformed")

    def test_comma_separates_as_in_csv(self) -> None:
        self.daemon.table = [entry(1)]
        text = b"40001,2023-11-14T22:13:22Z\n40001 , Tue, 14 Nov 2023 22:13:22 GMT\n"
        status, out, _ = self.batch(text)
        self.assertEqual((status, len(out)), (0, 2))
        bodies = [
            json.loads(line) for each in self.control.requests for line in each.body.splitlines()
        ]
        self.assertEqual([body["since"] for body in bodies], ["2023-11-14T22:13:22.000000Z"] * 2)

    def test_one_line_is_singular(self) -> None:
        self.assertEqual(self.batch(b"7\n")[2], ["natproxy: 1 line: 1 nobody"])

    def test_status_is_that_of_the_worst_result(self) -> None:
        self.daemon.answers = {1: WhoisReply(NOBODY), 2: WhoisReply(UNKNOWN)}
        self.daemon.table = [entry(1)]
        self.assertEqual(self.batch(b"40001\n")[0], 0)
        self.assertEqual(self.batch(b"40001\n1\n")[0], 3)
        status, _, err = self.batch(b"40001\n2\n1\n")
        self.assertEqual((status, err), (10, ["natproxy: 3 lines: 1 found, 1 nobody, 1 unknown"]))
        self.assertEqual(self.batch(b"")[0], 0)

    def test_json_has_the_number_of_the_line(self) -> None:
        self.daemon.table = [entry(1)]
        status, out, err = self.batch(b"\n40001\nx\n7\n", "--json")
        found: list[dict[str, Any]] = list(map(json.loads, out))
        self.assertEqual([(each["line"], each["port"]) for each in found], [(2, 40001), (4, 7)])
        self.assertEqual([each["result"] for each in found], ["found", "nobody"])
        self.assertEqual((status, len(err)), (2, 1))

    def test_thousands_are_sent_in_batches(self) -> None:
        self.daemon.table = [entry(1)]
        status, out, _ = self.batch(b"40001 -1s\n" * 1234)
        self.assertEqual((status, len(out)), (0, 1234))
        sizes = [len(each.body.splitlines()) for each in self.control.requests]
        self.assertEqual((sum(sizes), max(sizes)), (1234, whois.BATCH))

    def test_option_is_the_time_of_lines_without_one(self) -> None:
        self.batch(b"40001\n", "--at", "2023-11-14T22:13:22Z", "--within", "1")
        (body,) = self.bodies("/v1/whois")
        self.assertEqual(body["since"], format_time(START + SECOND))

    def test_endless_line_is_an_error(self) -> None:
        status, _, err = self.batch(b"4" * 5000)
        self.assertEqual(status, 2)
        self.assertIn("more than 4096 bytes", err[0])

    def test_missing_result_is_an_error(self) -> None:
        self.daemon._whois = lambda request: lines([])  # type: ignore[method-assign]
        status, _, err = self.batch(b"40001\n")
        self.assertEqual(status, NotUnderstood.exit_status)
        self.assertIn("line 1: the daemon sent no result", err[0])
