"""``natproxy up``: both daemons in one process, in the foreground, for a first look.

It is made of the plugins' own options and services; for a real deployment there are
``twistd`` and the units in ``deploy/``.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import (
    FilteringLogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    globalLogBeginner,
)

from natproxy.daemon import fileserver
from natproxy.daemon import proxy as proxy_plugin
from natproxy.daemon.descriptors import attainable
from natproxy.daemon.listening import address_text
from natproxy.daemon.logfile import LogWriter, Stream, format_time
from natproxy.daemon.service import DrainingService, MaintenanceSignals, TerminationSignals
from natproxy.protocol import listable, printable
from natproxy.storage import LocalStorage

EXAMINED = 1000
"""Names among which a file with content is searched for, to suggest it."""

LISTEN = "tcp:9000:interface=127.0.0.1"
"""Where the proxy listens unless told otherwise: neither daemon has access control."""

STANDARD_ERROR = 2

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def run(
    files: str | None, listen: Sequence[str], fileserver_listen: str, reactor: Any = None
) -> int:
    """Run both daemons until SIGINT or SIGTERM; return the exit status.

    :param files: the directory to serve; `None` for ``./files``, which is then created
        if it is missing.
    :param listen: endpoints of the proxy; `LISTEN` if there are none.
    :param fileserver_listen: endpoint of the file server.
    :raises StartupError: if they can't be started.
    """
    if reactor is None:
        from twisted.internet import reactor
    _log_to_stderr()
    server_options = fileserver.Options(reactor, "natproxy up")
    server_options.parseOptions(
        [*([] if files is None else ["--files", files]), "--listen", fileserver_listen]
    )
    # One process, one limit of descriptors: each daemon may use half of them.
    descriptors = attainable() // 2
    server = fileserver.make_daemon(server_options, descriptors)
    server.option = "--fileserver-listen"
    # What they say is in the text on standard output as well.
    server.announced = False
    server.startService()
    try:
        proxy_options = proxy_plugin.Options(reactor, "natproxy up")
        upstream = _client_endpoint(server.ports[0].getHost())
        proxy_options.parseOptions(
            ["--upstream", upstream, *(f"--listen={endpoint}" for endpoint in listen or [LISTEN])]
        )
        proxy = proxy_plugin.make_daemon(proxy_options, descriptors)
        proxy.announced = False
        proxy.startService()
    except BaseException:
        server_options.remove_created()
        raise

    async def stop() -> None:
        # The proxy's commands in flight need the file server to the end.
        await proxy.stopService()
        await server.stopService()

    def hurry() -> None:
        proxy.hurry()
        server.hurry()

    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    TerminationSignals(reactor, hurry, hangup=True).startService()
    MaintenanceSignals(reactor, None).startService()
    sys.stdout.write(_welcome(server_options, server, proxy))
    sys.stdout.flush()
    reactor.run()
    return 0


def _log_to_stderr() -> None:
    levels = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    for namespace in ("natproxy.proxy", "natproxy.daemon.service"):
        levels.setLogLevelForNamespace(namespace, LogLevel.info)
    writer = LogWriter(Stream(STANDARD_ERROR), formatted=_line)
    globalLogBeginner.beginLoggingTo(
        [FilteringLogObserver(writer, [levels])], redirectStandardIO=False
    )


def _line(event: LogEvent) -> str:
    return eventAsText(event, includeSystem=False, formatTime=format_time) + "\n"


def _client_endpoint(address: object) -> str:
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    assert isinstance(address, (IPv4Address, IPv6Address))
    host = ANYWHERE.get(address.host, address.host).replace(":", "\\:")
    return f"tcp:{host}:{address.port}"


def _welcome(options: fileserver.Options, server: DrainingService, proxy: DrainingService) -> str:
    names = [name for name in options.directory.top_files().names if listable(name)]
    count = "1 file" if len(names) == 1 else f"{len(names)} files"
    state = "created, empty" if options.created else count
    lines = [
        f"serving      {printable(options.directory.path)} ({state})",
        *(f"file server  {address_text(port.getHost())}" for port in server.ports),
        *(f"proxy        {address_text(port.getHost())}" for port in proxy.ports),
        "",
        "Try, in another terminal:",
    ]
    program = _program()
    where = _where(proxy)
    example = _example(options.directory, names)
    lines += [f"  {program} {command}{where}" for command in ("ls", f"get {example}", "shell")]
    return "\n".join([*lines, "", "Ctrl-C ends it.", ""])


def _example(directory: LocalStorage, names: Sequence[bytes]) -> str:
    """Return the name of a file to try, quoted for a shell: one with content if there is one."""
    for name in names[:EXAMINED]:
        with suppress(OSError):
            if os.stat(os.path.join(directory.path, name)).st_size:
                return shlex.quote(printable(name))
    return shlex.quote(printable(names[0])) if names else "NAME"


def _program() -> str:
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return f"{os.path.basename(sys.executable)} -m natproxy"
    return shlex.quote(sys.argv[0])


def _where(proxy: DrainingService) -> str:
    for port in proxy.ports:
        address = port.getHost()
        if isinstance(address, (IPv4Address, IPv6Address)):
            host = ANYWHERE.get(address.host, address.host)
            place = address_text(type(address)("TCP", host, address.port))
            return "" if place == "127.0.0.1:9000" else f" --server {place}"
    return ""
