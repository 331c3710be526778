"""``twistd natproxy``: the proxy, made of its config."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from twisted.application.service import IService

from natproxy.daemon.application import TwistdService
from natproxy.daemon.clock import use_monotonic_time
from natproxy.daemon.descriptors import attainable, observers_for, proxy_capacity
from natproxy.daemon.endpoints import upstream_targets
from natproxy.daemon.options import DaemonOptions, parameters_of
from natproxy.daemon.parts import (
    prepare_certificates,
    prepare_clients,
    prepare_limits,
    prepare_proxy_timeouts,
    prepare_relays,
    prepare_rules,
    prepare_service,
    prepare_tokens,
    prepare_trusted_proxies,
    prepare_upstreams,
)
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.proxy_observation import ProxyObservation
from natproxy.daemon.reload import LiveSettings, Reloader
from natproxy.daemon.service import (
    DaemonService,
    DrainingService,
    startup_errors,
)
from natproxy.daemon.upstream_settings import default_name
from natproxy.daemon.workers.daemon import of_processes
from natproxy.daemon.workers.share import ALONE, Share
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.resolution import AddressCache
from natproxy.relay import Method, Relays
from natproxy.server.admission import share_of
from natproxy.server.gates import LimitGate
from natproxy.server.threads import Threads

RELAYS = {"auto": Method.AUTO, "copy": Method.COPY, "splice": Method.KERNEL}
"""How bodies are moved, by the values of ``relay``."""


class Options(DaemonOptions):
    """The command line of ``twistd natproxy``."""

    config_class = ProxyConfig
    config: ProxyConfig

    synopsis = "[options]"
    longdesc = (
        "Proxy commands to a file server, with one upstream connection for each."
        f" Listens on {ProxyConfig().listen[0]} by default."
    )
    optParameters = parameters_of(ProxyConfig, "source", "upstream")

    def opt_source(self, address: str) -> None:
        """Local address of upstream connections; may be repeated. By default, the kernel's."""
        self._add("source", address)

    def opt_upstream(self, description: str) -> None:
        """Endpoint of the file server [default: tcp:127.0.0.1:9001]; may be repeated."""
        self._add("upstream", description)


def make_proxy(
    reactor: Any, config: ProxyConfig, descriptors: int | None = None, kind: str = "proxy"
) -> DaemonService:
    """Return the proxy of a config, without a log and signal handlers.

    :param reactor: its clock is changed; see `use_monotonic_time`.
    :param descriptors: that a process may use; by default, all that it may have.
    :param kind: ``proxy`` or ``up``, for its default name.
    :raises SettingError: if an endpoint is malformed, or a file that is named cannot be used.
    """
    proxy = make_proxy_process(reactor, config, descriptors, kind)
    return of_processes(reactor, proxy, config, kind)


def make_proxy_process(
    reactor: Any,
    config: ProxyConfig,
    descriptors: int | None = None,
    kind: str = "proxy",
    share: Share = ALONE,
) -> DrainingService:
    """Return the proxy of a config in one process; see `make_proxy`.

    :param share: the part of the daemon that the process is.
    """
    endpoints = share.listening(reactor, config)
    names = AddressCache(lambda: reactor.nameResolver, lambda: reactor.seconds())
    targets = upstream_targets(reactor, config, names)
    use_monotonic_time(reactor)
    descriptors = attainable() if descriptors is None else descriptors
    observers = observers_for(config, descriptors, share.workers)
    capacity = proxy_capacity(descriptors - share.inherited, observers)
    pipes = -(-capacity.pipes // share.workers)
    relays = Relays(reactor, splices=capacity.splices, pipes=pipes)
    factory = ProxyFactory(reactor, targets[0].connector, relays=relays)
    proxy = DrainingService(
        endpoints,
        factory,
        config.drain,
        reactor,
        details=f"the proxy in front of {', '.join(target.description for target in targets)}",
        label=config.label("listen"),
    )
    observation = ProxyObservation(reactor, proxy, factory, config, kind, observers)
    observation.share = share
    observation.upstreams.addresses = lambda endpoint: names.shown(default_name(endpoint))
    proxy.companion = observation
    settings = LiveSettings(
        config,
        (
            partial(prepare_service, proxy),
            partial(prepare_clients, factory, capacity, share_of, share.workers),
            partial(prepare_rules, factory),
            partial(prepare_trusted_proxies, factory),
            partial(prepare_limits, LimitGate(factory), share.workers),
            partial(prepare_relays, relays, RELAYS),
            partial(prepare_proxy_timeouts, factory),
            partial(prepare_upstreams, factory, reactor, names, share.workers),
            partial(prepare_tokens, factory),
            partial(prepare_certificates, [*endpoints, *observation.endpoints], time.time),
            observation.prepare,
        ),
    )
    proxy.reloader = Reloader(reactor, Threads(reactor, 1, "reload"), settings)
    return proxy


def makeService(options: Options) -> IService:
    """Return what ``twistd`` runs.

    :raises StartupError: if an endpoint is malformed.
    """
    with startup_errors(options.config.program()):
        proxy = make_proxy(options.reactor, options.config)
    return TwistdService(proxy, options.reactor, options.log)
