"""``natproxy top`` of a fleet: what its proxies have done lately, from their journal."""

from __future__ import annotations

import time
from collections.abc import Callable

from natproxy.cli.display.text import duration, speed
from natproxy.cli.top.sampling import Row
from natproxy.cli.top.state import MOST, STEPS
from natproxy.cli.top.view import RESERVED, Line, cut, group_lines
from natproxy.cli.top.window import OTHERS, Window
from natproxy.cli.translations.sources import JournalFailure
from natproxy.cli.translations.texts import shown
from natproxy.counts import counted
from natproxy.journal.directory import JournalError
from natproxy.journal.postgres.activity import KEYS, Activity
from natproxy.journal.postgres.fleet import NAMED, Proxy, lag_text
from natproxy.protocol import WireError, decode_name, printable

LAG = 15_000_000
"""Microseconds by which a record may be behind without being reported.

That of an idle proxy is renewed each ten seconds.
"""

SORTS: dict[str, tuple[str, Callable[[Row], float]]] = {
    "a": ("number in flight", lambda row: -row.in_flight),
    "b": ("bytes", lambda row: -row.sent),
    "r": ("rate", lambda row: -row.rate),
    "n": ("commands", lambda row: -row.finished),
    "e": ("failed", lambda row: -row.failed),
    "c": ("group", lambda row: 0.0),
}
"""The orders by their keys."""

HINTS = (
    "q quit  sort: a in flight  b bytes  r rate  n commands  e failed  c group  g group  p pause",
    "q quit  a b r n e c sort  g group  p pause",
    "q quit  g group",
)


class FleetTop:
    """The state, and what changes it.

    :param group: a key of `natproxy.journal.postgres.activity.KEYS`.
    :param length: microseconds of the window.
    :param clock: returns microseconds since the epoch.
    :ivar group: likewise.
    :ivar message: why the last reading failed; empty if it did not.
    :ivar proxies: of the last reading; ``None`` before the first one.
    :ivar window: the sums.
    :ivar paused: whether nothing is read.
    :ivar ended: whether the user has quit.
    """

    def __init__(
        self,
        activity: Activity,
        group: str,
        window: Window,
        text: str = "",
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.group = group
        self.window = window
        self.message = ""
        self.proxies: list[Proxy] | None = None
        self.paused = self.ended = False
        self._activity = activity
        self._text = text
        self._clock = clock
        self._sort = "n"
        self._first = 0

    def update(self) -> None:
        """Read what is new, unless paused; a failure becomes the message."""
        if self.paused:
            return
        now = self._clock()
        try:
            reading = self._activity.read(now - self.window.length, now)
        except JournalError as error:
            self.message = str(error)
            return
        self.message = ""
        self.proxies = reading.proxies
        self.window.add(reading.ended, reading.open, now)

    def update_once(self) -> None:
        """Read what there is.

        :raises JournalFailure: if it cannot be read.
        """
        self.update()
        if self.proxies is None:
            raise JournalFailure(self.message)

    def rows(self) -> list[Row]:
        """Return the groups in their order, with texts for people; the others are the last."""
        rows = self.window.rows()
        order = SORTS[self._sort][1]
        rows.sort(key=lambda row: (row.key == OTHERS, order(row), row.key))
        for row in rows:
            row.key = self._text_of(row.key)
        return rows

    def press(self, key: str) -> None:
        """Take a key: a character, or the name of another key such as ``up``."""
        if key == "q":
            self.ended = True
        elif key in SORTS:
            self._sort = key
        elif key in STEPS:
            most = max(0, len(self.window.rows()) - 1)
            self._first = 0 if STEPS[key] == -MOST else min(max(0, self._first + STEPS[key]), most)
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key == "g":
            choices = list(KEYS)
            self.group = choices[(choices.index(self.group) + 1) % len(choices)]
            # What is shown is of other groups.
            self.paused, self._first = False, 0
            self.window.clear()
            self._activity.restart(self.group)

    def behind(self) -> list[str]:
        """Return which proxies are behind, for people."""
        now = self._clock()
        return [
            shown(lag_text(proxy, now)) for proxy in self.proxies or () if now - proxy.horizon > LAG
        ]

    def lines(self, columns: int, height: int) -> list[Line]:
        """Return the lines of the screen, each with at most this many columns."""
        found = [Line(self._title(), "bold"), Line(self._totals())]
        behind = self.behind()
        if behind:
            more = f"  and {len(behind) - NAMED} more" if len(behind) > NAMED else ""
            found.append(Line("  ".join(behind[:NAMED]) + more, "yellow"))
        rows = self.rows()
        most = max(1, height - RESERVED - bool(behind))
        first = max(0, min(self._first, len(rows) - most))
        if rows:
            found += group_lines(self.group, rows[first:], columns, most)
        else:
            text = "connecting ..." if self.proxies is None else "no command in this time"
            found.append(Line(text))
        found += [Line("")] * (height - 2 - len(found))
        found.append(Line(self.message, "yellow"))
        hint = next((each for each in HINTS if len(each) <= columns), HINTS[-1])
        found.append(Line(hint, "dim"))
        return [Line(cut(line.text, columns), line.style) for line in found]

    def _title(self) -> str:
        parts = ["fleet"]
        if self.proxies is not None:
            number = sum(not proxy.retired for proxy in self.proxies)
            parts.append(counted(number, "proxy", "proxies"))
        parts.append(f"{self.window.total().in_flight:,} in flight")
        parts.append(f"the last {duration(self.window.length / 1e6)}")
        if self.paused:
            parts.append("PAUSED")
        if self._text.strip():
            parts.append(f"filter: {shown(self._text)}")
        return "  ".join(parts)

    def _totals(self) -> str:
        total = self.window.total()
        order = self.group if self._sort == "c" else SORTS[self._sort][0]
        return (
            f"{total.finished:,.1f} commands/s  {total.failed:,.1f} failed/s  {speed(total.rate)}"
            f"  sorted by {order}"
        )

    def _text_of(self, key: str) -> str:
        if self.group != "name" or key == OTHERS:
            return shown(key) or "-"
        word, blank, others = key.partition(" ")
        try:
            name = printable(decode_name(word.encode("utf-8", "surrogatepass")))
        except WireError:
            name = shown(word)
        return f"{name}{blank}{shown(others) if others else ''}" or "-"
