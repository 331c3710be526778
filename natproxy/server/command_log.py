"""The log line of a command: how it ended, as one structured event.

Its functions are subscribers: of the file server's commands, and of the NAT table. The protocols
log no commands.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import NamedTuple

from twisted.logger import Logger, LogLevel

from natproxy.address import Address
from natproxy.nat import Event, Failed, Outcome, Removed
from natproxy.protocol import VERBS, Command, Naming, name_of, printable
from natproxy.server.events import Finished

_fileserver_log = Logger(namespace="natproxy.fileserver.commands")
_proxy_log = Logger(namespace="natproxy.proxy.command_log")

# Before Python 3.12, looking up a member of an Enum class calls Python code.
_SEVERAL = Naming.SEVERAL

# There is an event for each command, and most clients send several.
_text_of = lru_cache(maxsize=1024)(str)


def log_finished(event: Finished) -> None:
    """Log the end of a command of the file server."""
    log_command(
        _fileserver_log,
        event.client,
        event.command,
        event.outcome,
        event.sent,
        event.ended_at - event.started_at,
    )


def log_translation(event: Event) -> None:
    """Log the end of a proxied command, with its NAT port; ignore other events of the table."""
    if isinstance(event, Removed):
        local, upstream = event.key
        shown = _text_of(upstream)
        log_command(
            _proxy_log,
            event.client,
            event.command,
            event.outcome,
            event.sent,
            event.monotonic - event.started_at,
            f", from port {local.port} to {shown}",
            nat_port=local.port,
            upstream=shown,
        )
    elif isinstance(event, Failed):
        log_command(
            _proxy_log,
            event.client,
            event.command,
            event.outcome,
            event.sent,
            event.monotonic - event.started_at,
            nat_port=None,
            upstream=None,
        )


class CommandText(NamedTuple):
    """The text of the log line of a command; it is formatted when an observer takes it.

    :ivar route: end of the line, such as ``, from port 43210 to 127.0.0.1:9001``.
    """

    client: Address
    request: str
    outcome: str
    sent: int
    duration: float
    route: str

    def __str__(self) -> str:
        return (
            f"{_text_of(self.client)} {self.request}: {self.outcome}, {self.sent} bytes"
            f" in {self.duration:.3f} s{self.route}"
        )


def log_command(
    log: Logger,
    client: Address,
    command: Command,
    outcome: Outcome,
    sent: int,
    duration: float,
    route: str = "",
    **fields: object,
) -> None:
    """Log the end of a command as one event, printable and without a secret.

    The event has the fields ``client``, ``client_host``, ``client_port``, ``request`` (the verb
    with its arguments as sent), ``verb``, ``name`` (of the file or directory, decoded),
    ``outcome``, ``bytes`` and ``duration``, and ``text`` is its line. Of a command that names
    several files, ``name`` is the first, ``request`` has it and the number of the others, and
    there is a field ``files`` with their number.

    :param log: its namespace becomes the event's.
    :param sent: bytes of the reply, header included.
    :param duration: seconds from the start of the command to its end.
    :param route: end of the line, such as ``, from port 43210 to 127.0.0.1:9001``.
    :param fields: further fields of the event.
    """
    shown = command.shown
    row = VERBS.get(shown.verb)
    verb = printable(shown.verb, 80) if row is None else shown.verb.decode()
    name = name_of(shown)
    files = 1 if row is None or row.naming is not _SEVERAL else len(shown.name.split())
    if files > 1:
        arguments = f"{printable(name)} and {files - 1} {'other' if files == 2 else 'others'}"
        fields["files"] = files
    else:
        arguments = printable(shown.name)
    request = f"{verb} {arguments}" if arguments else verb
    ended = outcome._value_
    # `Logger.info` takes three times as long, most of it to check the level.
    log.observer(
        {
            "log_logger": log,
            "log_level": LogLevel.info,
            "log_namespace": log.namespace,
            "log_source": log.source,
            "log_format": "{text}",
            "log_time": time.time(),
            "text": CommandText(client, request, ended, sent, duration, route),
            "client": client,
            "client_host": client.host,
            "client_port": client.port,
            "request": request,
            "verb": verb,
            # With version 1 they are the same object, and there is an event for each command.
            "name": arguments if name is shown.name else printable(name),
            "outcome": ended,
            "bytes": sent,
            "duration": duration,
            **fields,
        }
    )
