"""TLS of the connections that a daemon accepts. The module needs the extra ``tls``."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IAddress, ITransport
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory

from natproxy.protocol import NEEDS_TLS, error_line

HANDSHAKE = 22
"""The first byte of a connection with TLS: the type of the record with the ClientHello."""

_NEEDS_TLS = error_line(NEEDS_TLS)
"""The reply, without TLS, to a client that sends anything else."""


class SecureTransport(BufferingTLSTransport):
    """A TLS transport that replies with an error to a client without TLS."""

    _refused = False

    def dataReceived(self, data: bytes) -> None:
        """Receive the first bytes: begin with TLS, or refuse the client."""
        if self._refused:
            return
        if data[0] == HANDSHAKE:
            # Later bytes need no check.
            self.dataReceived = super().dataReceived  # type: ignore[method-assign]
            super().dataReceived(data)
        else:
            self._refused = True
            plain = cast(ITransport, self.transport)
            plain.write(_NEEDS_TLS)
            plain.loseConnection()

    def readConnectionLost(self) -> None:
        """Close: TLS has no half-close. Behind a PROXY header, a half-close is reported."""
        cast(ITransport, self.transport).loseConnection()

    def writeConnectionLost(self) -> None:
        """Ignore that everything has been sent; see `readConnectionLost`."""


class SecureFactory(TLSMemoryBIOFactory):
    """Adds TLS to the connections of another factory; it refuses those that the other refuses."""

    protocol = SecureTransport

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a connection; ``None`` if the other factory returns none."""
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)
