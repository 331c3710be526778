"""A command and one attempt of it, as its upstream connection uses them."""

from __future__ import annotations

from typing import Protocol

from twisted.python.failure import Failure

from natproxy.nat import Earlier, NATEntry
from natproxy.protocol import Command, Header
from natproxy.proxy.failure import Loss
from natproxy.proxy.interfaces import Client
from natproxy.proxy.resources import Resources
from natproxy.proxy.resumption import Resumption
from natproxy.proxy.upstreams import Upstream


class Attempt(Protocol):
    """The attempt to connect for one command.

    :ivar connected: true once a connection has been made, or the attempt has ended.
    """

    connected: bool

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Report that the attempt has failed before the command was sent."""
        ...


class Connection(Protocol):
    """The upstream connection of an attempt, as its command uses it."""

    def fail(self, loss: Loss) -> None:
        """End the attempt, whose header has not been received."""
        ...


class Attempted(Protocol):
    """A command that has attempts; see `natproxy.proxy.exchange.Exchange`."""

    client: Client
    resources: Resources
    command: Command
    upstream: Upstream
    sent: Command
    earlier: Earlier | None
    resumption: Resumption | None

    def connected(self, connection: Connection) -> None:
        """Note that the attempt has a connection, with an entry in the table."""
        ...

    def body_begun(self, header: Header) -> None:
        """Note that a relay moves the body."""
        ...

    def features_received(self, body: bytes) -> None:
        """Note what the upstream supports, of the body of a ``FEAT`` reply."""
        ...

    def resumed(self) -> None:
        """Note that the header of the rest of the body has been received, and is right."""
        ...

    def finished(self) -> None:
        """Note that the whole reply has been passed on."""
        ...

    def cancelled(self) -> None:
        """Note that the entry of the attempt has been cancelled."""
        ...

    def failed(self, loss: Loss, entry: NATEntry | None) -> None:
        """Postpone the command, or end it with an error, after an attempt before its header.

        :param entry: of the attempt; ``None`` if it has not been connected.
        """
        ...

    def interrupted(self, loss: Loss, entry: NATEntry, remaining: int) -> None:
        """Continue the body by another attempt, or cut the client off.

        :param remaining: bytes that have not been received; all others have been passed on.
        """
        ...
