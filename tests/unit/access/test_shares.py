"""Equal shares: which of several clients is next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.shares import Shares


class SharesTests(SynchronousTestCase):
    def test_alone_a_client_is_always_next(self) -> None:
        shares = Shares()
        self.assertTrue(shares.is_next("a", 1e9, 0.0))
        shares.wait("a", 1e9, 1.0)
        self.assertTrue(shares.is_next("a", 1e9, 0.0))

    def test_client_that_has_been_served_less_is_next(self) -> None:
        shares = Shares()
        shares.wait("a", 5.0, 1.0)
        self.assertFalse(shares.is_next("b", 6.0, 0.0))
        self.assertTrue(shares.is_next("b", 5.0, 0.0))
        self.assertTrue(shares.is_next("b", 4.0, 0.0))

    def test_client_that_waits_no_more_is_forgotten(self) -> None:
        shares = Shares()
        shares.wait("a", 0.0, 1.0)
        self.assertFalse(shares.is_next("b", 6.0, 1.0))
        self.assertTrue(shares.is_next("b", 6.0, 1.1))
        self.assertEqual(shares.waiting, {})

    def test_idling_saves_nothing(self) -> None:
        shares = Shares()
        served = 0.0
        for _ in range(100):
            served = shares.serve("busy", served, 1.0)
        shares.wait("busy", served, 1.0)
        idle = shares.serve("idle", 0.0, 1.0)
        self.assertEqual((served, idle), (100.0, 100.0))

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), min_size=200, max_size=200))
    def test_clients_that_always_wait_are_served_the_same(
        self, costs: list[tuple[int, int]]
    ) -> None:
        shares = Shares()
        served = dict.fromkeys("abcd", 0.0)
        got = dict.fromkeys("abcd", 0)
        for now, (first, cost) in enumerate(costs):
            for key, before in served.items():
                shares.wait(key, before, now + 1.0)
            # In any order, only the clients that have been served least are let through.
            order = ["abcd"[(first + offset) % 4] for offset in range(4)]
            key = next(key for key in order if shares.is_next(key, served[key], float(now)))
            served[key] = shares.serve(key, served[key], cost)
            got[key] += cost
        self.assertLessEqual(max(got.values()) - min(got.values()), 20)

    def test_what_is_kept_does_not_grow(self) -> None:
        shares = Shares()
        served = 0.0
        for now in range(1000):
            shares.wait("a", served, now + 10.0)
            shares.wait("b", 0.0, now + 10.0)
            served = shares.serve("a", served, 1.0)
        self.assertLess(len(shares._order), 100)
