"""The HTTP server of the control socket."""

from __future__ import annotations

import io
import json
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from natproxy.control.json_resource import Context
from natproxy.control.resources import resources_of, tree_of

CONNECTIONS = 100
"""Connections at once; further ones are closed."""

MOST_BODY = 4 << 20
"""Bytes of a request's body: some 50,000 lookups of ports."""

TIMEOUT = 60.0
"""Seconds that a client may take for its next request, or for the next part of one."""


class BoundedRequest(Request):
    """A request whose body is held in memory, and has a limit."""

    channel: BoundedChannel
    _received = 0

    def gotLength(self, length: int | None) -> None:
        """Refuse a body that is too long; hold others in memory."""
        self.content = io.BytesIO()
        if length is not None and length > MOST_BODY:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """Add to the body, up to its limit."""
        self._received += len(data)
        if self._received > MOST_BODY:
            self._refuse()
        elif not self.channel.closing:
            cast(Any, self.content).write(data)

    def process(self) -> None:
        """Reply, unless the body was refused."""
        if not self.channel.closing:
            super().process()

    def _refuse(self) -> None:
        self.channel.refuse(413, "Content Too Large", f"the body exceeds {MOST_BODY} bytes")


class BoundedChannel(HTTPChannel):
    """A connection that is counted, and whose malformed requests get JSON as well.

    :ivar closing: whether a request was refused: nothing more is read.
    """

    requestFactory = BoundedRequest
    closing = False
    factory: BoundedSite

    def connectionMade(self) -> None:
        """Count the connection."""
        self.factory.channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]  # not annotated
        """Release the connection."""
        self.factory.channels.discard(self)
        super().connectionLost(reason)

    def lineReceived(self, line: bytes) -> None:
        """Receive a line of a header, unless a request was refused."""
        if not self.closing:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a request with a line that is too long."""
        sentence = f"a line of the request exceeds {self.MAX_LENGTH} bytes"
        self.refuse(431, "Request Header Fields Too Large", sentence)

    def refuse(self, status: int, phrase: str, sentence: str) -> None:
        """Send an error for a request that cannot be processed, and close."""
        if self.closing:
            return
        self.closing = True
        body = json.dumps({"error": sentence}).encode("ascii") + b"\n"
        cast(Any, self.transport).write(
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (status, phrase.encode("ascii"), len(body), body)
        )
        self.loseConnection()


class BoundedSite(Site):
    """A server of HTTP that limits connections, time and sizes, and logs no requests.

    :param root: its resources.
    :param reactor: measures the time-outs.
    :ivar channels: the open connections.
    """

    noisy = False
    protocol: Any = BoundedChannel
    displayTracebacks = False

    def __init__(self, root: IResource, reactor: IReactorTime) -> None:
        super().__init__(root, requestFactory=BoundedRequest, timeout=TIMEOUT, reactor=reactor)
        self.channels: set[BoundedChannel] = set()

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol of a new connection; ``None``, which closes it, if there are many."""
        return None if len(self.channels) >= CONNECTIONS else super().buildProtocol(addr)

    def startFactory(self) -> None:
        """Do nothing: there is no log of requests, whose dates would cost a timer."""

    def stopFactory(self) -> None:
        """Close the connections: watchers would hold theirs for ever."""
        for channel in list(self.channels):
            channel.loseConnection()

    def log(self, request: Any) -> None:
        """Log no requests; what changes something is logged where it is done."""


def control_site(context: Context) -> Site:
    """Return the server of a daemon's control socket."""
    resources = resources_of(context, actions=True)
    return BoundedSite(tree_of(resources, context), context.reactor)
