"""The members of records that a filter names: their types, and where their values are."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

from natproxy.protocol import VERBS
from natproxy.records.filter.errors import LONGEST_COMPARED
from natproxy.records.filter.hosts import parse_network, split_port
from natproxy.records.filter.pattern import displayed_name
from natproxy.records.record import Record

_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
"""For ``str.translate``: ASCII alone, as ``lower`` of SQLite."""


class MemberType(enum.Enum):
    """What the values of a member are; the value describes them for messages."""

    NUMBER = "a number such as 40000, or a range such as 40000-40999"
    SIZE = "a number of bytes such as 1500, 4KiB or 1M"
    RATE = "bytes per second such as 500K or 1M/s"
    DURATION = "a time such as 250ms, 10s, 5min, 2h or 1d"
    MOMENT = "a time such as 14:03, -10min, 2026-11-26T14:03:07Z or 'yesterday 17:00'"
    WORD = "a word"
    TEXT = "a text"
    NAME = "a file name such as 'images/*.iso'"
    HOST = "an address, a network such as 10.0.0.0/24, or HOST:PORT"


class Member(NamedTuple):
    """A member as a filter names it.

    :ivar name: in the language.
    :ivar noun: for explanations.
    :ivar read: returns its value in a record at a time, in microseconds since the epoch: an integer
        (of times and durations, in microseconds), a float (bytes per second), or a displayed text
        (of a `MemberType.WORD`, in lower case); ``None`` if the record has none.
    :ivar column: the value in SQL; ``{now}`` stands for the time.
    :ivar fixed: whether all events of a translation have the same value as the translation.
    :ivar port: for a host, the member that is its port.
    :ivar words: the values that it may have, if they are known.
    """

    name: str
    type: MemberType
    noun: str
    read: Callable[[Record, int], Any]
    column: str
    fixed: bool = True
    port: str = ""
    words: tuple[str, ...] = ()


def lower(text: str) -> str:
    """Return a text with the capitals of ASCII in lower case."""
    return text.translate(_LOWER)


def _duration(record: Record, now: int) -> int | None:
    if record.duration is not None:
        return round(record.duration * 1_000_000)
    if record.started is None or record.state not in ("registered", "relaying"):
        return None
    return now - record.started


def _rate(record: Record, now: int) -> float | None:
    duration = _duration(record, now)
    if not duration or record.bytes is None:
        return None
    return record.bytes * 1_000_000.0 / duration


def _word(text: str | None) -> str | None:
    return None if text is None else lower(text)


ERASED = "erased"
"""The host, in the journal, of a client that was erased; its record has no client."""

_CLIENT = f"nullif(c.host, '{ERASED}')"

_STATE = """case
    when e.outcome = 'lost' then 'lost'
    when e.nat_port is null then 'failed'
    when e.outcome is not null then 'removed'
    when e.relaying is not null then 'relaying'
    else 'registered'
end"""

_DURATION = f"""case
    when e.duration is not null then e.duration
    when {_STATE} in ('registered', 'relaying') then {{now}} - e.started
end"""

STATES = ("registered", "relaying", "removed", "failed", "lost")

OUTCOMES = (
    "completed",
    "error",
    "client-gone",
    "upstream-gone",
    "timeout",
    "drained",
    "killed",
    "denied",
    "limited",
    "retried",
    "lost",
)

EVENTS = ("registered", "relaying", "removed", "failed", "kill", "drain", "reload", "lost")

_META = "(select value from meta where key = '{0}')"

MEMBERS = {
    member.name: member
    for member in (
        Member("client", MemberType.HOST, "the client", lambda r, n: r.client, _CLIENT,
               port="client-port"),
        Member("client-port", MemberType.NUMBER, "the client's port",
               lambda r, n: r.client_port,
               f"case when {_CLIENT} is not null then e.client_port end"),
        Member("identity", MemberType.TEXT, "the client's identity",
               lambda r, n: r.identity, "e.identity"),
        Member("nat", MemberType.HOST, "the proxy's address to the upstream",
               lambda r, n: r.nat, "n.host", port="nat-port"),
        Member("nat-port", MemberType.NUMBER, "the proxy's port to the upstream",
               lambda r, n: r.nat_port, "e.nat_port"),
        Member("upstream", MemberType.HOST, "the upstream",
               lambda r, n: r.upstream, "u.host", port="upstream-port"),
        Member("upstream-port", MemberType.NUMBER, "the upstream's port",
               lambda r, n: r.upstream_port, "e.upstream_port"),
        Member("verb", MemberType.WORD, "the verb", lambda r, n: _word(r.verb), "lower(e.verb)"),
        Member("name", MemberType.NAME, "the file name",
               lambda r, n: displayed_name(r.name) if r.name else None, "nullif(e.name, '')"),
        Member("files", MemberType.NUMBER, "the number of files of a command with several",
               lambda r, n: r.files,
               # The number follows, and SQLite's cast ends where it does.
               "case when e.name glob '* and *' then"
               " cast(substr(e.name, instr(e.name, ' ') + 5) as integer) + 1 end"),
        Member("bytes", MemberType.SIZE, "the number of bytes passed to the client",
               lambda r, n: r.bytes, "e.bytes", False),
        Member("total", MemberType.SIZE, "the number of bytes of all attempts",
               lambda r, n: r.total, "null", False),
        Member("promised", MemberType.SIZE, "the promised number of bytes",
               lambda r, n: r.promised, "e.promised", False),
        Member("rate", MemberType.RATE, "the number of bytes per second",
               _rate, f"(e.bytes * 1000000.0 / nullif({_DURATION}, 0))", False),
        Member("state", MemberType.WORD, "the state", lambda r, n: _word(r.state), _STATE, False,
               words=STATES),
        Member("outcome", MemberType.WORD, "the outcome", lambda r, n: _word(r.outcome),
               "lower(e.outcome)", False, words=OUTCOMES),
        Member("reason", MemberType.TEXT, "the reason", lambda r, n: r.reason,
               f"case when {_CLIENT} is null then '{ERASED}' else e.reason end", False),
        Member("duration", MemberType.DURATION, "the duration", _duration, _DURATION, False),
        Member("age", MemberType.DURATION, "the time since the start",
               lambda r, n: None if r.started is None else n - r.started, "({now} - e.started)"),
        Member("started", MemberType.MOMENT, "the start", lambda r, n: r.started, "e.started"),
        Member("ended", MemberType.MOMENT, "the end", lambda r, n: r.ended, "e.ended", False),
        Member("time", MemberType.MOMENT, "the time of the event", lambda r, n: r.time, "null",
               False),
        Member("event", MemberType.WORD, "the event", lambda r, n: _word(r.event), "null", False,
               words=EVENTS),
        Member("serial", MemberType.NUMBER, "the serial number",
               lambda r, n: r.serial, "e.serial"),
        Member("seq", MemberType.NUMBER, "the number of the event",
               lambda r, n: r.seq, "e.seq", False),
        Member("command", MemberType.NUMBER, "the number of the command",
               lambda r, n: r.command, "coalesce(e.command, e.serial)"),
        Member("attempt", MemberType.NUMBER, "the attempt",
               lambda r, n: r.attempt, "coalesce(e.attempt, 1)"),
        Member("proxy", MemberType.TEXT, "the daemon", lambda r, n: r.proxy,
               _META.format("proxy")),
        Member("worker", MemberType.NUMBER, "the worker", lambda r, n: r.worker,
               _META.format("worker")),
        Member("boot", MemberType.TEXT, "the boot", lambda r, n: r.boot, _META.format("boot")),
        Member("uid", MemberType.NUMBER, "the administrator's user id",
               lambda r, n: r.uid, "null", False),
        Member("pid", MemberType.NUMBER, "the administrator's process id",
               lambda r, n: r.pid, "null", False),
    )
}  # fmt: skip
"""Every member, by its name in the language."""


def meant_by(word: str) -> str:
    """Return ``; did you mean …?`` for a value that stands where a member is needed, or ``""``."""
    low = lower(word)
    if word.isascii() and word.isdigit():
        found = f"nat-port {word} or serial {word}"
    elif low.upper().encode("utf-8", "replace") in VERBS:
        found = f"verb {low.upper()}"
    else:
        found = next((f"{name} {low}" for name in WORDS if low in MEMBERS[name].words), "")
        found = found or _place_meant_by(word)
    return f"; did you mean {found}?" if found else ""


WORDS = ("event", "outcome", "state")
"""The members whose values alone are recognized."""


def _place_meant_by(word: str) -> str:
    """Return the client or the file that a word alone may mean, as a filter, or ``""``."""
    if len(word) > LONGEST_COMPARED or not word.isprintable():
        return ""
    try:
        parse_network(split_port(word)[0])
    except ValueError:
        return f"name '{word}'" if set(word) & set("*/.") and "'" not in word else ""
    return f"client {word}"
