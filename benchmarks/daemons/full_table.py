"""A proxy with a full table, whose status has the longest turn of its reactor.

Run as ``full_table PORT CONTROL``.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from twisted.internet import reactor as installed

from natproxy.address import Address
from natproxy.daemon.proxy import make_proxy
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.nat import TranslationKey
from natproxy.protocol import parse_command
from natproxy.proxy.factory import ProxyFactory

ENTRIES = 10_000


class TimedPoller:
    """The reactor's poller: what passes between two of its calls is a turn."""

    def __init__(self, poller: Any) -> None:
        self.longest = 0.0
        self.longest_cpu = 0.0
        self._poller = poller
        self._begun = time.perf_counter()
        self._begun_cpu = time.thread_time()

    def poll(self, *arguments: Any) -> Any:
        """Wait for events; the time is not part of a turn."""
        self.longest = max(self.longest, time.perf_counter() - self._begun)
        self.longest_cpu = max(self.longest_cpu, time.thread_time() - self._begun_cpu)
        found = self._poller.poll(*arguments)
        self._begun, self._begun_cpu = time.perf_counter(), time.thread_time()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


def main() -> None:
    """Run the proxy."""
    port, control = sys.argv[1:]
    reactor: Any = installed
    timed = reactor._poller = TimedPoller(reactor._poller)
    listen = f"tcp:{port}:interface=127.0.0.1"
    config = ProxyConfig(listen=(listen,), control=control, journal="none")
    proxy = make_proxy(reactor, config)
    companion: Any = proxy.companion
    status = companion.status

    def with_turn() -> dict[str, Any]:
        turns = {"longest_turn": timed.longest, "longest_turn_cpu": timed.longest_cpu}
        timed.longest = timed.longest_cpu = 0.0
        return {**status(), **turns}

    companion.status = with_turn
    proxy.privilegedStartService()
    proxy.startService()
    factory = proxy.factory
    assert isinstance(factory, ProxyFactory)
    fill(factory)
    reactor.addSystemEventTrigger("before", "shutdown", proxy.stopService)
    reactor.run()


def fill(factory: ProxyFactory) -> None:
    """Register translations of clients that there are not."""
    for number in range(ENTRIES):
        command = parse_command(b"GET directory/file-%d" % number)
        assert command is not None
        key = TranslationKey(Address("10.0.0.1", number + 1), Address("10.0.0.2", 9001))
        client: Any = object()
        address = Address("10.0.0.3", 40_000)
        factory.table.register(key, client, address, command, 0.0, lambda: None)


if __name__ == "__main__":
    main()
