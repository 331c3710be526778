"""The outgoing side of a connection, and the backpressure that comes from it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from zope.interface import implementer


class Transport(ITCPTransport, IConsumer, IPushProducer):
    """What is asked of a connection's transport; not all of it, where it is not TCP."""


@implementer(IPushProducer)
class Outflow:
    """Stands between a transport and whoever writes to it.

    It is the transport's one registered producer for the connection's whole life, so
    that a peer which does not read is noticed in the middle of a body and between
    replies alike. The relay at work takes its turn with `attach` and `detach`.

    :ivar paused: whether the transport holds more than it should: do not write.
    :param changed: called after `paused` has changed, and the relay has been told.
    """

    __slots__ = ("_changed", "_relay", "_transport", "paused")

    def __init__(self, transport: Transport, changed: Callable[[], object]) -> None:
        self._transport = transport
        self._changed = changed
        self._relay: IPushProducer | None = None
        self.paused = False
        transport.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        """Send bytes to the peer."""
        self._transport.write(data)

    def attach(self, relay: IPushProducer) -> None:
        """Tell a relay from now on when to pause and when to go on."""
        self._relay = relay
        if self.paused:
            relay.pauseProducing()

    def detach(self) -> None:
        """Tell the relay no more."""
        self._relay = None

    def close(self) -> None:
        """Close the connection when everything written has been sent."""
        # A producer that stays registered can keep the socket open (twisted#6461).
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def half_close(self) -> bool:
        """Say that no more will be sent, when everything written has been.

        :return: False, and nothing is done, on a transport that cannot (TLS).
        """
        if not _can_half_close(self._transport):
            return False
        self._transport.unregisterProducer()
        self._transport.loseWriteConnection()
        return True

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if self.paused:
            return
        self.paused = True
        if self._relay is not None:
            self._relay.pauseProducing()
        self._changed()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        if not self.paused:
            return
        self.paused = False
        if self._relay is not None:
            self._relay.resumeProducing()
        # The relay may have filled the buffer again.
        if not self.paused:
            self._changed()

    def stopProducing(self) -> None:
        """The connection is lost."""
        if self._relay is not None:
            self._relay.stopProducing()


def _can_half_close(transport: object) -> bool:
    # A TLS transport claims what the TCP below it can do.
    return IHalfCloseableDescriptor.providedBy(transport) and not ISSLTransport.providedBy(
        transport
    )
