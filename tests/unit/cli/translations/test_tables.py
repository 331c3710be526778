"""Tables for people: widths, and what is cut in a narrow terminal."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations.columns import columns_of
from natproxy.cli.translations.tables import FIRST, NARROWEST, Table
from natproxy.records.record import Record


class TableTests(SynchronousTestCase):
    def lines(self, records: list[Record], limit: int | None = None) -> list[str]:
        columns = columns_of(("serial", "name", "reason", "verb"))
        return list(Table(columns, limit).lines(records))

    def test_columns_are_as_wide_as_their_widest_text(self) -> None:
        found = self.lines(
            [Record(serial=1, name="a", verb="GET"), Record(serial=1000, name="abc")]
        )
        self.assertEqual(
            found,
            ["SERIAL  NAME  REASON  VERB", "     1  a     -       GET", "  1000  abc   -       -"],
        )

    def test_without_a_record_there_is_no_header(self) -> None:
        self.assertEqual(self.lines([]), [])

    def test_name_is_cut_first_and_then_the_reason(self) -> None:
        record = Record(serial=1, name="n" * 40, reason="r" * 40, verb="HASH")
        for limit, name, reason in ((96, 40, 40), (80, 24, 40), (60, NARROWEST, 32)):
            header, line = self.lines([record], limit)
            self.assertEqual(len(line), limit, line)
            _, shown, cause, _ = line.split()
            self.assertEqual((len(shown), len(cause)), (name, reason))
            self.assertEqual(header.index("REASON"), line.index(cause))

    def test_no_column_is_narrower_than_its_least(self) -> None:
        record = Record(serial=1, name="n" * 40, reason="r" * 40, verb="GET")
        _, line = self.lines([record], 10)
        _, name, reason, _ = line.split()
        self.assertEqual((len(name), len(reason)), (NARROWEST, NARROWEST))
        self.assertTrue(name.endswith("..."))

    def test_later_row_widens_its_column_from_there_on(self) -> None:
        records = [Record(name="a", verb="GET")] * FIRST
        *_, last, wide = self.lines([*records, Record(name="a" * 30, verb="GET")])
        self.assertEqual((len(last.split()), wide.split()[1]), (4, "a" * 30))
