"""TLS of the connections that a daemon accepts. The module needs the extra ``tls``."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IAddress, ITransport
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from natproxy.protocol import NEEDS_TLS, error_line
from natproxy.server.proxy_header import receiver_of
from natproxy.tls.openssl import explain_client

HANDSHAKE = 22
"""The first byte of a connection with TLS: the type of the record with the ClientHello."""

PLAIN = "it does not speak TLS"
"""Why there is no handshake with such a client."""

UNFINISHED = "the daemon closed the connection, since the handshake was not complete in time"
GONE = "it closed the connection inside the handshake"

_NEEDS_TLS = error_line(NEEDS_TLS)
"""The reply, without TLS, to a client that sends anything else."""


class SecureTransport(BufferingTLSTransport):
    """A TLS transport that replies with an error to a client without TLS.

    It reports to the wrapped protocol why a handshake that a client has begun has failed.
    """

    _begun = False
    _refused = False

    def dataReceived(self, data: bytes) -> None:
        """Receive the first bytes: begin with TLS, or refuse the client."""
        if self._refused:
            return
        if data[0] == HANDSHAKE:
            # Later bytes need no check.
            self._begun = True
            self.dataReceived = super().dataReceived  # type: ignore[method-assign]
            super().dataReceived(data)
        else:
            self._refused = True
            plain = cast(ITransport, self.transport)
            plain.write(_NEEDS_TLS)
            plain.loseConnection()
            self._report(PLAIN)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report a handshake that has failed; then, that the connection is lost."""
        if self._begun and not self._handshakeDone:
            text = explain_client((self._reason or reason).value)
            self._report(text or (UNFINISHED if self._aborted else GONE))
        super().connectionLost(reason)

    def _report(self, reason: str) -> None:
        # The channel of the web endpoint has no such method.
        failed = getattr(receiver_of(self.wrappedProtocol), "handshake_failed", None)
        if failed is not None:
            failed(reason)

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
