"""Filter expressions: the function of a filter against its SQL on SQLite, and its normal form."""

from __future__ import annotations

import sqlite3
from datetime import timezone
from functools import cache
from itertools import product

from fuzz.oracles import is_safe
from natproxy.protocol import encode_name
from natproxy.records.filter import FilterError, parse
from natproxy.records.filter.grammar import KEYWORDS, format_tree, parse_tree
from natproxy.records.filter.members import EVENTS, MEMBERS, STATES
from natproxy.records.packed import format_packed, parse_packed
from natproxy.records.record import Record
from tests.support.filters import HOSTS, NAMES, NOW, OUTCOMES, SECOND, segment, selected

WORDS = (*MEMBERS, *KEYWORDS, *STATES, *EVENTS, "!=", "<=", ">=", "10.0.0.0/24", "::1", "\\x85")


def check(data: bytes) -> None:
    """Check the text of a filter, as a shell passes it: bytes that are not UTF-8 are surrogates."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        parsed = parse(text, NOW, timezone.utc)
    except FilterError as error:
        lines = error.explained().splitlines()
        assert len(lines) == 3
        assert all(is_safe(line) and len(line) < 1000 for line in lines)
        assert 0 <= error.position <= len(text)
        return
    assert is_safe(parsed.explain())
    check_normal_form(text)
    translations, database = journal()
    matching = {record.serial for record in translations if parsed.matches(record, NOW)}
    for now in (NOW, None):
        where, params, exact = parsed.sql(now)
        found = selected(database, where, params)
        if exact:
            assert found == matching, where
        else:
            assert matching <= found, where
    parsed.sql(NOW, events=True)
    assert not parsed or parsed.matches(Record(), NOW) in (False, True)


def check_normal_form(text: str) -> None:
    """Check that the normal form is the same filter, and its own normal form."""
    tree = parse_tree(text, NOW, timezone.utc)
    if tree is None:
        return
    formatted = format_tree(tree)
    try:
        again = parse_tree(formatted, NOW, timezone.utc)
    except FilterError:
        # It is longer than what was written, as ``=`` may be left out.
        assert len(formatted) > 4096
        return
    assert again is not None
    assert repr(again) == repr(tree)
    assert format_tree(again) == formatted


@cache
def journal() -> tuple[list[Record], sqlite3.Connection]:
    """Return translations of all kinds, and a segment that has them."""
    found = []
    for serial, (host, name, outcome) in enumerate(product(HOSTS, NAMES, OUTCOMES), 1):
        found.append(translation(serial, host, encode_name(name).decode(), outcome))
    return found, segment(found)


def translation(serial: int, host: str, name: str, outcome: str | None) -> Record:
    """Return a translation; its other members depend on its number."""
    failed = outcome not in (None, "lost") and serial % 3 == 0
    ended = outcome not in (None, "lost")
    started = NOW - serial % 20 * SECOND
    if serial % 7 == 0:
        others = ["x", "images/y.iso"] if serial % 2 else None
        name = format_packed(name, 3, others)
    first, files, others_text = parse_packed(name)
    state = "lost" if outcome == "lost" else "failed" if failed else "removed"
    if outcome is None:
        state = "relaying" if serial % 2 else "registered"
    return Record(
        proxy="proxy-9000",
        worker=1,
        boot="abcd",
        seq=serial % 5 + 1,
        serial=serial,
        command=serial,
        attempt=serial % 2 + 1,
        started=started,
        ended=started + serial % 13 * SECOND if ended else None,
        client=host,
        client_port=40_000 + serial % 3,
        identity=(None, "alice", "")[serial % 3],
        nat=None if failed else HOSTS[serial % len(HOSTS)],
        nat_port=None if failed else (1, 40_001, 65_536)[serial % 3],
        upstream=None if failed else HOSTS[serial // 2 % len(HOSTS)],
        upstream_port=None if failed else 9001,
        verb=("GET", "LIST", "STAT", "\\xff")[serial % 4],
        name=first,
        promised=(None, 0, 1000, 1 << 20)[serial // 3 % 4],
        bytes=(0, 1000, 1 << 20, (1 << 20) + 1)[serial % 4],
        state=state,
        outcome=outcome,
        reason=(None, "connection refused", "it's over")[serial // 5 % 3],
        duration=serial % 11 / 2 if ended else None,
        files=files,
        others=others_text,
    )
