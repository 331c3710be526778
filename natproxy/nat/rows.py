"""The rows of the last events of a NAT table, up to a number of events and of characters."""

from __future__ import annotations

from natproxy.records.command_texts import LONG_NAME
from natproxy.records.event_rows import ENDS, EVENT, NAME, ROUTE, SEQ, TIME, Lost, Row


class RowRing:
    """The rows of the last events.

    :param size: events to hold.
    :param names: characters of long names to hold; see `natproxy.records.command_texts.LONG_NAME`.
    :param now: microseconds since the epoch.
    :ivar size: likewise.
    :ivar first: number of the oldest event held; equals `next` if none is held.
    :ivar next: number of the next event; the first event has 1.
    :ivar complete_from: microseconds since the epoch from which on it has every event.
    """

    def __init__(self, size: int, names: int, now: int) -> None:
        self.size = size
        self.first = 1
        self.next = 1
        self.complete_from = now
        self._names = names
        self._names_left = names
        self._rows: list[Row | None] = [None] * size

    def count(self, name: str) -> None:
        """Count the name of a command whose first row follows."""
        if len(name) > LONG_NAME:
            self._names_left -= len(name)

    def add(self, row: Row) -> None:
        """Add the row of the next event."""
        seq = row[SEQ]
        rows, place = self._rows, seq % self.size
        old = rows[place]
        if self._names_left < self._names:
            # Some names are long.
            self._evict()
        elif old is not None:
            # The wall clock may have been set back: the times need not increase.
            if old[TIME] >= self.complete_from:
                self.complete_from = old[TIME] + 1
            self.first += 1
        rows[place] = row
        self.next = seq + 1

    def read(self, after: int, limit: int) -> tuple[list[Row], Lost | None]:
        """Return the rows that follow an event; see `natproxy.nat.ring.EventRing.read`."""
        lost = None
        if after + 1 < self.first:
            lost = Lost(after + 1, self.first - 1)
            after = self.first - 1
        start, stop = after + 1, min(after + 1 + limit, self.next)
        if start >= stop:
            return [], lost
        low, high = start % self.size, stop % self.size
        rows = self._rows
        found = rows[low:high] if low < high else rows[low:] + rows[:high]
        return [row for row in found if row is not None], lost

    def _evict(self) -> None:
        """Remove the oldest events until one more fits, and the names do."""
        while self.first < self.next and (
            self.next - self.first >= self.size or self._names_left < 0
        ):
            place = self.first % self.size
            row, self._rows[place] = self._rows[place], None
            self.first += 1
            if row is not None:
                # The wall clock may have been set back: the times need not increase.
                if row[TIME] >= self.complete_from:
                    self.complete_from = row[TIME] + 1
                # With the last event of a translation, its name is gone.
                route = row[ROUTE]
                if route is not None and row[EVENT] in ENDS:
                    length = len(route[NAME])
                    if length > LONG_NAME:
                        self._names_left += length
