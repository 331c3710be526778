"""Checks a journal: that its segments can be read, and agree with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from natproxy.journal.catalogue import read_catalogue
from natproxy.journal.contents import Directory
from natproxy.journal.directory import JournalError
from natproxy.journal.files import DAMAGED
from natproxy.journal.reader import SegmentReader, SegmentRemoved
from natproxy.journal.summary import SegmentInfo, describe
from natproxy.protocol import printable


class Check(NamedTuple):
    """What was found in one segment.

    :ivar segment: name of its file.
    :ivar rows: number of its entries; 0 if it cannot be read.
    :ivar problems: what is wrong, one phrase each; none if all is well.
    """

    segment: str
    rows: int
    problems: tuple[str, ...]


def verify(directory: Directory, check: Callable[[], object]) -> Iterator[Check]:
    """Check each segment, oldest first: it reads all of them.

    :param check: called before each segment; what it raises ends the search.
    :raises JournalError: if the directory cannot be read.
    """
    catalogued = {info.file: info for info in read_catalogue(directory.path)}
    former: dict[tuple[int, str], SegmentInfo] = {}
    for name in directory.files():
        check()
        listed = catalogued.pop(name, None)
        if name.endswith(DAMAGED):
            yield Check(name, 0, ("it was damaged, and set aside by a daemon",))
            continue
        try:
            reader = SegmentReader(directory.path, name)
        except SegmentRemoved:
            continue
        except JournalError as error:
            yield Check(name, 0, (str(error),))
            continue
        try:
            with reader.errors():
                info = describe(reader.connection, name)
                problems = [
                    *_content(reader),
                    *_sequence(info, former.get((info.worker, info.boot))),
                ]
        except JournalError as error:
            yield Check(name, 0, (str(error),))
            continue
        finally:
            reader.close()
        former[info.worker, info.boot] = info
        if listed is not None and listed != info:
            problems.append("the catalogue has something else of it; the next start corrects that")
        yield Check(name, info.rows, tuple(problems))
    for name in catalogued:
        yield Check(name, 0, ("the catalogue lists it, but the file does not exist",))


def _content(reader: SegmentReader) -> Iterator[str]:
    """Return what is wrong inside a segment."""
    connection = reader.connection
    for (verdict,) in connection.execute("pragma integrity_check(10)"):
        if verdict != "ok":
            yield f"SQLite reports: {printable(verdict.encode())}"
    for text, condition in (
        (
            "{} entries end before they start, and the clock was not set back",
            "ended < started - 100000 and not exists (select 1 from steps where step < 0)",
        ),
        ("{} entries have an end, but no outcome", "ended is not null and outcome is null"),
        ("{} entries refer to no client", "client not in (select id from hosts)"),
        (
            "{} entries are open in a sealed segment",
            "outcome is null and exists (select 1 from meta where key = 'sealed')",
        ),
    ):
        (number,) = connection.execute(
            f"select count(*) from entries where {condition}"  # noqa: S608
        ).fetchone()
        if number:
            yield text.format(number)
    if reader.sealed:
        indexes = [row[1] for row in connection.execute("pragma index_list(entries)")]
        if "by_port" not in indexes:
            yield "its index is missing, so that searches in it are slow"


def _sequence(info: SegmentInfo, former: SegmentInfo | None) -> Iterator[str]:
    """Return what is wrong between a segment and the one before it in its worker and boot."""
    if former is None:
        return
    if info.part != former.part + 1:
        yield f"part {former.part + 1} of its boot is missing before it"
    elif info.opened != former.complete_to:
        yield f"it does not begin where {former.file} ends"
