"""What the parts of the proxy require of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.relay import Outbound


class ConnectionFactory(Protocol):
    """The part of a ``ClientFactory`` that a connector calls."""

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol of a connection that has been made.

        :param addr: the upstream's: an `Address`, or one of Twisted.
        """
        ...

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        """Report that there is no connection; ``connector`` is ``None``."""
        ...


class Connector(Protocol):
    """Makes the connections to one upstream.

    :ivar timeout: seconds that a connection may take.
    """

    timeout: float

    def connect(self, factory: ConnectionFactory) -> Callable[[], object]:
        """Begin to connect.

        The factory's ``buildProtocol`` or ``clientConnectionFailed`` is called, possibly
        before this returns.

        :return: cancels the attempt; nothing is called from then on. It has no effect after
            the end of the attempt.
        """
        ...


class Client(Protocol):
    """The client's side, as a command's upstream side uses it.

    :ivar identity: the client's authenticated name; ``None`` if it has none.
    """

    log: Logger
    started_at: float
    outbound: Outbound
    identity: str | None

    @property
    def may_authenticate(self) -> bool:
        """Whether the client may send ``AUTH`` on its connection."""
        ...

    @property
    def client_address(self) -> Address:
        """The client's address."""
        ...

    @property
    def local_address(self) -> IAddress:
        """The proxy's address to which the client has connected."""
        ...

    def body_begun(self) -> None:
        """Limit the time of the reply's body, which a relay moves from now on."""
        ...

    def reply_suspended(self) -> None:
        """Stop the clocks of the client: its upstream has failed, and the body is to continue."""
        ...

    def reply_resumed(self) -> None:
        """Let the clocks of the client continue: its body does."""
        ...

    def reply_finished(self) -> None:
        """Begin the next command: the whole reply, or an error in its place, is written."""
        ...

    def reply_broken_off(self, outcome: Outcome) -> None:
        """Abort the client's connection, unless that is done: the rest of the reply is missing."""
        ...
