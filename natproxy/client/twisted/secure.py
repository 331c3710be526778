"""TLS of the connections on a reactor; pyOpenSSL is imported when it is used."""

from __future__ import annotations

from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint

from natproxy import extras
from natproxy.address import Address
from natproxy.client.errors import UsageError
from natproxy.tls.files import CertificateError
from natproxy.tls.options import TLSOptions


def secured(
    endpoint: IStreamClientEndpoint, server: Address | str, tls: TLSOptions
) -> IStreamClientEndpoint:
    """Return an endpoint whose connections carry TLS.

    :param server: the address of the server, whose host its certificate must have.
    :raises UsageError: if a file cannot be used, or pyOpenSSL is missing.
    """
    if not isinstance(server, Address):
        raise UsageError("tls needs server= as an Address: a certificate is checked for its host")
    try:
        from natproxy.tls.openssl import ClientTLS
    except ImportError:
        raise UsageError(extras.TLS) from None
    try:
        return wrapClientTLS(ClientTLS(tls, server.host), endpoint)
    except CertificateError as error:
        raise UsageError(str(error)) from error
    except ValueError:
        raise UsageError(f"server {server.host!r}: bad host name") from None
