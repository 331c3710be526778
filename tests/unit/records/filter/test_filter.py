"""The filter as a whole: its text, its function and its SQL agree."""

from __future__ import annotations

from datetime import timezone

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.filter import FilterError, parse
from natproxy.records.filter.grammar import format_tree, parse_tree
from tests.support.filters import NOW, filters, records, segment, selected


class AgreementTests(SynchronousTestCase):
    @given(st.lists(records(), max_size=8), st.lists(filters, min_size=1, max_size=8))
    @settings(deadline=None)
    def test_sql_and_function_select_the_same(self, drawn: list, texts: list) -> None:
        translations = [
            record._replace(serial=serial, command=serial) for serial, record in enumerate(drawn, 1)
        ]
        database = segment(translations)
        self.addCleanup(database.close)
        for text in texts:
            parsed = parse(text, NOW, timezone.utc)
            matching = {record.serial for record in translations if parsed.matches(record, NOW)}
            for now in (NOW, None):
                where, params, exact = parsed.sql(now)
                found = selected(database, where, params)
                if exact:
                    self.assertEqual(found, matching, f"{text}: {where}")
                else:
                    self.assertEqual(matching - found, set(), f"{text}: {where}")

    @given(filters)
    def test_normal_form_is_parsed_to_the_same_tree(self, text: str) -> None:
        tree = parse_tree(text, NOW, timezone.utc)
        assert tree is not None
        formatted = format_tree(tree)
        again = parse_tree(formatted, NOW, timezone.utc)
        assert again is not None
        self.assertEqual(repr(again), repr(tree))
        self.assertEqual(format_tree(again), formatted)

    @given(
        st.text(max_size=200)
        | st.lists(
            st.sampled_from(
                ("and", "or", "not", "(", ")", ",", "client", "name", "bytes", "started", "in",
                 "none", "'x'", "'", "\\", "10.0.0.1", "1M", "-1h", "<", "!=", "*", "\ud800", "\0")
            )
        ).map(" ".join)
    )  # fmt: skip
    def test_any_text_is_parsed_or_raises_filter_error(self, text: str) -> None:
        try:
            parsed = parse(text, NOW, timezone.utc)
        except FilterError as error:
            lines = error.explained().splitlines()
            self.assertEqual(len(lines), 3)
            self.assertTrue(all(line.isprintable() for line in lines))
            self.assertTrue(0 <= error.position <= len(text))
        else:
            parsed.explain()
            parsed.sql(NOW)
