"""When a file's time stamps are sure to tell its next change.

Two changes within one tick of a file system's clock leave the same stamps: what git calls
"racily clean". What was read between the two could never be told from what is there after
them. The file system's clock need not agree with this machine's: it may be a file
server's.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import NamedTuple

from natproxy.kernel.mounts import Mounts

REMEMBERED = 10_000
"""Keys whose first sight is remembered."""


class Instant(NamedTuple):
    """A time.

    :ivar monotonic: in seconds that never jump.
    :ivar wall: in seconds since the epoch.
    """

    monotonic: float
    wall: float


class Settling:
    """Tells whether the next change of a file will change its time stamps.

    It will if a tick has passed since the stamps were first seen: they were not made after
    that. That needs no clock but a monotonic one. Where the stamps are of this machine's
    own clock, it also will if that clock says that they are older than a tick.

    :param monotonic: seconds that never jump.
    :param wall_clock: seconds since the epoch.
    :param has_local_clock: whether a device's stamps are of this machine's clock.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        has_local_clock: Callable[[int], bool] | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._has_local_clock = has_local_clock or Mounts().has_local_clock
        # Pages are made in several threads at once.
        self._lock = Lock()
        self._first_seen: OrderedDict[Hashable, float] = OrderedDict()

    def now(self) -> Instant:
        """Return the time by both clocks."""
        return Instant(self._monotonic(), self._wall_clock())

    def settled(
        self, key: Hashable, device: int, changed: float, tick: float, seen: Instant
    ) -> bool:
        """Return whether a change after the stamps were seen changes them.

        :param key: the stamps, and whose they are.
        :param device: where the file is, ``st_dev``.
        :param changed: the later of the stamps, in seconds.
        :param tick: the longest time, in seconds, in which two changes get the same stamps.
        :param seen: when the stamps were read, or a little later.
        """
        with self._lock:
            first = self._first_seen.setdefault(key, seen.monotonic)
            if len(self._first_seen) > REMEMBERED:
                self._first_seen.popitem(last=False)
        if seen.monotonic - first > tick:
            return True
        return seen.wall - changed > tick and self._has_local_clock(device)
