"""Parse the endpoint strings of the settings; the error for a bare address suggests one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from natproxy.daemon.certificates import is_upstream_tls, upstream_tls
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.listening import ListeningEndpoint
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.proxy.endpoint import connecting_reactor, connector_for
from natproxy.proxy.resolution import AddressCache
from natproxy.proxy.sources import Sources, missing_source
from natproxy.proxy.upstreams import Target
from natproxy.settings import SettingError
from natproxy.tls.files import CertificateError

_Endpoint = TypeVar("_Endpoint")


def listening_endpoints(
    reactor: Any,
    config: DaemonConfig,
    setting: str = "listen",
    make: Callable[[Any, str], ListeningEndpoint] = ListeningEndpoint,
) -> list[ListeningEndpoint]:
    """Return the endpoints of a setting, in its order.

    :param setting: the field, which has one endpoint, several, or none.
    :param make: returns the endpoint of a description.
    :raises SettingError: if one is malformed, has a port that does not exist, or needs a package
        or a file that is missing.
    """
    label = config.label(setting)
    value = getattr(config, setting)
    descriptions = () if value is None else (value,) if isinstance(value, str) else value
    for description in descriptions:
        port = re.match(r"(?:haproxy:)*(?:tcp[46]?|ssl):(?:port=)?(-?\d+)(?::|$)", description)
        # The first nine characters suffice: Python refuses to convert thousands of digits.
        if port and not 0 <= int(port[1][:9]) < 65536:
            raise SettingError(f"{label} {description}: there is no port {port[1]}")
    return [
        _parse(
            lambda text: make(reactor, text),
            description,
            label,
            _listening_suggestion,
        )
        for description in descriptions
    ]


def upstream_targets(
    reactor: Any, config: ProxyConfig, names: AddressCache | None = None
) -> list[Target]:
    """Return the file servers, to which it connects from the addresses of the setting ``source``.

    :param names: the addresses of those that are known by name; by default, each connection looks
        its name up.
    :raises SettingError: as by `upstream_endpoint` and `upstream_sources`, for all of them.
    """
    sources = upstream_sources(config)
    connecting = connecting_reactor(reactor, sources, names)
    targets: list[Target] = []
    wrong: list[str] = []
    for one in config.upstream:
        try:
            endpoint = upstream_endpoint(connecting, config, one.endpoint)
        except SettingError as error:
            wrong += error.messages
            continue
        timeout = config.connect_timeout
        connector = connector_for(one.endpoint, endpoint, reactor, timeout, sources, names)
        header = one.proxy_protocol
        if header is None:
            header = config.upstream_proxy_protocol
        limit = config.upstream_connections if one.connections is None else one.connections
        targets.append(Target(one.name, one.endpoint, connector, header, limit))
    if wrong:
        raise SettingError(*wrong)
    return targets


def upstream_sources(config: ProxyConfig) -> Sources | None:
    """Return the local addresses of upstream connections; ``None`` to let the kernel choose.

    :raises SettingError: if one is not an address of this machine, or none can connect to one of
        the upstreams.
    """
    hosts = config.source
    if not hosts:
        return None
    label = config.label("source")
    wrong = [f"{label} {host}: {why}" for host in hosts if (why := missing_source(host))]
    if wrong:
        raise SettingError(*wrong)
    for one in config.upstream:
        why = _without_source(one.endpoint, hosts)
        if why:
            wrong.append(
                f"{label} {' '.join(hosts)}: {why} ({config.label('upstream')} {one.endpoint})"
            )
    if wrong:
        raise SettingError(*wrong)
    return Sources(hosts)


def _without_source(upstream: str, hosts: Sequence[str]) -> str | None:
    """Return why none of the local addresses can connect to an upstream; ``None`` if one can."""
    if upstream.startswith("unix:"):
        return "a connection to a UNIX socket has no such address"
    numeric = re.fullmatch(r"(?:tcp|tls|ssl):(?:host=)?([0-9.]+|[0-9a-fA-F:\\.]+):.*", upstream)
    remote = numeric[1] if numeric else ""
    ipv6 = ":" in remote
    if remote and not any((":" in host) is ipv6 for host in hosts):
        return f"none is of {'IPv6' if ipv6 else 'IPv4'}, as the upstream is"
    return None


def upstream_endpoint(reactor: Any, config: ProxyConfig, description: str) -> IStreamClientEndpoint:
    """Return the endpoint of a file server of the setting ``upstream``.

    :raises SettingError: as by `listening_endpoints`.
    """
    label = config.label("upstream")
    port = re.fullmatch(r"tcp:.*:(?:port=)?(\d+)", description)
    if port and not 0 < int(port[1][:9]) < 65536:
        raise SettingError(f"{label} {description}: there is no port {port[1]}")
    endpoint: IStreamClientEndpoint = _parse(
        partial(_client_endpoint, reactor), description, label, _upstream_suggestion
    )
    return endpoint


def _client_endpoint(reactor: Any, text: str) -> IStreamClientEndpoint:
    if is_upstream_tls(text):
        return upstream_tls(reactor, text)
    endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    return endpoint


def _parse(
    parse: Callable[[str], _Endpoint],
    description: str,
    label: str,
    suggestion: Callable[[str], str | None],
) -> _Endpoint:
    try:
        return parse(description)
    except Exception as error:
        # Twisted's parsers and certificate loaders raise exceptions of many types.
        suggested = suggestion(description)
        reason = f"not an endpoint; write {suggested}" if suggested else _reason(error)
        raise SettingError(f"{label} {description}: {reason}") from error


_ADDRESS = re.compile(
    r"(?:tcp:|[a-z]+://)?"
    r"(?:(?P<host>[a-z0-9_.-]*[a-z0-9_-]\.?)|\[(?P<ipv6>[0-9a-f:.]+(?:%[\w.-]+)?)\])?"
    r":?(?P<port>(?<![a-z0-9])[0-9]{1,5})/?",
    re.ASCII | re.IGNORECASE,
)
"""Matches ``9020``, ``:9020``, ``host:9020``, ``[::1]:9020``, and these in a URL."""


def _address_in(text: str) -> tuple[str, str, str] | None:
    """Return host, IPv6 address and port of a bare address; ``None`` for any other text.

    One of host and IPv6 address is empty, or both are.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        return None
    return found["host"] or "", found["ipv6"] or "", found["port"]


def _listening_suggestion(text: str) -> str | None:
    address = _address_in(text)
    if address is None:
        return None
    host, ipv6, port = address
    if ipv6:
        return f"tcp6:{port}:interface={_escaped(ipv6)}"
    if host in ("", "*", "0.0.0.0"):  # noqa: S104
        return f"tcp:{port}"
    if host != "localhost" and "." not in host:
        # Probably a misspelt endpoint type, as in "tpc:9", and not a host.
        return None
    return f"tcp:{port}:interface=" + ("127.0.0.1" if host == "localhost" else host)


def _upstream_suggestion(text: str) -> str | None:
    address = _address_in(text)
    if address is None:
        return None
    host, ipv6, port = address
    return f"tcp:{_escaped(ipv6) or host or '127.0.0.1'}:{port}"


def _escaped(ipv6: str) -> str:
    return ipv6.replace(":", "\\:")


def _reason(error: Exception) -> str:
    if isinstance(error, CertificateError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (ImportError, NameError)):
        return "TLS is not installed; it is the extra natproxy[tls]"
    if isinstance(error, LookupError):
        return "no such socket has been handed over"
    if isinstance(error, TypeError):
        return "malformed endpoint"
    return f"malformed endpoint ({error})"
