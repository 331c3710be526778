"""A resolver of host names, controlled by a test."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from zope.interface import implementer


@implementer(IHostResolution)
class Resolution:
    """A resolution that is complete at once."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Do nothing: it has ended."""


@implementer(IHostnameResolver)
class PlayedResolver:
    """Resolves every name to addresses of this host."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts

    def resolveHostName(
        self, receiver: IResolutionReceiver, hostName: str, portNumber: int = 0, **_: object
    ) -> IHostResolution:
        resolution = Resolution(hostName)
        receiver.resolutionBegan(resolution)
        for host in self._hosts:
            receiver.addressResolved(IPv4Address("TCP", host, portNumber))
        receiver.resolutionComplete()
        return resolution
