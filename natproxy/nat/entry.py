"""`NATEntry`: one translation of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from natproxy.address import Address
from natproxy.nat.translation import Earlier, EntryState, Outcome, TranslationKey
from natproxy.protocol import Command, name_of
from natproxy.records.event_rows import Row


class ClientTransport(Protocol):
    """The part of a client's connection that an entry uses."""

    def write(self, data: bytes) -> object:
        """Send bytes to the client."""
        ...


class NATEntry:
    """One translation: a command of a client and the upstream connection that carries it.

    :ivar serial: number of the translation, counted up from 1 for each table.
    :ivar key: the two ends of the upstream connection.
    :ivar client: the client's transport.
    :ivar client_address: its host and port.
    :ivar command: what the client sent, without a secret.
    :ivar started_at: when the command began, in seconds of the table's clock.
    :ivar registered_at: when the entry was registered, likewise.
    :ivar promised: bytes of the reply's body; ``None`` for a listing, and before the header.
    :ivar relayed: bytes of the reply, header included, passed to the client so far.
    :ivar relaying_at: when the header of the reply was received, in seconds of the table's clock;
        ``None`` before.
    :ivar cancel: ends the relay and resets the connections; of an entry that has been removed,
        it does nothing.
    :ivar outcome: ``None`` until the entry is removed.
    :ivar reason: why it was removed, or the error that the client received; may be ``None``.
    :ivar identity: the client's authenticated name; ``None`` if it has none.
    :ivar recorded: the row of its registration in the ring of events; ``None`` without a ring.
    :ivar earlier: the earlier attempts of its command; ``None`` if it is the first one.
    """

    __slots__ = (
        "cancel",
        "client",
        "client_address",
        "command",
        "earlier",
        "identity",
        "key",
        "outcome",
        "promised",
        "reason",
        "recorded",
        "registered_at",
        "relayed",
        "relaying_at",
        "serial",
        "started_at",
        "state",
    )

    def __init__(
        self,
        serial: int,
        key: TranslationKey,
        client: ClientTransport,
        client_address: Address,
        command: Command,
        started_at: float,
        registered_at: float,
        cancel: Callable[[], object],
        identity: str | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        self.serial = serial
        self.key = key
        self.client = client
        self.client_address = client_address
        self.command = command
        self.started_at = started_at
        self.registered_at = registered_at
        self.promised: int | None = None
        self.relayed = 0
        self.relaying_at: float | None = None
        self.state = EntryState.REGISTERED
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.recorded: Row | None = None
        self.cancel = cancel
        self.identity = identity
        self.earlier = earlier

    @property
    def total(self) -> int:
        """Bytes that all attempts of the command so far have passed to the client."""
        return self.relayed if self.earlier is None else self.earlier.bytes + self.relayed

    @property
    def verb(self) -> bytes:
        """The command's verb, in upper case."""
        return self.command.verb

    @property
    def name(self) -> bytes:
        """The name of the file or directory, decoded; empty if there is none."""
        return name_of(self.command)

    def write(self, data: bytes) -> None:
        """Pass bytes of the reply to the client."""
        self.relayed += len(data)
        self.client.write(data)

    def count(self, size: int) -> None:
        """Count bytes that the kernel has moved to the client's socket."""
        self.relayed += size
