"""How much clients may take: a gate that counts commands, and delays those over a limit.

There are limits in three scopes: for each client (its host, see `natproxy.access.host_of`), for
each identity, and for all clients together. What all have together, they share equally.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import NamedTuple

from natproxy.access.bandwidth import Bandwidth
from natproxy.access.buckets import Account, rate_of
from natproxy.access.caller import Caller
from natproxy.access.shares import Shares
from natproxy.access.verdict import PROCEED, Verdict, delay
from natproxy.nat import Outcome
from natproxy.protocol import TOO_MANY_REQUESTS, Command

RETRY = 0.25
"""Seconds after which a command that waits for another one to end is tried again in any case."""


class Scope(enum.Enum):
    """For whom a limit is."""

    CLIENT = "client"
    IDENTITY = "identity"
    TOTAL = "total"


class Limit(enum.Enum):
    """What is limited; the values are the keys of a settings file."""

    COMMANDS = "commands"
    COMMANDS_PER_SECOND = "commands-per-second"
    BYTES_PER_SECOND = "bytes-per-second"
    DIGESTS = "digests"
    LISTINGS = "listings"
    PACKS = "packs"


class ScopeLimits(NamedTuple):
    """The limits of one scope; ``None`` for no limit.

    :ivar commands: in flight at a time.
    :ivar commands_per_second: a ``PACK`` counts as its names.
    :ivar burst: commands that may begin at once after a pause; as many as in a second by default.
    :ivar bytes_per_second: of replies.
    :ivar digests: ``HASH`` at a time.
    :ivar listings: ``LS`` and ``LIST`` at a time.
    :ivar packs: ``PACK`` at a time.
    :ivar connections_per_second: new ones of a host; not limited by the gate, but by
        `natproxy.server.admission.Arrivals`.
    """

    commands: int | None = None
    commands_per_second: float | None = None
    burst: int | None = None
    bytes_per_second: int | None = None
    digests: int | None = None
    listings: int | None = None
    packs: int | None = None
    connections_per_second: float | None = None


NO_LIMITS = ScopeLimits()

_SCOPES = frozenset(scope.value for scope in Scope)
_LIMITS = frozenset(limit.value for limit in Limit)

_WHOSE = {
    Scope.CLIENT: "of this client",
    Scope.IDENTITY: "of this identity",
    Scope.TOTAL: "of all clients",
}
_WHAT = {
    Limit.COMMANDS: "too many commands {} at a time",
    Limit.COMMANDS_PER_SECOND: "too many commands {}",
    Limit.BYTES_PER_SECOND: "too many bytes {}",
    Limit.DIGESTS: "too many digests {} at a time",
    Limit.LISTINGS: "too many listings {} at a time",
    Limit.PACKS: "too many packs {} at a time",
}
_KINDS = {
    b"HASH": Limit.DIGESTS,
    b"LS": Limit.LISTINGS,
    b"LIST": Limit.LISTINGS,
    b"PACK": Limit.PACKS,
}
# Before Python 3.12, looking up a member of an Enum class calls Python code.
_DIGESTS, _LISTINGS, _PACKS = Limit.DIGESTS, Limit.LISTINGS, Limit.PACKS
_PACK = b"PACK"


class Excess(NamedTuple):
    """A limit that a command would exceed.

    :ivar seconds: until it may begin; of a limit at a time, when it is tried again.
    :ivar at_a_time: whether it may begin when another command has ended.
    """

    limit: Limit
    seconds: float
    at_a_time: bool


class Bounds:
    """The limits of one scope, as numbers to compare with; no limit is infinite.

    :param bytes_slack: seconds of debt of bytes with which a command may begin.
    """

    __slots__ = (
        "bytes_slack",
        "commands",
        "digests",
        "interval",
        "listings",
        "packs",
        "scope",
        "slack",
    )

    def __init__(self, scope: Scope, limits: ScopeLimits, bytes_slack: float) -> None:
        self.scope = scope
        self.commands = _number(limits.commands)
        self.interval, self.slack = rate_of(limits.commands_per_second, limits.burst)
        self.bytes_slack = bytes_slack
        self.digests = _number(limits.digests)
        self.listings = _number(limits.listings)
        self.packs = _number(limits.packs)

    def excess(self, account: Account, kind: Limit | None, now: float) -> Excess | None:
        """Return the limit that a command of an account would exceed; ``None`` if it may begin.

        :param kind: the limit of commands of its kind at a time, if there is one.
        """
        if account.commands >= self.commands:
            return Excess(Limit.COMMANDS, RETRY, True)
        wait = account.commands_full - now - self.slack
        if wait > 0:
            return Excess(Limit.COMMANDS_PER_SECOND, wait, False)
        wait = account.bytes_full - now - self.bytes_slack
        if wait > 0:
            return Excess(Limit.BYTES_PER_SECOND, wait, False)
        if kind is None:
            return None
        if kind is _DIGESTS:
            full = account.digests >= self.digests
        elif kind is _LISTINGS:
            full = account.listings >= self.listings
        else:
            full = account.packs >= self.packs
        return Excess(kind, RETRY, True) if full else None

    def verdict(self, excess: Excess) -> Verdict:
        """Return the verdict on a command that would exceed a limit."""
        text = _WHAT[excess.limit].format(_WHOSE[self.scope])
        return delay(
            excess.seconds,
            TOO_MANY_REQUESTS,
            f"{text} retry-after={max(1, math.ceil(excess.seconds))}",
            Outcome.LIMITED,
            f"{self.scope.value}.{excess.limit.value}",
            excess.at_a_time,
        )


class Limits:
    """The gate of the limits; see `natproxy.access.Gate`. There are none until they are `set`.

    :param seconds: returns the time in seconds.
    :param bandwidth: has the limits of bytes, and the accounts of hosts and identities.
    """

    def __init__(self, seconds: Callable[[], float], bandwidth: Bandwidth) -> None:
        self._seconds = seconds
        self._bandwidth = bandwidth
        self._hosts = bandwidth.hosts
        self._identities = bandwidth.identities
        self._all = Account()
        self._shares = Shares()
        self._together = Limit.COMMANDS
        self._client: Bounds | None = None
        self._identity: Bounds | None = None
        self._total: Bounds | None = None

    def set(
        self,
        client: ScopeLimits = NO_LIMITS,
        identity: ScopeLimits = NO_LIMITS,
        total: ScopeLimits = NO_LIMITS,
    ) -> None:
        """Set the limits for the commands that begin from now on. What was taken stays counted."""
        bandwidth = self._bandwidth
        bandwidth.set(client.bytes_per_second, identity.bytes_per_second, total.bytes_per_second)
        self._client = _bounds(Scope.CLIENT, client, bandwidth.client.slack)
        self._identity = _bounds(Scope.IDENTITY, identity, bandwidth.identity.slack)
        # The bytes of all clients together delay only those that have received more than a share.
        self._total = _bounds(Scope.TOTAL, total, math.inf)

    def admit(self, command: Command, client: Caller) -> Verdict:
        """Return whether a command may begin now; if so, it is counted."""
        now = self._seconds()
        verb, name = command.verb, client.host
        kind = _KINDS.get(verb)
        host = self._hosts.by_key.get(name)
        if host is None:
            host = self._hosts.of(name, now)
        own, ours, total = self._client, self._identity, self._total
        if not name:
            # The clients of a UNIX socket have no host to be counted by.
            own = None
        # `Bounds.excess` is called only where a limit may be exceeded.
        if own is not None and (
            kind is not None
            or host.commands >= own.commands
            or host.commands_full > now + own.slack
            or host.bytes_full > now + own.bytes_slack
        ):
            excess = own.excess(host, kind, now)
            if excess is not None:
                return own.verdict(excess)
        identity = None
        if client.identity is not None:
            identity = self._identities.of(client.identity, now)
            if ours is not None and (excess := ours.excess(identity, kind, now)) is not None:
                return ours.verdict(excess)
        cost = 1 if verb != _PACK else len(command.name.split())
        everyone, shares = self._all, self._shares
        if total is not None:
            if (
                kind is not None
                or everyone.commands >= total.commands
                or everyone.commands_full > now + total.slack
                or shares.waiting
                or self._bandwidth.all_full > now
            ):
                excess = self._excess_of_all(total, host, name, kind, now)
                if excess is not None:
                    return total.verdict(excess)
            if total.interval:
                full = everyone.commands_full
                everyone.commands_full = (full if full > now else now) + cost * total.interval
            host.shared_at = now
            host.commands_served = shares.serve(name, host.commands_served, cost)
        if own is not None and own.interval:
            full = host.commands_full
            host.commands_full = (full if full > now else now) + cost * own.interval
        if identity is not None:
            if ours is not None and ours.interval:
                identity.spend(cost * ours.interval, now)
            identity.commands += 1
        host.commands += 1
        everyone.commands += 1
        if kind is not None:
            self._count(kind, host, identity, 1)
        return PROCEED

    def ended(self, command: Command, client: Caller) -> None:
        """Count a command that has begun as ended."""
        # An account with a command in flight is kept.
        host = self._hosts.by_key[client.host]
        host.commands -= 1
        self._all.commands -= 1
        identity = None
        if client.identity is not None:
            identity = self._identities.by_key[client.identity]
            identity.commands -= 1
        kind = _KINDS.get(command.verb)
        if kind is not None:
            self._count(kind, host, identity, -1)

    def _excess_of_all(
        self, total: Bounds, account: Account, host: str, kind: Limit | None, now: float
    ) -> Excess | None:
        """Return the limit that all clients together would exceed.

        It is the last one that was exceeded while a host waits that has been served less: that
        one is next.
        """
        excess = total.excess(self._all, kind, now)
        if excess is not None:
            self._together = excess.limit
        elif self._bandwidth.is_ahead(account, now):
            return Excess(Limit.BYTES_PER_SECOND, self._bandwidth.debt(now), False)
        elif not self._shares.is_next(host, account.commands_served, now):
            excess = Excess(self._together, RETRY, True)
        if excess is not None:
            until = now + excess.seconds + RETRY
            self._shares.wait(host, account.commands_served, until)
        return excess

    def _count(self, kind: Limit, host: Account, identity: Account | None, step: int) -> None:
        for account in (host, self._all, identity):
            if account is None:
                continue
            if kind is _DIGESTS:
                account.digests += step
            elif kind is _LISTINGS:
                account.listings += step
            else:
                account.packs += step


def _number(limit: int | None) -> float:
    return math.inf if limit is None else limit


def _bounds(scope: Scope, limits: ScopeLimits, bytes_slack: float) -> Bounds | None:
    return None if limits == NO_LIMITS else Bounds(scope, limits, bytes_slack)


def limit_of(reason: str) -> tuple[str, str] | None:
    """Return scope and limit of the reason of a verdict; ``None`` if it is not that of a limit."""
    scope, dot, limit = reason.partition(".")
    return (scope, limit) if dot and scope in _SCOPES and limit in _LIMITS else None
