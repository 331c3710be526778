"""A proxy and a file server in one process, with ``/metrics`` of both on a TCP port.

Started as ``python -m tests.support.scraped_pair DIRECTORY``; prints its two ports.
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site

from natproxy.daemon.config import FileServerConfig, ProxyConfig
from natproxy.daemon.fileserver import make_file_server
from natproxy.daemon.proxy import make_proxy
from natproxy.metrics.fileserver import FileServerMetrics
from natproxy.metrics.proxy import Observers, ProxyMetrics
from natproxy.metrics.resource import metrics_resource
from natproxy.nat.ring import EventRing
from natproxy.records.record import Origin


class PlayedJournal:
    """A journal's state, since the pair has no journal."""

    def state(self) -> dict[str, object]:
        return {"lag": 0.1, "rows": 1, "gaps": 0, "segments": 1, "bytes": 4096, "error": None}


def main(directory: str) -> None:
    origin = Origin("up", 0, "b00t")
    server = make_file_server(
        reactor, FileServerConfig(listen=("tcp:0:interface=127.0.0.1",), files=directory)
    )
    server.announced = False
    server.startService()
    upstream = server.ports[0].getHost()
    proxy = make_proxy(
        reactor,
        ProxyConfig(
            listen=("tcp:0:interface=127.0.0.1",), upstream=f"tcp:127.0.0.1:{upstream.port}"
        ),
    )
    proxy.announced = False
    proxy.startService()
    ring = EventRing(proxy.factory.table, origin)
    observers = Observers(ring, PlayedJournal())
    metrics = [
        ProxyMetrics(proxy.factory, origin, observers),
        FileServerMetrics(server.factory, origin),
    ]
    for each in metrics:
        each.startService()
    root = Resource()
    root.putChild(b"metrics", metrics_resource(*metrics))
    port = reactor.listenTCP(0, Site(root), interface="127.0.0.1")
    reactor.callWhenRunning(print, proxy.ports[0].getHost().port, port.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
