"""``docs/filter.md`` and ``docs/export.md`` are true."""

from __future__ import annotations

import re
from datetime import timezone
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.filter import FilterError, parse
from natproxy.records.filter.grammar import MAX_DEPTH, MAX_VALUES
from natproxy.records.filter.members import EVENTS, MEMBERS, OUTCOMES, STATES
from natproxy.records.filter.tokens import MAX_LENGTH, tokens_of
from natproxy.records.filter.values import ValueReader
from natproxy.records.ipfix import ELEMENTS, OTHER
from natproxy.records.ipfix import EVENTS as NAT_EVENTS
from natproxy.records.times import parse_moment
from tests.support.filters import NOW
from tests.support.paths import ROOT

FILTER: Path = ROOT / "docs/filter.md"
EXPORT: Path = ROOT / "docs/export.md"


def blocks(page: str, kind: str) -> list[str]:
    """Return the code blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def rows(page: str, header: str) -> list[list[str]]:
    """Return the cells of the table below a header."""
    table = page.partition(f"\n{header}\n")[2].partition("\n\n")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]
    ]


def codes(cell: str) -> list[str]:
    """Return what a cell has in backquotes."""
    return re.findall("`([^`]+)`", cell)


class FilterPageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.page = FILTER.read_text()

    def test_filters_are_accepted(self) -> None:
        (block,) = blocks(self.page, "filter")
        for line in block.splitlines():
            parse(line)

    def test_explanation_is_printed(self) -> None:
        command, explanation = blocks(self.page, "console")[0].splitlines()
        self.assertEqual(parse(command.split("'")[1]).explain(), explanation)

    def test_times_are_accepted(self) -> None:
        (block,) = blocks(self.page, "time")
        for line in block.splitlines():
            parse_moment(line, NOW, timezone.utc)

    def test_errors_are_raised(self) -> None:
        found = blocks(self.page, "error")
        self.assertEqual(len(found), 2)
        for block in found:
            text, _, expected = block.rstrip("\n").partition("\n")
            with self.assertRaises(FilterError) as caught:
                parse(text)
            self.assertEqual(caught.exception.explained(), expected)

    def test_every_member_has_a_row_with_its_type(self) -> None:
        types = {
            name: kind
            for names, kind, _ in rows(self.page, "| member | type | is |")
            for name in codes(names)
        }
        self.assertEqual(
            types,
            {
                name: {"MOMENT": "time"}.get(member.type.name, member.type.name.lower())
                for name, member in MEMBERS.items()
            },
        )

    def test_words_of_members(self) -> None:
        listed = {cells[0]: codes(cells[2]) for cells in rows(self.page, "| member | type | is |")}
        self.assertEqual(listed["`state`"], list(STATES))
        self.assertEqual(listed["`outcome`"], list(OUTCOMES))
        self.assertEqual(listed["`event`"], list(EVENTS))

    def test_values_are_accepted(self) -> None:
        kinds = {
            "number": "serial",
            "size": "bytes",
            "rate": "rate",
            "duration": "age",
            "time": "started",
            "word": "verb",
            "text": "reason",
            "name": "name",
            "host": "client",
        }
        found = rows(self.page, "| type | examples | meaning |")
        self.assertEqual([row[0] for row in found], list(kinds))
        for kind, examples, _ in found:
            for example in codes(examples):
                (token, _) = tokens_of(example)
                reader = ValueReader(example, NOW, timezone.utc)
                reader.read(MEMBERS[kinds[kind]], token)

    def test_limits(self) -> None:
        self.assertIn(
            f"at most {MAX_LENGTH:,} characters, {MAX_VALUES} values, and {MAX_DEPTH} parentheses",
            self.page,
        )


class ExportPageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.page = EXPORT.read_text()

    def test_information_elements(self) -> None:
        self.assertEqual(
            rows(self.page, "| information element | number | is |"),
            [[f"`{name}`", str(number), of] for name, (number, of) in ELEMENTS.items()],
        )

    def test_events(self) -> None:
        expected = [
            [", ".join(f"IPv{version}" for version in versions), *map(str, event)]
            for versions, event in NAT_EVENTS.items()
        ]
        self.assertEqual(
            rows(self.page, "| `client` and `nat` | create | delete | name of the event |"),
            [*expected, ["others", *map(str, OTHER)]],
        )
