"""The identity in a client's certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

# cryptography is part of the extra `tls`: where there is a certificate, it is installed.
if TYPE_CHECKING:
    from cryptography.x509 import Certificate

LONGEST_IDENTITY = 128
"""Characters of an identity at most."""


def identity_of(transport: object) -> str | None:
    """Return the identity in the certificate that a client has shown on its TLS connection.

    TLS has verified the certificate: an endpoint without ``clientCA`` requests none. See
    `identity_in`.

    :param transport: of the client's connection, after its handshake.
    :return: ``None`` without TLS, without a certificate, and for one without an identity, or that
        cryptography cannot parse.
    """
    peer_certificate = getattr(transport, "getPeerCertificate", None)
    shown = None if peer_certificate is None else peer_certificate()
    if shown is None:
        return None
    from cryptography.x509 import InvalidVersion

    try:
        certificate = shown.to_cryptography()
    except (ValueError, InvalidVersion):
        # OpenSSL is less strict.
        return None
    return identity_in(certificate)


def identity_in(certificate: Certificate) -> str | None:
    """Return the identity in a certificate.

    It is the first alternative name (SAN) that is an e-mail address, a URI or a DNS name; of a
    certificate without such a name, the common name of its subject.

    :return: printable ASCII, at most `LONGEST_IDENTITY` characters. ``None`` if there is no
        name, if it is anything else, or if the certificate is malformed.
    """
    from cryptography import x509

    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    names: list[object] = []
    try:
        found = [
            one.value
            for one in certificate.extensions
            if isinstance(one.value, x509.SubjectAlternativeName)
        ]
        names += [name.value for names_of in found for name in names_of if isinstance(name, kinds)]
        if not names:
            common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            names += [attribute.value for attribute in common]
    except (ValueError, x509.DuplicateExtension):
        return None
    name = names[0] if names else None
    return name if isinstance(name, str) and _is_plain(name) else None


def _is_plain(name: str) -> bool:
    printable = name.isascii() and name.isprintable()
    return printable and name == name.strip() and 0 < len(name) <= LONGEST_IDENTITY
