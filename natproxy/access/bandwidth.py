"""Limits on the bytes of replies: of each host, of each identity, and of all clients together.

Before a relay moves a slice, its connection's `Meter` must have been granted the bytes. What was
granted is paid for at once, and what is not moved is paid back. A meter to which nothing is granted
waits, without a timer of its own. If the limit of all clients is reached, the host that has been
served least is next: a host with ten connections gets as much as one with a single connection.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from natproxy.access.buckets import Account, Accounts
from natproxy.access.caller import Caller

PERIOD = 0.03
"""Seconds for which a slice lasts at its rate; and those that a late timer may catch up with.

Over two seconds, both together are 3 % of the bytes.
"""

LEAST = 1024
"""Bytes of a slice, at least."""

MOST = 8 << 20
"""Bytes of a slice, at most.

A relay moves it in several turns. Each pause costs as much as moving a megabyte: the peers sleep,
and are woken.
"""

MOST_OWED = 16 * 1024
"""Bytes that a connection may write before they are paid for, at most."""

ROUND = 1.0
"""Seconds in which each of the hosts that wait is to get a slice, if they are many."""

GRANTS = 32
"""Slices that are granted in one turn of the reactor to those that have waited."""

_log = Logger()


class ByteRate(NamedTuple):
    """A limit of bytes.

    :ivar interval: seconds for one byte; 0 if there is no limit.
    :ivar slack: seconds of debt with which a command may begin: none, if there is a limit.
    :ivar slice: bytes that are granted at once.
    """

    interval: float
    slack: float
    slice: int

    @classmethod
    def of(cls, rate: int | None) -> ByteRate:
        """Return the limit of a number of bytes a second; ``None`` for no limit."""
        if rate is None:
            return cls(0.0, math.inf, MOST)
        return cls(1 / rate, 0.0, min(MOST, max(LEAST, int(rate * PERIOD))))


class _Payer(NamedTuple):
    """Who pays for bytes."""

    host: str
    identity: str | None


class Bandwidth:
    """The limits of bytes of one daemon; there are none until they are `set`.

    :param clock: for the time, and a timer for those that wait.
    :ivar hosts: the accounts of hosts.
    :ivar identities: the accounts of identities.
    :ivar client: the limit of each host.
    :ivar identity: the limit of each identity.
    :ivar total: the limit of all together.
    :ivar credit: bytes that a connection may write before they are paid for.
    :ivar all_full: when the bucket of all together is full again, in seconds of the clock.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.hosts = Accounts()
        self.identities = Accounts()
        self.client = self.identity = self.total = ByteRate.of(None)
        self.credit = MOST_OWED
        self._clock = clock
        self.all_full = -math.inf
        # What the host that was served last had been served before.
        self._level = 0.0
        self._parked: dict[_Payer, OrderedDict[Meter, Callable[[], object]]] = {}
        # The number of the entry of each payer in one of the heaps: others are left over.
        self._entry: dict[_Payer, int] = {}
        self._number = 0
        # Those whose own limits are reached, by time; the others by what they have been served.
        self._later: list[tuple[float, int, _Payer]] = []
        self._ready: list[tuple[float, int, _Payer]] = []
        self._timer: IDelayedCall | None = None
        self._granting = False

    def __len__(self) -> int:
        """Return the number of meters that wait."""
        return sum(map(len, self._parked.values()))

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self.client.interval or self.identity.interval or self.total.interval)

    def set(self, client: int | None, identity: int | None, total: int | None) -> None:
        """Set the limits, in bytes a second; ``None`` for no limit."""
        self.client, self.identity = ByteRate.of(client), ByteRate.of(identity)
        self.total = ByteRate.of(total)
        least = min(self.client.slice, self.identity.slice, self.total.slice)
        self.credit = min(MOST_OWED, least // 4)
        # The times of those that wait are no longer right.
        self._later, self._ready = [], []
        for payer in self._parked:
            self._enter(payer)
        self._schedule()

    def meter(self, client: Caller) -> Meter:
        """Return the meter of a connection."""
        return Meter(self, _Payer(client.host, client.identity))

    def is_ahead(self, host: Account, now: float) -> bool:
        """Return whether all together are in debt, and a host has received more than its share."""
        return (
            self.total.interval > 0
            and self.all_full > now
            and host.bytes_served > self._level + self.total.slice
        )

    def debt(self, now: float) -> float:
        """Return the seconds until all together may move bytes again."""
        return max(0.0, self.all_full - now)

    # Called by meters.

    def take(self, payer: _Payer) -> int:
        """Return the bytes that are granted, and paid for; 0 if the payer must wait."""
        now = self._clock.seconds()
        if self.total.interval and (self._ready or self.all_full > now):
            return 0
        if self._due(payer, now) > now:
            return 0
        return self._grant(payer)

    def pay(self, payer: _Payer, size: int) -> None:
        """Take bytes from all buckets of a payer; a negative number is paid back."""
        now = self._clock.seconds()
        least = now - PERIOD
        interval = self.client.interval
        host = self.hosts.by_key.get(payer.host) or self.hosts.of(payer.host, now)
        if interval and payer.host:
            full = host.bytes_full
            host.bytes_full = (full if full > least else least) + size * interval
        interval = self.identity.interval
        if interval and payer.identity is not None:
            identity = self.identities.of(payer.identity, now)
            identity.bytes_full = max(identity.bytes_full, least) + size * interval
        interval = self.total.interval
        if interval:
            full = self.all_full
            self.all_full = (full if full > least else least) + size * interval
            start = host.bytes_served
            if size > 0 and self._level > start:
                start = self._level
            host.bytes_served = start + size
            host.shared_at = now

    def park(self, payer: _Payer, meter: Meter, resume: Callable[[], object]) -> None:
        """Call back when bytes have been granted to a meter."""
        waiting = self._parked.get(payer)
        if waiting is None:
            waiting = self._parked[payer] = OrderedDict()
            self._enter(payer)
        waiting[meter] = resume
        self._schedule()

    def leave(self, payer: _Payer, meter: Meter) -> None:
        """Call back no more."""
        waiting = self._parked.get(payer)
        if waiting is not None and waiting.pop(meter, None) is not None and not waiting:
            self._remove(payer)
            self._schedule()

    # Those that wait.

    def _due(self, payer: _Payer, now: float) -> float:
        """Return when the payer's own limits allow bytes, in seconds of the clock."""
        due = -math.inf
        if self.client.interval and payer.host:
            due = self.hosts.of(payer.host, now).bytes_full
        if self.identity.interval and payer.identity is not None:
            due = max(due, self.identities.of(payer.identity, now).bytes_full)
        return due

    def _grant(self, payer: _Payer) -> int:
        """Pay for a slice, and return its size."""
        size = min(self.client.slice, self.identity.slice)
        total = self.total
        if total.interval:
            # One slice for each of many hosts must not take too long.
            fair = int(ROUND / total.interval / (len(self._parked) + 1))
            size = min(size, total.slice, max(LEAST, fair))
        self.pay(payer, size)
        return size

    def _enter(self, payer: _Payer) -> None:
        """Put a payer that waits into its heap."""
        now = self._clock.seconds()
        self._number += 1
        self._entry[payer] = self._number
        due = self._due(payer, now)
        if due > now:
            self._push(self._later, (due, self._number, payer))
        else:
            self._push(self._ready, (self._served(payer, now), self._number, payer))

    def _push(
        self, heap: list[tuple[float, int, _Payer]], entry: tuple[float, int, _Payer]
    ) -> None:
        if len(heap) > 2 * len(self._parked) + 64:
            heap[:] = [one for one in heap if self._entry.get(one[2]) == one[1]]
            heapify(heap)
        heappush(heap, entry)

    def _remove(self, payer: _Payer) -> None:
        del self._parked[payer], self._entry[payer]

    def _served(self, payer: _Payer, now: float) -> float:
        return max(self._level, self.hosts.of(payer.host, now).bytes_served)

    def _schedule(self) -> None:
        """Set the timer to the next time at which bytes may be granted, or cancel it."""
        if self._granting:
            return
        now = self._clock.seconds()
        due = math.inf
        for heap in (self._ready, self._later):
            while heap and self._entry.get(heap[0][2]) != heap[0][1]:
                heappop(heap)
        if self._ready:
            due = self.all_full if self.total.interval else now
        if self._later:
            due = min(due, self._later[0][0])
        if due == math.inf:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self._clock.callLater(max(0.0, due - now), self._expire)
        else:
            self._timer.reset(max(0.0, due - now))

    def _expire(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        later, ready = self._later, self._ready
        while later and later[0][0] <= now:
            _, number, payer = heappop(later)
            if self._entry.get(payer) == number:
                self._push(ready, (self._served(payer, now), number, payer))
        self._granting = True
        try:
            granted = 0
            while ready and granted < GRANTS:
                if self.total.interval and self.all_full > now:
                    break
                granted += self._grant_first(now)
        finally:
            self._granting = False
        self._schedule()

    def _grant_first(self, now: float) -> int:
        """Grant a slice to the first payer, if it may have it; return whether it has."""
        served, number, payer = self._ready[0]
        if self._entry.get(payer) != number:
            heappop(self._ready)
            return 0
        start = self._served(payer, now)
        if start > served:
            # Another payer of its host has been served.
            heapreplace(self._ready, (start, number, payer))
            return 0
        heappop(self._ready)
        due = self._due(payer, now)
        if due > now:
            self._push(self._later, (due, number, payer))
            return 0
        waiting = self._parked[payer]
        meter, resume = waiting.popitem(last=False)
        self._level = start
        meter.grant(self._grant(payer))
        if waiting:
            self._enter(payer)
        else:
            self._remove(payer)
        try:
            resume()
        except Exception:
            _log.failure("a relay cannot continue after its wait")
        return 1


class Meter:
    """The bytes that one connection may move; see `natproxy.relay.outbound.Meter`.

    :ivar granted: bytes that were granted and have not been moved.
    :ivar budget: bytes that may be moved at once, those of the last grant. Of what is left of a
        grant, no small piece is moved: the next grant pays for the rest.
    :ivar waiting: whether it waits for a grant.
    """

    __slots__ = ("_bandwidth", "_owed", "_payer", "budget", "granted", "waiting")

    def __init__(self, bandwidth: Bandwidth, payer: _Payer) -> None:
        self._bandwidth = bandwidth
        self._payer = payer
        self.granted = 0
        self.waiting = False
        self.budget = MOST
        self._owed = 0

    def ready(self) -> bool:
        """Return whether bytes may be moved now; they have been granted then."""
        if self.granted > 0:
            return True
        if self.waiting:
            return False
        if not self._bandwidth.limited:
            self.budget = MOST
            return True
        if self._owed:
            self._settle()
        granted = self._bandwidth.take(self._payer)
        if granted:
            self.grant(granted)
        return granted > 0

    def grant(self, size: int) -> None:
        """Let bytes be moved that are paid for."""
        self.granted = self.budget = size
        self.waiting = False

    def wait(self, resume: Callable[[], object]) -> None:
        """Call back once when bytes have been granted."""
        self.waiting = True
        self._bandwidth.park(self._payer, self, resume)

    def charge(self, size: int) -> None:
        """Count bytes that were moved or written, also if they were not granted."""
        if self.granted:
            self.granted -= size
            if self.granted >= 0:
                return
            size, self.granted = -self.granted, 0
        # Short replies are paid for together.
        self._owed += size
        if self._owed >= self._bandwidth.credit:
            self._settle()

    def _settle(self) -> None:
        size, self._owed = self._owed, 0
        if self._bandwidth.limited:
            self._bandwidth.pay(self._payer, size)

    def cancel(self) -> None:
        """Wait no longer, and pay back what was granted."""
        if self.waiting:
            self.waiting = False
            self._bandwidth.leave(self._payer, self)
        if self.granted:
            self._bandwidth.pay(self._payer, -self.granted)
            self.granted = 0
