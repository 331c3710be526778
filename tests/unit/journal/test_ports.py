"""Ports of live segments: every entry of a port is found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.ports import HOLE, SEGMENTS, LivePorts
from natproxy.journal.rows import Entry

PORTS = st.sampled_from([None, 1, 255, 256, 257, 50_000, 65_535, 65_536, 2**31])


def entry(serial: int, port: int | None) -> Entry:
    host = None if port is None else "10.1.0.1"
    start = (serial, 1, None, None, 7, None, None, "10.0.0.5", 40_000)
    return (*start, None, host, port, host, port, "GET", "a", None, 0, None, None, None)


class PortsTests(SynchronousTestCase):
    @given(
        moved=st.dictionaries(st.integers(1, 10), PORTS),
        batches=st.lists(
            st.lists(
                st.tuples(st.one_of(st.integers(-3, 3), st.integers(-HOLE, 3 * HOLE)), PORTS),
                max_size=10,
            ),
            max_size=5,
        ),
    )
    def test_every_entry_is_found(
        self, moved: dict[int, int | None], batches: list[list[tuple[int, int | None]]]
    ) -> None:
        live = LivePorts()
        live.begin("a", [entry(serial, port) for serial, port in moved.items()])
        truth, last = dict(moved), 10
        for batch in batches:
            added = []
            for step, port in batch:
                serial = max(1, last + step)
                last = max(last, serial)
                # An entry keeps its port.
                truth.setdefault(serial, port)
                added.append(entry(serial, truth[serial]))
            live.add(added)
        for port in {port for port in truth.values() if port is not None}:
            serials = live.serials("a", port)
            assert serials is not None
            self.assertEqual(len(serials), len(set(serials)))
            self.assertLessEqual(
                {serial for serial, held in truth.items() if held == port}, set(serials)
            )

    def test_only_entries_of_the_port_are_found(self) -> None:
        live = LivePorts()
        live.begin("a", [])
        live.add([entry(serial, 50_000 + serial % 256) for serial in range(100, 1100)])
        self.assertEqual(live.serials("a", 50_007), [263, 519, 775, 1031])
        self.assertEqual(live.serials("a", 0x5050), [])

    def test_newest_segments_are_remembered(self) -> None:
        live = LivePorts()
        for number in range(SEGMENTS + 1):
            live.begin(str(number), [entry(number, 50_000)])
        found = [live.serials(str(number), 50_000) for number in range(SEGMENTS + 1)]
        self.assertEqual(found, [None, *([number] for number in range(1, SEGMENTS + 1))])
