"""The outgoing side of a connection, its backpressure, and its budget for a turn."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
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

from natproxy.relay.meter import Meter


class Transport(ITCPTransport, IFileDescriptor, IConsumer, IPushProducer):
    """The methods of a transport that the daemons use; only those of TCP provide them all."""

    def getHandle() -> socket.socket:
        """Return the socket; see ``ISystemHandle``."""


BUDGET = 2 << 20
"""Bytes of a body that a relay may move to one connection in one turn of the reactor.

No method moves more than a slice: see `natproxy.relay.rotation.SLICE`.
"""

DIRECT = 64 * 1024
"""Bytes of a reply that is written at once, without a relay: as many as one read returns."""

AT_ONCE = 256 * 1024
"""Bytes up to which a write goes straight to the socket: a block of a file that a thread has read.

Through the transport's buffer, they cost a further turn of the reactor, and a fifth more CPU.
"""

UNSENT = 1 << 20
"""Bytes that the kernel may hold for a peer and has not sent yet."""

# Linux: the bytes that were not sent yet (linux/sockios.h), and the memory of a socket
# (sock_diag(7)): of its nine numbers, the limit of what is to be sent, and how much that is.
_SIOCOUTQNSD = 0x894B
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=12xI4xI12x")
_NO_BYTES = bytes(4)
# Of the kernel: TCP_CA_NAME_MAX.
_NAME_SIZE = 16


@implementer(IPushProducer)
class Outbound:
    """The outgoing side of a connection: where replies and bodies are written.

    It is the transport's one registered producer for the connection's whole life, so that a
    peer which does not read is noticed within a body and between replies alike. The relay that
    writes at present is attached to it.

    :ivar paused: whether the peer has to read before more is written.
    :ivar budget: bytes of a body that a relay may move here in one turn of the reactor. A meter
        lowers it. What a relay copies comes in reads of up to `DIRECT` bytes, and is not divided.
    :ivar meter: limits what goes to the peer; ``None`` for no limit.
    :ivar held: whether a relay waits because of the meter.
    :ivar sent: bytes that were written, or moved into the socket.
    :param changed: called after `paused` has changed and the relay has been paused or resumed.
    """

    __slots__ = ("_changed", "_relay", "_transport", "budget", "held", "meter", "paused", "sent")

    def __init__(self, transport: Transport, changed: Callable[[], object]) -> None:
        self._transport = transport
        self._changed = changed
        self._relay: IPushProducer | None = None
        self.paused = False
        self.budget = BUDGET
        self.meter: Meter | None = None
        self.held = False
        self.sent = 0
        self._register()

    def write(self, data: bytes) -> None:
        """Send bytes to the peer."""
        self.sent += len(data)
        if self.meter is not None:
            self.meter.charge(len(data))
        self._transport.write(data)

    def moved(self, size: int) -> None:
        """Count bytes that a relay has moved into the socket itself."""
        self.sent += size
        if self.meter is not None:
            self.meter.charge(size)

    def taken(self) -> int:
        """Return how many bytes the peer has acknowledged, about: its kernel may hold some.

        What the transport holds counts as taken; of TLS, the bytes are those before encryption.
        """
        try:
            queued = fcntl.ioctl(self._transport.fileno(), termios.TIOCOUTQ, _NO_BYTES)
        except (OSError, AttributeError, ValueError):
            return self.sent
        return self.sent - int.from_bytes(queued, sys.byteorder)

    def may_move(self, resume: Callable[[], object]) -> bool:
        """Return whether a relay may move bytes of a body now, up to `budget`.

        :param resume: called once when it may, if it may not now.
        """
        meter = self.meter
        if meter is None:
            return True
        if meter.ready():
            self.held = False
            self.budget = meter.budget
            return True
        if not self.held:
            self.held = True
            meter.wait(resume)
        return False

    def body_ended(self) -> None:
        """Note that the relay has ended: what it was allowed to move is free for others."""
        if self.meter is not None:
            self.held = False
            self.meter.cancel()

    def attach(self, relay: IPushProducer) -> None:
        """Pause and resume a relay from now on."""
        self._relay = relay
        if self.paused:
            relay.pauseProducing()

    def detach(self) -> None:
        """Pause and resume no relay any more."""
        self._relay = None

    def close(self) -> None:
        """Close the connection when everything written has been sent."""
        # A producer that stays registered can keep the socket open (twisted#6461).
        self._unregister()
        self._transport.loseConnection()

    def half_close(self) -> bool:
        """Close the sending direction when everything written has been sent.

        :return: false, without any effect, if the transport does not support it (TLS).
        """
        if not _can_half_close(self._transport):
            return False
        self._unregister()
        self._transport.loseWriteConnection()
        return True

    def pauseProducing(self) -> None:
        """Pause the relay: the transport's buffer is full."""
        if self.paused:
            return
        self.paused = True
        if self._relay is not None:
            self._relay.pauseProducing()
        self._changed()

    def resumeProducing(self) -> None:
        """Resume the relay: the transport's buffer is empty."""
        if not self.paused:
            return
        self.paused = False
        if self._relay is not None:
            self._relay.resumeProducing()
        # The relay may have filled the buffer again.
        if not self.paused:
            self._changed()

    def stopProducing(self) -> None:
        """Stop the relay: the connection is lost."""
        if self._relay is not None:
            self._relay.stopProducing()

    def _register(self) -> None:
        self._transport.registerProducer(self, True)

    def _unregister(self) -> None:
        self._transport.unregisterProducer()


class SocketOutbound(Outbound):
    """The outbound of a bare TCP connection: writes straight to the socket.

    The transport buffers what the socket does not take at once; until the transport has sent
    it, the outbound is paused. So the transport's buffer never holds more than one write, a
    short reply costs one system call, and a relay may borrow the socket to move bytes into it.
    """

    __slots__ = ("_checked", "_pending", "_ready", "_send")

    def __init__(self, transport: Transport, changed: Callable[[], object]) -> None:
        self._checked = False
        self._pending = False
        self._ready: Callable[[], object] | None = None
        self._send: Callable[[bytes], int] = transport.getHandle().send
        # Nagle's algorithm would delay the last piece of a reply until the piece before it is
        # acknowledged.
        transport.setTcpNoDelay(True)
        _limit_unsent(transport.getHandle())
        super().__init__(transport, changed)

    def write(self, data: bytes) -> None:
        """Send bytes to the peer."""
        self.sent += len(data)
        if self.meter is not None:
            self.meter.charge(len(data))
        if self._pending:
            self._transport.write(data)
            return
        sent = 0
        # More bytes are sent in the next turn, so that other connections get theirs.
        if len(data) <= AT_ONCE:
            try:
                sent = self._send(data)
            except OSError:
                # The socket is full; or broken, which the transport will notice.
                sent = 0
        if sent < len(data):
            self._transport.write(data[sent:] if sent else data)
            self._pending = True
            self._transport.registerProducer(_BufferWatch(self), False)
            self.pauseProducing()

    def attach(self, relay: IPushProducer) -> None:
        """Pause and resume a relay from now on."""
        self._prepare()
        super().attach(relay)

    def lend(self, relay: IPushProducer, ready: Callable[[], object]) -> None:
        """Attach a relay that moves bytes into the socket itself, until `take_back`.

        :param ready: called when all that was written has left the transport's buffer.
        """
        self._prepare()
        self._relay = relay
        if self._pending:
            self._ready = ready
        else:
            ready()

    def take_back(self) -> None:
        """Detach the relay, and write to the socket again."""
        self._relay = None
        self._ready = None
        self.paused = self._pending

    def set_paused(self, paused: bool) -> None:
        """Set `paused` for a relay that has borrowed the socket: whether the socket is full."""
        self.paused = paused
        self._changed()

    def descriptor(self) -> int:
        """Return the socket's descriptor."""
        return self._transport.fileno()

    def space(self) -> int:
        """Return how many more bytes the socket takes now; `BUDGET` where that is not reported."""
        try:
            memory = self._transport.getHandle().getsockopt(
                socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size
            )
            most, queued = _MEMINFO.unpack(memory)
            unsent = fcntl.ioctl(self._transport.fileno(), _SIOCOUTQNSD, _NO_BYTES)
        except (OSError, struct.error):
            return BUDGET
        space: int = min(most - queued, UNSENT - int.from_bytes(unsent, sys.byteorder))
        return space

    def _prepare(self) -> None:
        """Prepare the socket for bodies, once: short replies need no system call for it."""
        if not self._checked:
            self._checked = True
            _stop_pacing(self._transport.getHandle())

    def buffer_emptied(self) -> None:
        """Resume the relay: the transport has sent what it had buffered."""
        self._unregister()
        ready, self._ready = self._ready, None
        self.resumeProducing()
        if ready is not None:
            ready()

    def _register(self) -> None:
        """Do nothing: a producer is registered only while a write is pending."""

    def _unregister(self) -> None:
        if self._pending:
            self._pending = False
            self._transport.unregisterProducer()


def outbound_of(transport: Transport, changed: Callable[[], object]) -> Outbound:
    """Return the outbound for a transport; see `Outbound`."""
    kind = SocketOutbound if is_plain_tcp(transport) else Outbound
    return kind(transport, changed)


def send_at_once(transport: Transport, data: bytes) -> None:
    """Send bytes on a connection on which nothing has been written yet."""
    sent = 0
    if is_plain_tcp(transport):
        try:
            sent = transport.getHandle().send(data)
        except OSError:
            # The transport will notice why.
            sent = 0
    if sent < len(data):
        transport.write(data[sent:])


@implementer(IPullProducer)
class _BufferWatch:
    """Reports once that a transport has sent all that was written to it.

    A transport calls a pull producer's `resumeProducing` when it is registered, and again each
    time that its buffer has become empty: the second call is the report.
    """

    __slots__ = ("_outbound", "_registered")

    def __init__(self, outbound: SocketOutbound) -> None:
        self._outbound = outbound
        self._registered = False

    def resumeProducing(self) -> None:
        if self._registered:
            self._outbound.buffer_emptied()
        self._registered = True

    def stopProducing(self) -> None:
        self._outbound.stopProducing()


def is_plain_tcp(transport: object) -> bool:
    """Return whether a transport's bytes are those of its TCP socket: no TLS, no UNIX."""
    provided = providedBy(transport)
    return (
        provided.isOrExtends(ITCPTransport)
        and provided.isOrExtends(IFileDescriptor)
        and provided.isOrExtends(ISystemHandle)
        and not provided.isOrExtends(ISSLTransport)
        and not provided.isOrExtends(IUNIXTransport)
    )


def _can_half_close(transport: object) -> bool:
    # A wrapper (TLS, the PROXY protocol) provides the interfaces of the TCP transport below
    # it, but its protocol is not notified of a half-close.
    provided = providedBy(transport)
    return provided.isOrExtends(IHalfCloseableDescriptor) and not isinstance(
        transport, ProtocolWrapper
    )


def _limit_unsent(connected: socket.socket) -> None:
    """Limit what the kernel buffers and has not sent (``TCP_NOTSENT_LOWAT``, tcp(7)).

    By default the kernel buffers up to 4 MiB per connection. The proxy counts them as relayed,
    and a client that is killed has to download them again.
    """
    with suppress(OSError, AttributeError):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


def _stop_pacing(connected: socket.socket) -> None:
    """Use Reno in place of BBR for a connection within this host (``TCP_CONGESTION``, tcp(7)).

    BBR spaces out what is sent by a timer for each 64 KiB, which takes several times as long as
    moving them. Every user may choose Reno. Where BBR is not in use, nothing is changed.
    """
    with suppress(OSError, AttributeError):
        if connected.getsockname()[0] != connected.getpeername()[0]:
            return
        level, option = socket.IPPROTO_TCP, socket.TCP_CONGESTION
        if connected.getsockopt(level, option, _NAME_SIZE).startswith(b"bbr"):
            connected.setsockopt(level, option, b"reno")
