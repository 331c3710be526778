"""The ports that the kernel chooses for outgoing connections."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

DIRECTORY = "/proc/sys/net/ipv4"


class PortRange(NamedTuple):
    """The ephemeral range: ``ip_local_port_range`` without ``ip_local_reserved_ports``.

    :ivar first: the lowest port.
    :ivar last: the highest port.
    :ivar reserved: those between them that the kernel does not choose.
    """

    first: int
    last: int
    reserved: frozenset[int]

    @property
    def size(self) -> int:
        """The number of ports that the kernel can choose, for one address of the upstream."""
        return self.last - self.first + 1 - len(self.reserved)

    def __contains__(self, port: object) -> bool:
        return (
            isinstance(port, int) and self.first <= port <= self.last and port not in self.reserved
        )


def read_port_range(directory: str = DIRECTORY) -> PortRange | None:
    """Return the range of now; ``None`` if the kernel does not show it."""
    try:
        first, last = map(int, _read(f"{directory}/ip_local_port_range").split())
    except (OSError, ValueError):
        return None
    reserved: set[int] = set()
    with suppress(OSError, ValueError):
        for part in _read(f"{directory}/ip_local_reserved_ports").strip().split(","):
            low, _, high = part.partition("-")
            if low:
                span = range(max(first, int(low)), min(last, int(high or low)) + 1)
                reserved.update(span)
    return PortRange(first, last, frozenset(reserved))


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
