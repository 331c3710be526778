"""The log line of a command: how it ended, as one structured event."""

from __future__ import annotations

from twisted.logger import Logger

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import Command, name_of, printable


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
    :param route: text to append to the line, such as ``, from port 50000 to 10.0.0.5:9001``.
    :param fields: further fields of the event.
    """
    shown = command.shown
    verb = shown.verb.decode() if shown.known else printable(shown.verb, 80)
    arguments = printable(shown.name)
    name = name_of(shown)
    log.info(
        "{client} {request}: {outcome}, {bytes} bytes in {duration:.3f} s{route}",
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
        route=route,
        **fields,
    )
