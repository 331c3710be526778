"""The settings of the proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.config_fields import setting
from natproxy.daemon.rules import LocalAddresses, Size, TimeSpan
from natproxy.daemon.upstream_settings import UpstreamList, UpstreamSettings, default_name
from natproxy.proxy.resolution import INTERVAL
from natproxy.proxy.upstreams.queue import LENGTH, TIMEOUT
from natproxy.proxy.upstreams.state import Health
from natproxy.settings import Choice, Flag, Seconds, Text, WholeNumber

UPSTREAM = "tcp:127.0.0.1:9001"
"""The endpoint of the file server by default."""

HEALTH_INTERVAL = 2.0
"""Seconds between two health checks of one of several upstreams, by default."""

ALL_NAMES = "all"
"""The value of ``journal_names`` for all names of commands that name several files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig(DaemonConfig):
    """The settings of the proxy.

    :ivar upstream: the file servers, at least one: commands are sent to each of them.
    :ivar upstream_proxy_protocol: whether connections to them begin with a PROXY header.
    :ivar upstream_connections: commands that each of them may have at once; 0 for no limit.
    :ivar upstream_lookup: seconds after which the name of one is looked up again; 0 for each
        connection.
    :ivar queue: commands that may wait for one at once.
    :ivar queue_timeout: seconds that a command may wait.
    :ivar health_interval: seconds between two health checks of one; 0 for none, ``None`` for
        `HEALTH_INTERVAL` if there are several, and for none otherwise.
    :ivar health_timeout: seconds that a check may take.
    :ivar health_rise: checks in a row that must pass until one that is down is up.
    :ivar health_fall: checks in a row that must fail until one is down.
    :ivar health_failures: commands in a row that must fail until one is down; 0 if they do not
        count.
    :ivar source: local addresses of the connections to it, which they use in turn; none for the
        one that the kernel chooses.
    :ivar timeout: seconds that the file server may take for the header of a reply, or be
        silent in a body.
    :ivar connect_timeout: seconds that it may take to accept a connection.
    :ivar resume_for: seconds for which the rest of a body is requested again, if the file server
        fails inside it; 0 for not at all.
    :ivar idle_timeout: seconds until an idle or stalled client is disconnected.
    :ivar relay: how large bodies are moved: ``auto``, ``copy`` or ``splice``.
    :ivar max_clients_per_host: connections of one host at once; 0 for no limit; ``None`` for a
        tenth of all clients, at least 16.
    :ivar journal: directory of the journal, relative to the working directory; ``none`` for no
        journal, ``None`` for `natproxy.records.places.journal_directory`.
    :ivar journal_keep: seconds that the journal keeps translations.
    :ivar journal_max_size: bytes that it may have; the oldest segments are deleted.
    :ivar journal_names: which names of files it holds: ``none``; ``full``: of a command that names
        several files, the first name and their number; ``all``: all of them, also in events.
    :ivar ident: endpoint of the ident service (RFC 1413); ``None`` for none.
    """

    daemon: ClassVar[str] = "natproxy"
    table: ClassVar[str] = "proxy"

    upstream_proxy_protocol: bool = setting(
        False,
        Flag(),
        "Whether connections to the file server begin with a PROXY header (true or false).",
    )
    upstream: tuple[UpstreamSettings, ...] = setting(
        (UpstreamSettings(UPSTREAM, default_name(UPSTREAM)),),
        UpstreamList(),
        "Endpoint of the file server; may be repeated, for several with the same files.",
    )
    upstream_connections: int = setting(
        0,
        WholeNumber(0, unit="commands"),
        "Commands that one file server may have at once; others wait in a queue; 0: no limit.",
    )
    upstream_lookup: float = setting(
        INTERVAL,
        Seconds(0),
        "Seconds after which the name of a file server is looked up again; 0: at each connection.",
    )
    queue: int = setting(
        LENGTH,
        WholeNumber(0, most=1_000_000, unit="commands"),
        "Commands that may wait in the queue at once; further ones are refused with 503.",
    )
    queue_timeout: float = setting(
        TIMEOUT, Seconds(), "Seconds that a command may wait in the queue; then 503."
    )
    health_interval: float | None = setting(
        None,
        Seconds(0),
        "Seconds between two health checks of a file server (2, if there are several); 0: none.",
        shown="2 with several upstreams, otherwise none",
    )
    health_timeout: float = setting(
        Health().timeout, Seconds(), "Seconds that a health check may take."
    )
    health_rise: int = setting(
        Health().rise,
        WholeNumber(1, unit="checks"),
        "Checks in a row that must pass until a file server that is down is up.",
    )
    health_fall: int = setting(
        Health().fall,
        WholeNumber(1, unit="checks"),
        "Checks in a row that must fail until a file server is down.",
    )
    health_failures: int = setting(
        Health().failures,
        WholeNumber(0, unit="commands"),
        "Commands in a row that must fail until a file server is down; 0: they do not count.",
    )
    source: tuple[str, ...] = setting(
        (),
        LocalAddresses(),
        "Local address of connections to the file server (the kernel's choice); may be repeated.",
    )
    timeout: float = setting(
        60.0,
        Seconds(),
        "Seconds that the file server may take for a reply's header, or be silent in a body.",
    )
    connect_timeout: float = setting(
        5.0, Seconds(), "Seconds that the file server may take to accept a connection."
    )
    resume_for: float = setting(
        30.0,
        Seconds(0.0),
        "Seconds for which the rest of a file is requested after a failure; 0: cut off at once.",
    )
    idle_timeout: float = setting(
        600.0, Seconds(), "Seconds until an idle or stalled client is disconnected."
    )
    relay: str = setting(
        "auto",
        Choice("auto", "copy", "splice"),
        "How large files are moved: auto, copy or splice.",
    )
    max_clients_per_host: int | None = setting(
        None,
        WholeNumber(0, unit="connections"),
        "Connections of one host at once (a tenth of --max-clients, at least 16); 0: no limit.",
        shown="a tenth of `max-clients`, at least 16",
    )
    journal: str | None = setting(
        None,
        Text(),
        "Directory of the journal (NAME in the usual place, see the docs); none: no journal.",
        reloadable=False,
        shown="in the usual place",
    )
    journal_keep: float = setting(
        90 * 86_400.0, TimeSpan(60), "Time that the journal keeps translations, such as 90d."
    )
    journal_max_size: int = setting(
        10 << 30, Size(1 << 20), "Size of the journal at most, such as 10G."
    )
    journal_names: str = setting(
        "full",
        Choice("none", "full", ALL_NAMES),
        "Names of files in the journal: none, full (the first one of a PACK), or all.",
        reloadable=False,
    )
    ident: str | None = setting(
        None,
        Text(),
        "Endpoint of the ident service, for the upstream's host.",
        reloadable=False,
    )

    @property
    def health(self) -> Health:
        """When an upstream is down, and how it is checked."""
        interval = self.health_interval
        if interval is None:
            interval = HEALTH_INTERVAL if len(self.upstream) > 1 else 0.0
        return Health(
            interval,
            self.health_timeout,
            self.health_rise,
            self.health_fall,
            self.health_failures,
        )
