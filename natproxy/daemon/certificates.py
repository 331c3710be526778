"""TLS of the daemons: endpoint strings with certificates, and their reload.

``ssl:`` listens with TLS, ``tls:`` and ``ssl:`` connect with it. They replace the endpoints of
Twisted with these names, which cannot require certificates of clients, cannot read certificates
again, and, for ``ssl:``, connect to any server without a check of its name.

pyOpenSSL is imported when an endpoint needs it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

from natproxy.tls.options import TLSOptions

if TYPE_CHECKING:
    from natproxy.tls.openssl import ServerTLS

ATTEMPT_DELAY = 0.25
"""Seconds between two attempts to connect to addresses of one name (RFC 8305)."""

SOON = 14 * 86_400.0
"""Seconds before the end of a certificate from which the log warns."""

_PART = re.compile(r"((?:[^:\\]|\\.)*)(?::|$)", re.DOTALL)

_SERVER = (
    *("port", "privateKey", "certKey", "extraCertChain", "dhParameters", "clientCA"),
    *("interface", "backlog"),
)

_CLIENT = {
    "host": "host",
    "port": "port",
    "certificate": "cert",
    "certKey": "cert",
    "privateKey": "key",
    "trustRoots": "ca",
    "caCertsDir": "ca",
    "hostname": "hostname",
    "timeout": "timeout",
    "bindAddress": "bindAddress",
}
"""What the options of ``tls:`` and ``ssl:`` stand for; Twisted has different names for the same."""


def is_listening_tls(description: str) -> bool:
    """Return whether an endpoint string describes a server with TLS."""
    return description.lower().startswith("ssl:")


def is_upstream_tls(description: str) -> bool:
    """Return whether an endpoint string describes a client with TLS."""
    return description.lower().startswith(("tls:", "ssl:"))


def listening_tls(reactor: Any, description: str) -> tuple[IStreamServerEndpoint, ServerTLS]:
    """Return the TCP endpoint of a server with TLS, and its TLS.

    :param description: ``ssl:PORT:privateKey=FILE:certKey=FILE``, optionally with ``clientCA``
        and others.
    :raises ValueError: if it is malformed.
    :raises CertificateError: if a file cannot be used.
    :raises ImportError: if pyOpenSSL is missing.
    """
    from natproxy.tls.openssl import ServerFiles, ServerTLS

    arguments, options = split_description(description)
    _check_options(options, _SERVER)
    arguments += [options[name] for name in ("port",) if name in options]
    if len(arguments) != 1:
        raise ValueError("ssl:PORT:privateKey=FILE:certKey=FILE is needed")
    key = options.get("privateKey")
    if key is None:
        raise ValueError("privateKey=FILE is missing")
    port, backlog = _number("port", arguments[0]), _number("backlog", options.get("backlog", "50"))
    interface = options.get("interface", "")
    kind = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
    files = ServerFiles(
        os.path.abspath(options.get("certKey", key)),
        os.path.abspath(key),
        _path(options.get("extraCertChain")),
        _path(options.get("clientCA")),
        _path(options.get("dhParameters")),
    )
    return kind(reactor, port, backlog, interface), ServerTLS(files)


def upstream_tls(reactor: Any, description: str) -> IStreamClientEndpoint:
    """Return the endpoint of a client with TLS, which verifies the server and its name.

    :param description: ``tls:HOST:PORT``, optionally with ``trustRoots``, ``certificate``,
        ``privateKey`` and others.
    :raises ValueError: if it is malformed.
    :raises CertificateError: if a file cannot be used.
    :raises ImportError: if pyOpenSSL is missing.
    """
    from natproxy.tls.openssl import ClientTLS

    arguments, options = split_description(description)
    _check_options(options, _CLIENT)
    arguments += [options[name] for name in ("host", "port") if name in options]
    if len(arguments) != 2:
        raise ValueError("tls:HOST:PORT is needed")
    host, port = arguments[0], _number("port", arguments[1])
    found = {_CLIENT[name]: value for name, value in options.items()}
    tls = TLSOptions(_path(found.get("ca")), _path(found.get("cert")), _path(found.get("key")))
    endpoint = HostnameEndpoint(
        reactor,
        host,
        port,
        timeout=float(found.get("timeout", 30)),
        bindAddress=found.get("bindAddress"),
        attemptDelay=ATTEMPT_DELAY,
    )
    return wrapClientTLS(ClientTLS(tls, found.get("hostname", host)), endpoint)


def split_description(description: str) -> tuple[list[str], dict[str, str]]:
    r"""Return the positional arguments of an endpoint string, and its options.

    A backslash precedes a colon, an equals sign or a backslash that is part of a value.

    :raises ValueError: if a backslash is the last character.
    """
    arguments: list[str] = []
    options: dict[str, str] = {}
    position = 0
    while position < len(description):
        found = _PART.match(description, position)
        if found is None:
            raise ValueError("a backslash at the end")
        name, equals, value = _split_option(found[1])
        if equals:
            options[name] = value
        else:
            arguments.append(value)
        position = found.end()
    # The first one is the type of the endpoint.
    return arguments[1:], options


def describe_expiry(tls: ServerTLS, now: float) -> tuple[bool, str]:
    """Return whether a certificate ends soon, and a line for the log with its time.

    :param now: seconds since the epoch.
    """
    left = tls.expires.timestamp() - now
    date = f"{tls.expires:%Y-%m-%d %H:%M} UTC"
    if left <= 0:
        return True, f"the certificate {tls.files.cert} has expired on {date}"
    text = f"the certificate {tls.files.cert} is valid until {date}"
    return left < SOON, text if left >= SOON else f"{text}: it expires in {left / 86_400:.1f} days"


def _split_option(part: str) -> tuple[str, bool, str]:
    found = re.match(r"([A-Za-z]+)=", part)
    value = part[found.end() :] if found else part
    return (found[1] if found else ""), found is not None, re.sub(r"\\(.)", r"\1", value)


def _path(path: str | None) -> str | None:
    # The working directory may change before a reload reads the file again.
    return None if path is None else os.path.abspath(path)


def _check_options(options: Mapping[str, str], known: Collection[str]) -> None:
    for name in options:
        if name == "sslmethod":
            raise ValueError("sslmethod is not supported: TLS 1.2 and newer are used")
        if name not in known:
            raise ValueError(f"unknown option {name}; known are {', '.join(known)}")


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65_536):
        raise ValueError(f"there is no {name} {text[:40]}")
    return int(text)
