"""Why TLS with a peer is not possible, in one line, from the reasons that OpenSSL reports.

Python's ``ssl`` reports ``TLSV1_ALERT_UNKNOWN_CA`` where pyOpenSSL reports ``tlsv1 alert unknown
ca``; `refusal` understands both. The texts continue "cannot connect to HOST:PORT: …".
"""

from __future__ import annotations

import re

_REQUIRED = "it requires a client certificate"
_PERHAPS_REQUIRED = "it requires a client certificate, or has no cipher in common"
_UNTRUSTED = "its certificate is not signed by a trusted authority"
_SELF_SIGNED = "its certificate is self-signed, and not trusted"
_NO_AUTHORITY = "its certificate is signed by one that is not an authority's"
_MALFORMED_TIME = "its certificate has a malformed time"
_OTHER_NAMES = "its authority may not sign certificates for its names"

MALFORMED = "its certificate has malformed names"

_ADVICE = {
    _REQUIRED: "options cert and key",
    _PERHAPS_REQUIRED: "options cert and key",
    _UNTRUSTED: "option ca",
    _SELF_SIGNED: "option ca",
}
"""The options of the client that help."""

_ALERTS = {
    "certificate required": _REQUIRED,
    "handshake failure": _PERHAPS_REQUIRED,
    "unknown ca": "it does not trust the authority of the client certificate",
    "certificate expired": "it refused the client certificate, which has expired",
    "protocol version": "it does not offer TLS 1.2 or newer",
    "insufficient security": "it has no cipher in common",
    "unrecognized name": "it has no certificate for this name",
}
"""What an alert of the peer means for a client."""

_REFUSED = (
    *("bad certificate", "unsupported certificate", "certificate revoked", "certificate unknown"),
    *("access denied", "decrypt error"),
)

_LOCAL = {
    "unsupported protocol": "it does not offer TLS 1.2 or newer",
    "wrong ssl version": "it does not offer TLS 1.2 or newer",
    "version too low": "it does not offer TLS 1.2 or newer",
    "wrong version number": "it does not speak TLS",
    "packet length too long": "it does not speak TLS",
    "record layer failure": "it does not speak TLS",
    "unknown protocol": "it does not speak TLS",
    "http request": "it does not speak TLS",
    "dh key too small": "its key is too short",
    "ee key too small": "the key of its certificate is too short",
}

_CLIENT_ALERTS = {
    "unknown ca": "it does not trust the authority of this server's certificate",
    "certificate expired": "it refused this server's certificate, which has expired",
    "handshake failure": "it has no cipher in common",
    "insufficient security": "it has no cipher in common",
    "protocol version": "it has no version of TLS in common",
    "user cancelled": "it cancelled the handshake",
}
"""What an alert of a client means for a server."""

_CLIENT_LOCAL = {
    "peer did not return a certificate": "it showed no certificate",
    "no shared cipher": "it has no cipher in common",
    "no shared group": "it has no group for the exchange of keys in common",
    "no suitable signature algorithm": "it has no signature algorithm in common",
    "inappropriate fallback": "it fell back to an older version of TLS",
}

_NOT_FOR_CLIENTS = 26
"""The code of a certificate with another purpose."""

_CERTIFICATE = {
    2: _UNTRUSTED,
    7: "the signature of its certificate is wrong: another authority has the same name",
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    13: _MALFORMED_TIME,
    14: _MALFORMED_TIME,
    18: _SELF_SIGNED,
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    23: "its certificate has been revoked",
    24: _NO_AUTHORITY,
    25: "there are more authorities between its certificate and the root than are allowed",
    26: "its certificate is not one for a server",
    34: "its certificate has an unknown critical extension",
    47: _OTHER_NAMES,
    48: _OTHER_NAMES,
    66: "the key of its certificate is too short",
    79: _NO_AUTHORITY,
}
"""By the codes of OpenSSL's verification, ``X509_V_ERR_…``.

OpenSSL's own text is available for blocking connections only.
"""

_ALERT = re.compile(r".*\balert (?:number )?(.+)")


def refusal(reason: str) -> str | None:
    """Return why the peer, or this side, refuses the connection for good.

    :param reason: OpenSSL's reason.
    :return: ``None`` if it is not one that stays: a retry may succeed.
    """
    text = reason.lower().replace("_", " ").strip()
    alert = _ALERT.fullmatch(text)
    if alert is None:
        return _LOCAL.get(text)
    if alert[1] in _REFUSED:
        return f"it refused the client certificate ({alert[1]})"
    return _ALERTS.get(alert[1])


def advise(reason: str) -> str:
    """Return a reason with the options of the client that help, if there are any."""
    advice = _ADVICE.get(reason)
    return reason if advice is None else f"{reason} ({advice})"


def client_refusal(reason: str) -> str:
    """Return why the handshake with a client has failed, to continue "TLS with CLIENT failed: ".

    :param reason: OpenSSL's reason.
    """
    text = reason.lower().replace("_", " ").strip()
    alert = _ALERT.fullmatch(text)
    if alert is None:
        return _CLIENT_LOCAL.get(text) or _LOCAL.get(text) or text or "unknown reason"
    if alert[1] in _REFUSED:
        return f"it refused this server's certificate ({alert[1]})"
    return _CLIENT_ALERTS.get(alert[1]) or f"it sent the alert {alert[1]}"


def untrusted_client(code: int, message: str) -> str:
    """Return why a client's certificate is not accepted; the parameters are as of `untrusted`."""
    return (
        "its certificate is not one for a client"
        if code == _NOT_FOR_CLIENTS
        else untrusted(code, message)
    )


def untrusted(code: int, message: str) -> str:
    """Return why a server's certificate is not accepted.

    :param code: of OpenSSL's verification.
    :param message: OpenSSL's text for it.
    """
    return _CERTIFICATE.get(code) or f"its certificate is not valid ({message})"


def misnamed(host: str) -> str:
    """Return why a server's certificate is not accepted: it has other names."""
    return f"its certificate is not for the name {host}"
