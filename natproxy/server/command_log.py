"""The log line of a command: how it ended, as one structured event.

Its functions are subscribers: of the file server's commands, and of the NAT table. The protocols
log no commands.
"""

from __future__ import annotations

from functools import lru_cache

from twisted.logger import Logger

from natproxy.address import Address
from natproxy.nat import Event, Failed, Outcome, Removed
from natproxy.protocol import Command, name_of, printable
from natproxy.server.events import Finished

_LINE = "{client} {request}: {outcome}, {bytes} bytes in {duration:.3f} s"

_fileserver_log = Logger(namespace="natproxy.fileserver.commands")
_proxy_log = Logger(namespace="natproxy.proxy.command_log")

# A proxy has few upstreams, and there is an event for each command.
_text_of = lru_cache(maxsize=16)(str)


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
        log_command(
            _proxy_log,
            event.client,
            event.command,
            event.outcome,
            event.sent,
            event.monotonic - event.started_at,
            ", from port {nat_port} to {upstream}",
            nat_port=local.port,
            upstream=_text_of(upstream),
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
    ``outcome``, ``bytes`` and ``duration``.

    :param log: its namespace becomes the event's.
    :param sent: bytes of the reply, header included.
    :param duration: seconds from the start of the command to its end.
    :param route: end of the line's format, such as ``, from port {nat_port}``.
    :param fields: further fields of the event.
    """
    shown = command.shown
    verb = shown.verb.decode() if shown.known else printable(shown.verb, 80)
    arguments = printable(shown.name)
    name = name_of(shown)
    log.info(
        _LINE + route,
        client=client,
        client_host=client.host,
        client_port=client.port,
        request=f"{verb} {arguments}" if arguments else verb,
        verb=verb,
        # With version 1 they are the same object, and there is an event for each command.
        name=arguments if name is shown.name else printable(name),
        outcome=outcome.value,
        bytes=sent,
        duration=duration,
        **fields,
    )
