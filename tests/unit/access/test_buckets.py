"""Rates of token buckets, and the bound of the accounts."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.buckets import NO_RATE, Account, Accounts, rate_of


class RateTests(SynchronousTestCase):
    def test_tokens_of_a_second_may_be_taken_at_once(self) -> None:
        self.assertEqual(rate_of(10), (0.1, 0.9))
        self.assertEqual(rate_of(0.5), (2.0, 0.0))
        self.assertEqual(rate_of(10, 1), (0.1, 0.0))
        self.assertIs(rate_of(None), NO_RATE)

    @given(
        rate=st.floats(0.1, 1000),
        burst=st.integers(1, 50),
        pauses=st.lists(st.floats(0, 5), max_size=60),
    )
    def test_no_more_than_burst_and_rate_are_taken(
        self, rate: float, burst: int, pauses: list[float]
    ) -> None:
        interval, slack = rate_of(rate, burst)
        account, now, taken = Account(), 0.0, 0
        for pause in pauses:
            now += pause
            while account.commands_full <= now + slack:
                account.spend(interval, now)
                taken += 1
                self.assertLessEqual(taken, burst + now * rate + 1e-6 * taken + 1)
        self.assertGreaterEqual(taken, min(burst, 1) if pauses else 0)


class AccountsTests(SynchronousTestCase):
    def test_key_keeps_its_account(self) -> None:
        accounts = Accounts()
        self.assertIs(accounts.of("a", 0.0), accounts.of("a", 1.0))
        self.assertIsNot(accounts.of("a", 0.0), accounts.of("b", 1.0))

    def test_idle_ones_are_dropped_when_others_come(self) -> None:
        accounts = Accounts()
        accounts.of("busy", 0.0).commands = 1
        accounts.of("in debt", 0.0).commands_full = 5.0
        accounts.of("served", 0.0).shared_at = 0.0
        accounts.of("idle", 0.0)
        accounts.of("new", 1.0)
        self.assertEqual(set(accounts.by_key), {"busy", "in debt", "served", "new"})
        accounts.of("newer", 6.0)
        self.assertEqual(set(accounts.by_key), {"busy", "newer"})

    def test_flood_of_networks_is_bounded_and_keeps_those_in_flight(self) -> None:
        accounts = Accounts(most=100)
        accounts.of("busy", 0.0).commands = 1
        for number in range(10_000):
            accounts.of(f"{number:x}::/64", 0.0).bytes_full = math.inf
        self.assertLessEqual(len(accounts.by_key), 102)
        self.assertIn("busy", accounts.by_key)
