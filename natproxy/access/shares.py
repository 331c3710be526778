"""Equal shares of what all clients have together (start-time fair queueing).

Each client has a number: what it has been served so far. The client that has been served least is
next. A client that was idle begins where the others are, so that idling saves nothing.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple


class _Waiting(NamedTuple):
    served: float
    until: float


class Shares:
    """Which of the clients that wait for one resource is next.

    :ivar level: what the client that was served last had been served before that.
    :ivar waiting: the clients that wait.
    """

    def __init__(self) -> None:
        self.level = 0.0
        self.waiting: dict[str, _Waiting] = {}
        # By what was served. An entry holds only if its client still waits with that number.
        self._order: list[tuple[float, str]] = []

    def start(self, served: float) -> float:
        """Return the number from which a client is served: idling saves nothing."""
        return max(self.level, served)

    def is_next(self, key: str, served: float, now: float) -> bool:
        """Return whether no client waits that has been served less.

        :param served: what the client has been served.
        """
        if not self.waiting:
            return True
        start = self.start(served)
        order = self._order
        while order:
            least, other = order[0]
            waiting = self.waiting.get(other)
            if waiting is None or waiting.served != least:
                heappop(order)
            elif waiting.until < now:
                # It has been lost, or waits for something else.
                heappop(order)
                del self.waiting[other]
            else:
                return other == key or start <= least
        return True

    def wait(self, key: str, served: float, until: float) -> None:
        """Note that a client waits.

        :param until: in seconds of the clock; unless it is noted again before, it waits no more.
        """
        start = self.start(served)
        former = self.waiting.get(key)
        self.waiting[key] = _Waiting(start, until)
        if former is None or former.served != start:
            heappush(self._order, (start, key))
            if len(self._order) > 2 * len(self.waiting) + 64:
                self._order = sorted((one.served, key) for key, one in self.waiting.items())

    def serve(self, key: str, served: float, cost: float) -> float:
        """Return what a client has been served after it is served once more.

        :param served: before.
        :param cost: of what it gets.
        """
        start = self.level = self.start(served)
        if self.waiting:
            self.waiting.pop(key, None)
        return start + cost
