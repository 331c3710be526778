"""The addresses of upstreams that are known by name: kept, and looked up again at an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.logger import Logger
from zope.interface import directlyProvides, implementer, providedBy

INTERVAL = 30.0
"""Seconds after which a name is looked up again, by default."""

MOST_ADDRESSES = 16
"""Addresses of one name that are used."""

MOST_NAMES = 512
"""Names that are remembered, of the upstreams of the present settings and of earlier ones."""

PATIENCE = 1.0
"""Seconds that a look-up may take before connections use the addresses that are known."""


@implementer(IHostnameResolver)
class AddressCache:
    """A resolver that remembers the addresses of names.

    A connection uses the addresses that are known, and looks a name up again if that is due; it
    does not wait for that. Only if twice the interval has passed, as after a time without any
    connection, it waits for the result. If a name cannot be resolved any more, its last addresses
    stay in use.

    The address with which the last connection was made is the first that is tried; the families of
    the others alternate (RFC 8305).

    :param resolver: looks names up.
    :param seconds: returns the time.
    :ivar interval: seconds after which a name is looked up again; 0 for each connection.
    """

    def __init__(
        self,
        resolver: Callable[[], IHostnameResolver],
        seconds: Callable[[], float],
        interval: float = INTERVAL,
    ) -> None:
        self.interval = interval
        self._resolver = resolver
        self._seconds = seconds
        self._names: dict[tuple[str, int], _Name] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Pass the addresses of a name to a receiver; see ``IHostnameResolver``.

        :param addressTypes: ignored: the addresses are those of both families.
        :param transportSemantics: ignored: they are those of TCP.
        """
        addresses = self.to_connect(hostName, portNumber)
        if addresses:
            _deliver(resolutionReceiver, addresses, hostName)
        else:
            name = self._name(hostName, portNumber)
            name.receivers.append(resolutionReceiver)
            if name.looking_since is None:
                name.look_up(self._seconds)
        return _Resolution(hostName)

    def to_connect(self, host: str, port: int) -> Sequence[Any]:
        """Return the addresses that connections to a name use now, in the order to try them.

        A look-up that is due begins.

        :return: none if the result of a look-up has to be awaited.
        """
        name, now = self._name(host, port), self._seconds()
        age, since = now - name.looked_up, name.looking_since
        hangs = since is not None and now - since >= PATIENCE
        if not self.interval or not (age < 2 * self.interval or hangs):
            return ()
        addresses = name.addresses
        if addresses and age >= self.interval and since is None:
            name.look_up(self._seconds)
        return addresses

    def _name(self, host: str, port: int) -> _Name:
        name = self._names.get((host, port))
        if name is None:
            name = self._names[host, port] = _Name(host, port, self._resolver)
            if len(self._names) > MOST_NAMES:
                del self._names[next(iter(self._names))]
        return name

    def shown(self, place: str) -> tuple[str, ...]:
        """Return the known addresses of ``HOST:PORT``, as they are tried, without a look-up."""
        host, _, port = place.rpartition(":")
        name = self._names.get((host, int(port))) if port.isdecimal() else None
        return () if name is None else tuple(each.host for each in name.addresses)

    def prefer(self, host: str, port: int, address: str) -> None:
        """Try an address of a name first from now on: a connection to it has been made."""
        name = self._names.get((host, port))
        if name is not None:
            name.prefer(address)


class _Name:
    """What is known of one name.

    :ivar addresses: in the order in which they are tried; empty before the first look-up.
    :ivar looked_up: when the last look-up ended.
    :ivar looking_since: when the one that is under way began; ``None`` if there is none.
    :ivar receivers: those that wait for its result.
    """

    _log = Logger()

    def __init__(self, host: str, port: int, resolver: Callable[[], IHostnameResolver]) -> None:
        self.addresses: list[Any] = []
        self.looked_up = float("-inf")
        self.looking_since: float | None = None
        self.receivers: list[IResolutionReceiver] = []
        self._host = host
        self._port = port
        self._resolver = resolver
        self._preferred = ""
        self._lost = False

    def prefer(self, address: str) -> None:
        """Try an address first."""
        if address != self._preferred:
            self._preferred = address
            self.addresses = self._ordered(self.addresses)

    def look_up(self, seconds: Callable[[], float]) -> None:
        """Look the name up again."""
        self.looking_since = seconds()
        found = _Found(lambda addresses: self._looked_up(addresses, seconds()))
        self._resolver().resolveHostName(found, self._host, portNumber=self._port)

    def _looked_up(self, found: list[Any], now: float) -> None:
        self.looked_up = now
        self.looking_since = None
        lost, self._lost = self._lost, not found
        known = {each.host for each in self.addresses}
        if found:
            if known and known != {each.host for each in found}:
                self._log.info(
                    "upstream {name} has other addresses now: {addresses}",
                    name=self._host,
                    addresses=", ".join(each.host for each in found),
                )
            self.addresses = self._ordered(found)
        elif known and not lost:
            self._log.warn(
                "the name {name} of an upstream cannot be resolved any more; its last addresses"
                " stay in use: {addresses}",
                name=self._host,
                addresses=", ".join(each.host for each in self.addresses),
            )
        receivers, self.receivers = self.receivers, []
        for receiver in receivers:
            _deliver(receiver, self.addresses, self._host)

    def _ordered(self, addresses: list[Any]) -> list[Any]:
        """Return addresses in the order of RFC 8305: the one that has worked is the first."""
        kind = type(addresses[0]) if addresses else None
        first = [each for each in addresses if type(each) is kind]
        others = [each for each in addresses if type(each) is not kind]
        alternating = [
            each for each in chain.from_iterable(zip_longest(first, others)) if each is not None
        ]
        alternating.sort(key=lambda each: each.host != self._preferred)
        return alternating


@implementer(IResolutionReceiver)
class _Found:
    """Collects the addresses that a look-up finds.

    :param complete: called with them.
    """

    def __init__(self, complete: Callable[[list[Any]], object]) -> None:
        self._complete = complete
        self._addresses: list[Any] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Do nothing."""

    def addressResolved(self, address: IAddress) -> None:
        """Add an address, unless there are too many or it is there."""
        if (
            isinstance(address, (IPv4Address, IPv6Address))
            and len(self._addresses) < MOST_ADDRESSES
            and address not in self._addresses
        ):
            self._addresses.append(address)

    def resolutionComplete(self) -> None:
        """Report the addresses."""
        self._complete(self._addresses)


@implementer(IHostResolution)
class _Resolution:
    """The resolution of a name, for what has begun it.

    :ivar name: the name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Do nothing: others may wait for the same look-up."""


class NamingReactor:
    """A reactor that resolves names by `AddressCache`; else it is the one that it wraps."""

    def __init__(self, reactor: Any, names: AddressCache) -> None:
        self._reactor = reactor
        self.nameResolver = names
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


def _deliver(receiver: IResolutionReceiver, addresses: Sequence[Any], name: str) -> None:
    receiver.resolutionBegan(_Resolution(name))
    for each in addresses:
        receiver.addressResolved(each)
    receiver.resolutionComplete()
