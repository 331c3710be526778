"""Errors of TLS on a reactor, for modules that also run without pyOpenSSL."""

from __future__ import annotations


def refusal_of(error: BaseException | None) -> str | None:
    """Return why TLS with a peer is impossible, from an error of a connection on a reactor.

    :return: ``None`` if it is another error. pyOpenSSL need not be installed.
    """
    if not type(error).__module__.startswith(("OpenSSL.", "natproxy.tls.")):
        return None
    from natproxy.tls.openssl import explain

    return explain(error)
