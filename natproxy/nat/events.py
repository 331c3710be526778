"""Events of the NAT table, for subscribers: the log, a journal, metrics, watchers.

A translation begins with `Registered`, which `Relaying` may follow, and ends with `Removed`;
the three have one serial number. `Failed` reports a command, or an attempt of it, that had no
upstream connection, with a serial number of its own.

A command can have several attempts, each with a translation of its own: all but the last one have
the outcome `Outcome.RETRIED`.

The events are named tuples: a frozen dataclass of as many fields takes four times as long to
create, and there are three events for each command.
"""

from __future__ import annotations

from typing import NamedTuple

from natproxy.address import Address
from natproxy.nat.translation import Earlier, Outcome, TranslationKey
from natproxy.protocol import Command


class Registered(NamedTuple):
    """A command has an upstream connection, and its entry is in the table.

    :ivar serial: number of the translation, counted up from 1 for each table.
    :ivar time: seconds since the epoch, by the wall clock.
    :ivar monotonic: seconds of the table's monotonic clock.
    :ivar started_at: the monotonic clock's seconds at which the command began.
    :ivar client: address of the client.
    :ivar command: what it sent, without a secret; `natproxy.protocol.name_of` returns the
        file name in it.
    :ivar key: the two ends of the upstream connection.
    :ivar identity: the client's authenticated name; ``None`` if it has none.
    :ivar earlier: the earlier attempts of the command; ``None`` if it is the first one.
    """

    serial: int
    time: float
    monotonic: float
    started_at: float
    client: Address
    command: Command
    key: TranslationKey
    identity: str | None = None
    earlier: Earlier | None = None


class Relaying(NamedTuple):
    """The header of the reply has been received. Fields as in `Registered`, and:

    :ivar promised: bytes of the body; ``None`` for a listing, which has no size.
    """

    serial: int
    time: float
    monotonic: float
    started_at: float
    client: Address
    command: Command
    key: TranslationKey
    promised: int | None
    identity: str | None = None
    earlier: Earlier | None = None


class Removed(NamedTuple):
    """An entry is no longer in the table. Fields as in `Registered`, and:

    :ivar registered_at: the monotonic clock's seconds at which the entry was registered.
    :ivar promised: bytes of the body; ``None`` for a listing, or if no header was received.
    :ivar sent: bytes of the reply that were passed to the client's connection: its header,
        its body, and an error that replaced them.
    :ivar outcome: how the command ended.
    :ivar reason: the error that the client received, or why the entry was removed; may be ``None``.
    :ivar relaying_at: the monotonic clock's seconds at which the header of the reply was received;
        ``None`` if none was.
    """

    serial: int
    time: float
    monotonic: float
    started_at: float
    client: Address
    command: Command
    key: TranslationKey
    registered_at: float
    promised: int | None
    sent: int
    outcome: Outcome
    reason: str | None = None
    relaying_at: float | None = None
    identity: str | None = None
    earlier: Earlier | None = None


class Failed(NamedTuple):
    """A command has ended without an upstream connection. Fields as in `Registered`, and:

    :ivar sent: bytes of the error that the client received in the reply's place.
    :ivar outcome: how the command ended.
    :ivar reason: the error that the client received, or why the entry was removed; may be ``None``.
    """

    serial: int
    time: float
    monotonic: float
    started_at: float
    client: Address
    command: Command
    sent: int
    outcome: Outcome
    reason: str | None = None
    identity: str | None = None
    earlier: Earlier | None = None


def total_of(event: Removed | Failed) -> int:
    """Return the bytes that all attempts of a command so far have passed to the client."""
    return event.sent if event.earlier is None else event.earlier.bytes + event.sent


Event = Registered | Relaying | Removed | Failed

ALL_KINDS: tuple[type[Event], ...] = (Registered, Relaying, Removed, Failed)
