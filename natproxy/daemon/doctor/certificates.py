"""A check of how long the certificates of endpoints are still valid."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from natproxy.daemon.certificates import describe_expiry, is_listening_tls, listening_tls
from natproxy.daemon.doctor.finding import Finding, ok, problem, warning
from natproxy.tls.files import CertificateError

CHECK = "certificate"

RENEW = "replace certificate and key, then 'natproxy reload'"


def check_certificates(
    reactor: object, endpoints: Iterable[str], clock: Callable[[], float]
) -> list[Finding]:
    """Check certificates; endpoints that are wrong are findings of the settings.

    :param endpoints: as described by the settings.
    :param clock: returns seconds since the epoch.
    """
    findings: list[Finding] = []
    for description in endpoints:
        while description.startswith("haproxy:"):
            description = description.removeprefix("haproxy:")
        if not is_listening_tls(description):
            continue
        try:
            _, tls = listening_tls(reactor, description)
        except (CertificateError, ValueError, ImportError):
            continue
        now = clock()
        soon, text = describe_expiry(tls, now)
        if tls.expires.timestamp() <= now:
            findings.append(problem(CHECK, text, RENEW))
        else:
            findings.append(warning(CHECK, text, RENEW) if soon else ok(CHECK, text))
    return findings
