"""Requests to a site of twisted.web without a socket."""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import Site


class Response(NamedTuple):
    """A response.

    :ivar status: code of HTTP.
    :ivar headers: by their names in lower case.
    :ivar body: as it was sent.
    """

    status: int
    headers: dict[str, str]
    body: bytes


def respond(
    site: Site,
    path: str = "/",
    method: str = "GET",
    host: str | None = "127.0.0.1:9080",
    **headers: str,
) -> Response:
    """Send a request over a connection of its own; return the response to it.

    :param host: value of the Host header; ``None`` for a request without one.
    :param headers: others, with ``_`` for ``-`` in their names.
    """
    lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return exchange(site, "\r\n".join([*lines, "", ""]).encode("latin-1"))


def exchange(site: Site, request: bytes) -> Response:
    """Send the bytes of a request; return the response."""
    transport = StringTransport()
    channel = site.buildProtocol(None)
    channel.makeConnection(transport)
    channel.dataReceived(request)
    # The rest of the turn.
    site.reactor.advance(0)
    channel.connectionLost(Failure(ConnectionDone()))
    head, _, body = transport.value().partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Response(int(status.split()[1]), headers, body)
