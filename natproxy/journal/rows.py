"""The rows of a segment's tables, as the writer and the readers have them in memory."""

from __future__ import annotations

from typing import Final, NamedTuple

from natproxy.records.packed import parse_packed
from natproxy.records.record import Origin, Record

ERASED = "erased"
"""The host of a client that was erased, and the cause of the gap that marks it."""

ENDED = "ended"
"""The cause of the gap of a daemon that was killed, and of which every event is recorded."""

Entry = tuple[
    int,  # serial
    "int | None",  # seq
    "int | None",  # relaying_seq
    "int | None",  # removed_seq
    int,  # started
    "int | None",  # relaying
    "int | None",  # ended
    str,  # client
    int,  # client_port
    "str | None",  # identity
    "str | None",  # nat
    "int | None",  # nat_port
    "str | None",  # upstream
    "int | None",  # upstream_port
    str,  # verb
    str,  # name
    "int | None",  # promised
    int,  # bytes
    "str | None",  # outcome
    "str | None",  # reason
    "int | None",  # duration
    "tuple[int, int] | None",  # command and attempt
]
"""A row of the table ``entries``, with the hosts in place of their numbers.

``command`` and ``attempt`` are null in nearly every row: they are one value here, the last one.
"""

COLUMNS = 21
"""Number of columns of an `Entry`, without the last value."""

# Places of some of them.
SERIAL: Final = 0
CLIENT: Final = 7
IDENTITY: Final = 9
NAT: Final = 10
NAT_PORT: Final = 11
UPSTREAM: Final = 12
REASON: Final = 19

_COLUMNS = (
    "e.serial, e.seq, e.relaying_seq, e.removed_seq, e.command, e.attempt, e.started, e.relaying,"
    " e.ended, c.host, e.client_port, e.identity, n.host, e.nat_port, u.host, e.upstream_port,"
    " e.verb, e.name, e.promised, e.bytes, e.outcome, e.reason, e.duration"
)

# The cross join keeps SQLite from starting with the hosts.
_FROM = (
    " from entries e cross join hosts c on c.id = e.client"
    " left join hosts n on n.id = e.nat left join hosts u on u.id = e.upstream"
)

SELECT = f"select {_COLUMNS}{_FROM}"
"""The beginning of a statement that returns each `Row`."""


class Row(NamedTuple):
    """A row of the table ``entries`` with its hosts; see `natproxy.journal.schema`."""

    serial: int
    seq: int | None
    relaying_seq: int | None
    removed_seq: int | None
    command: int | None
    attempt: int | None
    started: int
    relaying: int | None
    ended: int | None
    client: str
    client_port: int
    identity: str | None
    nat: str | None
    nat_port: int | None
    upstream: str | None
    upstream_port: int | None
    verb: str
    name: str
    promised: int | None
    bytes: int
    outcome: str | None
    reason: str | None
    duration: int | None

    @property
    def erased(self) -> bool:
        """Whether the client was erased."""
        return self.client == ERASED

    @property
    def state(self) -> str:
        """The state, as the view ``translations`` has it."""
        if self.outcome == "lost":
            return "lost"
        if self.nat_port is None:
            return "failed"
        if self.outcome is not None:
            return "removed"
        return "registered" if self.relaying is None else "relaying"

    def record(self, origin: Origin) -> Record:
        """Return the record of the translation. That of an erased client has no client."""
        name, files, others = parse_packed(self.name)
        return Record(
            None,
            None,
            *origin,
            self.seq,
            self.serial,
            self.serial if self.command is None else self.command,
            1 if self.attempt is None else self.attempt,
            self.started,
            self.ended,
            None if self.erased else self.client,
            None if self.erased else self.client_port,
            self.identity,
            self.nat,
            self.nat_port,
            self.upstream,
            self.upstream_port,
            self.verb,
            name,
            self.promised,
            self.bytes,
            self.state,
            self.outcome,
            ERASED if self.erased else self.reason,
            None if self.duration is None else self.duration / 1e6,
            None,
            None,
            files,
            others,
        )


class GapRow(NamedTuple):
    """A row of the table ``gaps``; see `natproxy.journal.schema`."""

    since: int | None
    until: int | None
    first_seq: int | None
    last_seq: int | None
    cause: str


class Step(NamedTuple):
    """A row of the table ``steps``; see `natproxy.journal.schema`."""

    time: int
    step: int
    elapsed: int = 0


class Action(NamedTuple):
    """A row of the table ``actions``; see `natproxy.journal.schema`."""

    seq: int
    event: str
    time: int
    serial: int | None
    uid: int | None
    pid: int | None
    reason: str | None
