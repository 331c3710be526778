"""What a NAT table calls with its entries: cheaper than a subscription to its events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from natproxy.nat.entry import NATEntry
from natproxy.nat.events import Failed
from natproxy.records.event_rows import Row


class Recorder(Protocol):
    """What is called with the entries themselves, before the subscribers: the ring of events.

    It costs less than a subscription, since no event is created. Times are seconds: ``wall`` since
    the epoch, ``now`` of the table's clock.
    """

    def registered(self, entry: NATEntry, wall: float) -> None:
        """Record an entry that was registered."""
        ...

    def relaying(self, entry: NATEntry, wall: float, now: float) -> None:
        """Record that the header of the entry's reply has been received."""
        ...

    def removed(self, entry: NATEntry, wall: float, now: float) -> None:
        """Record that the entry has been removed, with its outcome and its reason."""
        ...

    def failed(self, event: Failed) -> None:
        """Record a command without an entry."""
        ...


class Spool(Protocol):
    """What the ring of events passes each event to at once, before its row is made.

    ``seq`` is the number of the event.
    """

    def registered(self, seq: int, entry: NATEntry, wall: float) -> None:
        """See `Recorder.registered`."""
        ...

    def relaying(self, seq: int, entry: NATEntry, wall: float, now: float) -> None:
        """See `Recorder.relaying`."""
        ...

    def removed(self, seq: int, entry: NATEntry, wall: float, now: float) -> None:
        """See `Recorder.removed`."""
        ...

    def row(self, row: Row) -> None:
        """Record any other event, which has its number."""
        ...

    def close(self, *, remove: bool) -> None:
        """End it.

        :param remove: whether nothing of it is needed any more.
        """
        ...


Counter = Callable[[NATEntry, float, float], object]
"""Called with an entry that was removed and the times, as `Recorder.removed` is."""
