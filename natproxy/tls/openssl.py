"""TLS on a reactor, by pyOpenSSL: what Twisted's TLS layer needs for each connection.

Contexts allow TLS 1.2 and newer, and no renegotiation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple
from weakref import WeakSet

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from service_identity import CertificateError as NoIdentity
from service_identity import VerificationError
from service_identity.hazmat import (
    DNS_ID,
    DNSPattern,
    IPAddress_ID,
    IPAddressPattern,
    verify_service_identity,
)
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from natproxy.tls.files import (
    CertificateError,
    check_authorities,
    check_pair,
    mismatch,
    unusable,
)
from natproxy.tls.options import TLSOptions
from natproxy.tls.reasons import (
    MALFORMED,
    client_refusal,
    misnamed,
    refusal,
    untrusted,
    untrusted_client,
)

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""Those of TLS 1.2: authenticated encryption and ephemeral keys only."""

_CONNECT_EXIT = 0x1002
"""``SSL_CB_CONNECT_EXIT``: the end of a handshake, or of a message after it, such as a ticket."""

_TLS_1_3 = 0x0304


class Refused(SSL.Error):
    """A certificate of the peer is not accepted.

    :ivar reason: why, to continue "cannot connect to HOST:PORT: …".
    """

    def __init__(self, reason: str) -> None:
        # Twisted searches for an end of file in the errors of OpenSSL.
        super().__init__([("natproxy", "", reason)])
        self.reason = reason


def explain(error: BaseException | None) -> str | None:
    """Return why TLS with the peer is impossible, to continue "cannot connect to …: ".

    :param error: with which a connection has ended.
    :return: ``None`` if it is not an error of TLS, or a retry may succeed.
    """
    if isinstance(error, Refused):
        return error.reason
    reason = openssl_reason(error)
    return None if reason is None else refusal(reason)


def explain_client(error: BaseException | None) -> str | None:
    """Return why the handshake with a client has failed; ``None`` if it is not an error of TLS.

    :param error: with which the connection has ended.
    """
    if isinstance(error, Refused):
        return error.reason
    reason = openssl_reason(error)
    return None if reason is None else client_refusal(reason)


def openssl_reason(error: BaseException | None) -> str | None:
    """Return OpenSSL's reason of an error; ``None`` if it is not one of OpenSSL."""
    queue = error.args[0] if isinstance(error, SSL.Error) and error.args else None
    return str(queue[-1][-1]) if isinstance(queue, list) and queue else None


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """Makes the TLS of connections to one server, and resumes their sessions.

    :param options: what is trusted, and what is shown.
    :param host: the name or the address that the server's certificate must have.
    :raises CertificateError: if a file cannot be read, or is not what it should be.
    :raises ValueError: if the host is not a valid host name.
    """

    def __init__(self, options: TLSOptions, host: str) -> None:
        self._options = options
        # A zone is not part of the address that a certificate has.
        self._host = host.partition("%")[0]
        self._server_name: bytes | None = None
        try:
            self._identity: Any = IPAddress_ID(str(ip_address(self._host)))
        except ValueError:
            self._server_name = self._host.rstrip(".").encode("idna")
            self._identity = DNS_ID(self._server_name.decode("ascii"))
        self._session: SSL.Session | None = None
        self._issued_to: SSL.Connection | None = None
        self._established: WeakSet[SSL.Connection] = WeakSet()
        self._context = self._new_context()

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return the TLS of a new connection; see ``IOpenSSLClientConnectionCreator``."""
        connection = SSL.Connection(self._context, None)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name)
        if self._session is not None:
            connection.set_session(self._session)
        return connection

    def prepare(self) -> Callable[[], None]:
        """Read the files again, and return what lets new connections use them.

        :raises CertificateError: if one cannot be used; nothing is changed.
        """
        context = self._new_context()

        def put_into_effect() -> None:
            self._context = context
            # A session belongs to its context.
            self._session = self._issued_to = None

        return put_into_effect

    def _new_context(self) -> SSL.Context:
        options = self._options
        context = _context(SSL.TLS_CLIENT_METHOD)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if options.insecure:
            context.set_verify(SSL.VERIFY_NONE, None)
        else:
            context.set_verify(SSL.VERIFY_PEER, self._verify)
            if options.ca is None:
                context.set_default_verify_paths()
            else:
                _trust(context, options.ca)
        if options.cert is not None:
            _load_pair(context, options.cert, options.key or options.cert)
        elif options.key is not None:
            raise CertificateError(f"{options.key}: a key needs its certificate (option cert)")
        context.set_info_callback(self._note)
        return context

    def _note(self, connection: SSL.Connection, where: int, result: int) -> None:
        if where != _CONNECT_EXIT or result != 1 or connection.get_context() is not self._context:
            return
        if connection.get_protocol_version() >= _TLS_1_3 and connection not in self._established:
            # The ticket follows the handshake.
            self._established.add(connection)
            return
        self._session = connection.get_session() or self._session
        # OpenSSL marks a session as not resumable when its connection is freed unclosed.
        self._issued_to = connection

    def _verify(
        self, connection: SSL.Connection, shown: Any, code: int, depth: int, valid: int
    ) -> bool:
        if not valid:
            raise Refused(untrusted(code, f"error {code}"))
        if depth == 0:
            try:
                patterns = _patterns_of(shown.to_cryptography())
            except (ValueError, x509.DuplicateExtension, x509.InvalidVersion) as error:
                raise Refused(MALFORMED) from error
            try:
                verify_service_identity(patterns, [self._identity], [])
            except (VerificationError, NoIdentity) as error:
                raise Refused(misnamed(self._host)) from error
        return True


def _patterns_of(certificate: x509.Certificate) -> list[DNSPattern | IPAddressPattern]:
    """Return the host names and addresses that a certificate is for.

    Malformed ones are ignored, as the blocking client's OpenSSL does: a host may match another one.

    :raises ValueError: if the alternative names cannot be parsed.
    """
    patterns: list[DNSPattern | IPAddressPattern] = []
    for extension in certificate.extensions:
        names = extension.value
        if isinstance(names, x509.SubjectAlternativeName):
            for address in names.get_values_for_type(x509.IPAddress):
                if isinstance(address, (IPv4Address, IPv6Address)):
                    patterns.append(IPAddressPattern(address))
            for name in names.get_values_for_type(x509.DNSName):
                with suppress(NoIdentity):
                    patterns.append(DNSPattern.from_bytes(name.encode()))
    return patterns


class ServerFiles(NamedTuple):
    """The files of a server's TLS; all are PEM.

    :ivar cert: path of the certificate, with those of its authorities after it.
    :ivar key: path of its private key.
    :ivar chain: path of further certificates of its authorities.
    :ivar client_ca: path of the authorities of clients, a file or a directory; with it, each
        client must show a certificate that one of them has signed.
    :ivar dh_parameters: path of parameters for Diffie-Hellman without elliptic curves.
    """

    cert: str
    key: str
    chain: str | None = None
    client_ca: str | None = None
    dh_parameters: str | None = None


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes the TLS of a server's connections.

    :raises CertificateError: if a file cannot be read, or is not what it should be.
    :ivar expires: the time after which the certificate is not valid.
    """

    def __init__(self, files: ServerFiles) -> None:
        self.files = files
        self._context, self.expires = _server_context(files)

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return the TLS of a new connection; see ``IOpenSSLServerConnectionCreator``."""
        return SSL.Connection(self._context, None)

    def prepare(self) -> Callable[[], None]:
        """Read the files again, and return what lets new connections use them.

        :raises CertificateError: if one cannot be used; nothing is changed.
        """
        context, expires = _server_context(self.files)

        def put_into_effect() -> None:
            self._context, self.expires = context, expires

        return put_into_effect


def _server_context(files: ServerFiles) -> tuple[SSL.Context, datetime]:
    context = _context(SSL.TLS_SERVER_METHOD)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    # Sessions are resumed by tickets: clients cannot fill this process's memory with sessions.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # OpenSSL refuses to resume a session with a client's certificate without it.
    context.set_session_id(b"natproxy")
    _load_pair(context, files.cert, files.key)
    if files.chain is not None:
        for certificate in _certificates(files.chain):
            context.add_extra_chain_cert(certificate)
    if files.dh_parameters is not None:
        try:
            context.load_tmp_dh(files.dh_parameters.encode())
        except (SSL.Error, OSError) as error:
            raise unusable(files.dh_parameters, _reason_of(error)) from error
    if files.client_ca is not None:
        for path in _trust(context, files.client_ca):
            for certificate in _certificates(path):
                context.add_client_ca(certificate)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify_client)
    return context, _certificates(files.cert)[0].not_valid_after_utc


def _verify_client(
    connection: SSL.Connection, shown: Any, code: int, depth: int, valid: int
) -> bool:
    if not valid:
        raise Refused(untrusted_client(code, f"error {code}"))
    return True


def _context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS)
    return context


def _trust(context: SSL.Context, path: str) -> list[str]:
    files = check_authorities(path)
    for file in files:
        try:
            context.load_verify_locations(file)
        except SSL.Error as error:
            raise unusable(file, _reason_of(error)) from error
    return files


def _load_pair(context: SSL.Context, cert: str, key: str) -> None:
    check_pair(cert, key)
    try:
        context.use_certificate_chain_file(cert)
    except SSL.Error as error:
        raise unusable(cert, _reason_of(error)) from error
    try:
        with open(key, "rb") as file:
            # OpenSSL itself would prompt for the password of an encrypted key.
            private: Any = load_pem_private_key(file.read(), None)
        context.use_privatekey(private)
        context.check_privatekey()
    except (SSL.Error, OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = _reason_of(error)
        if "mismatch" in reason:
            raise mismatch(cert, key) from error
        raise unusable(key, reason) from error


def _certificates(path: str) -> list[x509.Certificate]:
    check_authorities(path)
    try:
        with open(path, "rb") as file:
            return x509.load_pem_x509_certificates(file.read())
    except (OSError, ValueError) as error:
        raise unusable(path, "not in PEM form") from error


def _reason_of(error: BaseException) -> str:
    return openssl_reason(error) or str(error) or type(error).__name__
