"""Token buckets, and the accounts of clients that have them.

A bucket is one number: the time at which it is full again (the virtual scheduling algorithm of the
generic cell rate algorithm, ITU-T I.371). It may go into debt: what is taken is not known before,
or costs more than the bucket holds; then the next one waits until the debt is paid.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

ACCOUNTS = 16_384
"""Accounts of one kind that are kept, besides those with commands in flight."""

SWEPT = 4
"""Accounts that are looked at when one is made: more leave than come."""


SHARED = 2.0
"""Seconds for which it is remembered what an account was served of the shares of all."""


class Rate(NamedTuple):
    """How fast a bucket fills, and how much it holds.

    :ivar interval: seconds for one token; 0 if there is no limit.
    :ivar slack: seconds for which the bucket may be emptied ahead of its rate.
    """

    interval: float
    slack: float


NO_RATE = Rate(0.0, math.inf)
"""There is no limit."""


def rate_of(tokens: float | None, burst: float | None = None) -> Rate:
    """Return a rate.

    :param tokens: in one second; ``None`` for no limit.
    :param burst: tokens that may be taken at once; those of a second by default, at least one.
    """
    if tokens is None:
        return NO_RATE
    interval = 1 / tokens
    return Rate(interval, (max(1.0, tokens if burst is None else burst) - 1) * interval)


class Account:
    """What one client, one identity, or all clients together have taken.

    :ivar commands: that are in flight.
    :ivar digests: commands of them that compute a digest.
    :ivar listings: commands of them that list.
    :ivar packs: commands of them that pack files.
    :ivar commands_full: when the bucket of commands is full again, in seconds of the clock.
    :ivar bytes_full: when the bucket of bytes is full again, likewise.
    :ivar shared_at: when it has last been served of what all have together.
    :ivar commands_served: see `natproxy.access.shares.Shares`.
    :ivar bytes_served: likewise.
    """

    __slots__ = (
        "bytes_full",
        "bytes_served",
        "commands",
        "commands_full",
        "commands_served",
        "digests",
        "listings",
        "packs",
        "shared_at",
    )

    def __init__(self) -> None:
        self.commands = 0
        self.digests = 0
        self.listings = 0
        self.packs = 0
        self.commands_full = -math.inf
        self.bytes_full = -math.inf
        self.shared_at = -math.inf
        self.commands_served = 0.0
        self.bytes_served = 0.0

    def spend(self, seconds: float, now: float) -> None:
        """Take tokens from the bucket of commands.

        :param seconds: in which it fills by so many.
        """
        full = self.commands_full
        self.commands_full = (full if full > now else now) + seconds

    def idle(self, now: float) -> bool:
        """Return whether a new account would be no different: nothing is taken."""
        return (
            not self.commands
            and self.commands_full <= now
            and self.bytes_full <= now
            and self.shared_at + SHARED <= now
        )


class Accounts:
    """The accounts of one kind, by a key that clients choose; their number is bounded.

    :param most: accounts that are kept, besides those with commands in flight.
    :ivar by_key: the accounts. Use `of` for a key that may be missing.
    """

    def __init__(self, most: int = ACCOUNTS) -> None:
        # The first entry of a dict whose former first ones were removed takes long to find.
        self.by_key: OrderedDict[str, Account] = OrderedDict()
        self._most = most

    def of(self, key: str, now: float) -> Account:
        """Return the account of a key; a new one replaces older ones.

        :param now: in seconds of the clock.
        """
        account = self.by_key.get(key)
        if account is None:
            self._sweep(now)
            account = self.by_key[key] = Account()
        return account

    def _sweep(self, now: float) -> None:
        """Drop the idle ones of the oldest accounts; the others become the newest.

        If there are too many, debts are dropped as well: who has so many networks has no debt.
        """
        accounts = self.by_key
        for _ in range(min(SWEPT, len(accounts))):
            key, account = accounts.popitem(last=False)
            too_many = len(accounts) >= self._most and not account.commands
            if not (too_many or account.idle(now)):
                accounts[key] = account
