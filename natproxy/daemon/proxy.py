"""``twistd natproxy``."""

from __future__ import annotations

from twisted.application.service import IService

from natproxy.daemon.clock import use_monotonic_time
from natproxy.daemon.descriptors import attainable, room_for_proxy
from natproxy.daemon.options import DaemonOptions, relay_method, seconds, whole_number
from natproxy.daemon.service import DrainingService, TwistdService
from natproxy.proxy.endpoint import connector_for
from natproxy.proxy.factory import ProxyFactory
from natproxy.relay import Method, Relays
from natproxy.server.admission import share_of


class Options(DaemonOptions):
    """What ``twistd natproxy`` takes."""

    daemon = "natproxy"
    default_listen = "tcp:9000"

    synopsis = "[options]"
    longdesc = (
        "Proxy commands to a file server: each one has an upstream connection of its own."
        f" Listens on {default_listen} unless told otherwise."
    )
    optParameters = [
        [
            "timeout",
            None,
            60.0,
            "Seconds that the file server may take for a reply's header, or be silent in a body.",
            seconds("timeout"),
        ],
        [
            "connect-timeout",
            None,
            5.0,
            "Seconds that the file server may take to accept a connection.",
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
            "relay",
            None,
            Method.AUTO,
            "How large files are moved: auto, copy or splice.",
            relay_method({"auto": Method.AUTO, "copy": Method.COPY, "splice": Method.KERNEL}),
        ],
        [
            "max-clients-per-host",
            None,
            None,
            "Connections of one host at once (a tenth of --max-clients, at least 16); 0: no limit.",
            whole_number("max-clients-per-host", 0),
        ],
        *DaemonOptions.common,
    ]

    def opt_upstream(self, description: str) -> None:
        """Endpoint of the file server [default: tcp:127.0.0.1:9001]."""
        self.once("upstream", description)

    def postOptions(self) -> None:
        """Check the upstream's endpoint."""
        super().postOptions()
        self.setdefault("upstream", "tcp:127.0.0.1:9001")
        self.upstream_endpoint = self.upstream("--upstream", self["upstream"])


def make_daemon(options: Options, descriptors: int | None = None) -> DrainingService:
    """Make the proxy of these options, without a log and signal handlers.

    :param descriptors: that it may use; by default, all that the process may have.
    """
    use_monotonic_time(options.reactor)
    room = room_for_proxy(attainable() if descriptors is None else descriptors)
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
        admission=options.admission(room, share_of),
        relays=Relays(options.reactor, options["relay"], splices=room.splices),
        first_command_timeout=options["first-command-timeout"],
    )
    return DrainingService(
        options.listeners,
        factory,
        options["drain"],
        options.reactor,
        f"the proxy in front of {options['upstream']}",
        options.listen_option,
    )


def makeService(options: Options) -> IService:
    """Make what ``twistd`` runs."""
    return TwistdService(make_daemon(options), options.reactor, options.log.file)
