"""The NAT table: which client is behind which upstream connection.

The proxy is a NAPT device (RFC 2663, section 4.1.2; RFC 3022) for commands. Each
command has an upstream connection of its own, and that connection's local address
is what its client is translated to. The table is exact at every moment: an entry is
registered when the connection is made and removed exactly once, whichever way the
command ends.

No reactor and no socket in here: transports are opaque, the clock is handed in, and
everything runs in the one reactor thread, so that nothing needs a lock.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

from twisted.logger import Logger

from natproxy.address import Address

_Indexed = TypeVar("_Indexed")


class TranslationKey(NamedTuple):
    """What makes an upstream connection unique.

    The local port alone does not: with two upstreams the kernel gives the same local
    port to a connection to each.
    """

    local: Address
    upstream: Address


class EntryState(enum.Enum):
    """Where an entry is in its life."""

    REGISTERED = "registered"
    """The command has been sent; no reply yet."""
    RELAYING = "relaying"
    """The reply is being relayed."""
    GONE = "gone"
    """Removed, with an outcome."""


class Outcome(enum.Enum):
    """How a command ended."""

    COMPLETED = "completed"
    """The whole reply, were it an ``ERR``, was handed to the client's connection."""
    ERROR = "error"
    """The upstream could not be reached, or not be understood."""
    CLIENT_GONE = "client-gone"
    UPSTREAM_GONE = "upstream-gone"
    TIMEOUT = "timeout"
    DRAINED = "drained"
    """Cut off when the daemon stopped and the time to drain was over."""


class ClientTransport(Protocol):
    """What the table asks of a client's connection."""

    def write(self, data: bytes) -> object:
        """Send bytes to the client."""
        ...


class TranslationExists(Exception):
    """Two connections with one key, which the kernel cannot make: a bug of the caller."""


class NotInTable(Exception):
    """An entry was to be removed that is not there: a bug of the caller."""


class NATEntry:
    """One translation: a command of a client, and the upstream connection it travels on.

    :ivar key: the upstream connection's two ends.
    :ivar client: the client's transport.
    :ivar client_address: its host and port.
    :ivar verb: the command's verb; ``name``: what it is about. Both bytes.
    :ivar registered_at: in seconds of the table's clock.
    :ivar relayed: bytes of the reply, header included, routed to the client so far.
    :ivar state: see `EntryState`.
    :ivar outcome: `None` until the entry is removed.
    """

    __slots__ = (
        "_stop",
        "client",
        "client_address",
        "key",
        "name",
        "outcome",
        "registered_at",
        "relayed",
        "state",
        "verb",
    )

    def __init__(
        self,
        key: TranslationKey,
        client: ClientTransport,
        client_address: Address,
        verb: bytes,
        name: bytes,
        registered_at: float,
        stop: Callable[[], object],
    ) -> None:
        self.key = key
        self.client = client
        self.client_address = client_address
        self.verb = verb
        self.name = name
        self.registered_at = registered_at
        self.relayed = 0
        self.state = EntryState.REGISTERED
        self.outcome: Outcome | None = None
        self._stop = stop

    def write(self, data: bytes) -> None:
        """Route bytes of the reply to the client."""
        self.relayed += len(data)
        self.client.write(data)

    def count(self, size: int) -> None:
        """Note that so many bytes have been routed to the client inside the kernel."""
        self.relayed += size


class NATTable:
    """All translations that exist now.

    :param clock: gives the time in seconds, as ``IReactorTime.seconds`` does.
    """

    _log = Logger()

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[TranslationKey, NATEntry] = {}
        self._by_port: dict[int, dict[TranslationKey, NATEntry]] = {}
        self._by_client: dict[ClientTransport, dict[TranslationKey, NATEntry]] = {}
        self._observers: list[Callable[[NATEntry], object]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[NATEntry]:
        """Give the entries, oldest first, as they are now."""
        return iter(list(self._entries.values()))

    def observe(self, observer: Callable[[NATEntry], object]) -> None:
        """Have ``observer`` called with an entry after each step of its life.

        The steps are told apart by the entry's ``state``. What an observer raises is
        logged and stops nobody.
        """
        self._observers.append(observer)

    def register(
        self,
        key: TranslationKey,
        client: ClientTransport,
        client_address: Address,
        verb: bytes,
        name: bytes,
        stop: Callable[[], object],
    ) -> NATEntry:
        """Enter a translation.

        :param stop: called once, when the entry is removed; it is to end the relay and
            let go of the upstream connection.
        :raises TranslationExists: if the key is in the table.
        """
        if key in self._entries:
            raise TranslationExists(f"{key.local} to {key.upstream} is in the table already")
        entry = NATEntry(key, client, client_address, verb, name, self._clock(), stop)
        self._entries[key] = entry
        self._by_port.setdefault(key.local.port, {})[key] = entry
        self._by_client.setdefault(client, {})[key] = entry
        self._tell(entry)
        return entry

    def relaying(self, entry: NATEntry) -> None:
        """Note that the entry's reply has begun.

        :raises NotInTable: if it has been removed.
        """
        self._require(entry)
        entry.state = EntryState.RELAYING
        self._tell(entry)

    def remove(self, entry: NATEntry, outcome: Outcome) -> None:
        """Take an entry out and stop its relay.

        :raises NotInTable: if it has been removed before.
        """
        self._require(entry)
        del self._entries[entry.key]
        self._unindex(self._by_port, entry.key.local.port, entry.key)
        self._unindex(self._by_client, entry.client, entry.key)
        entry.state = EntryState.GONE
        entry.outcome = outcome
        try:
            entry._stop()
        except Exception:
            self._log.failure("a relay could not be stopped")
        self._tell(entry)

    def remove_client(self, client: ClientTransport, outcome: Outcome) -> list[NATEntry]:
        """Take out all entries of a client and stop their relays.

        :return: the entries removed; none, if the client had none.
        """
        entries = list(self._by_client.get(client, {}).values())
        for entry in entries:
            if entry.state is not EntryState.GONE:
                self.remove(entry, outcome)
        return entries

    def lookup(self, port: int) -> tuple[NATEntry, ...]:
        """Say who is behind a local port of the proxy.

        :return: no entry, one, or one for each upstream to which the port is in use.
        """
        return tuple(self._by_port.get(port, {}).values())

    def _require(self, entry: NATEntry) -> None:
        if self._entries.get(entry.key) is not entry:
            raise NotInTable(f"{entry.key.local} to {entry.key.upstream} is not in the table")

    @staticmethod
    def _unindex(
        index: dict[_Indexed, dict[TranslationKey, NATEntry]],
        value: _Indexed,
        key: TranslationKey,
    ) -> None:
        entries = index[value]
        del entries[key]
        if not entries:
            del index[value]

    def _tell(self, entry: NATEntry) -> None:
        for observer in self._observers:
            try:
                observer(entry)
            except Exception:
                self._log.failure("a NAT table observer failed")
