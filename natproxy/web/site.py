"""The web endpoint: the page, and the read-only resources that it uses."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site

from natproxy.web.guard import HEADERS, Refused, refusal
from natproxy.web.rates import Rates

CONNECTIONS = 128
"""Connections at once; a browser has up to six of them."""

IDLE = 60
"""Seconds after which a connection without a request is closed."""


class WebSite(Site):
    """The site of the web endpoint; see `web_site`.

    :param resource: the root.
    :param reactor: for time-outs.
    :param hosts: names that are accepted as Host.
    :param rates: are summed while the endpoint listens; ``None`` for a file server.
    :ivar connections: number of open connections.
    """

    _logger = Logger()

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        hosts: tuple[str, ...] = (),
        rates: Rates | None = None,
    ) -> None:
        super().__init__(resource, reactor=reactor, timeout=IDLE, parsePOSTFormSubmission=False)
        self.connections = 0
        self._hosts = hosts
        self._rates = rates
        self._full = False

    def doStart(self) -> None:
        """Begin to sum the rates with the first port."""
        if self._rates is not None and not self.numPorts:
            self._rates.start()
        super().doStart()

    def doStop(self) -> None:
        """Stop with the last port."""
        super().doStop()
        if self._rates is not None and not self.numPorts:
            self._rates.stop()

    def startFactory(self) -> None:
        """Write no access log: the superclass would, and would format the date each second."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: Request) -> None:
        """Write nothing: an open page sends a request each second."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a connection, or ``None`` to close it: there are too many."""
        if self.connections >= CONNECTIONS:
            if not self._full:
                self._full = True
                self._logger.warn(
                    "the web endpoint has {limit} connections; it closes further ones",
                    limit=CONNECTIONS,
                )
            return None
        channel = super().buildProtocol(addr)
        self.connections += 1
        lost = channel.connectionLost

        def connection_lost(reason: Failure) -> None:
            self.connections -= 1
            self._full = self._full and self.connections > 0
            lost(reason)

        channel.connectionLost = connection_lost
        return channel

    def getResourceFor(self, request: Request) -> IResource:
        """Return the resource of a request, or the error if it is refused."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        return refusal(request, self._hosts) or super().getResourceFor(request)


class RatesResource(Resource):
    """What the charts and lists of the page show; see `Rates.json`. For the page alone."""

    isLeaf = True

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self._rates = rates

    def render_GET(self, request: Request) -> bytes:
        """Return the seconds after ``?after=``."""
        text = request.args.get(b"after", [b"0"])[0]
        if not text.isdigit() or len(text) > 15:
            refused = Refused(http.BAD_REQUEST, "after must be the number of a second")
            return refused.render(request)
        request.setHeader("Content-Type", "application/json")
        return json.dumps(self._rates.json(int(text)), separators=(",", ":")).encode()
