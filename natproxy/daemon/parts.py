"""The parts of a daemon that take its settings; see `natproxy.daemon.reload.Part`.

Each function is a part once all its arguments but the last one are bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.logger import Logger

from natproxy.access.networks import Networks
from natproxy.access.patterns import NamePattern, NamePatterns
from natproxy.access.rules import Rules
from natproxy.daemon.certificates import describe_expiry
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.descriptors import Capacity, clients_for
from natproxy.daemon.endpoints import upstream_targets
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.limits import divided
from natproxy.daemon.listening import ListeningEndpoint
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.reload import Effect
from natproxy.daemon.service import DrainingService
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.resolution import AddressCache
from natproxy.relay import Method, Relays
from natproxy.server.factory import CommandFactory
from natproxy.server.gates import LimitGate
from natproxy.settings import SettingError
from natproxy.storage import LocalStorage, ObjectStorage
from natproxy.tls.files import CertificateError
from natproxy.tokens.entries import TokenFileError, Tokens, load_tokens

_log = Logger()


def prepare_service(service: DrainingService, config: DaemonConfig) -> Effect:
    """Prepare the time for draining, and the level and the rotation of the log.

    :raises SettingError: if the log is not the daemon's own, and a level is set.
    """
    service.log.check(config)

    def apply() -> None:
        service.drain = config.drain
        service.log.use(config)

    return apply


def prepare_clients(
    factory: CommandFactory,
    capacity: Capacity,
    share: Callable[[int], int],
    workers: int,
    config: ProxyConfig | FileServerConfig,
) -> Effect:
    """Prepare the limits of the number of clients, and of the time that they may take.

    :param capacity: what there are descriptors for.
    :param workers: by which the limits are divided.
    :param share: returns the clients of one host by default, for a number of clients in all.
    """

    def apply() -> None:
        clients, per_host = clients_for(config, capacity, workers), config.max_clients_per_host
        of_host = share(clients) if per_host is None else -(-per_host // workers)
        factory.admission.limit(clients, of_host)
        factory.first_commands.change(config.first_command_timeout)
        factory.lines.change(config.line_timeout)
        factory.bodies.change(config.body_timeout)
        factory.minimum_rate.rate = config.min_rate

    return apply


def prepare_rules(factory: CommandFactory, config: DaemonConfig) -> Effect:
    """Prepare the rules by which commands are allowed or denied."""
    rules = Rules(config.rules, config.rules_default == "allow")
    return lambda: factory.use_rules(rules)


def prepare_trusted_proxies(factory: CommandFactory, config: DaemonConfig) -> Effect:
    """Prepare from where a PROXY header is accepted."""
    networks = Networks(config.trusted_proxies) if config.trusted_proxies else None

    def apply() -> None:
        factory.trusted_proxies = networks

    return apply


def prepare_limits(gate: LimitGate, workers: int, config: DaemonConfig) -> Effect:
    """Prepare how much clients may take.

    :param workers: by which the limits are divided.
    """
    client, identity, total = (divided(scope, workers) for scope in config.limits)
    return lambda: gate.set(client, identity, total, config.max_delay)


def prepare_relays(
    relays: Relays, methods: Mapping[str, Method], config: ProxyConfig | FileServerConfig
) -> Effect:
    """Prepare how further bodies are moved.

    :param methods: by the values of ``relay``.
    """
    return lambda: relays.use(methods[config.relay])


def prepare_proxy_timeouts(factory: ProxyFactory, config: ProxyConfig) -> Effect:
    """Prepare the time-outs of clients and of upstreams."""

    def apply() -> None:
        factory.idle.change(config.idle_timeout)
        factory.resources.replies.change(config.timeout)
        factory.resources.retries.resume_for = config.resume_for

    return apply


def prepare_upstreams(
    factory: ProxyFactory, reactor: Any, names: AddressCache, workers: int, config: ProxyConfig
) -> Effect:
    """Prepare where the commands are executed, how each is checked, and the queue before them.

    :param names: the addresses of those that are known by name.
    :param workers: by which the limits are divided.
    :raises SettingError: if an endpoint is malformed, or needs a file that is missing, or if a
        local address cannot be used.
    """
    targets = [
        one._replace(limit=-(-one.limit // workers))
        for one in upstream_targets(reactor, config, names)
    ]
    upstreams = factory.resources.upstreams

    def apply() -> None:
        names.interval = config.upstream_lookup
        upstreams.queue.limit(-(-config.queue // workers), config.queue_timeout)
        upstreams.use(targets)
        upstreams.set_health(config.health)

    return apply


def prepare_hiding(storage: LocalStorage | ObjectStorage, config: FileServerConfig) -> Effect:
    """Prepare which files are neither listed nor sent."""
    if not config.hide:
        return lambda: storage.hide(None)
    first = NamePatterns([NamePattern(each) for each in config.hide]).first
    return lambda: storage.hide(lambda path: first(path) is not None)


def prepare_file_server_timeouts(factory: CommandFactory, config: FileServerConfig) -> Effect:
    """Prepare the time-out of clients."""
    return lambda: factory.idle.change(config.timeout)


def prepare_tokens(factory: CommandFactory, config: DaemonConfig) -> Effect:
    """Prepare the tokens that ``AUTH`` accepts: their file is read again.

    :raises SettingError: if the file cannot be used.
    """
    tokens = tokens_of(config)
    return lambda: factory.accept_tokens(tokens, config.auth_plain)


def tokens_of(config: DaemonConfig) -> Tokens:
    """Return the tokens of a config; none if it names no file.

    :raises SettingError: if the file cannot be used.
    """
    if config.tokens is None:
        return Tokens()
    named = f"{config.label('tokens')} {config.tokens}"
    try:
        return load_tokens(os.path.join(config.directory, config.tokens))
    except TokenFileError as error:
        raise SettingError(f"{named}: {error}") from error
    except OSError as error:
        raise SettingError(f"{named}: {error.strerror}") from error


def prepare_certificates(
    endpoints: Sequence[ListeningEndpoint],
    wall_clock: Callable[[], float],
    config: DaemonConfig,
) -> Effect:
    """Prepare the certificates of listening endpoints: their files are read again.

    New connections use them; a connection keeps the certificate of its handshake.

    :param endpoints: those without TLS are ignored.
    :param wall_clock: returns seconds since the epoch, for the log.
    :raises SettingError: if a file cannot be used.
    """
    effects = []
    for endpoint in endpoints:
        if endpoint.tls is not None:
            try:
                effects.append((endpoint.tls, endpoint.tls.prepare()))
            except CertificateError as error:
                raise SettingError(f"{endpoint.description}: {error}") from error

    def apply() -> None:
        for tls, effect in effects:
            effect()
            soon, line = describe_expiry(tls, wall_clock())
            (_log.warn if soon else _log.info)("{line}", line=line)

    return apply
