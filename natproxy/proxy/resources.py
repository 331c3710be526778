"""What the commands of one proxy share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from natproxy.address import Address
from natproxy.nat import NATTable
from natproxy.proxy.retries import Retries
from natproxy.proxy.upstreams import Upstreams
from natproxy.relay import Relays
from natproxy.server.deadlines import Deadlines
from natproxy.server.minimum_rate import MinimumRate


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
