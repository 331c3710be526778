"""Blocking connections over TLS, by the standard library's ``ssl``.

``ssl`` takes longer to import than the rest of a short command: only sessions with TLS import
this module.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import NoReturn

from natproxy.address import Address
from natproxy.client.blocking.connection import Connection
from natproxy.client.blocking.reply import Reply
from natproxy.client.blocking.route import Route, connect_seconds
from natproxy.client.errors import (
    CannotConnect,
    ConnectionBroken,
    TLSError,
    UsageError,
    cannot_connect,
)
from natproxy.tls.files import (
    CertificateError,
    check_authorities,
    check_pair,
    mismatch,
    unusable,
)
from natproxy.tls.options import TLSOptions
from natproxy.tls.reasons import advise, misnamed, refusal, untrusted

RECORD = 16 << 10
"""Bytes of a TLS record at most: no more are decrypted at once."""

_NAME_MISMATCHES = (62, 63, 64)
"""Codes of OpenSSL's verification: the certificate has another host, e-mail or IP address."""


class Security:
    """What the TLS connections of one session share: the context, and a session to resume.

    Several threads may use it.

    :param options: what is trusted, and what is shown.
    :param host: the name or the address that the server's certificate must have.
    :raises UsageError: if a file cannot be read, or is not what it should be.
    :ivar resumable: the last TLS session that a server has issued a ticket for.
    """

    def __init__(self, options: TLSOptions, host: str) -> None:
        try:
            self._context = client_context(options)
        except CertificateError as error:
            raise UsageError(str(error)) from error
        # A zone is not part of the address that a certificate has.
        self._host = host.partition("%")[0]
        self.resumable: ssl.SSLSession | None = None

    def wrap(self, connected: socket.socket) -> ssl.SSLSocket:
        """Return a socket for TLS over a connected socket, which is closed; no handshake yet.

        :raises ValueError: if the host is not a valid host name.
        """
        return self._context.wrap_socket(
            connected,
            server_hostname=self._host,
            session=self.resumable,
            do_handshake_on_connect=False,
        )

    def keep_session(self, connected: ssl.SSLSocket) -> None:
        """Keep the session of a connection, if it can be resumed by later ones."""
        session = connected.session
        if session is not None and session.has_ticket:
            self.resumable = session

    def explain(self, error: ssl.SSLError) -> str | None:
        """Return why TLS with the server is impossible; ``None`` if a retry may succeed."""
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in _NAME_MISMATCHES:
                return misnamed(self._host)
            return untrusted(error.verify_code, error.verify_message)
        return refusal(error.reason or "")


class SecureConnection(Connection):
    """A `Connection` over TLS.

    Its handshake is part of the connect, with the same time-out. A server of TLS 1.3 refuses the
    client's certificate after that: the first reply then raises `TLSError`.

    The parameters are those of `Connection`.

    :param security: shared by the connections of a session.
    """

    piece_size = RECORD

    def __init__(
        self,
        server: Address,
        security: Security,
        timeout: float = 60.0,
        connect_timeout: float | None = None,
        route: Route | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(server, timeout, connect_timeout, route, clock)
        self._security = security
        # Decrypted bytes that were received while the kernel did not accept a command.
        self._early = b""
        # Whether the server may still have to send the ticket of the session, and its verdict
        # about the client's certificate: nothing has been received since the handshake.
        self._fresh = False

    def close(self) -> None:
        """Close the connection; see `Connection.close`."""
        super().close()
        self._early = b""

    def next_reply(self) -> Reply:
        """Receive the header of the next reply, and keep the TLS session for later connections.

        The parameters and errors are those of `Connection.next_reply`.
        """
        reply = super().next_reply()
        if self._fresh and isinstance(self._socket, ssl.SSLSocket):
            self._fresh = False
            self._security.keep_session(self._socket)
        return reply

    def receive(self) -> bytes:
        """Receive a piece of a reply; see `Connection.receive`."""
        self._finish_sending()
        if self._early:
            early, self._early = self._early, b""
            return early
        return super().receive()

    def receive_into(self, buffer: memoryview) -> int:
        """Receive a piece of a reply into memory; see `Connection.receive_into`."""
        self._finish_sending()
        if not self._early:
            return super().receive_into(buffer)
        size = min(len(buffer), len(self._early))
        buffer[:size], self._early = self._early[:size], self._early[size:]
        return size

    def _finish_sending(self) -> None:
        """Send the rest of the commands, unless a reply is received meanwhile."""
        if self._unsent and not self._early:
            try:
                self._ready_socket()
            except OSError as error:
                raise self._lost(error) from error

    def _connect(self) -> None:
        began = time.monotonic()
        super()._connect()
        assert self._socket is not None
        try:
            secured = self._socket = self._security.wrap(self._socket)
            # `interrupt` may have shut down the socket that was replaced.
            self._check()
            seconds = connect_seconds(self.timeout, self.connect_timeout)
            secured.settimeout(max(0.001, seconds - (time.monotonic() - began)))
            secured.do_handshake()
        except (OSError, ValueError) as error:
            self.close()
            self._check()
            self._refuse(error)
        except BaseException:
            # An interrupted handshake must not be continued by the next command.
            self.close()
            raise
        secured.settimeout(self.timeout)
        self._fresh = True

    def _refuse(self, error: OSError | ValueError) -> NoReturn:
        """Raise the error for a handshake that has failed."""
        if isinstance(error, (ssl.SSLEOFError, ConnectionError)):
            reason: object = "the server closed the connection in the TLS handshake"
        elif isinstance(error, TimeoutError):
            reason = "no reply to the TLS handshake in time"
        elif isinstance(error, ssl.SSLError):
            refused = self._security.explain(error)
            if refused is not None:
                raise self._refused(refused) from error
            reason = f"TLS has failed: {_reason_of(error)}"
        else:
            raise error
        raise cannot_connect(self.server, reason) from error

    def _refused(self, reason: str) -> CannotConnect:
        return cannot_connect(self.server, advise(reason), TLSError)

    def _write(self, connected: socket.socket, data: bytes) -> int:
        timeout = connected.gettimeout()
        connected.settimeout(0)
        try:
            return connected.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        finally:
            connected.settimeout(timeout)

    def _send_rest(self, connected: socket.socket) -> None:
        """Send the rest of the commands until a piece of a reply has been decrypted.

        Encrypted bytes may be readable although they are no reply: tickets, half of a record.
        """
        timeout = connected.gettimeout()
        assert timeout is not None
        poll = select.poll()
        poll.register(connected, select.POLLIN | select.POLLOUT)
        while self._unsent and not self._early:
            ready = poll.poll(timeout * 1000)
            if not ready:
                raise TimeoutError
            if ready[0][1] & ~select.POLLOUT:
                received = self._receive_now(connected)
                if received == b"":
                    # The server has closed, which the next read reports.
                    return
                self._early = received or b""
            self._flush()

    def _is_readable(self) -> bool:
        assert self._socket is not None
        if self._early:
            return self._exchange is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        decrypted = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()
        if not decrypted and not poll.poll(0):
            return False
        try:
            received = self._receive_now(self._socket)
        except OSError:
            return True
        if received is None:
            return False
        # As in `Connection`: before the first command, bytes are the server's error.
        self._early = received
        return not received or self._exchange is not None

    def _receive_now(self, connected: socket.socket) -> bytes | None:
        """Return what can be decrypted without waiting.

        :return: ``None`` for nothing yet; empty if the server has closed.
        :raises OSError: if the connection is lost.
        """
        timeout = connected.gettimeout()
        connected.settimeout(0)
        try:
            return connected.recv(RECORD)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        finally:
            connected.settimeout(timeout)

    def _lost(self, error: OSError) -> ConnectionBroken:
        fresh, exchange = self._fresh, self._exchange
        if isinstance(error, ssl.SSLError):
            refused = self._security.explain(error)
            if refused is not None and fresh and (exchange is None or exchange.header is None):
                self.close()
                self._check()
                raise self._refused(refused) from error
            error = ssl.SSLError(error.errno, f"TLS has failed: {_reason_of(error)}")
        return super()._lost(error)


def client_context(options: TLSOptions) -> ssl.SSLContext:
    """Return the context of a client: TLS 1.2 and newer.

    :raises CertificateError: if a file cannot be read, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.ca is None:
        context.load_default_certs()
    else:
        for path in check_authorities(options.ca):
            try:
                context.load_verify_locations(path)
            except (OSError, ValueError) as error:
                raise unusable(path, _reason_of(error)) from error
    if options.cert is not None:
        _load_pair(context, options.cert, options.key or options.cert)
    elif options.key is not None:
        raise CertificateError(f"{options.key}: a key needs its certificate (option cert)")
    return context


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    check_pair(cert, key)
    try:
        # Without a password, OpenSSL would prompt for one at the terminal.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise mismatch(cert, key) from error
        raise unusable(cert, _reason_of(error)) from error


def _reason_of(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return str(reason).lower().replace("_", " ")
