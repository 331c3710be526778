"""Limits on the number of clients: of one daemon, and from one host.

`Admission` counts; it sends nothing and closes nothing. A refused connection sends the reason
(`natproxy.server.connection`). When too many refused connections are open, a new one is closed as
soon as it is accepted (`Admission.overloaded`), so that the number of descriptors is bounded.

Whether a *command* may begin is a different decision: that of a `natproxy.access.Gate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from natproxy.access import host_of
from natproxy.access.buckets import NO_RATE, Accounts, rate_of
from natproxy.address import Address

CLIENTS = 10_000
"""Clients at the same time by default."""

SHARE = 10
"""By default, one host may have the clients of a proxy divided by this number: a tenth."""

SMALLEST_SHARE = 16
"""Clients of one host that are admitted by default, however few are admitted in total."""

REFUSED = 32
"""Refused connections that may be open at the same time, while the reason is sent to them."""

TOO_MANY = "too many clients"
TOO_MANY_OF_HOST = "too many connections from this address"
TOO_FAST = "too many new connections from this address"


class Refusal(NamedTuple):
    """Why a connection is not admitted.

    :ivar message: the reason, for the client and the log.
    :ivar sent: whether the reason is sent. Otherwise the connection is aborted, because too many
        refused connections are open.
    """

    message: str
    sent: bool


class Arrivals:
    """How many new connections a second each host may make.

    A connection over the limit is closed before anything is received or sent on it, so that it
    costs no TLS handshake. There is no limit until it is set.

    :param seconds: returns the time in seconds.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._rate = NO_RATE
        # Each has one bucket in use: that of what begins.
        self._hosts = Accounts()

    def limit(self, per_second: float | None) -> None:
        """Set the limit for the connections from now on; as many may be made at once."""
        self._rate = rate_of(per_second)

    def too_fast(self, address: Address) -> bool:
        """Count a new connection of a host; return true, and do not count it, over the limit."""
        rate = self._rate
        if not rate.interval:
            return False
        host = host_of(address)
        if not host:
            return False
        now = self._seconds()
        account = self._hosts.of(host, now)
        if account.commands_full > now + rate.slack:
            return True
        account.spend(rate.interval, now)
        return False


class Admission:
    """Counts the clients of one daemon and refuses those beyond its limits.

    A client is any hashable object. It enters once and leaves once.

    :param clients: clients at the same time.
    :param per_host: clients of one host at the same time, see `natproxy.access.host_of`; 0 for no
        limit.
    :ivar entered: clients so far, the refused ones included.
    :ivar refusals: clients refused so far, by the limit: `TOO_MANY`, `TOO_MANY_OF_HOST`, or
        `TOO_FAST`, by `Arrivals`.
    """

    def __init__(self, clients: int = CLIENTS, per_host: int = 0) -> None:
        self.clients = clients
        self.per_host = per_host
        self.entered = 0
        self.refusals = dict.fromkeys((TOO_MANY, TOO_MANY_OF_HOST, TOO_FAST), 0)
        self._admitted: dict[object, str] = {}
        self._refused: set[object] = set()
        self._hosts: Counter[str] = Counter()

    def limit(self, clients: int, per_host: int) -> None:
        """Change the limits for the clients from now on.

        Connections that were made while hosts had no limit are not counted to their hosts.
        """
        self.clients = clients
        self.per_host = per_host

    @property
    def admitted(self) -> int:
        """The number of clients that were admitted and have not left."""
        return len(self._admitted)

    def enter(self, client: object, address: Address | None = None) -> Refusal | None:
        """Admit a new client.

        :param address: the client's address; ``None`` if it becomes known later, by `identify`, or
            if it is not needed because hosts have no limit.
        :return: the reason for which it is refused; ``None`` if it is admitted.
        """
        self.entered += 1
        if len(self._admitted) >= self.clients:
            return self._refuse(client, TOO_MANY)
        self._admitted[client] = ""
        return None if address is None else self.identify(client, address)

    def identify(self, client: object, address: Address) -> Refusal | None:
        """Count an admitted client to its host.

        :return: the reason for which it is refused after all; ``None`` if it stays admitted.
        """
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
        """Remove a client, admitted or refused."""
        self._refused.discard(client)
        host = self._admitted.pop(client, "")
        if host:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def overloaded(self, address: Address) -> bool:
        """Return whether a new connection must be closed at once, without a message.

        It must if it would be refused while `REFUSED` refused connections are open. It is counted
        as refused then, and does not enter.

        :param address: the peer's address.
        """
        if len(self._refused) < REFUSED:
            return False
        if len(self._admitted) >= self.clients:
            message = TOO_MANY
        elif self.per_host and self._hosts.get(host_of(address), 0) >= self.per_host:
            message = TOO_MANY_OF_HOST
        else:
            return False
        self.entered += 1
        self.refusals[message] += 1
        return True

    def _refuse(self, client: object, message: str) -> Refusal:
        self.refusals[message] += 1
        if len(self._refused) >= REFUSED:
            return Refusal(message, False)
        self._refused.add(client)
        return Refusal(message, True)


def share_of(clients: int) -> int:
    """Return how many clients of one host a proxy admits by default.

    :param clients: number of clients that it admits in total.
    """
    return max(SMALLEST_SHARE, clients // SHARE)
