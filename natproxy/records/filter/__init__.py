"""The filter language: one text that selects translations and events, for every command.

``client 10.0.0.0/24 and not verb STAT and (bytes > 1M or age > 10s)``; its grammar and its members
are in ``docs/filter.md``. It is parsed by some hundred lines of its own: a parser library would
take longer to import than the commands have to start, would be one more dependency of the daemons,
and would not point at the wrong word as well.
"""

from __future__ import annotations

# The command line checks a filter and sends its text: what it does not need is imported where it is
# used.
import time
from collections.abc import Callable

from natproxy.records.filter.errors import FilterError
from natproxy.records.filter.evaluation import predicate_of
from natproxy.records.filter.grammar import Node, format_tree, parse_tree
from natproxy.records.record import Record
from natproxy.records.times import Zone

__all__ = ["Filter", "FilterError", "parse"]


def parse(text: str, now: int | None = None, zone: Zone = None) -> Filter:
    """Return the filter of a text. The empty text matches everything.

    :param now: microseconds since the epoch, for times such as ``started > -10min``; by default,
        the wall clock's.
    :param zone: of times without one; by default, the local time of the system.
    :raises FilterError: if the text is malformed; it has the position of the wrong word.
    """
    if now is None:
        now = time.time_ns() // 1000
    return Filter(text, parse_tree(text, now, zone))


class Filter:
    """A parsed filter.

    :ivar text: as it was written.
    """

    def __init__(self, text: str, tree: Node | None) -> None:
        self.text = text
        self._tree = tree
        self._predicate: Callable[[Record, int], bool] | None = None
        if tree is not None:
            self._predicate = predicate_of(tree)

    def __bool__(self) -> bool:
        """Whether the filter has a condition: the empty one has none."""
        return self._tree is not None

    def __str__(self) -> str:
        """Return the filter in its normal form, which can be parsed."""
        return "" if self._tree is None else format_tree(self._tree)

    def matches(self, record: Record, now: int) -> bool:
        """Return whether a translation or an event is selected.

        A comparison with a member that the record does not have is false.

        :param now: microseconds since the epoch, for ``age``, and for ``duration`` and ``rate`` of
            a translation that is still open.
        """
        return self._predicate is None or self._predicate(record, now)

    def explain(self) -> str:
        """Return in plain English what the filter selects, as one sentence."""
        from natproxy.records.filter.explanation import explain_tree

        return explain_tree(self._tree)

    def sql(
        self, now: int | None = None, *, events: bool = False
    ) -> tuple[str, list[int | str], bool]:
        """Return a condition for the tables of a segment.

        The tables have the aliases of the view in `natproxy.journal.schema`: ``e``, ``c``, ``n``,
        ``u``. The condition selects every row that matches. If it is not exact, it may select
        others as well, and the caller uses `matches`.

        :param now: microseconds since the epoch; without it, terms with ``age``, ``duration`` and
            ``rate`` are left to `matches`.
        :param events: whether the caller makes the records of events of the rows. What may differ
            among the events of a translation, such as ``bytes``, is left to `matches`.
        :return: the condition, its parameters, and whether it is exact.
        """
        from natproxy.records.filter.sql import condition_of

        return condition_of(self._tree, now, events)

    def postgres(self, now: int) -> tuple[str, list[int | str], bool]:
        """Return a condition for the rows of a fleet's journal in PostgreSQL.

        They have the alias ``e`` and the columns of `natproxy.records.filter.postgres`. See `sql`.

        :param now: microseconds since the epoch.
        """
        from natproxy.records.filter.postgres import POSTGRES
        from natproxy.records.filter.sql import condition_of

        return condition_of(self._tree, now, dialect=POSTGRES)
