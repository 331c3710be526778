"""``twistd natproxy``."""

from __future__ import annotations

from twisted.application.service import IService

from natproxy.clock import use_monotonic_time
from natproxy.connecting import connector_for
from natproxy.proxy import ProxyFactory
from natproxy.relay import Relays, Way
from natproxy.service import DrainingService, TwistdService
from natproxy.tap.options import DaemonOptions, seconds, way, whole_number


class Options(DaemonOptions):
    """What ``twistd natproxy`` takes."""

    daemon = "natproxy"
    default_listen = "tcp:9000"

    synopsis = "[options]"
    longdesc = (
        "Stand in front of a file server: each command travels on a port of its own."
        f" Listens on {default_listen} unless told otherwise."
    )
    optParameters = [
        ["upstream", None, "tcp:127.0.0.1:9001", "Endpoint of the file server."],
        ["timeout", None, 60.0, "Seconds that the file server may be silent.", seconds("timeout")],
        [
            "connect-timeout",
            None,
            5.0,
            "Seconds that it may take to answer a connect.",
            seconds("connect-timeout"),
        ],
        [
            "idle-timeout",
            None,
            600.0,
            "Seconds until an idle or stalled client is cut off.",
            seconds("idle-timeout"),
        ],
        [
            "drain",
            None,
            30.0,
            "Seconds that commands in flight get at the end.",
            seconds("drain", 0),
        ],
        [
            "relay",
            None,
            Way.AUTO,
            "How large files are moved: auto, copy or splice.",
            way({"auto": Way.AUTO, "copy": Way.COPY, "splice": Way.KERNEL}),
        ],
        [
            "max-clients",
            None,
            10_000,
            "Clients at once; more are turned away.",
            whole_number("max-clients"),
        ],
    ]

    def postOptions(self) -> None:
        """See that the upstream can be understood."""
        super().postOptions()
        self.upstream_endpoint = self.upstream("--upstream", self["upstream"])


def make_daemon(options: Options) -> DrainingService:
    """Make the proxy of these options, without anything round it."""
    use_monotonic_time(options.reactor)
    factory = ProxyFactory(
        options.reactor,
        connector_for(
            options["upstream"],
            options.upstream_endpoint,
            options.reactor,
            options["connect-timeout"],
        ),
        reply_timeout=options["timeout"],
        idle_timeout=options["idle-timeout"],
        max_clients=options["max-clients"],
        relays=Relays(options.reactor, options["relay"]),
    )
    return DrainingService(options.listeners, factory, options["drain"], options.reactor)


def makeService(options: Options) -> IService:
    """Make what ``twistd`` runs."""
    return TwistdService(make_daemon(options), options.reactor)
