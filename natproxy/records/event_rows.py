"""Rows of the ring of events: plain tuples, and the records that they stand for."""

from __future__ import annotations

from typing import Final, NamedTuple

from natproxy.records.packed import parse_packed
from natproxy.records.record import Origin, Record, microseconds_of

Route = tuple[
    str,
    int,
    "str | None",
    "int | None",
    "str | None",
    "int | None",
    str,
    str,
    "str | None",
    "tuple[int, int, int] | None",
]
"""Client, its port, the proxy's host and port, the upstream's host and port, verb, name, identity.

The last value is an `Earlier` as a plain tuple: what precedes this attempt of the command. For the
name of several files, see `natproxy.records.packed`.
"""

# Plain tuples of plain values: the garbage collector stops tracking them, so that 65,536 of them
# do not prolong its pauses.
Row = tuple[
    int,
    str,
    "int | None",
    int,
    "int | None",
    "Route | None",
    "int | None",
    "int | None",
    "str | None",
    "str | None",
    float,
    "int | None",
    "int | None",
]
"""One event. The constants below are the indexes of its values."""

SEQ: Final = 0
EVENT: Final = 1
SERIAL: Final = 2
TIME: Final = 3
"""Microseconds since the epoch."""
STARTED: Final = 4
"""Likewise."""
ROUTE: Final = 5
"""``None`` for an administrator's action."""
PROMISED: Final = 6
SENT: Final = 7
"""Bytes."""
OUTCOME: Final = 8
REASON: Final = 9
NAME: Final = 7
"""Index of the name in a `Route`."""
EARLIER: Final = 9
"""Likewise, of the earlier attempts."""
DURATION: Final = 10
"""Seconds since the start of the command."""
UID: Final = 11
PID: Final = 12

ENDS = ("removed", "failed")
"""The last event of a translation, and the only one of a command that had none."""

RETRIED = "retried"
"""The outcome of an attempt that is not the last one of its command."""


class Lost(NamedTuple):
    """Events that a reader has missed.

    :ivar first: number of the first one.
    :ivar last: number of the last one.
    """

    first: int
    last: int


def action_row(
    seq: int,
    event: str,
    time: float,
    uid: int | None,
    pid: int | None,
    reason: str | None,
    serial: int | None,
) -> Row:
    """Return the row of an administrator's action; see `natproxy.nat.ring.EventRing.act`."""
    unknown = (None, None, None, None, None)
    return (seq, event, serial, microseconds_of(time), *unknown, reason, 0.0, uid, pid)


def record_of(row: Row, origin: Origin) -> Record:
    """Return the record of an event."""
    (
        seq,
        event,
        serial,
        time,
        started,
        route,
        promised,
        sent,
        outcome,
        reason,
        duration,
        uid,
        pid,
    ) = row
    proxy, worker, boot = origin
    if route is None:
        return Record(
            event,
            time,
            proxy,
            worker,
            boot,
            seq,
            serial,
            reason=reason,
            uid=uid,
            pid=pid,
        )
    client, client_port, nat, nat_port, upstream, upstream_port, verb, text, identity, earlier = (
        route
    )
    name, files, others = parse_packed(text)
    return Record(
        event,
        time,
        proxy,
        worker,
        boot,
        seq,
        serial,
        serial if earlier is None else earlier[0],
        1 if earlier is None else earlier[1] + 1,
        started,
        time if event in ENDS else None,
        client,
        client_port,
        identity,
        nat,
        nat_port,
        upstream,
        upstream_port,
        verb,
        name,
        promised,
        sent,
        event,
        outcome,
        reason,
        round(duration, 6),
        None,
        None,
        files,
        others,
        total_of(row),
    )


def total_of(row: Row) -> int | None:
    """Return the bytes that all attempts of a command have passed to its client.

    :return: ``None`` unless the row is the last event of a command that had several attempts.
    """
    route = row[ROUTE]
    if route is None or row[EVENT] not in ENDS or row[OUTCOME] == RETRIED:
        return None
    earlier = route[EARLIER]
    return None if earlier is None else earlier[2] + (row[SENT] or 0)
