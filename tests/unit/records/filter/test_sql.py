"""Filters in SQL; that they select the rows that match is in `test_filter`."""

from __future__ import annotations

from datetime import timezone

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.filter import parse
from tests.support.filters import NOW, filters, segment


class SqlTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = segment(())
        self.addCleanup(self.database.close)

    def plan(self, text: str) -> str:
        where, params, _ = parse(text, NOW, timezone.utc).sql(NOW)
        rows = self.database.execute(
            "explain query plan select * from entries e join hosts c on c.id = e.client"
            " left join hosts n on n.id = e.nat left join hosts u on u.id = e.upstream"
            f" where {where}",
            params,
        )
        return " ".join(row[3] for row in rows)

    def test_port_uses_the_index(self) -> None:
        for text in ("nat-port 40000", "nat-port 40000-40010", "nat-port 40000 and verb GET"):
            self.assertIn("USING INDEX by_port", self.plan(text), text)

    def test_values_are_parameters(self) -> None:
        where, params, _ = parse('reason "x\' or 1=1 --" and serial 123456789').sql()
        self.assertNotIn("1=1", where)
        self.assertNotIn("123456789", where)
        self.assertEqual(params, ["x' or 1=1 --", 123456789])

    def test_exact(self) -> None:
        for text, exact in (
            ("", True),
            ("verb GET and bytes > 5", True),
            ("client 10.0.0.1", True),
            ("client 10.0.0.0/24", False),
            # It may be one of several.
            ("name a", False),
            ("name a*", False),
            ("age > 5s", True),
        ):
            self.assertEqual(parse(text, NOW).sql(NOW)[2], exact, text)
        self.assertEqual(parse("age > 5s").sql(), ("1", [], False))
        self.assertEqual(parse("not name a*").sql(), ("1", [], False))

    def test_what_differs_among_events_is_not_decided(self) -> None:
        self.assertEqual(parse("bytes > 5").sql(events=True), ("1", [], False))
        self.assertEqual(parse("verb GET or state lost").sql(events=True), ("1", [], False))
        where, params, exact = parse("verb GET and state lost").sql(events=True)
        self.assertEqual((where.count("?"), params, exact), (1, ["get"], False))

    @given(filters)
    def test_number_of_parameters(self, text: str) -> None:
        where, params, _ = parse(text, NOW, timezone.utc).sql(NOW)
        self.assertEqual(where.count("?"), len(params))

    def test_largest_filter_is_accepted_by_sqlite(self) -> None:
        for text in (
            "verb " + ",".join(["abc"] * 256),
            "client " + ",".join(["1.2.3.4"] * 256),
            " or ".join(["client 1.2.3.4"] * 200),
            "(" * 32 + " and ".join(["rate > 1"] * 200) + ")" * 32,
            "not " * 32 + " and ".join(["serial !=1"] * 200),
        ):
            self.plan(text)
