"""The log line of a proxied command: a subscriber of the NAT table."""

from __future__ import annotations

from twisted.logger import Logger

from natproxy.nat import Event, Failed, Removed
from natproxy.server.command_log import log_command

_log = Logger()


def log_end(event: Event) -> None:
    """Log the end of a command, with the client and its NAT port; ignore other events."""
    if isinstance(event, Removed):
        local, upstream = event.key
        log_command(
            _log,
            event.client,
            event.command,
            event.outcome,
            event.sent,
            event.monotonic - event.started_at,
            f", from port {local.port} to {upstream}",
            nat_port=local.port,
            upstream=str(upstream),
        )
    elif isinstance(event, Failed):
        log_command(
            _log,
            event.client,
            event.command,
            event.outcome,
            event.sent,
            event.monotonic - event.started_at,
            nat_port=None,
            upstream=None,
        )
