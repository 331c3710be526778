"""Writes of which times the record of a proxy is complete, when its rows have been written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from natproxy.journal.coverage import Held
from natproxy.journal.postgres.completeness import Known, ProxyCoverage, Report
from natproxy.journal.postgres.positions import Positions
from natproxy.journal.rows import Row
from natproxy.journal.summary import END

if TYPE_CHECKING:
    import psycopg

EMPTY = Report([], [], {})


class Settlement:
    """What the database has of the completeness of a proxy.

    :ivar report: the last one that was written.
    """

    def __init__(self) -> None:
        self.report = EMPTY
        self._structure: object = None

    def write(
        self,
        connection: psycopg.Connection[Any],
        positions: Positions,
        known: Known,
        waiting: dict[int, int],
    ) -> Report:
        """Write what has changed; return the report. The caller commits it.

        :param waiting: see `ProxyCoverage.report`.
        """
        coverage = ProxyCoverage(positions.segments.values(), known)
        report = coverage.report(waiting)
        former = self.report
        if (report.gaps, report.doubled) != (former.gaps, former.doubled) or former is EMPTY:
            connection.execute("delete from gaps where proxy = %s", [positions.proxy])
            with connection.cursor() as cursor:
                cursor.executemany(
                    "insert into gaps (proxy, first, last, doubled, cause)"
                    " values (%s, %s, %s, %s, %s)",
                    [
                        (positions.proxy, gap.first, gap.last, doubled, gap.gap.cause)
                        for gaps, doubled in ((report.gaps, False), (report.doubled, True))
                        for gap in gaps
                    ],
                )
        changed = report.complete_to.items() - former.complete_to.items()
        if changed:
            with connection.cursor() as cursor:
                cursor.executemany(
                    "insert into workers (proxy, worker, complete_to) values (%s, %s, %s)"
                    " on conflict (proxy, worker) do update set complete_to = excluded.complete_to",
                    [(positions.proxy, worker, time) for worker, time in changed],
                )
        structure = (coverage.structure, report.gaps)
        if structure != self._structure:
            _write_held(connection, positions.proxy, coverage)
        self.report, self._structure = report, structure
        return report

    def reset(self) -> None:
        """Note that translations have lost their ends."""
        self._structure = None


def _write_held(connection: psycopg.Connection[Any], proxy: int, coverage: ProxyCoverage) -> None:
    """Write how long the translations of a proxy held their ports whose ends are not known."""
    changed = []
    for run, worker, boot, part, serial, started, outcome, *before in connection.execute(
        "select run, worker, boot, part, serial, started, outcome,"
        " certain, possible, since, until, cause"
        " from unended join runs on id = run where proxy = %s",
        [proxy],
    ):
        held = coverage.held(_row(serial, started, outcome), worker, boot, part)
        after = _values(held)
        if after != before:
            changed.append((*after, run, serial))
    if changed:
        with connection.cursor() as cursor:
            cursor.executemany(
                "update unended set certain = %s, possible = %s, since = %s, until = %s, cause = %s"
                " where run = %s and serial = %s",
                changed,
            )


def _values(held: Held | None) -> list[Any]:
    if held is None:
        return [None] * 5
    gap = held.gap
    assert gap is not None
    return [held.certain, min(held.possible, END), gap.since, gap.until, gap.cause]


def _row(serial: int, started: int, outcome: str | None) -> Row:
    """Return a row with what decides how long it held its port."""
    nothing: list[Any] = [None] * len(Row._fields)
    return Row._make(nothing)._replace(serial=serial, started=started, outcome=outcome)
