"""What a fleet has done within a window of time, summed up by group in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from natproxy.cli.top.sampling import Row
from natproxy.journal.postgres.activity import MOST, Open, Sum

SLOTS = 60
"""Parts of the window; the oldest one is discarded as a whole."""

OTHERS = "(others)"
"""The row of what is in no group, because there are too many."""


@dataclass
class _Count:
    """Commands that have ended."""

    commands: int = 0
    failed: int = 0
    bytes: int = 0

    def add(self, commands: int, failed: int, size: int) -> None:
        self.commands += commands
        self.failed += failed
        self.bytes += size


class Window:
    """The sums of the last seconds.

    Memory is bounded: of each slot, twice `MOST` groups are remembered; commands of further ones
    are in the total, and in the row `OTHERS`.

    :param length: of the window, in microseconds.
    :ivar slot: microseconds of a part of it.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.slot = max(1, length // SLOTS)
        self._groups: dict[int, dict[str, _Count]] = {}
        self._totals: dict[int, _Count] = {}
        self._open: dict[str, Open] = {}
        self._all_open = Open(None, 0, 0)

    def clear(self) -> None:
        """Discard everything."""
        self._groups.clear()
        self._totals.clear()

    def add(self, ended: Iterable[Sum], found: Iterable[Open], now: int) -> None:
        """Add what is new, and discard what has left the window.

        :param found: what is open; it replaces what was open before.
        :param now: microseconds since the epoch.
        """
        for one in ended:
            values = one.commands, one.failed, one.bytes
            if one.key is None:
                self._totals.setdefault(one.slot, _Count()).add(*values)
                continue
            groups = self._groups.setdefault(one.slot, {})
            if one.key in groups or len(groups) < 2 * MOST:
                groups.setdefault(one.key, _Count()).add(*values)
        oldest = (now - self.length) // self.slot
        for slots in (self._groups, self._totals):
            for slot in [slot for slot in slots if slot < oldest]:
                del slots[slot]
        self._open = {}
        self._all_open = Open(None, 0, 0)
        for each in found:
            if each.key is None:
                self._all_open = each
            else:
                self._open[each.key] = each

    def rows(self) -> list[Row]:
        """Return the groups, in no order, and the row of the others if there are some."""
        sums: dict[str, _Count] = {}
        for groups in self._groups.values():
            for key, count in groups.items():
                sums.setdefault(key, _Count()).add(count.commands, count.failed, count.bytes)
        rows = [
            self._row(key, sums.get(key, _Count()), self._open.get(key, Open(key, 0, 0)))
            for key in dict.fromkeys((*sums, *self._open))
        ]
        total = self._total()
        rest = _Count(
            total.commands - sum(count.commands for count in sums.values()),
            total.failed - sum(count.failed for count in sums.values()),
            total.bytes - sum(count.bytes for count in sums.values()),
        )
        listed = self._open.values()
        still = Open(
            None,
            self._all_open.number - sum(each.number for each in listed),
            self._all_open.bytes - sum(each.bytes for each in listed),
        )
        if rest.commands > 0 or still.number > 0:
            rows.append(self._row(OTHERS, rest, still))
        return rows

    def total(self) -> Row:
        """Return the sum of all groups."""
        return self._row("", self._total(), self._all_open)

    def _total(self) -> _Count:
        total = _Count()
        for count in self._totals.values():
            total.add(count.commands, count.failed, count.bytes)
        return total

    def _row(self, key: str, count: _Count, still: Open) -> Row:
        seconds = self.length / 1e6
        return Row(
            key,
            still.number,
            count.bytes + still.bytes,
            count.commands / seconds,
            count.failed / seconds,
            count.bytes / seconds,
        )
