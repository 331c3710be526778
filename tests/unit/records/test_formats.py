"""Records as JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.formats import (
    FORMULA,
    TRANSLATION_MEMBERS,
    csv_line,
    csv_lines,
    json_lines,
    read_csv_field,
)
from natproxy.records.record import Record
from tests.support.filters import records


class JsonTests(SynchronousTestCase):
    @given(st.lists(records(), max_size=3))
    def test_lines_are_the_records(self, drawn: list) -> None:
        lines = list(json_lines(record.json() for record in drawn))
        self.assertTrue(all(line.count("\n") == 1 and line.endswith("\n") for line in lines))
        self.assertEqual([Record.from_json(json.loads(line)) for line in lines], drawn)


class CsvTests(SynchronousTestCase):
    def test_translation(self) -> None:
        record = Record(proxy="p", serial=7, started=1, name="a,b", duration=0.000001)
        header, line = csv_lines([record.json()], TRANSLATION_MEMBERS)
        self.assertEqual(header.rstrip("\n"), ",".join(TRANSLATION_MEMBERS))
        read = dict(zip(TRANSLATION_MEMBERS, next(csv.reader([line])), strict=True))
        self.assertEqual(read["serial"], "7")
        self.assertEqual(read["started"], "1970-01-01T00:00:00.000001Z")
        self.assertEqual(read["ended"], "")
        self.assertEqual(read["name"], "a,b")
        self.assertEqual(read["duration"], "0.000001")

    def test_columns_of_translations_are_their_members(self) -> None:
        self.assertEqual(set(TRANSLATION_MEMBERS), set(Record(files=2).json()))
        self.assertEqual(set(Record(files=2).json()) - set(Record().json()), {"files", "others"})
        # Programs count the columns: new ones follow.
        self.assertEqual(TRANSLATION_MEMBERS[-3:], ("duration", "files", "others"))

    def test_formula_is_a_text(self) -> None:
        for formula in ('=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"):
            self.assertEqual(
                next(csv.reader(io.StringIO(csv_line([formula]), ""))), ["'" + formula]
            )

    def test_apostrophe_that_was_there_is_kept(self) -> None:
        self.assertEqual(csv_line(["'=1", "'a", "a'"]), "''=1,''a,a'\n")
        self.assertEqual([*map(read_csv_field, ("''=1", "''a", "a'"))], ["'=1", "'a", "a'"])

    def test_numbers_are_not_changed(self) -> None:
        self.assertEqual(csv_line([1, -1, 0.5, None, ""]), "1,-1,0.500000,,\n")

    # Python 3.10 does not read NUL, which no member has: names are percent-encoded.
    @given(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2
        )
    )
    def test_any_text_is_read_again_and_is_no_formula(self, texts: list) -> None:
        line = csv_line(texts)
        (fields,) = csv.reader(io.StringIO(line, newline=""))
        self.assertEqual([read_csv_field(field) for field in fields], texts)
        self.assertFalse(any(field and field[0] in FORMULA for field in fields))
