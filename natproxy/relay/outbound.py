"""The outgoing side of a connection, and the backpressure that comes from it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.interfaces import (
    IConsumer,
    IFileDescriptor,
    IHalfCloseableDescriptor,
    IPullProducer,
    IPushProducer,
    ISSLTransport,
    ISystemHandle,
    ITCPTransport,
    IUNIXTransport,
)
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import implementer, providedBy


class Transport(ITCPTransport, IFileDescriptor, IConsumer, IPushProducer):
    """What is asked of a connection's transport; not all of it, where it is not TCP."""

    def getHandle() -> socket.socket:
        """Give the socket; see `ISystemHandle`."""


DIRECT = 64 * 1024
"""Bytes up to which a write goes straight to the socket: what one read brings in."""

UNSENT = 1 << 20
"""Bytes that the kernel may hold for a peer and have not yet sent."""


@implementer(IPushProducer)
class Outbound:
    """Stands between a transport and whoever writes to it.

    It is the transport's one registered producer for the connection's whole life, so
    that a peer which does not read is noticed in the middle of a body and between
    replies alike. The relay at work takes its turn with `attach` and `detach`.

    :ivar paused: whether it is the peer's turn to read: do not write.
    :param changed: called after `paused` has changed, and the relay has been told.
    """

    __slots__ = ("_changed", "_relay", "_transport", "paused")

    def __init__(self, transport: Transport, changed: Callable[[], object]) -> None:
        self._transport = transport
        self._changed = changed
        self._relay: IPushProducer | None = None
        self.paused = False
        self._register()

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
        self._unregister()
        self._transport.loseConnection()

    def half_close(self) -> bool:
        """Say that no more will be sent, when everything written has been.

        :return: False, and nothing is done, on a transport that cannot (TLS).
        """
        if not _can_half_close(self._transport):
            return False
        self._unregister()
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

    def _register(self) -> None:
        self._transport.registerProducer(self, True)

    def _unregister(self) -> None:
        self._transport.unregisterProducer()


class SocketOutbound(Outbound):
    """The outbound of a bare TCP connection: writes to the socket, if it takes all.

    What the socket does not take at once, the transport keeps; until it has sent that,
    the outbound is paused. So there is never more in the transport's buffer than one
    write, a short reply costs one system call, and a relay may borrow the socket to move
    bytes into it by itself.
    """

    __slots__ = ("_pending", "_ready", "_send")

    def __init__(self, transport: Transport, changed: Callable[[], object]) -> None:
        self._pending = False
        self._ready: Callable[[], object] | None = None
        self._send: Callable[[bytes], int] = transport.getHandle().send
        # The last piece of a reply is not to wait until the one before is acknowledged.
        transport.setTcpNoDelay(True)
        _bound_unsent(transport.getHandle())
        super().__init__(transport, changed)

    def write(self, data: bytes) -> None:
        """Send bytes to the peer."""
        if self._pending:
            self._transport.write(data)
            return
        sent = 0
        # More than that is for the next turn: others want theirs.
        if len(data) <= DIRECT:
            try:
                sent = self._send(data)
            except OSError:
                # A full socket; or a broken one, as the transport will find out.
                sent = 0
        if sent < len(data):
            self._transport.write(data[sent:] if sent else data)
            self._pending = True
            self._transport.registerProducer(_Emptied(self), False)
            self.pauseProducing()

    def lend(self, relay: IPushProducer, ready: Callable[[], object]) -> None:
        """Leave the socket to a relay, until `take_back`.

        :param ready: called when all that was written has left the transport's buffer.
        """
        self._relay = relay
        if self._pending:
            self._ready = ready
        else:
            ready()

    def take_back(self) -> None:
        """Write to the socket again."""
        self._relay = None
        self._ready = None
        self.paused = self._pending

    def stalled(self, paused: bool) -> None:
        """Note, for a relay that has borrowed the socket, whether its peer is to read."""
        self.paused = paused
        self._changed()

    def descriptor(self) -> int:
        """Give the socket's descriptor."""
        return self._transport.fileno()

    def emptied(self) -> None:
        """The transport has sent what it had kept."""
        self._unregister()
        ready, self._ready = self._ready, None
        self.resumeProducing()
        if ready is not None:
            ready()

    def _register(self) -> None:
        """Nothing is registered while nothing is pending."""

    def _unregister(self) -> None:
        if self._pending:
            self._pending = False
            self._transport.unregisterProducer()


def outbound_of(transport: Transport, changed: Callable[[], object]) -> Outbound:
    """Make the outbound that fits a transport; see `Outbound`."""
    kind = SocketOutbound if is_plain_tcp(transport) else Outbound
    return kind(transport, changed)


def send_at_once(transport: Transport, data: bytes) -> None:
    """Send bytes on a connection on which nothing has been written yet."""
    sent = 0
    if is_plain_tcp(transport):
        try:
            sent = transport.getHandle().send(data)
        except OSError:
            # The transport will find out why.
            sent = 0
    if sent < len(data):
        transport.write(data[sent:])


@implementer(IPullProducer)
class _Emptied:
    """Waits until a transport has sent all that was written to it.

    A transport asks a pull producer for more when it is registered, and then each time
    that its buffer has become empty: the second time is the one.
    """

    __slots__ = ("_asked", "_outbound")

    def __init__(self, outbound: SocketOutbound) -> None:
        self._outbound = outbound
        self._asked = False

    def resumeProducing(self) -> None:
        if self._asked:
            self._outbound.emptied()
        self._asked = True

    def stopProducing(self) -> None:
        self._outbound.stopProducing()


def is_plain_tcp(transport: object) -> bool:
    """Tell whether a transport's bytes are those of its TCP socket: no TLS, no UNIX."""
    provided = providedBy(transport)
    return (
        provided.isOrExtends(ITCPTransport)
        and provided.isOrExtends(IFileDescriptor)
        and provided.isOrExtends(ISystemHandle)
        and not provided.isOrExtends(ISSLTransport)
        and not provided.isOrExtends(IUNIXTransport)
    )


def _can_half_close(transport: object) -> bool:
    # A wrapper (TLS, the PROXY protocol) claims what the TCP below it can do, and does
    # not pass on that it has been done.
    provided = providedBy(transport)
    return provided.isOrExtends(IHalfCloseableDescriptor) and not isinstance(
        transport, ProtocolWrapper
    )


def _bound_unsent(connected: socket.socket) -> None:
    """Let the kernel hold no more than it can use (``TCP_NOTSENT_LOWAT``, tcp(7)).

    Else it takes up to 4 MiB that the peer, perhaps, will never want: they are counted as
    relayed, and a client that is killed has them fetched again.
    """
    with suppress(OSError, AttributeError):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
