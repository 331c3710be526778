"""Drains a daemon, and waits for its end."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from natproxy.client.control.daemon import Daemon
from natproxy.client.control.finding import Search
from natproxy.client.errors import CannotConnect, ClientError, ConnectionBroken, ServerError
from natproxy.counts import counted

DRAINING = 409
"""The status of the reply of a daemon that drains already."""

INTERVAL = 0.1
"""Seconds between two looks at a daemon that drains."""

REPORT = 5.0
"""Seconds between two reports of what is still in flight."""


def drain(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Drain a daemon; return the exit status.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    daemon = Search().daemon(arguments.control, arguments.name)
    status = daemon.status()
    name = str(status.get("name"))
    try:
        daemon.drain()
    except ServerError as error:
        # Another administrator was first: the end can still be waited for.
        if error.code != DRAINING or not arguments.wait:
            raise
    complain(f"{name} drains: {_in_flight(status)}")
    if arguments.wait:
        _wait(daemon, status.get("boot"), name, complain)
        complain(f"{name} has ended")
    return 0


def _wait(daemon: Daemon, boot: object, name: str, complain: Callable[[str], object]) -> None:
    """Wait until the daemon has ended, or another run of it listens on its socket."""
    reported = time.monotonic()
    while True:
        time.sleep(INTERVAL)
        try:
            status = daemon.status()
        except (CannotConnect, ConnectionBroken):
            return
        except ClientError:
            # The resource may be gone before the socket is.
            continue
        if status.get("boot") != boot:
            return
        if time.monotonic() - reported >= REPORT:
            reported = time.monotonic()
            complain(f"{name} drains: {_in_flight(status)}")


def _in_flight(status: dict[str, Any]) -> str:
    clients, table = status.get("clients"), status.get("table")
    parts = [counted(clients, "client")] if isinstance(clients, int) else []
    if isinstance(table, int):
        parts.append(f"{counted(table, 'command')} in flight")
    return ", ".join(parts)
