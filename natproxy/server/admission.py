"""Which connections are accepted: so many clients in all, and so many from one host.

`Admission` counts; it sends nothing and closes nothing. The connection that it refuses
sends the reason (`natproxy.server.connection`), and where too many refused ones are open already,
a new one is closed as soon as it is accepted (`Admission.overloaded`), so that the number
of descriptors is bounded whatever arrives.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum
from ipaddress import IPv6Address
from typing import NamedTuple

from natproxy.address import FIRST_STAND_IN_PORT, Address

CLIENTS = 10_000
"""Clients at once, unless the daemon is told otherwise."""

SHARE = 10
"""A proxy admits a tenth of its clients from one host by default."""

SMALLEST_SHARE = 16
"""Connections that one host gets by default, however few clients are admitted."""

REFUSED = 32
"""Refused connections that may be open at once, while the reason is sent to them."""

TOO_MANY = "too many clients"
TOO_MANY_OF_HOST = "too many connections from this address"


class Verdict(Enum):
    """Whether a command may begin: see `natproxy.server.factory.CommandFactory.admit`."""

    PROCEED = "proceed"


class Refusal(NamedTuple):
    """Why a connection is not admitted.

    :ivar message: the reason, for the client and the log.
    :ivar sent: whether the reason is sent; otherwise the connection is aborted, since as
        many refused ones as there may be are open already.
    """

    message: str
    sent: bool


class Admission:
    """Counts the clients of one daemon and refuses those beyond its limits.

    A client is any hashable object; it is admitted once and leaves once.

    :param clients: clients at once.
    :param per_host: clients of one host at once (see `host_of`); 0 for no limit.
    """

    def __init__(self, clients: int = CLIENTS, per_host: int = 0) -> None:
        self.clients = clients
        self.per_host = per_host
        self._admitted: dict[object, str] = {}
        self._refused: set[object] = set()
        self._hosts: Counter[str] = Counter()

    @property
    def admitted(self) -> int:
        """The number of clients that have been admitted and have not left."""
        return len(self._admitted)

    def enter(self, client: object, address: Address | None = None) -> Refusal | None:
        """Admit a new client, or return why not.

        :param address: of the client; `None` if it becomes known later, by `identify`, or
            is not needed because there is no limit for a host.
        """
        if len(self._admitted) >= self.clients:
            return self._refuse(client, TOO_MANY)
        self._admitted[client] = ""
        return None if address is None else self.identify(client, address)

    def identify(self, client: object, address: Address) -> Refusal | None:
        """Count an admitted client to its host, or return why it can't stay."""
        host = host_of(address)
        if not self.per_host or not host or client not in self._admitted:
            return None
        if self._hosts[host] >= self.per_host:
            del self._admitted[client]
            return self._refuse(client, TOO_MANY_OF_HOST)
        self._hosts[host] += 1
        self._admitted[client] = host
        return None

    def leave(self, client: object) -> None:
        """Forget a client, admitted or refused."""
        self._refused.discard(client)
        host = self._admitted.pop(client, "")
        if host:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def overloaded(self, address: Address) -> bool:
        """Return whether a new connection is to be closed at once, without a message.

        That is so if it would be refused, and as many refused connections as there may be
        are open already.
        """
        if len(self._refused) < REFUSED:
            return False
        if len(self._admitted) >= self.clients:
            return True
        return bool(self.per_host) and self._hosts.get(host_of(address), 0) >= self.per_host

    def _refuse(self, client: object, message: str) -> Refusal:
        if len(self._refused) >= REFUSED:
            return Refusal(message, False)
        self._refused.add(client)
        return Refusal(message, True)


def share_of(clients: int) -> int:
    """Return how many clients of one host a proxy admits by default.

    :param clients: that it admits in all.
    """
    return max(SMALLEST_SHARE, clients // SHARE)


def host_of(address: Address) -> str:
    """Return what identifies a client's host: an empty string if nothing does.

    An IPv4 address is a host, also when it is written as an IPv6 one (``::ffff:1.2.3.4``). So
    is an IPv6 network of 64 bits, the least that a site is given; a link-local address
    identifies a host by all its bits. The peer of a UNIX socket has no host.
    """
    if address.port >= FIRST_STAND_IN_PORT:
        return ""
    if ":" not in address.host:
        return address.host
    text = address.host.partition("%")[0]
    try:
        parsed = IPv6Address(text)
    except ValueError:
        return address.host
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return address.host if parsed.is_link_local else f"{int(parsed) >> 64:x}::/64"
