from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.queries import WINDOW, windows

TIMES = st.integers(0, 4_000_000_000_000_000)


class WindowsTests(SynchronousTestCase):
    @given(since=TIMES | st.none(), until=TIMES)
    def test_together_they_are_the_interval(self, since: int | None, until: int) -> None:
        found = list(windows(since, until))
        if until <= (since or 0):
            self.assertEqual(found, [])
            return
        self.assertEqual((found[-1][0], found[0][1]), (since or 0, until))
        for later, earlier in pairwise(found):
            self.assertEqual(earlier[1], later[0])
        # Even a past of a century is few searches.
        self.assertLess(len(found), 12)

    def test_first_one_is_a_minute(self) -> None:
        until = 1_700_000_000_000_000
        self.assertEqual(next(windows(None, until)), (until - WINDOW, until))
