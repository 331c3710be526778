"""Parse the endpoint strings of the settings; the error for a bare address suggests one."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from natproxy import extras
from natproxy.daemon.certificates import is_upstream_tls, upstream_tls
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.listening import ListeningEndpoint
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.proxy.endpoint import connector_for
from natproxy.proxy.interfaces import Connector
from natproxy.proxy.sources import BindingReactor, Sources, missing_source
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


def upstream_connector(reactor: Any, config: ProxyConfig) -> Connector:
    """Return what connects to the file server, from the local addresses of the setting ``source``.

    :raises SettingError: as by `upstream_endpoint` and `upstream_sources`.
    """
    sources = upstream_sources(config)
    binding = reactor if sources is None else BindingReactor(reactor, sources)
    endpoint = upstream_endpoint(binding, config)
    return connector_for(config.upstream, endpoint, reactor, config.connect_timeout, sources)


def upstream_sources(config: ProxyConfig) -> Sources | None:
    """Return the local addresses of upstream connections; ``None`` to let the kernel choose.

    :raises SettingError: if one is not an address of this machine, or none can connect to the
        upstream.
    """
    hosts = config.source
    if not hosts:
        return None
    label = config.label("source")
    wrong = [f"{label} {host}: {why}" for host in hosts if (why := missing_source(host))]
    if wrong:
        raise SettingError(*wrong)
    if config.upstream.startswith("unix:"):
        raise SettingError(
            f"{label} {' '.join(hosts)}: a connection to a UNIX socket has no such address"
            f" ({config.label('upstream')} {config.upstream})"
        )
    numeric = re.fullmatch(
        r"(?:tcp|tls|ssl):(?:host=)?([0-9.]+|[0-9a-fA-F:\\.]+):.*", config.upstream
    )
    remote = numeric[1] if numeric else ""
    ipv6 = ":" in remote
    if remote and not any((":" in host) is ipv6 for host in hosts):
        family = "IPv6" if ipv6 else "IPv4"
        raise SettingError(
            f"{label} {' '.join(hosts)}: none is of {family}, as the upstream is"
            f" ({config.label('upstream')} {config.upstream})"
        )
    return Sources(hosts)


def upstream_endpoint(reactor: Any, config: ProxyConfig) -> IStreamClientEndpoint:
    """Return the endpoint of the setting ``upstream``: the file server.

    :raises SettingError: as by `listening_endpoints`.
    """
    label = config.label("upstream")
    port = re.fullmatch(r"tcp:.*:(?:port=)?(\d+)", config.upstream)
    if port and not 0 < int(port[1][:9]) < 65536:
        raise SettingError(f"{label} {config.upstream}: there is no port {port[1]}")
    endpoint: IStreamClientEndpoint = _parse(
        partial(_client_endpoint, reactor), config.upstream, label, _upstream_suggestion
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
        return extras.TLS
    if isinstance(error, LookupError):
        return "no such socket has been handed over"
    if isinstance(error, TypeError):
        return "malformed endpoint"
    return f"malformed endpoint ({error})"
