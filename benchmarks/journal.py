"""``python -m benchmarks.journal``: searches among millions of rows.

Makes segments of a million rows each, as a daemon seals them, and measures `whois` and `history`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.machine import facts
from natproxy.journal.catalogue import Catalogue
from natproxy.journal.schema import CATALOGUE_FILE
from natproxy.journal.search import Journal
from natproxy.journal.segment import Addition, Segment, connect, seal
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import Origin
from natproxy.records.whois import FOUND, NOBODY, WhoisQuery

START = 1_790_000_000_000_000
"""When the first segment begins, in microseconds since the epoch."""

APART = 1_000
"""Microseconds between two commands: a thousand a second."""

ORIGIN = Origin("proxy-9000", 0, "1f2e3d4c")

CLIENTS = 200

LONGEST = 2_000_000
"""Microseconds of the longest translation; a port is free for much longer before it is reused."""

NAMES = "name '*/item-00*' and bytes > 500k"

QUESTIONS = 300

ROWS = """
with recursive number(n) as (select :first union all select n + 1 from number where n < :last)
insert into entries
select
    n,
    3 * n - 2,
    3 * n - 1,
    3 * n,
    null,
    null,
    :start + n * :apart,
    150 + n % 90,
    :start + n * :apart + 5000 + (n * 7919) % :longest,
    1 + n % :clients,
    20000 + n % 40000,
    null,
    :nat,
    32768 + n % 28232,
    :nat + 1,
    9001,
    'GET',
    printf('images/2026/item-%07d.iso', (n * 104729) % 3000000),
    4096 + n % 1000000,
    4120 + n % 1000000,
    'completed',
    null,
    5200 + (n * 7919) % :longest
from number
"""


def make(directory: Path, segments: int, rows: int) -> None:
    """Write sealed segments, and a live one of as many rows."""
    opened = START
    for part in range(1, segments + 2):
        live = part > segments
        first, last = (part - 1) * rows + 1, part * rows
        complete_to = START + last * APART + LONGEST + 10_000
        segment = Segment.create(str(directory), ORIGIN, START, opened, part)
        hosts = [f"10.{number // 250}.{number % 250}.7" for number in range(CLIENTS)]
        hosts += ["10.255.0.1", "10.255.0.2"]
        connection = connect(segment.path)
        connection.execute("pragma synchronous = off")
        connection.execute("begin")
        connection.executemany("insert into hosts (host) values (?)", [(host,) for host in hosts])
        connection.execute(
            ROWS,
            {
                "first": first,
                "last": last,
                "start": START,
                "apart": APART,
                "longest": LONGEST,
                "clients": CLIENTS,
                "nat": CLIENTS + 1,
            },
        )
        connection.execute("commit")
        connection.close()
        segment.append(Addition(complete_to))
        segment.close()
        if not live:
            Catalogue(str(directory)).add(seal(segment.path, complete_to, moved=True))
        opened = complete_to
        print(f"\rsegment {part} of {segments + 1}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def query_of(serial: int, found: bool) -> WhoisQuery:
    """Return a query about a translation, or about a time at which its port is free."""
    started = START + serial * APART
    moment = started + 100 if found else started + LONGEST + 3_000_000
    return WhoisQuery(32_768 + serial % 28_232, since=moment, until=moment)


class Times(NamedTuple):
    """Seconds that something takes.

    :ivar wall: that pass.
    :ivar cpu: of the process.
    """

    wall: float
    cpu: float

    def each(self, number: int) -> Times:
        """Return the share of one."""
        return Times(self.wall / number, self.cpu / number)


def timed(function: Callable[[], object]) -> Times:
    """Return the seconds that a call takes."""
    cpu, start = time.process_time(), time.perf_counter()
    function()
    return Times(time.perf_counter() - start, time.process_time() - cpu)


def row(name: str, times: list[Times]) -> str:
    """Return a row of the report: median, 99th percentile and the worst, in milliseconds."""
    ordered = sorted(each.wall for each in times)
    values = (
        median(ordered),
        ordered[int(len(ordered) * 0.99)],
        ordered[-1],
        median(each.cpu for each in times),
    )
    shown = " | ".join(f"{value * 1000:.2f}" for value in values)
    return f"| {name} | {len(times)} | {shown} |"


def whois_rows(directory: Path, segments: int, rows: int) -> Iterator[str]:
    """Measure `Journal.whois`."""
    generator = random.Random(10)
    serials = [generator.randrange(1, segments * rows) for _ in range(QUESTIONS)]
    for found, result in ((True, FOUND), (False, NOBODY)):
        queries = [query_of(serial, found) for serial in serials]

        def check(journal: Journal, query: WhoisQuery, result: str = result) -> None:
            assert journal.whois(query).result == result, query

        drop(directory)
        cold = []
        for query in queries[:20]:
            drop(directory)
            with Journal(str(directory)) as journal:
                cold.append(timed(lambda: check(journal, query)))  # noqa: B023
        yield row(f"{result}, a new reader, segments not in the page cache", cold)
        new = []
        for query in queries:
            with Journal(str(directory)) as journal:
                new.append(timed(lambda: check(journal, query)))  # noqa: B023
        yield row(f"{result}, a new reader for each", new)
        with Journal(str(directory)) as journal:
            for query in queries:
                check(journal, query)
            kept = [timed(lambda: check(journal, query)) for query in queries]  # noqa: B023
        yield row(f"{result}, one reader with open segments", kept)
    with Journal(str(directory)) as journal:
        several = [query_of(serial, serial % 2 == 0) for serial in serials] * 20
        seconds = timed(lambda: journal.whois_all(several))
        yield row(f"each of {len(several)} at once", [seconds.each(len(several))])
        live = [query_of(segments * rows + 1 + serial % rows, True) for serial in serials[:20]]
        check_live = [
            timed(lambda: journal.whois(query))  # noqa: B023
            for query in live
        ]
        yield row(f"found in the live segment: {rows:,} rows without an index", check_live)
        seconds = timed(lambda: journal.whois_all(live))
        yield row(f"each of {len(live)} of them at once", [seconds.each(len(live))])
    catalogue = directory / CATALOGUE_FILE
    aside = catalogue.rename(directory / "aside")
    with Journal(str(directory)) as journal:
        first = timed(lambda: journal.whois(query_of(serials[0], True)))
    yield row("found, a new reader, without a catalogue", [first])
    aside.rename(catalogue)


def history_row(name: str, records: Iterator[Any]) -> str:
    """Measure the first and the hundredth record of a search; return a row of the report.

    :param records: a generator, which has not begun; it is closed.
    """
    start = time.perf_counter()
    next(records, None)
    first = time.perf_counter() - start
    for _ in range(99):
        next(records, None)
    hundredth = time.perf_counter() - start
    records.close()  # type: ignore[attr-defined]
    return f"| {name} | {first * 1000:.0f} | {hundredth * 1000:.0f} |"


def history_rows(directory: Path, segments: int, rows: int) -> Iterator[str]:
    """Measure the first and the hundredth row of `Journal.history`."""
    middle = START + segments // 2 * rows * APART
    for name, query in (
        ("everything", HistoryQuery()),
        ("`client 10.0.99.7`, one row in 200", HistoryQuery("client 10.0.99.7")),
        (
            "`name '*/item-00*' and bytes > 500k`",
            HistoryQuery("name '*/item-00*' and bytes > 500k"),
        ),
        ("from the middle on", HistoryQuery(since=middle)),
        ("the newest 100", HistoryQuery(limit=100)),
        ("the newest 100 of a client", HistoryQuery("client 10.0.99.7", limit=100)),
    ):
        drop(directory)
        with Journal(str(directory)) as journal:
            yield history_row(name, journal.history(query))
    with Journal(str(directory)) as journal:
        start = time.perf_counter()
        assert next(journal.history(HistoryQuery("client 192.0.2.1")), None) is None
        seconds = time.perf_counter() - start
    yield f"| a client that is in no row: everything is read | {seconds * 1000:.0f} | |"


def drop(directory: Path) -> None:
    """Remove the segments from the page cache."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def process(directory: Path, serial: int) -> Times:
    """Return the seconds of a whole process that looks for one translation."""
    query = query_of(serial, True)
    program = (
        "from natproxy.journal.search import Journal;"
        "from natproxy.records.whois import WhoisQuery;"
        f"assert Journal({str(directory)!r}).whois({query!r}).result == 'found'"
    )
    return timed(lambda: subprocess.run([sys.executable, "-c", program], check=True))


def report(directory: Path, segments: int, rows: int) -> Iterator[str]:
    """Return the lines of the report."""
    yield "# The journal among many rows"
    yield ""
    yield (
        f"{segments} sealed segments of {rows:,} rows, and a live one of as many; written by"
        " `python -m benchmarks.journal`. A query is answered by `Journal.whois`; the time of"
        " the interpreter's start is not in it, unless stated."
    )
    yield ""
    yield "| machine |  |"
    yield "| --- | --- |"
    yield from (f"| {name} | {value} |" for name, value in facts().items())
    yield f"| SQLite | {sqlite3.sqlite_version} |"
    yield f"| load at the beginning | {os.getloadavg()[0]:.1f} |"
    yield ""
    with Journal(str(directory)) as journal:
        sealed = [segment.name for segment in journal.segments() if segment.sealed is not None]
    size = sum((directory / name).stat().st_size for name in sealed)
    live = sum(
        path.stat().st_size for path in directory.glob("*.segment*") if path.name not in sealed
    )
    yield f"A row takes {size / segments / rows:.0f} bytes in a sealed segment, its index included,"
    yield f"and {live / rows:.0f} bytes in a live one."
    yield ""
    yield "## whois"
    yield ""
    yield "| query | number | median ms | p99 ms | worst ms | median CPU ms |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    yield from whois_rows(directory, segments, rows)
    processes = [process(directory, number * rows // 7 + 5) for number in range(1, 11)]
    yield row("found, the whole process", processes)
    yield ""
    yield "## history"
    yield ""
    yield "The segments are not in the page cache at the beginning."
    yield ""
    yield "| query | first row ms | hundredth row ms |"
    yield "| --- | ---: | ---: |"
    yield from history_rows(directory, segments, rows)


def main() -> None:
    """Make the segments, measure, and write the report."""
    parser = argparse.ArgumentParser("python -m benchmarks.journal", description=__doc__)
    parser.add_argument("--segments", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each segment")
    parser.add_argument("--output", type=Path, default=Path("docs/reports/journal.md"))
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="natproxy-journal-"))
    try:
        seconds = timed(lambda: make(work, options.segments, options.rows)).wall
        print(f"written in {seconds:.0f} s", file=sys.stderr)
        lines = []
        for line in report(work, options.segments, options.rows):
            print(line, flush=True)
            lines.append(line)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
