"""Hypothesis strategies for filters and records, and a segment to select the records from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from hypothesis import strategies as st

from natproxy.journal.rows import ERASED
from natproxy.journal.schema import INDEX, TABLES
from natproxy.protocol import encode_name
from natproxy.records.packed import format_packed, parse_packed
from natproxy.records.record import Record

NOW = 1_795_665_600_000_000
"""2026-11-26T04:00:00Z."""

SECOND = 1_000_000

HOSTS = (
    "10.0.0.1",
    "10.0.0.200",
    "10.0.1.7",
    "::ffff:10.0.0.1",
    "192.0.2.1",
    "2001:db8::1",
    "fe80::1%eth0",
    "::1",
    "unix",
    "unix /run/x.sock",
)

NAMES = (b"", b"a", b"images/debian.iso", b"images/x y.iso", b"a%b", b"a\xffb", b"a*b",
         "ä".encode(), b"a\\b", b"[1]", b"5B", b"\xc2\x85")  # fmt: skip

OUTCOMES = ("completed", "error", "client-gone", "lost", None)

_port = st.sampled_from((1, 40_000, 40_001, 65_536))
_name = st.sampled_from(NAMES) | st.binary(max_size=4)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Return a translation as the journal has it; its serial number is 0."""
    outcome = draw(st.sampled_from(OUTCOMES))
    failed = outcome not in (None, "lost") and draw(st.booleans())
    relaying = draw(st.booleans())
    started = NOW - draw(st.integers(0, 20)) * SECOND
    ended = outcome not in (None, "lost")
    if outcome == "lost":
        state = "lost"
    elif failed:
        state = "failed"
    elif outcome is not None:
        state = "removed"
    else:
        state = "relaying" if relaying else "registered"
    duration = draw(st.integers(0, 20 * SECOND)) if ended else None
    name, files, others = parse_packed(encode_name(draw(_name)).decode())
    if not draw(st.integers(0, 3)):
        words = [encode_name(other).decode() for other in draw(st.lists(_name.filter(bool)))]
        if words:
            text = format_packed(name, len(words) + 1, words if draw(st.booleans()) else None)
            name, files, others = parse_packed(text)
    erased = ended and draw(st.sampled_from((False, False, False, True)))
    return Record(
        proxy="proxy-9000",
        worker=1,
        boot="abcd",
        seq=draw(st.integers(1, 5)),
        serial=0,
        command=None,
        attempt=draw(st.sampled_from((1, 1, 2))),
        started=started,
        ended=started + draw(st.integers(0, 20)) * SECOND if ended else None,
        client=None if erased else draw(st.sampled_from(HOSTS)),
        client_port=None if erased else draw(_port),
        identity=draw(st.sampled_from((None, "alice"))),
        nat=None if failed else draw(st.sampled_from(HOSTS)),
        nat_port=None if failed else draw(_port),
        upstream=None if failed else draw(st.sampled_from(HOSTS)),
        upstream_port=None if failed else draw(_port),
        verb=draw(st.sampled_from(("GET", "LIST", "STAT", "\\xff"))),
        name=name,
        promised=draw(st.sampled_from((None, 0, 1000, 1 << 20))),
        bytes=draw(st.sampled_from((0, 1000, 1 << 20, (1 << 20) + 1))),
        state=state,
        outcome=outcome,
        reason=ERASED
        if erased
        else draw(st.sampled_from((None, "connection refused", "it's over"))),
        duration=None if duration is None else duration / 1e6,
        files=files,
        others=others,
    )


_number = st.sampled_from(("0", "1", "2", "40000", "40000-40001", "65536", "none"))
_size = st.sampled_from(("0", "1000", "1M", "1.5KiB", "1kB", "none"))
_duration = st.sampled_from(("0", "10s", "5500ms", "1min", "1h2min", "none"))
_moment = st.sampled_from(
    ("'-10s'", "now", "2026-11-26T03:59:50Z", "'2026-11-26 03:59Z'", "@1795665590.5", "none")
)
_text = st.sampled_from(
    (
        "none",
        "alice",
        "'connection *'",
        "'*used'",
        '"it\'s over"',
        "'it\\'s*'",
        "?????",
        "'*'",
        "''",
    )
)
_names = st.sampled_from(
    ("'images/*.iso'", "'images/x y.iso'", "*", "?", "a?b", "'a\\xffb'", "'a\\*b'", "a*b", "'*5B'",
     "[1]", "'a\\\\b'", "ä", "none", "''", "'*\\x85'", "*b", "a%b", "*i*s*o*")
)  # fmt: skip
_host = st.sampled_from(
    ("10.0.0.1", "10.0.0.0/24", "10.0.0.128/25", "0.0.0.0/0", "10.0.0.1:40000", ":40001", "unix",
     "'unix'", "2001:db8::/32", "[::1]:1", "fe80::1", "fe80::1%eth0", "fe80::1%eth1", "::/0",
     "::ffff:10.0.0.0/120", "10.0.*", "none", "unix#65536")
)  # fmt: skip
_ORDERED = ("=", "!=", "<", "<=", ">", ">=")
_EQUAL = ("=", "!=", " ", " in ", " not in ")


def _terms(members: Iterable[str], values: st.SearchStrategy[str], ordered: bool) -> object:
    member = st.sampled_from(tuple(members))
    lists = st.lists(values, min_size=1, max_size=3).map(", ".join)
    equal = st.tuples(member, st.sampled_from(_EQUAL), lists | lists.map("({})".format))
    terms = equal.map(lambda parts: f"{parts[0]} {parts[1]} {parts[2]}")
    if ordered:
        single = st.tuples(
            member, st.sampled_from(_ORDERED[2:]), values.filter(lambda value: value != "none")
        )
        terms |= single.map("".join)
    return terms


terms = st.one_of(
    _terms(
        ("client-port", "nat-port", "upstream_port", "seq", "serial", "command", "attempt",
         "worker", "uid", "files"),
        _number,
        True,
    ),
    _terms(("bytes", "promised", "rate"), _size, True),
    _terms(("duration", "age"), _duration, True),
    _terms(("started", "ended", "time"), _moment, True),
    _terms(("identity", "reason", "proxy", "boot"), _text, False),
    _terms(("name",), _names, False),
    _terms(("client", "nat", "upstream"), _host, False),
    _terms(("verb",), st.sampled_from(("get", "GET", "'\\xff'", "*t", "none")), False),
    _terms(("state",), st.sampled_from(("lost", "removed", "re*", "failed", "none")), False),
    _terms(("outcome",), st.sampled_from(("lost", "completed", "client-*", "none")), False),
    _terms(("event",), st.sampled_from(("kill", "removed", "none")), False),
)  # fmt: skip
"""Texts of one term."""

filters = st.recursive(
    terms,
    lambda inner: st.one_of(
        inner.map("not {}".format),
        inner.map("({})".format),
        st.tuples(inner, inner).map(" and ".join),
        st.tuples(inner, inner).map(" or ".join),
        inner.map("not ({})".format),
    ),
    max_leaves=6,
)
"""Texts of filters."""


def segment(translations: Iterable[Record]) -> sqlite3.Connection:
    """Return a segment in memory; the serial number of a translation is its place, from 1."""
    database = sqlite3.connect(":memory:")
    database.executescript(TABLES + INDEX)
    database.executemany(
        "insert into meta values (?, ?)",
        [("proxy", "proxy-9000"), ("worker", 1), ("boot", "abcd")],
    )
    fill(database, translations)
    return database


def fill(database: sqlite3.Connection, translations: Iterable[Record]) -> None:
    """Write translations to a segment; the serial number of each is its place, from 1."""
    for serial, record in enumerate(translations, 1):
        client = ERASED if record.client is None else record.client
        hosts = [host(database, one) for one in (client, record.nat, record.upstream)]
        database.execute(
            "insert into entries values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                serial,
                record.seq,
                None,
                None,
                None,
                None if record.attempt == 1 else record.attempt,
                record.started,
                1 if record.state == "relaying" else None,
                record.ended,
                hosts[0],
                record.client_port or 0,
                record.identity,
                hosts[1],
                record.nat_port,
                hosts[2],
                record.upstream_port,
                record.verb,
                text_of(record),
                record.promised,
                record.bytes,
                record.outcome,
                record.reason,
                None if record.duration is None else round(record.duration * 1e6),
            ),
        )
    database.commit()


def text_of(record: Record) -> str:
    """Return the text of a record's column for the name."""
    if record.files is None:
        return record.name or ""
    others = None if record.others is None else record.others.split()
    return format_packed(record.name or "", record.files, others)


def host(database: sqlite3.Connection, text: str | None) -> int | None:
    """Return the number of a host in the table of hosts."""
    if text is None:
        return None
    database.execute("insert or ignore into hosts (host) values (?)", (text,))
    found = database.execute("select id from hosts where host = ?", (text,)).fetchone()
    return int(found[0])


def selected(database: sqlite3.Connection, where: str, params: list[int | str]) -> set[int]:
    """Return the serial numbers of the translations that a condition selects."""
    return {
        serial
        for (serial,) in database.execute(
            "select e.serial from entries e join hosts c on c.id = e.client"
            " left join hosts n on n.id = e.nat left join hosts u on u.id = e.upstream"
            f" where {where}",
            params,
        )
    }
