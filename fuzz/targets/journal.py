"""Files of a journal with wrong bytes or wrong values: readers, ``verify``, and a next start."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import cache
from tempfile import TemporaryDirectory

from fuzz.oracles import is_safe
from fuzz.pieces import Reader
from natproxy.journal.directory import JournalError
from natproxy.journal.recovery import recover
from natproxy.journal.search import Journal
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery
from tests.support.journal_runs import SECOND, START, Translations
from tests.support.journals import MEMORY

PORTS = (50_000, 50_001)
END = START + 100 * SECOND
EDITS = 8

TABLES = {
    "meta": ("value",),
    "entries": (
        "serial", "seq", "relaying_seq", "removed_seq", "command", "attempt", "started", "relaying",
        "ended", "client", "client_port", "identity", "nat", "nat_port", "upstream",
        "upstream_port", "verb", "name", "promised", "bytes", "outcome", "reason", "duration",
    ),
    "hosts": ("host",),
    "actions": ("event", "time", "serial", "uid", "pid", "reason"),
    "gaps": ("since", "until", "first_seq", "last_seq", "cause"),
    "steps": ("time", "step", "elapsed"),
    "segments": (
        "file", "proxy", "worker", "boot", "part", "boot_started", "opened", "complete_to",
        "stopped", "sealed", "min_started", "max_ended", "rows", "bytes", "former", "beside",
    ),
}  # fmt: skip
"""The columns of segments and of the catalogue."""

COLUMNS = [(table, column) for table, columns in TABLES.items() for column in columns]


def check(data: bytes) -> None:
    """Check a journal in which some bytes, sizes or values are others."""
    files = dict(sound())
    reader = Reader(data)
    # All of it, and a next start; or one manner of reading, which is faster.
    mode = reader.number() % (1 + len(SEARCHES))
    with TemporaryDirectory(dir=MEMORY) as directory:
        values = []
        for _ in range(EDITS):
            if not reader:
                break
            name = reader.choice(sorted(files))
            kind = reader.number() % 4
            if kind == 0:
                place, size = reader.number(2), reader.number() % 16 + 1
                part = reader.take(size)
                files[name] = files[name][:place] + part + files[name][place + len(part) :]
            elif kind == 1:
                files[name] = files[name][: reader.number(2)]
            else:
                row = reader.number()
                values.append((name, *reader.choice(COLUMNS), row, value_of(reader)))
        for name, content in files.items():
            with open(os.path.join(directory, name), "wb") as file:
                file.write(content)
        for edit in values:
            set_value(directory, *edit)
        for name in files:
            # A reader waits for a file that may still be written.
            with suppress(FileNotFoundError):
                os.utime(os.path.join(directory, name), (0, 0))
        if mode:
            read(directory, SEARCHES[mode - 1 : mode])
            return
        read(directory)
        # A next start repairs what it can; what is not readable is a gap from then on.
        with suppress(sqlite3.OperationalError):
            recovered = recover(directory, "b9999999", END)
            assert all(map(is_safe, recovered.messages))
            read(directory)


def value_of(reader: Reader) -> object:
    """Return a value of one of the types of SQLite."""
    kind = reader.number() % 6
    if kind == 0:
        return struct.unpack("!q", reader.take(8).ljust(8, b"\0"))[0]
    if kind == 1:
        return struct.unpack("!d", reader.take(8).ljust(8, b"\0"))[0]
    if kind == 2:
        return reader.take(reader.number() % 32).decode("utf-8", "replace")
    if kind == 3:
        return reader.take(reader.number() % 32)
    return None if kind == 4 else reader.number()


def set_value(directory: str, name: str, table: str, column: str, row: int, value: object) -> None:
    """Set a column of a row in a file that is a database, if SQLite lets it."""
    path = os.path.join(directory, name)
    with (
        suppress(sqlite3.Error, OverflowError, UnicodeDecodeError),
        closing(sqlite3.connect(path)) as connection,
    ):
        key = "key" if table == "meta" else "rowid"
        rows = [found for (found,) in connection.execute(f"select {key} from {table}")]
        if rows:
            connection.execute(
                f"update {table} set {column} = ? where {key} = ?",
                (value, rows[row % len(rows)]),
            )
            connection.commit()


def segments_of(journal: Journal) -> None:
    """Read what the segments contain, their gaps, and what is wrong with them."""
    journal.segments()
    journal.gaps()
    for check_found in journal.verify():
        assert all(map(is_safe, check_found.problems)), check_found


def history_of(journal: Journal) -> None:
    """Read the translations."""
    for record in journal.history(HistoryQuery(until=END)):
        json.dumps(record.json())
    assert len(list(journal.history(HistoryQuery("verb GET", START, END, 2)))) <= 2


def events_of(journal: Journal) -> None:
    """Read the events."""
    for record in journal.events(EventsQuery(until=END)):
        json.dumps(record.json())


def holders_of(journal: Journal) -> None:
    """Search for the holders of ports."""
    moments = (START, START + 3 * SECOND, END)
    queries = [WhoisQuery(port, None, None, at, at) for port in PORTS for at in moments]
    for reply in journal.whois_all(queries):
        assert reply.result in (FOUND, NOBODY, UNKNOWN)
        json.dumps(reply.json())


SEARCHES: tuple[Callable[[Journal], None], ...] = (
    segments_of,
    history_of,
    events_of,
    holders_of,
)


def read(directory: str, searches: Sequence[Callable[[Journal], None]] = SEARCHES) -> None:
    """Read a journal in several manners; what is returned can be written as JSON."""
    with Journal(directory) as journal:
        for search in searches:
            # The only documented one, of a directory that cannot be read.
            with suppress(JournalError):
                search(journal)


@cache
def sound() -> dict[str, bytes]:
    """Return the files of a journal: sealed segments, a live one with its WAL, the catalogue."""
    with TemporaryDirectory(dir=MEMORY) as directory:
        daemon = Translations(directory)
        daemon.start()
        for name in ("a.txt", "b%20c and 2 others, d e"):
            serial = daemon.register(PORTS[0], name=name)
            daemon.wait(SECOND)
            daemon.relay(serial)
            daemon.fail()
            daemon.remove(daemon.register(PORTS[1], client="2001:db8::1"))
            daemon.wait(SECOND)
            daemon.remove(serial)
            daemon.register(PORTS[0] + 7)
            daemon.seal()
        daemon.step(-2 * SECOND)
        daemon.flush()
        files = {}
        for entry in os.scandir(directory):
            if not entry.name.endswith("-shm"):
                with open(entry.path, "rb") as file:
                    files[entry.name] = file.read()
        daemon.close()
        files["lock"] = b"2026-11-26T04:00:00.000000Z\n"
    return files
