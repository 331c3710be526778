"""The HTTP server of the control socket."""

from __future__ import annotations

import io
import json
from collections import deque
from typing import Any, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from natproxy.control.json_resource import Context, JSONResource
from natproxy.control.resources import resources_of, tree_of

CONNECTIONS = 200
"""Connections at once; further ones are closed. An observer of the daemon usually has fewer."""

MOST_BODY = 4 << 20
"""Bytes of a request's body: some 50,000 lookups of ports."""

TIMEOUT = 60.0
"""Seconds that a client may take for its next request, or for the next part of one."""

TURN = 0.002
"""Seconds after which no further request is replied to in a turn of the reactor."""

EARLY = 128 << 10
"""Bytes that a client may send while it receives a response; Twisted itself pauses a client that
sends more than 16 KiB, but not while that client does not read."""


class BoundedRequest(Request):
    """A request whose body is held in memory, and has a limit."""

    channel: BoundedChannel

    def gotLength(self, length: int | None) -> None:
        """Refuse a body that is too long or in chunks; hold others in memory."""
        self.content = io.BytesIO()
        most = self.channel.factory.most_body
        if length is None:
            # A turn of the reactor could be full of chunks of one byte.
            self.channel.refuse(411, "Length Required", "the request needs a Content-Length")
        elif length > most:
            self.channel.refuse(413, "Content Too Large", f"the body exceeds {most} bytes")

    def process(self) -> None:
        """Reply when it is this request's turn, unless the body was refused."""
        if not self.channel.closing:
            self.channel.request_received(self)

    def reply(self) -> None:
        """Reply, unless the client is gone."""
        if self.channel is not None:
            super().process()


class BoundedChannel(HTTPChannel):
    """A connection that is counted, and whose malformed requests get JSON as well.

    :ivar closing: whether nothing more is read: a request was refused, or the last one replied to.
    """

    requestFactory = BoundedRequest
    closing = False
    factory: BoundedSite
    _replying = False
    _early = 0
    # The transport has more than it can send; the request that came meanwhile waits.
    _paused = False
    _held: BoundedRequest | None = None

    def connectionMade(self) -> None:
        """Count the connection."""
        self.factory.channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]  # not annotated
        """Release the connection."""
        self.factory.channels.discard(self)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """Receive bytes, up to a limit while a response is sent."""
        if self._replying:
            self._early += len(data)
            if self._early > EARLY:
                cast(Any, self.transport).abortConnection()
                return
        super().dataReceived(data)

    def request_received(self, request: BoundedRequest) -> None:
        """Have a request replied to, when the client has read the responses before it."""
        self._replying = True
        if self._paused:
            self._held = request
            self.setTimeout(TIMEOUT)
        else:
            self.factory.schedule(request)

    def requestDone(self, request: Request) -> None:
        """Continue with the next request."""
        self._replying = False
        self._early = 0
        super().requestDone(request)

    def pauseProducing(self) -> None:
        """Write nothing more: the client does not read."""
        self._paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Continue."""
        self._paused = False
        super().resumeProducing()
        request, self._held = self._held, None
        if request is not None:
            self.setTimeout(None)
            self.factory.schedule(request)

    def lineReceived(self, line: bytes) -> None:
        """Receive a line of a header, unless the connection is closing."""
        if not self.closing:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """Receive a part of a body, likewise."""
        if not self.closing:
            super().rawDataReceived(data)

    def loseConnection(self) -> Any:
        """Close when everything is written; nothing more is read."""
        self.closing = True
        return super().loseConnection()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a request with a line that is too long."""
        sentence = f"a line of the request exceeds {self.MAX_LENGTH} bytes"
        self.refuse(431, "Request Header Fields Too Large", sentence)

    def refuse(self, status: int, phrase: str, sentence: str) -> None:
        """Send an error for a request that cannot be processed, and close."""
        if self.closing:
            return
        body = json.dumps({"error": sentence}).encode("ascii") + b"\n"
        cast(Any, self.transport).write(
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n%b"
            % (status, phrase.encode("ascii"), len(body), body)
        )
        self.loseConnection()


class BoundedSite(Site):
    """A server of HTTP that limits connections, time and sizes, and logs no requests.

    All clients together are replied to for `TURN` seconds in one turn, one request each in
    succession: a client that sends hundreds of requests at once does not delay the others.

    :param root: its resources.
    :param reactor: measures the time-outs.
    :cvar most_body: bytes of a request's body.
    :ivar channels: the open connections.
    """

    noisy = False
    protocol: Any = BoundedChannel
    displayTracebacks = False
    most_body = MOST_BODY

    def __init__(self, root: IResource, reactor: IReactorTime) -> None:
        super().__init__(root, requestFactory=BoundedRequest, timeout=TIMEOUT, reactor=reactor)
        self.channels: set[BoundedChannel] = set()
        self._requests: deque[BoundedRequest] = deque()
        self._call: IDelayedCall | None = None

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol of a new connection; ``None``, which closes it, if there are many."""
        return None if len(self.channels) >= CONNECTIONS else super().buildProtocol(addr)

    def schedule(self, request: BoundedRequest) -> None:
        """Reply to a request now if it is the first one of a turn, else in a later turn."""
        if self._call is None:
            self._call = self.reactor.callLater(0, self._reply)
            request.reply()
        else:
            self._requests.append(request)

    def _reply(self) -> None:
        end = self.reactor.seconds() + TURN
        while self._requests:
            self._requests.popleft().reply()
            if self.reactor.seconds() >= end:
                break
        self._call = self.reactor.callLater(0, self._reply) if self._requests else None

    def startFactory(self) -> None:
        """Do nothing: there is no log of requests, whose dates would cost a timer."""

    def stopFactory(self) -> None:
        """Close the connections: watchers would hold theirs for ever."""
        for channel in list(self.channels):
            channel.loseConnection()

    def log(self, request: Any) -> None:
        """Log no requests; what changes something is logged where it is done."""


def control_site(context: Context, resources: list[JSONResource] | None = None) -> Site:
    """Return the server of a daemon's control socket.

    :param resources: by default, those of a daemon in one process.
    """
    if resources is None:
        resources = resources_of(context, actions=True)
    return BoundedSite(tree_of(resources, context), context.reactor)
