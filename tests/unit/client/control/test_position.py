"""Where a reader of events is, over several workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.control.daemon import LostEvents
from natproxy.client.control.position import Last, Position
from natproxy.records.record import Record

TEXTS = st.dictionaries(
    st.integers(0, 999_999),
    st.tuples(
        st.integers(0, 10**18 - 1), st.none() | st.from_regex("[0-9a-f]{1,16}", fullmatch=True)
    ),
)


class PositionTests(SynchronousTestCase):
    @given(TEXTS)
    def test_text_is_parsed_again(self, last: dict[int, tuple[int, str | None]]) -> None:
        position = Position()
        position.last = {worker: Last(*each) for worker, each in last.items()}
        self.assertEqual(Position(str(position)).last, position.last)

    def test_malformed_texts(self) -> None:
        for text in ("a", "1", "1:", "1:2:", "1:2,", "1:2,1:3", "1:2;3:4", "-1:2"):
            self.assertRaises(ValueError, Position, text)

    def test_advances_with_each_worker(self) -> None:
        position = Position("0:5:a,1:7:b")
        position.advance(Record("removed", worker=1, boot="b", seq=9))
        position.advance(Record("removed", worker=0, boot="a", seq=4))
        position.advance(LostEvents(0, "a", 6, 8))
        position.advance(LostEvents(1, None, 6, None))
        self.assertEqual(str(position), "0:8:a,1:9:b")
        position.advance(Record("removed", worker=1, boot="c", seq=1))
        self.assertEqual(str(position), "0:8:a,1:1:c")

    def test_events_between_two_positions(self) -> None:
        self.assertEqual(Position("0:5:a,1:7:b").until(Position("0:9:a,1:8:c,2:3:d")), 4)
        position = Position("0:5:a,1:7:b")
        position.skip(Position("0:4:a,1:2:c,2:3:d"))
        self.assertEqual(str(position), "0:5:a,1:2:c,2:3:d")
        self.assertFalse(Position(""))
