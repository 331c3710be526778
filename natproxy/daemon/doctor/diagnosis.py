"""All checks of a host, with the settings of both daemons."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from natproxy.daemon.config_report import check_config
from natproxy.daemon.descriptors import (
    file_server_capacity,
    observers_for,
    proxy_capacity,
)
from natproxy.daemon.doctor.certificates import check_certificates
from natproxy.daemon.doctor.directories import check_runtime, check_state
from natproxy.daemon.doctor.features import (
    check_clock,
    check_extras,
    check_kernel,
    check_no_port,
    check_nowait,
    check_openat2,
    clock_state,
)
from natproxy.daemon.doctor.finding import Finding, problem
from natproxy.daemon.doctor.limits import (
    Demand,
    check_backlog,
    check_descriptors,
    check_pipes,
    check_ports,
    check_reuse,
)
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.kernel.mounts import Mounts
from natproxy.kernel.openat2 import choose_opener, open_beneath
from natproxy.records.places import NONE, journal_parent, socket_places
from natproxy.server.admission import CLIENTS
from natproxy.settings import SettingError
from natproxy.storage.objects.location import is_location

SETTINGS = "settings"


def diagnose(
    reactor: Any,
    environ: Mapping[str, str],
    file: str | None = None,
    process: int | None = None,
) -> list[Finding]:
    """Return what all checks find, for the user and the host that this process runs as and on.

    :param reactor: for the parsers of endpoints; nothing runs in it.
    :param environ: environment variables, with the settings of the daemons.
    :param file: TOML file with the settings; by default, the one that the environment names.
    :param process: number of a process whose limits are checked; by default, this one.
    """
    findings: list[Finding] = []
    for name in ("proxy", "fileserver"):
        remedy = f"natproxy config check --daemon {name}"
        findings += [
            problem(SETTINGS, text, remedy)
            for text in check_config(reactor, name, dict(environ), file)
        ]
    proxy = _loaded(ProxyConfig, environ, file)
    server = _loaded(FileServerConfig, environ, file)
    return [
        *findings,
        *_limits(proxy, server, process),
        *_directories(proxy, environ),
        *check_kernel(os.uname().release),
        *check_openat2(lambda: choose_opener() is open_beneath),
        *check_nowait(_served_file(server)),
        *check_no_port(),
        *check_clock(clock_state, time.time, time.monotonic, time.sleep),
        *check_extras(_needed_extras(proxy, server, file)),
        *check_certificates(reactor, _listening(proxy, server), time.time),
    ]


def _limits(proxy: ProxyConfig, server: FileServerConfig, process: int | None) -> list[Finding]:
    proxy_clients = proxy.max_clients or CLIENTS
    demands = [
        Demand("proxy", proxy_clients, partial(_clients_of_proxy, proxy)),
        Demand("file server", server.max_clients or CLIENTS, partial(_clients_of_server, server)),
    ]
    limits = f"/proc/{'self' if process is None else process}/limits"
    privileged = os.geteuid() == 0
    return [
        *check_descriptors(limits, demands),
        *check_ports("/proc/sys/net/ipv4", "/proc/self", proxy_clients),
        *check_reuse("/proc/sys/net/ipv4/tcp_tw_reuse"),
        *check_backlog("/proc/sys/net/core/somaxconn", (*proxy.listen, *server.listen)),
        *check_pipes(
            "/proc/sys/fs/pipe-user-pages-soft",
            "/proc/sys/fs/pipe-max-size",
            os.sysconf("SC_PAGESIZE"),
            privileged,
        ),
    ]


def _directories(proxy: ProxyConfig, environ: Mapping[str, str]) -> list[Finding]:
    uid = os.geteuid()
    findings = []
    if proxy.control is None:
        findings += check_runtime(socket_places(environ, uid)[0], uid)
    if proxy.journal != NONE:
        path = journal_parent(environ, uid) if proxy.journal is None else proxy.journal
        findings += check_state(path, uid, proxy.journal_max_size, Mounts().in_memory)
    return findings


def _loaded(kind: type[Any], environ: Mapping[str, str], file: str | None) -> Any:
    """Return the settings of a daemon; its defaults if they are wrong, which is a finding."""
    try:
        return kind.load(environment=environ, file=file)
    except SettingError:
        return kind()


def _clients_of_proxy(config: ProxyConfig, descriptors: int) -> int:
    return proxy_capacity(descriptors, observers_for(config, descriptors)).clients


def _clients_of_server(config: FileServerConfig, descriptors: int) -> int:
    return file_server_capacity(descriptors, observers_for(config, descriptors)).clients


def _served_file(server: FileServerConfig) -> str:
    """Return the path of a file on the file system of the served directory, or of the program."""
    directory = server.files or "files"
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_file() and os.access(entry.path, os.R_OK):
                    return entry.path
    except OSError:
        pass
    return __file__


def _listening(proxy: ProxyConfig, server: FileServerConfig) -> list[str]:
    return [*proxy.listen, *proxy.web, *server.listen, *server.web]


def _needed_extras(proxy: ProxyConfig, server: FileServerConfig, file: str | None) -> list[str]:
    endpoints = [*_listening(proxy, server), *(one.endpoint for one in proxy.upstream)]
    needed = []
    kinds = {endpoint.removeprefix("haproxy:").split(":")[0] for endpoint in endpoints}
    if kinds & {"ssl", "tls"}:
        needed.append("tls")
    if file is not None:
        needed.append("config")
    if is_location(server.files or ""):
        needed.append("s3")
    return needed
