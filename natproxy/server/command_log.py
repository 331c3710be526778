"""The log line of a command: how it ended, as one structured event."""

from __future__ import annotations

from typing import NamedTuple

from twisted.logger import Logger

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import Command, name_of, printable


class Description(NamedTuple):
    """A command as the log shows it: printable, and without a secret.

    :ivar verb: the verb in upper case.
    :ivar name: the name of the file or directory, decoded; empty without one.
    :ivar request: the verb with all of its arguments, as the client sent them.
    """

    verb: str
    name: str
    request: str


def describe(command: Command) -> Description:
    """Return a command as the log shows it."""
    shown = command.shown
    verb = shown.verb.decode() if shown.known else printable(shown.verb, 80)
    arguments = printable(shown.name)
    name = name_of(shown)
    return Description(
        verb,
        # With version 1 they are the same object, and one line is logged per command.
        arguments if name is shown.name else printable(name),
        f"{verb} {arguments}" if arguments else verb,
    )


def log_command(
    log: Logger,
    client: Address,
    command: Command | Description,
    outcome: Outcome,
    sent: int,
    duration: float,
    route: str = "",
    **fields: object,
) -> None:
    """Log the end of a command as one event.

    :param log: its namespace becomes the event's.
    :param command: the command, or its `Description`.
    :param sent: bytes of the reply, header included.
    :param duration: seconds from the start of the command to its end.
    :param route: text to append to the line, such as ``, from port 50000 to 10.0.0.5:9001``.
    :param fields: further fields of the event.
    """
    verb, name, request = describe(command) if isinstance(command, Command) else command
    log.info(
        "{client} {request}: {outcome}, {bytes} bytes in {duration:.3f} s{route}",
        client=client,
        client_host=client.host,
        client_port=client.port,
        request=request,
        verb=verb,
        name=name,
        outcome=outcome.value,
        bytes=sent,
        duration=duration,
        route=route,
        **fields,
    )
