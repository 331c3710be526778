"""The JSON that is written quickly is the one that `Record.json` describes."""

from __future__ import annotations

import json
import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.control.encoding import CACHED, LONGEST_CACHED, EventLines, encode, encode_lost
from natproxy.nat import NATTable, Outcome
from natproxy.nat.ring import EventRing
from natproxy.records.event_rows import Lost
from natproxy.records.record import Record
from tests.support.control_resources import ORIGIN, ControlCase

TEXTS = st.none() | st.text(max_size=8) | st.sampled_from(["<script>", '"\\', "\x1b[2J"])
NUMBERS = st.none() | st.integers(0, 2**63)
MOMENTS = st.integers(0, 4_000_000_000_000_000)
HOSTS = st.text(string.printable, max_size=8)


@st.composite
def records(draw: Any) -> Record:
    uid = draw(NUMBERS)
    files = draw(NUMBERS)
    return Record(
        event=draw(TEXTS),
        time=draw(MOMENTS),
        proxy=draw(st.text(max_size=8)),
        worker=draw(st.integers(0, 99)),
        boot=draw(st.text(max_size=8)),
        seq=draw(NUMBERS),
        serial=draw(NUMBERS),
        command=draw(NUMBERS),
        attempt=draw(NUMBERS),
        started=draw(st.none() | MOMENTS),
        ended=draw(st.none() | MOMENTS),
        client=draw(st.none() | HOSTS),
        client_port=draw(NUMBERS),
        identity=draw(TEXTS),
        nat=draw(st.none() | HOSTS),
        nat_port=draw(NUMBERS),
        upstream=draw(st.none() | HOSTS),
        upstream_port=draw(NUMBERS),
        verb=draw(TEXTS),
        name=draw(TEXTS),
        promised=draw(NUMBERS),
        bytes=draw(NUMBERS),
        state=draw(TEXTS),
        outcome=draw(TEXTS),
        reason=draw(TEXTS),
        duration=draw(st.none() | st.floats(0, 1e9)),
        uid=uid,
        pid=None if uid is None else draw(NUMBERS),
        files=files,
        others=None if files is None else draw(TEXTS),
    )


class EncodeTests(SynchronousTestCase):
    @given(records())
    def test_object_has_the_members_of_the_record_in_their_order(self, record: Record) -> None:
        line = encode(record)
        self.assertEqual(json.loads(line, object_pairs_hook=list), list(record.json().items()))
        self.assertNotIn(b"\n", line)

    def test_lost_events(self) -> None:
        self.assertEqual(
            json.loads(encode_lost(ORIGIN, Lost(3, 9))),
            {
                "event": "lost",
                "proxy": "proxy-9000",
                "worker": 0,
                "boot": "0123abcd",
                "from": 3,
                "to": 9,
            },
        )


class EventLinesTests(ControlCase):
    def setUp(self) -> None:
        super().setUp()
        self.lines = EventLines(self.ring)

    def test_lines_are_those_of_the_records(self) -> None:
        entry = self.register(b"GET %3Cscript%3E%22")
        self.execute(b"NONSENSE \x1b[2J")
        self.table.fail(entry.client_address, entry.command, 1, Outcome.ERROR, 3, 'it "failed"')
        self.ring.act("kill", 1.5, 0, 7, "all")
        self.table.remove(entry, Outcome.TIMEOUT, "late")
        rows, _ = self.ring.read(0, 100)
        self.assertEqual(len(rows), 7)
        for _ in range(2):
            for row in rows:
                record = self.ring.record_of(row)
                line = self.lines.line_of(row)
                self.assertEqual(line, encode(record) + b"\n")
                self.assertEqual(self.lines.record_of(row), record)

    def test_event_is_encoded_once_for_all_watchers(self) -> None:
        self.execute()
        (row, *_), _ = self.ring.read(0, 100)
        self.assertIs(self.lines.line_of(row), self.lines.line_of(row))
        self.assertIs(self.lines.record_of(row), self.lines.record_of(row))

    def test_caches_have_limits(self) -> None:
        for number in range(2000):
            self.register(b"GET %d" % number)
        self.register(b"GET " + b"n" * 5000)
        for row in self.ring.read(0, 5000)[0]:
            self.lines.line_of(row)
            self.lines.record_of(row)
        held = [cached for cached in self.lines._lines if cached is not None]
        self.assertEqual(len(held), CACHED)
        self.assertLessEqual(max(len(line) for _, line in held), LONGEST_CACHED)
        self.assertLessEqual(len(self.lines._shared), CACHED)


class ManyBootsTests(SynchronousTestCase):
    def test_places_of_another_turn_of_the_ring_are_not_taken(self) -> None:
        table = NATTable(lambda: 1.0, lambda: 1.0)
        ring = EventRing(table, ORIGIN, wall_clock=lambda: 1.0)
        lines = EventLines(ring)
        for number in range(CACHED + 1):
            ring.act("drain", 1.0, 0, number)
        rows, _ = ring.read(0, CACHED + 1)
        found = [json.loads(lines.line_of(row))["pid"] for row in rows]
        self.assertEqual(found, list(range(CACHED + 1)))
