"""A program: a file server, a proxy in front of it, and the proxy's page, in one process.

    python -m tests.support.page_daemon FILES PROXY_PORT WEB_PORT [ENTRIES]

ENTRIES is a number of translations that the table has from the beginning. With ``-`` in place of
PROXY_PORT it is a file server with its status page. It prints the ports that it listens on.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import time
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from natproxy.address import Address
from natproxy.control.interfaces import Observed
from natproxy.control.json_resource import Context
from natproxy.control.recent import RingHistory
from natproxy.control.table import LocalTable
from natproxy.daemon.clock import use_monotonic_time
from natproxy.fileserver.factory import FileServerFactory
from natproxy.nat import NATTable, TranslationKey
from natproxy.nat.ring import EventRing
from natproxy.protocol import parse_command
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.tcp import TCPConnector
from natproxy.records.record import Origin
from natproxy.storage import LocalStorage
from natproxy.tokens.entries import TokenEntry, Tokens
from natproxy.web.site import web_site
from tests.support.recorded_upstreams import two

HOST = "127.0.0.1"
BEGUN = time.monotonic()
TOKEN = "natproxy_of-alice"
"""A token that the proxy accepts."""
ALICE = "alice@example.org"
"""The identity of its client."""
PORTS = 28_232
"""Ports of the kernel's range."""


LIMITED = {
    "client": "10.0.0.9",
    "identity": None,
    "delayed": 0,
    "refused": 7,
    "limit": "client.commands",
    "age": 5.0,
}
"""A client that was over a limit."""


class Held:
    """The client of an entry without a connection."""

    def write(self, data: bytes) -> None:
        """Send nothing."""


def announce(name: str, port: int) -> None:
    """Print a port."""
    sys.stdout.write(f"{name} {port}\n")
    sys.stdout.flush()


def hold(table: NATTable, count: int) -> None:
    """Register entries without connections."""
    for number in range(count):
        client = Address(f"10.1.{number // 250}.{number % 250 + 1}", 40_000 + number % 20_000)
        key = TranslationKey(Address("192.0.2.1", 10_000 + number), Address("198.51.100.7", 9001))
        command = parse_command(b"GET held/%d.bin" % number)
        assert command is not None
        entry = table.register(key, Held(), client, command, time.monotonic(), lambda: None)
        entry.count(1000 * number)


def status_of(origin: Origin, kind: str, ring: EventRing | None) -> dict[str, Any]:
    """Return the members of the status."""
    return {
        "name": origin.proxy,
        "kind": kind,
        "version": "0",
        "worker": origin.worker,
        "boot": origin.boot,
        "uptime": time.monotonic() - BEGUN,
        "draining": False,
        "clients": 1,
        "ring": None if ring is None else {"first": ring.first, "next": ring.next},
        "upstreams": None if ring is None else two().json(),
        "position": ring and f"{origin.worker}:{ring.next - 1}:{origin.boot}",
        # As `Observation.status` has it: the page shows the range of ports, and their free ones.
        "commands": {"total": 12, "sent": 3000, "verbs": {"GET": {"completed": 12, "sent": 3000}}},
        "counters": {
            "ports": {"total": PORTS, "free": PORTS - 1},
            "connect": {"bounds": []},
            "limits": {"waiting": 2, "clients": [LIMITED, {**LIMITED, "client": "c", "age": 61}]},
        },
    }


def proxy_in_front_of(port: int, own_port: int, entries: int) -> Observed:
    """Listen as a proxy; return it as the page sees it."""
    factory = ProxyFactory(reactor, TCPConnector(reactor, HOST, port, 5.0))
    digest = hashlib.sha256(b"saltsalt" + TOKEN.encode()).digest()
    factory.accept_tokens(Tokens([TokenEntry(ALICE, b"saltsalt", digest)]), False)
    listening = reactor.listenTCP(own_port, factory, interface=HOST)
    origin = Origin(f"proxy-{listening.getHost().port}", 0, secrets.token_hex(8))
    ring = EventRing(factory.table, origin)
    hold(factory.table, entries)
    table = LocalTable(factory.table, ring, reactor.seconds)
    history = RingHistory(reactor, ring, table)
    announce("proxy", listening.getHost().port)
    status = partial(status_of, origin, "proxy", ring)
    return Observed("proxy", origin, status, lambda: None, lambda: None, table, ring, history)


def main(files: str, proxy_port: str, web_port: str, entries: str = "0") -> None:
    """Run until the process is killed."""
    use_monotonic_time(reactor)
    server = FileServerFactory(reactor, LocalStorage(files), deferToThread, 600.0)
    port = reactor.listenTCP(0, server, interface=HOST).getHost().port
    if proxy_port == "-":
        origin = Origin(f"files-{port}", 0, secrets.token_hex(8))
        status = partial(status_of, origin, "fileserver", None)
        observed = Observed("fileserver", origin, status, lambda: None, lambda: None)
    else:
        observed = proxy_in_front_of(port, int(proxy_port), int(entries))
    site = web_site(Context(observed, reactor))
    announce("page", reactor.listenTCP(int(web_port), site, interface=HOST).getHost().port)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
