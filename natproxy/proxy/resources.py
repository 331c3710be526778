"""What the commands of one proxy share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from natproxy.address import Address
from natproxy.nat import NATTable
from natproxy.protocol import Command
from natproxy.proxy.interfaces import Connector
from natproxy.proxy.retries import Retries
from natproxy.relay import Relays
from natproxy.server.deadlines import Deadlines
from natproxy.server.minimum_rate import MinimumRate


class Upstreams:
    """The upstreams of a proxy.

    There is one today. With several, `choose` assigns each attempt of a command to one of them:
    by its verb, by the load and health of each, and by which of them have failed before.

    :ivar boot: of this run of the daemon, for the header.
    :ivar header: whether connections begin with a PROXY header; see `natproxy.proxy.header`.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self.boot = ""
        self.header = False

    def use(self, connector: Connector, header: bool = False) -> None:
        """Connect to another upstream for the commands from now on.

        :param header: whether its connections begin with a PROXY header.
        """
        self._connector = connector
        self.header = header

    def choose(self, command: Command) -> Connector:
        """Return the connector of the upstream that executes the command."""
        return self._connector


@dataclass(frozen=True)
class Resources:
    """What the commands of one proxy share.

    :ivar replies: the deadlines of upstreams.
    :ivar retries: what further attempts of commands share.
    :ivar minimum_rate: at which clients must read, and upstreams send.
    :ivar address_of: converts an address of Twisted.
    """

    table: NATTable
    upstreams: Upstreams
    relays: Relays
    replies: Deadlines
    retries: Retries
    minimum_rate: MinimumRate
    address_of: Callable[[object], Address]
