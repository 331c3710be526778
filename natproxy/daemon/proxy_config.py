"""The settings of the proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.config_fields import setting
from natproxy.daemon.rules import LocalAddresses, Size, TimeSpan
from natproxy.daemon.upstream_settings import UpstreamList, UpstreamSettings, default_name
from natproxy.settings import Choice, Flag, Seconds, Text, WholeNumber

UPSTREAM = "tcp:127.0.0.1:9001"
"""The endpoint of the file server by default."""

ALL_NAMES = "all"
"""The value of ``journal_names`` for all names of commands that name several files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig(DaemonConfig):
    """The settings of the proxy.

    :ivar upstream: the file servers, at least one: commands are sent to each of them.
    :ivar upstream_proxy_protocol: whether connections to them begin with a PROXY header.
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
