"""Run a proxy in an application of your own, and print who is behind which upstream port.

Usage: python examples/watch_table.py UPSTREAM LISTEN

Both are Twisted endpoint strings: tcp:127.0.0.1:9001 tcp:9000:interface=127.0.0.1
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.task import react

from natproxy.nat import Event, Failed, Registered, Relaying
from natproxy.protocol import name_of, printable
from natproxy.proxy.endpoint import connector_for
from natproxy.proxy.factory import ProxyFactory


def show(event: Event) -> None:
    """Print an event of the table."""
    command = printable(event.command.verb + b" " + name_of(event.command)).strip()
    if isinstance(event, Failed):
        line = f"no port: {event.client} {command}: {event.outcome.value}"
    elif isinstance(event, Registered):
        line = f"port {event.key.local.port}: {event.client} {command}"
    elif isinstance(event, Relaying):
        size = "a listing" if event.promised is None else f"{event.promised} bytes"
        line = f"port {event.key.local.port}: relaying {size}"
    else:
        line = f"port {event.key.local.port}: {event.outcome.value}, {event.sent} bytes"
    print(line, flush=True)


async def run(reactor: Any, upstream: str, listen: str) -> None:
    """Listen until the reactor stops."""
    connector = connector_for(upstream, clientFromString(reactor, upstream), reactor, 5.0)
    factory = ProxyFactory(reactor, connector)
    factory.table.subscribe(show)
    port = await serverFromString(reactor, listen).listen(factory)
    print(f"listening on {factory.address_of(port.getHost())}", flush=True)
    await Deferred()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    react(lambda *arguments: Deferred.fromCoroutine(run(*arguments)), sys.argv[1:])
