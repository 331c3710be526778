"""The transport of an upstream connection: the connector's own socket, and few system calls.

There is a connection for each command. ``adoptStreamConnection``, Twisted's way to make a transport
of a connected socket, duplicates the descriptor, requests three addresses where one is needed, and
sets the socket's mode once more; and the reset of its transport takes another turn of the reactor.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from twisted.internet import error, tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IProtocol, IReactorFDSet
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

from natproxy.address import Address

READ_SIZE = 64 * 1024
"""Bytes that one read returns at most."""

_ABORTED = error.ConnectionAborted()
_ABORTED_FAILURE = Failure(_ABORTED)

_RESET = struct.pack("ii", 1, 0)
"""The value of ``SO_LINGER`` with which closing resets a connection."""


class UpstreamTransport(tcp.Connection):
    """A connected IPv4 socket as a transport, which owns the socket.

    The connector adds it to the reactor, and calls ``makeConnection`` of the protocol.

    :param connected: in non-blocking mode.
    :param peer: address of the other end.
    """

    logstr = "upstream"

    # Set for one connection when they become true.
    _watched = False
    """Whether the reactor may report that the socket is writable."""
    _in_read = False
    """Whether `doRead` is calling the protocol."""
    _reset_due = False
    """Whether the protocol has aborted the connection within `doRead`."""

    def __init__(
        self,
        connected: socket.SocketType,
        peer: Address,
        protocol: IProtocol,
        reactor: IReactorFDSet,
    ) -> None:
        # ``Connection.__init__`` would set the socket's mode again.
        FileDescriptor.__init__(self, reactor)
        # Twisted uses the methods of the class in C only.
        self.socket = connected  # type: ignore[assignment]
        self.fileno: Callable[[], int] = connected.fileno
        self.protocol = protocol
        self.connected = 1
        self._peer = peer

    def local_address(self) -> Address:
        """Return the address of this end."""
        return Address(*self.socket.getsockname())

    def getHost(self) -> IPv4Address:
        """Return the address of this end, as Twisted states it."""
        return IPv4Address("TCP", *self.socket.getsockname())

    def getPeer(self) -> IPv4Address:
        """Return the address of the other end, as Twisted states it."""
        return IPv4Address("TCP", *self._peer)

    def write(self, data: bytes) -> None:
        """Send at once what the socket takes, and buffer the rest."""
        if self.connected and not self._watched:
            try:
                sent = self.socket.send(data)
            except OSError:
                # The socket is full; or broken, which the reactor will notice.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        super().write(data)

    def startWriting(self) -> None:
        """Send what is buffered, or close, as soon as the socket is writable."""
        self._watched = True
        super().startWriting()

    def doRead(self) -> Exception | None:  # type: ignore[override]  # wider than there
        """Pass on what has been received, and reset the connection if the protocol aborts it.

        :return: why the connection has ended; ``None`` if it has not, or is reset.
        """
        try:
            data = self.socket.recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._in_read = True
        self.protocol.dataReceived(data)
        self._in_read = False
        if not self._reset_due:
            return None
        if self._watched or self.producer is not None:
            # The reactor may write in this turn too, unless it gets the reason.
            return _ABORTED
        self._reset()
        return None

    def abortConnection(self) -> None:
        """Reset the connection: at the end of `doRead` if called in there, else in the next turn.

        The event that is read for is the only one of this descriptor in the reactor's turn. In
        other cases there may be one to come, which would be taken for an event of a new connection
        whose descriptor has the same number.
        """
        if self._in_read:
            self._reset_due = True
        else:
            super().abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket, and notify the protocol.

        If the protocol has raised an exception after it has aborted the connection, this still is a
        reset.
        """
        super().connectionLost(_ABORTED_FAILURE if self._reset_due else reason)

    def _reset(self) -> None:
        """Do what `connectionLost` does, for a connection that is only read, without a producer."""
        self.reactor.removeReader(self)
        self.disconnected = 1
        self.connected = 0
        connected, protocol = self.socket, self.protocol
        del self.socket, self.fileno, self.protocol
        try:  # noqa: SIM105  # `suppress` would be three calls more
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass
        connected.close()
        protocol.connectionLost(_ABORTED_FAILURE)
