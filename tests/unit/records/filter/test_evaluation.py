"""Which records a filter matches."""

from __future__ import annotations

from datetime import timezone

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.rows import ERASED
from natproxy.nat.translation import Outcome
from natproxy.records.filter import members, parse
from natproxy.records.filter.members import MEMBERS, OUTCOMES
from natproxy.records.record import Record
from tests.support.filters import NOW, SECOND

DONE = Record(
    proxy="proxy-9000",
    worker=1,
    boot="b00t",
    seq=9,
    serial=7,
    command=7,
    attempt=1,
    started=NOW - 20 * SECOND,
    ended=NOW - 10 * SECOND,
    client="10.0.0.7",
    client_port=50_000,
    nat="198.51.100.1",
    nat_port=40_000,
    upstream="2001:db8::9",
    upstream_port=9001,
    verb="GET",
    name="images/a%20b.iso",
    promised=2 << 20,
    bytes=1 << 20,
    state="removed",
    outcome="completed",
    duration=10.0,
)

OPEN = DONE._replace(ended=None, state="relaying", outcome=None, duration=None, bytes=5)


class MatchesTests(SynchronousTestCase):
    def assert_matches(self, record: Record, *texts: str) -> None:
        for text in texts:
            self.assertTrue(parse(text, NOW, timezone.utc).matches(record, NOW), text)
            negated = parse(f"not ({text})", NOW, timezone.utc)
            self.assertFalse(negated.matches(record, NOW), f"not ({text})")

    def assert_no_match(self, record: Record, *texts: str) -> None:
        for text in texts:
            self.assertFalse(parse(text, NOW, timezone.utc).matches(record, NOW), text)

    def test_the_empty_filter(self) -> None:
        self.assertTrue(parse("").matches(Record(), NOW))

    def test_hosts(self) -> None:
        self.assert_matches(
            DONE,
            "client 10.0.0.7",
            "client 10.0.0.0/24",
            "client 10.0.0.1/29",
            "client ::ffff:10.0.0.7",
            "client ::ffff:10.0.0.0/120",
            "client 10.0.0.7:50000",
            "client :50000",
            "client 10.0.*",
            "client != 10.0.0.8",
            "client 192.0.2.1, 10.0.0.7",
            "nat 198.51.100.1:40000",
            "upstream 2001:db8::/32",
            "upstream 2001:0DB8::9",
            "upstream [2001:db8::9]:9001",
            "upstream [2001:db8::9]",
        )
        self.assert_no_match(
            DONE,
            "client 10.0.1.0/24",
            "client 10.0.0.7:50001",
            "client != 10.0.0.7",
            "client ::/0",
            "upstream 0.0.0.0/0",
            "nat none",
            "client unix",
        )

    def test_mapped_and_scoped_hosts(self) -> None:
        self.assert_matches(DONE._replace(client="::ffff:10.0.0.7"), "client 10.0.0.0/24")
        scoped = DONE._replace(client="fe80::1%eth0")
        self.assert_matches(scoped, "client fe80::1", "client fe80::1%eth0", "client fe80::/10")
        self.assert_no_match(scoped, "client fe80::1%eth1")

    def test_unix_sockets(self) -> None:
        unix = DONE._replace(client="unix", client_port=70_000)
        self.assert_matches(unix, "client unix", "client-port >= 65536", "client 'unix'")
        self.assert_matches(DONE._replace(client="unix /run/x"), "client unix", "client 'unix /r*'")
        self.assert_no_match(unix, "client 10.0.0.0/8", "client 'unix /r*'")

    def test_texts(self) -> None:
        self.assert_matches(
            DONE,
            "verb get",
            "verb GET",
            "verb g*",
            "name 'images/*.iso'",
            "name 'images/a b.iso'",
            "state removed",
            "outcome COMPLETED",
            "proxy proxy-9000",
            "boot b*",
        )
        self.assert_no_match(DONE, "name 'images/a%20b.iso'", "name IMAGES/*", "event removed")

    def test_numbers(self) -> None:
        self.assert_matches(
            DONE,
            "bytes 1M",
            "bytes = 1024KiB",
            "bytes > 1MB",
            "bytes <= 1MiB",
            "bytes >= 1M and bytes < 1.5M",
            "nat-port 39999-40000",
            "nat-port > 1-39999",
            "nat-port >= 40000-50000",
            "serial 1, 7",
            "worker 1",
            "rate > 100K",
            "rate <= 104858 and rate > 104857",
        )
        self.assert_no_match(DONE, "bytes > 1M", "bytes < 1M", "bytes != 1M", "rate > 104858")

    def test_durations(self) -> None:
        self.assert_matches(
            DONE, "duration 10s", "duration > 9999ms", "age 20s", "age > 0.3min", "duration <= 1h"
        )
        self.assert_matches(OPEN, "duration 20s", "rate <= 1", "state relaying")
        self.assert_no_match(OPEN._replace(state="lost", outcome="lost"), "duration > 0")

    def test_times(self) -> None:
        self.assert_matches(
            DONE,
            "started -20s",
            "started > -1min",
            "started 2026-11-26T03:59Z",
            "started '2026-11-26 03:59'",
            "started <= 2026-11-26T03:59Z",
            "started >= 2026-11-26T03:59Z",
            "ended < now",
            "started = today",
        )
        self.assert_no_match(
            DONE, "started < 2026-11-26T03:59Z", "started > 2026-11-26T03:59Z", "started yesterday"
        )

    def test_missing_values_match_no_comparison(self) -> None:
        self.assert_no_match(
            OPEN,
            "outcome completed",
            "outcome != completed",
            "ended < now",
            "ended > -1h",
            "identity '*'",
            "reason != x",
            "event != kill",
            "outcome != none",
        )
        self.assert_matches(OPEN, "outcome none", "ended none", "outcome none, completed")
        self.assert_matches(DONE, "outcome != none", "outcome none, completed", "identity none")
        self.assert_matches(DONE._replace(name=""), "name none")
        self.assert_no_match(DONE, "outcome not in (none, completed)")
        self.assertTrue(parse("not outcome completed").matches(OPEN, NOW))

    def test_events_and_actions(self) -> None:
        kill = Record(event="kill", time=NOW, uid=1000, pid=5, serial=7, reason="verb GET")
        self.assert_matches(
            kill, "event kill, drain", "uid 1000", "time -1s, now", "reason 'verb*'"
        )
        self.assert_no_match(kill, "client 0.0.0.0/0", "bytes >= 0", "verb GET", "age > 0")


class MemberTests(SynchronousTestCase):
    def test_every_member_of_records_has_a_name_in_the_language(self) -> None:
        names = {member.replace("_", "-") for member in Record._fields}
        # `name` compares the others as well.
        self.assertEqual(names - MEMBERS.keys(), {"others"})
        self.assertEqual(MEMBERS.keys() - names, {"age", "rate"})

    def test_name_is_one_of_several(self) -> None:
        record = Record(verb="PACK", name="a%20b", files=3, others="c.txt d%FF")
        for text, found in (
            ("name 'a b'", True),
            ("name c.txt", True),
            ("name *.txt", True),
            ("name 'd\\xff'", True),
            ("name c", False),
            ("name 'c.txt d*'", False),
            ("name none", False),
            ("name != c.txt", False),
            ("name != e", True),
            ("name in (e, c.txt)", True),
            ("name not in (e, c.txt)", False),
            ("files 3", True),
            ("files > 3", False),
            ("files none", False),
        ):
            self.assertIs(parse(text, NOW).matches(record, NOW), found, text)
        # The first name has been erased.
        erased = record._replace(name="")
        for text, found in (("name c.txt", True), ("name none", False), ("name != none", True)):
            self.assertIs(parse(text, NOW).matches(erased, NOW), found, text)
        # Of which only the first is recorded.
        self.assertFalse(parse("name c.txt", NOW).matches(record._replace(others=None), NOW))

    def test_outcomes_are_those_of_the_table(self) -> None:
        self.assertEqual(set(OUTCOMES), {outcome.value for outcome in Outcome} | {"lost"})

    def test_mark_of_erased_clients_is_that_of_the_journal(self) -> None:
        self.assertEqual(members.ERASED, ERASED)

    def test_member_reads_its_own_field(self) -> None:
        for index, field in enumerate(Record._fields):
            if field == "others":
                continue
            member = MEMBERS[field.replace("_", "-")]
            text = isinstance(getattr(Record("x", proxy="x", boot="x"), field), str)
            value = "x" if text or field in _TEXTS else 1000 + index
            found = member.read(Record()._replace(**{field: value}), NOW)
            self.assertEqual(found, value * SECOND if field == "duration" else value, field)


_TEXTS = (
    "client",
    "identity",
    "nat",
    "upstream",
    "verb",
    "name",
    "state",
    "outcome",
    "reason",
)
