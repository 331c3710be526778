"""Which requests of the web endpoint are served, and the headers of every response.

The page is for people who can reach its address. A page of another site must not read it with the
browser of such a person: not by a request to it, not by a frame, and not by a name that is resolved
to its address (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import json
import re

from twisted.web import http
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource

MISDIRECTED_REQUEST = 421

_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "natproxy",
}
"""Headers of every response; static files replace ``Cache-Control``."""


class Refused(Resource):
    """The response to a request that is not served: an error as a JSON object.

    :param code: status of HTTP.
    :param error: one sentence.
    :param reason: phrase of the status, where Twisted has none.
    :ivar code: as above.
    """

    isLeaf = True

    def __init__(self, code: int, error: str, reason: bytes | None = None) -> None:
        super().__init__()
        self.code = code
        self._reason = reason
        self._body = json.dumps({"error": error}).encode() + b"\n"

    def render(self, request: Request) -> bytes:
        """Return the error, whatever the method."""
        request.setResponseCode(self.code, self._reason)
        request.setHeader("Content-Type", "application/json")
        if self.code == http.NOT_ALLOWED:
            request.setHeader("Allow", "GET, HEAD")
        return self._body


def not_found() -> Refused:
    """Return the response for a path that leads to nothing."""
    return Refused(http.NOT_FOUND, "there is no such page")


class Node(Resource):
    """A path below which there is only what was put there."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Return an error: there is no such child."""
        return not_found()


class Directory(Node):
    """A path that only leads to others."""

    def render_GET(self, request: Request) -> bytes:
        """Return an error: there is no listing."""
        return not_found().render(request)


def refusal(request: Request, hosts: tuple[str, ...]) -> Refused | None:
    """Return why a request is not served, or ``None`` if it is.

    :param hosts: names that are accepted as Host, besides IP addresses and ``localhost``.
    """
    values = _values(request, b"host")
    host = host_in(values[0]) if len(values) == 1 else None
    if host is None:
        return Refused(http.BAD_REQUEST, "the request has no valid Host header, or several")
    if not is_accepted(host, hosts):
        return Refused(
            MISDIRECTED_REQUEST,
            f"the host name {host[:253]} is not accepted: use the IP address, localhost, "
            "or a name that the daemon was started with (--web-host)",
            b"Misdirected Request",
        )
    if _is_cross_origin(request, values[0]):
        return Refused(http.FORBIDDEN, "requests of other sites are refused")
    if request.method not in (b"GET", b"HEAD"):
        return Refused(http.NOT_ALLOWED, "the web endpoint is read-only: use GET or HEAD")
    return None


def host_in(header: str) -> str | None:
    """Return the host of a Host header in lower case, without brackets; ``None`` if malformed."""
    match = _HOST.fullmatch(header)
    return None if match is None else (match["name"] or match["ipv6"]).lower()


def is_accepted(host: str, hosts: tuple[str, ...]) -> bool:
    """Return whether a host is an IP address, ``localhost``, or one of these names."""
    if host == "localhost" or host in (name.lower() for name in hosts):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_cross_origin(request: Request, host: str) -> bool:
    """Return whether a browser sent a request on behalf of another site.

    To follow a link to the page is not such a request.
    """
    for origin in _values(request, b"origin"):
        # A reverse proxy may have ended TLS.
        if origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return True
    site = _values(request, b"sec-fetch-site")
    if all(value in ("same-origin", "none") for value in site):
        return False
    destination = _values(request, b"sec-fetch-dest")
    return request.path != b"/" or destination != ["document"]


def _values(request: Request, name: bytes) -> list[str]:
    """Return the values of a header, which may have any bytes."""
    return [value.decode("latin-1") for value in request.requestHeaders.getRawHeaders(name, [])]
