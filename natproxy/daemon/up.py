"""``natproxy up``: both daemons in one process, in the foreground, for a first look.

It uses the configs and services of the plugins; for a deployment, use ``twistd`` and the units in
``deploy/``.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner

from natproxy.counts import counted
from natproxy.daemon import fileserver
from natproxy.daemon.descriptors import attainable
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.listening import address_text
from natproxy.daemon.log_options import brief_observer, brief_writer
from natproxy.daemon.logfile import LogWriter
from natproxy.daemon.observation import Observation
from natproxy.daemon.proxy import make_proxy
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.service import DaemonService, startup_errors
from natproxy.daemon.signals import MaintenanceSignals, TerminationSignals
from natproxy.daemon.workers.handover import EXECUTION
from natproxy.daemon.workers.master import MasterService
from natproxy.daemon.workers.reload import reload_together
from natproxy.protocol import listable, printable
from natproxy.records.places import NONE
from natproxy.settings import DEFAULT, OPTION, Found, SettingError, Source
from natproxy.storage import LocalStorage, NotFound, ObjectStorage

PROGRAM = "natproxy up"
"""What error messages begin with."""

EXAMINED = 1000
"""Names among which a file with content is searched for, to suggest it."""

LISTEN = "tcp:9000:interface=127.0.0.1"
"""Where the proxy listens by default: on loopback, since neither daemon has access control."""

STANDARD_ERROR = 2

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""The loopback address of each address that means every interface."""


def run(
    files: str | None,
    listen: Sequence[str] = (),
    fileserver_listen: str | None = None,
    config: str | None = None,
    reactor: Any = None,
    observation: Mapping[str, object] | None = None,
    storage: Mapping[str, object] | None = None,
) -> int:
    """Run both daemons until SIGINT or SIGTERM; return the exit status.

    The environment variables of both daemons count too.

    :param files: the directory to serve, or ``s3://BUCKET/PREFIX``; ``None`` for the one of the
        other sources, or ``./files``, which is then created if it is missing.
    :param listen: endpoints of the proxy; if there are none, those of the other sources, or
        `LISTEN`.
    :param fileserver_listen: endpoint of the file server.
    :param config: TOML file with the settings of both.
    :param observation: options of the proxy: ``name``, ``control``, ``journal``, ``web``;
        and of both daemons: ``workers``.
    :param storage: options of the file server: ``s3-endpoint``, ``etag``.
    :raises StartupError: if they can't be started.
    """
    if reactor is None:
        from twisted.internet import reactor
    writer = _log_to_stderr()
    daemons: list[DaemonService] = []

    def abort() -> None:
        for daemon in daemons:
            daemon.abort()

    termination = TerminationSignals(reactor, abort, hangup=True)
    with startup_errors(PROGRAM):
        observation = observation or {}
        options = dict(storage or {})
        if "workers" in observation:
            options["workers"] = observation["workers"]
        server_config = _server_config(files, fileserver_listen, config, options)
        proxy_config = _proxy_config(listen, config, observation)
        served = fileserver.open_directory(server_config)
        termination.handle_now()
        try:
            server, proxy = _start(reactor, server_config, served, proxy_config, writer)
        except BaseException:
            served.remove_created()
            raise

    daemons += proxy, server

    async def stop() -> None:
        # The proxy's commands in flight need the file server until they have finished.
        await proxy.stopService()
        await server.stopService()

    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    termination.startService()
    proxy.end = termination.stop
    _reload_together(reactor, server, proxy)
    logs = proxy.reopen_logs, server.reopen_logs
    MaintenanceSignals(reactor, None, *logs).startService()
    if not EXECUTION.happened:
        sys.stdout.write(_welcome(served, server, proxy, proxy_config.control))
        sys.stdout.flush()
    reactor.run()
    return 0


def _reload_together(reactor: Any, server: DaemonService, proxy: DaemonService) -> None:
    """Make a reload of the proxy, which has the control socket, one of both daemons."""
    reload_together(reactor, proxy, server)


def _server_config(
    files: str | None,
    fileserver_listen: str | None,
    file: str | None,
    options: dict[str, object],
) -> FileServerConfig:
    if files is not None:
        options["files"] = files
    if fileserver_listen is not None:
        source = Source(OPTION, "--fileserver-listen")
        options["listen"] = Found([fileserver_listen], source)
    # There is one control socket, that of the proxy.
    config = FileServerConfig.load(options, file=file).override(control=NONE)
    if config.source_of("listen") == DEFAULT:
        # An error names the option of this program.
        sources = {**config.sources, "listen": Source(OPTION, "--fileserver-listen")}
        config = replace(config, sources=sources)
    return config


def _proxy_config(
    listen: Sequence[str], file: str | None, observation: Mapping[str, object]
) -> ProxyConfig:
    options = dict(observation)
    if listen:
        options["listen"] = list(listen)
    config = ProxyConfig.load(options, file=file)
    if config.source_of("listen") == DEFAULT:
        config = config.override(listen=(LISTEN,))
    # For a first look the ring of events suffices.
    return config if config.journal is not None else config.override(journal=NONE)


def _start(
    reactor: Any,
    server_config: FileServerConfig,
    served: fileserver.ServedDirectory,
    proxy_config: ProxyConfig,
    writer: LogWriter,
) -> tuple[DaemonService, DaemonService]:
    # One process, one limit of descriptors: each daemon may use half of them.
    descriptors = attainable() // 2
    server = fileserver.make_file_server(reactor, server_config, descriptors, served)
    # The text on standard output replaces the announcements in the log.
    server.announced = False
    if server.endpoints[0].tls is not None:
        label = server_config.label("listen")
        raise SettingError(
            f"{label} {server.endpoints[0].description}: the proxy of 'natproxy up' connects to its"
            " file server without TLS; write tcp: or unix:"
        )
    _use_log(server, writer)
    server.startService()
    upstream = _client_endpoint(server.ports[0].getHost())
    proxy = make_proxy(reactor, proxy_config.override(upstream=upstream), descriptors, "up")
    proxy.announced = False
    _use_log(proxy, writer)
    proxy.startService()
    return server, proxy


def _log_to_stderr() -> LogWriter:
    """Begin to log; return what writes the log."""
    writer = brief_writer(STANDARD_ERROR)
    globalLogBeginner.beginLoggingTo([brief_observer(writer)], redirectStandardIO=False)
    return writer


def _use_log(daemon: DaemonService, writer: LogWriter) -> None:
    if isinstance(daemon, MasterService):
        daemon.use_brief_log(writer)


def _client_endpoint(address: object) -> str:
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    assert isinstance(address, (IPv4Address, IPv6Address))
    host = LOOPBACK.get(address.host, address.host).replace(":", "\\:")
    return f"tcp:{host}:{address.port}"


def _welcome(
    served: fileserver.ServedDirectory,
    server: DaemonService,
    proxy: DaemonService,
    control: str | None,
) -> str:
    listed: Iterator[bytes] = filter(listable, served.directory.top_files().names)
    if isinstance(served.directory, ObjectStorage):
        # Listing all of them may take minutes.
        listed = islice(listed, EXAMINED)
    names = list(listed)
    count = counted(len(names), "file")
    state = "created, empty" if served.created else count
    lines = [
        f"serving      {served.title} ({state})",
        *(f"file server  {address_text(port.getHost())}" for port in server.ports),
        *(f"proxy        {address_text(port.getHost())}" for port in proxy.ports),
        *(f"page         {page}" for page in _pages(proxy)),
        "",
        "Try, in another terminal:",
    ]
    program = _program()
    option = _server_option(proxy)
    example = _example(served.directory, names)
    lines += [f"  {program} {command}{option}" for command in ("ls", f"get {example}", "shell")]
    observed = proxy.companion.control if isinstance(proxy.companion, Observation) else None
    if observed is not None:
        lines.append(f"  {program} top{_control_option(control, observed)}")
    return "\n".join([*lines, "", "Ctrl-C ends it.", ""])


def _example(directory: LocalStorage | ObjectStorage, names: Sequence[bytes]) -> str:
    """Return the name of a file to try, quoted for a shell: one with content if there is one."""
    local = isinstance(directory, LocalStorage)
    for name in names[: EXAMINED if local else 1]:
        with suppress(OSError, NotFound):
            if directory.metadata(name).size:
                return shlex.quote(printable(name))
    return shlex.quote(printable(names[0])) if names else "NAME"


def _program() -> str:
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return f"{os.path.basename(sys.executable)} -m natproxy"
    return shlex.quote(sys.argv[0])


def _pages(proxy: DaemonService) -> list[str]:
    """Return where a browser on this host finds the page: URLs, and paths of UNIX sockets."""
    companion = proxy.companion
    addresses = companion.web() if isinstance(companion, Observation) else []
    pages = []
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if not port.isdigit():
            pages.append(address)
            continue
        bare = host.strip("[]")
        local = LOOPBACK.get(bare, bare)
        pages.append(f"http://{f'[{local}]' if ':' in local else local}{colon}{port}/")
    return pages


def _control_option(configured: str | None, path: str) -> str:
    """Return the option without which the commands would not find the control socket."""
    return "" if configured is None else f" --control {shlex.quote(path)}"


def _server_option(proxy: DaemonService) -> str:
    for port in proxy.ports:
        address = port.getHost()
        if isinstance(address, (IPv4Address, IPv6Address)):
            host = LOOPBACK.get(address.host, address.host)
            server = address_text(type(address)("TCP", host, address.port))
            return "" if server == "127.0.0.1:9000" else f" --server {server}"
    return ""
