"""What the commands of one proxy share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from natproxy.address import Address
from natproxy.nat import NATTable
from natproxy.protocol import Command
from natproxy.proxy.interfaces import Connector
from natproxy.relay import Relays
from natproxy.server.deadlines import Deadlines


class Upstreams:
    """The upstreams of a proxy.

    There is one today. With several, `choose` assigns each attempt of a command to one of them:
    by its verb, by the load and health of each, and by which of them have failed before.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    def use(self, connector: Connector) -> None:
        """Connect to another upstream for the commands from now on."""
        self._connector = connector

    def choose(self, command: Command) -> Connector:
        """Return the connector of the upstream that executes the command."""
        return self._connector


@dataclass(frozen=True)
class Resources:
    """What the commands of one proxy share.

    :ivar replies: the deadlines of upstreams.
    :ivar address_of: converts an address of Twisted.
    """

    table: NATTable
    upstreams: Upstreams
    relays: Relays
    replies: Deadlines
    address_of: Callable[[object], Address]
