"""The columns of translations, and their members for programs."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations.columns import columns_of, members_of, names
from natproxy.records.formats import TRANSLATION_MEMBERS
from natproxy.records.record import Record


class ColumnTests(SynchronousTestCase):
    def test_every_column_has_a_value_for_every_record(self) -> None:
        for record in (Record(), Record(name="a", files=3, others="b c"), Record(name="", files=2)):
            found = members_of(record, names())
            self.assertEqual(list(found), names())
            self.assertTrue(all(column.text(record) for column in columns_of(names())[:3]))
        self.assertEqual(found["files"], 2)

    def test_members_without_a_selection_are_those_of_json(self) -> None:
        self.assertEqual(members_of(Record()), Record().json())
        self.assertEqual(set(members_of(Record(files=2))), set(TRANSLATION_MEMBERS))

    def test_text_of_several_files(self) -> None:
        record = Record(name="a", files=3, others="b c")
        texts = [column.text(record) for column in columns_of(("name", "files", "others"))]
        self.assertEqual(texts, ["a and 2 others", "3", "b c"])
        empty = [column.text(Record()) for column in columns_of(("name", "files", "others"))]
        self.assertEqual(empty, ["-", "-", "-"])
