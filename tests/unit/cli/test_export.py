"""The lines of ``natproxy export``."""

from __future__ import annotations

import csv
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations.export import blocks, export_lines
from natproxy.records.ipfix import ELEMENTS, ipfix_events
from natproxy.records.record import Record
from tests.support.filters import records


class ExportTests(SynchronousTestCase):
    @given(st.lists(records(), max_size=5))
    def test_json_lines_are_the_records(self, drawn: list) -> None:
        lines = export_lines(drawn, "jsonl", ipfix=False)
        self.assertEqual([Record.from_json(json.loads(line)) for line in lines], drawn)

    @given(st.lists(records(), max_size=5))
    def test_csv_has_the_events_with_a_header_of_elements(self, drawn: list) -> None:
        header, *rows = csv.reader(export_lines(drawn, "csv", ipfix=True))
        self.assertEqual(header, list(ELEMENTS))
        expected = [event for record in drawn for event in ipfix_events(record)]
        self.assertEqual(
            [
                [row[header.index(name)] for name in event]
                for event, row in zip(expected, rows, strict=True)
            ],
            [[str(value) for value in event.values()] for event in expected],
        )

    def test_header_of_an_empty_export(self) -> None:
        (line,) = export_lines((), "csv", ipfix=False)
        self.assertTrue(line.startswith("proxy,worker,boot,seq,serial,command,"), line)
        self.assertEqual(list(export_lines((), "jsonl", ipfix=False)), [])

    def test_nothing_is_read_before_it_is_needed(self) -> None:
        read = []

        def endless() -> object:
            for serial in range(10**9):
                read.append(serial)
                yield Record(serial=serial)

        found = blocks(export_lines(endless(), "jsonl", ipfix=False))
        self.assertEqual(next(found).count("\n"), 500)
        self.assertEqual(len(read), 500)
