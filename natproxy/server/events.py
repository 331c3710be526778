"""The event of a command of the file server, for subscribers such as the log."""

from __future__ import annotations

from typing import NamedTuple

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import Command


class Finished(NamedTuple):
    """A command has ended, successfully or not.

    :ivar client: address of its client.
    :ivar outcome: how it ended.
    :ivar sent: bytes of the reply, header included.
    :ivar started_at: the clock's time in seconds at which the command began.
    :ivar ended_at: the clock's time in seconds at which it ended.
    :ivar reason: the rule or the limit by which it was refused; ``None`` if it was not.
    :ivar translation: boot and serial of the proxy's translation, from a PROXY header; ``None``
        without one.
    """

    client: Address
    command: Command
    outcome: Outcome
    sent: int
    started_at: float
    ended_at: float
    reason: str | None = None
    translation: str | None = None
