"""Filters in the SQL of PostgreSQL; that they select the right rows is in `tests.integration`."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.filter import parse
from natproxy.records.filter.pattern import glob_of, symbols_of
from natproxy.records.filter.postgres import like_of
from tests.support.filters import NOW, filters

_TEXT = st.text("ab%_*?[]\\", max_size=8)


def likes(text: str, pattern: str) -> bool:
    """Return whether ``LIKE`` selects a text, by PostgreSQL's description of it."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    written = {"%": ".*", "_": "."}
    expression = "".join(written.get(part, re.escape(part[-1])) for part in parts)
    return re.fullmatch(expression, text, re.DOTALL) is not None


class PostgresTests(SynchronousTestCase):
    @given(text=_TEXT, written=st.text("ab%_*?[]", max_size=8))
    def test_like_selects_what_glob_selects(self, text: str, written: str) -> None:
        glob, literal = glob_of(symbols_of(written))
        if literal:
            return
        with closing(sqlite3.connect(":memory:")) as database:
            (expected,) = database.execute("select ? glob ?", (text, glob)).fetchone()
        self.assertEqual(likes(text, like_of(glob)), bool(expected), glob)

    def test_values_are_parameters(self) -> None:
        where, params, _ = parse('reason "x\' or 1=1 --" and serial 123456789').postgres(NOW)
        self.assertNotIn("1=1", where)
        self.assertNotIn("123456789", where)
        self.assertEqual(params, ["x' or 1=1 --", 123456789])

    @given(filters)
    def test_every_parameter_has_its_place(self, text: str) -> None:
        where, params, _ = parse(text, NOW).postgres(NOW)
        self.assertEqual(where.count("%s"), len(params))
        self.assertEqual(where.count("%"), len(params))

    def test_empty_filter_selects_everything(self) -> None:
        self.assertEqual(parse("").postgres(NOW), ("true", [], True))

    def test_rate_is_not_decided(self) -> None:
        self.assertEqual(parse("rate > 1M").postgres(NOW), ("true", [], False))
        self.assertEqual(parse("not rate > 1M").postgres(NOW), ("true", [], False))
