"""The web endpoint: the page, and the read-only resources of the control socket."""

from __future__ import annotations

import json
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.web import http
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site

from natproxy.control.json_resource import Context, JSONResource
from natproxy.control.resources import resources_of, tree_of
from natproxy.control.site import BoundedSite
from natproxy.web.guard import HEADERS, Directory, Refused, refusal
from natproxy.web.rates import Rates
from natproxy.web.static import StaticFiles


class ShownRates(Protocol):
    """What the charts and lists of the page show: of one process, or of several."""

    def start(self) -> None:
        """Begin to sum."""
        ...

    def stop(self) -> None:
        """Sum no longer."""
        ...

    def json(self, after: int = 0, error: int = 0) -> dict[str, Any]:
        """Return the object for the page; see `Rates.json`."""
        ...


def web_site(context: Context, hosts: tuple[str, ...] = ()) -> Site:
    """Return the server of a web endpoint.

    A file server, which has no table, has a page of its status.

    :param hosts: names that are accepted as Host, besides IP addresses and ``localhost``.
    """
    observed = context.observed
    rates = None
    if observed.table is not None and observed.ring is not None:
        rates = Rates(observed.table, observed.ring, context.reactor, context.wall_clock)
    return site_of(context, resources_of(context, actions=False), rates, hosts)


def site_of(
    context: Context,
    resources: list[JSONResource],
    rates: ShownRates | None,
    hosts: tuple[str, ...] = (),
) -> Site:
    """Return the server of a web endpoint with some resources.

    :param rates: for the page; without them, it is that of a file server.
    """
    reactor = context.reactor
    root = tree_of(resources, context)
    static = StaticFiles()
    root.putChild(b"static", static)
    if rates is None:
        root.putChild(b"", static.page("status.html"))
        return WebSite(root, reactor, hosts)
    root.putChild(b"", static.page("page.html"))
    page = Directory()
    page.putChild(b"rates", RatesResource(rates))
    root.putChild(b"page", page)
    return WebSite(root, reactor, hosts, rates)


class WebSite(BoundedSite):
    """The server of a web endpoint: it refuses requests of other sites, and what is not read-only.

    :param root: its resources.
    :param reactor: measures the time-outs.
    :param hosts: names that are accepted as Host.
    :param rates: are summed while the endpoint listens; ``None`` for a file server.
    """

    # No request that is served has one.
    most_body = 1024

    def __init__(
        self,
        root: IResource,
        reactor: IReactorTime,
        hosts: tuple[str, ...] = (),
        rates: ShownRates | None = None,
    ) -> None:
        super().__init__(root, reactor)
        self._hosts = hosts
        self._rates = rates

    def startFactory(self) -> None:
        """Begin to sum the rates."""
        super().startFactory()
        if self._rates is not None:
            self._rates.start()

    def stopFactory(self) -> None:
        """Sum them no longer, and close the connections."""
        if self._rates is not None:
            self._rates.stop()
        super().stopFactory()

    def getResourceFor(self, request: Request) -> IResource:
        """Return the resource of a request, or the error if it is refused."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        refused = refusal(request, self._hosts)
        if refused is not None:
            return refused
        resource: IResource = super().getResourceFor(request)
        return resource


class RatesResource(Resource):
    """What the charts and lists of the page show; see `Rates.json`. For the page alone."""

    isLeaf = True

    def __init__(self, rates: ShownRates) -> None:
        super().__init__()
        self._rates = rates

    def render_GET(self, request: Request) -> bytes:
        """Return the seconds after ``?after=``, and the errors if ``&error=`` is not the newest."""
        numbers = []
        for name in (b"after", b"error"):
            text = request.args.get(name, [b"0"])[0]
            if not text.isdigit() or len(text) > 15:
                refused = Refused(http.BAD_REQUEST, f"{name.decode()} must be a number")
                return refused.render(request)
            numbers.append(int(text))
        request.setHeader("Content-Type", "application/json")
        return json.dumps(self._rates.json(*numbers), separators=(",", ":")).encode()
