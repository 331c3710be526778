"""What the kernel reports of the ports of upstream connections: read in a thread, and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from natproxy.address import Address
from natproxy.kernel.ports import PortRange, read_port_range
from natproxy.kernel.sockets import TIME_WAIT, connections_to
from natproxy.metrics.families import Family, gauge
from natproxy.server.threads import InThread

KEPT_FOR = 5.0
"""Seconds for which figures are used again: several readers cost no more than one."""


class PortFigures(NamedTuple):
    """Ports of connections to the upstream; ``None`` for what the kernel does not show.

    Each pair of a local address and an address of the upstream can use the whole range: the figures
    are of the pair with the most connections.

    :ivar total: ports of the kernel's range, without the reserved ones.
    :ivar used: ports of this range with a connection to the upstream, of any process, those in
        ``TIME_WAIT`` included.
    :ivar time_wait: connections to the upstream in ``TIME_WAIT``.
    """

    total: int | None = None
    used: int | None = None
    time_wait: int | None = None

    @property
    def free(self) -> int | None:
        """Ports of the range that are not used."""
        return None if self.total is None or self.used is None else self.total - self.used

    def families(self, prefix: str) -> list[Family]:
        """Return the figures as gauges."""
        return [
            gauge(
                f"{prefix}_upstream_ports",
                "Ports that the kernel can choose for connections to the upstream",
                self.total,
            ),
            gauge(
                f"{prefix}_upstream_ports_used",
                "Ports of this range with a connection to the upstream, in TIME_WAIT as well",
                self.used,
            ),
            gauge(
                f"{prefix}_upstream_ports_free",
                "Ports of this range that are left for connections to the upstream",
                self.free,
            ),
            gauge(
                f"{prefix}_upstream_time_wait",
                "Connections to the upstream in TIME_WAIT",
                self.time_wait,
            ),
        ]

    def json(self) -> dict[str, int | None]:
        """Return the object for ``/v1/status``."""
        return {
            "total": self.total,
            "used": self.used,
            "free": self.free,
            "time_wait": self.time_wait,
        }


def read_ports(
    upstreams: Collection[Address],
    port_range: Callable[[], PortRange | None] = read_port_range,
    directory: str = "/proc/self",
) -> PortFigures:
    """Read the figures of now.

    :param upstreams: the addresses that connections have been made to.
    :param port_range: reads the kernel's range.
    :param directory: of this process in ``/proc``.
    """
    chosen = port_range()
    used: Counter[object] = Counter()
    waiting = 0
    try:
        for connection in connections_to(upstreams, directory):
            if chosen is not None and connection.local[1] in chosen:
                used[connection.local[0], connection.remote] += 1
            waiting += connection.state == TIME_WAIT
    except OSError:
        return PortFigures(None if chosen is None else chosen.size)
    if chosen is None:
        return PortFigures(time_wait=waiting)
    return PortFigures(chosen.size, max(used.values(), default=0), waiting)


class PortReader:
    """Reads the figures in a thread, at most once in `KEPT_FOR` seconds.

    :param upstreams: returns the addresses of the upstream.
    :param in_thread: where the kernel's lists are read.
    :param seconds: returns monotonic seconds.
    :param read: reads the figures.
    :ivar last: the figures that were read last.
    """

    def __init__(
        self,
        upstreams: Callable[[], Collection[Address]],
        in_thread: InThread,
        seconds: Callable[[], float],
        read: Callable[[Collection[Address]], PortFigures] = read_ports,
    ) -> None:
        self.last = PortFigures()
        self._upstreams = upstreams
        self._in_thread = in_thread
        self._seconds = seconds
        self._read = read
        self._read_at: float | None = None
        self._waiting: list[Deferred[PortFigures]] | None = None

    def figures(self) -> Deferred[PortFigures]:
        """Return figures that are at most `KEPT_FOR` seconds old; never fails."""
        if self._waiting is None:
            if self._read_at is not None and self._seconds() - self._read_at < KEPT_FOR:
                return succeed(self.last)
            self._waiting = []
            waiter: Deferred[PortFigures] = Deferred()
            self._waiting.append(waiter)
            upstreams = self._upstreams()
            self._in_thread(lambda: self._read(upstreams)).addBoth(self._done)
            return waiter
        waiter = Deferred()
        self._waiting.append(waiter)
        return waiter

    def _done(self, result: PortFigures | Failure) -> None:
        self.last = PortFigures() if isinstance(result, Failure) else result
        self._read_at = self._seconds()
        waiting, self._waiting = self._waiting or [], None
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(self.last)
