"""The upstreams of a proxy: which one executes a command, their health, and commands that wait.

`Upstreams` is the group, and chooses; an `Upstream` is one file server, or proxy, of it.
"""

from __future__ import annotations

from natproxy.proxy.upstreams.group import Upstreams
from natproxy.proxy.upstreams.queue import CommandQueue, Waiter
from natproxy.proxy.upstreams.state import Health, Mode, State
from natproxy.proxy.upstreams.upstream import Target, Upstream

__all__ = [
    "CommandQueue",
    "Health",
    "Mode",
    "State",
    "Target",
    "Upstream",
    "Upstreams",
    "Waiter",
]
