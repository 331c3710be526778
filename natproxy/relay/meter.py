"""What limits the bytes that go to a connection; see `natproxy.relay.outbound.Outbound`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Meter(Protocol):
    """Limits the bytes that go to one connection; see `natproxy.access.bandwidth.Meter`."""

    @property
    def budget(self) -> int:
        """Bytes of a body that may be moved now, if it is `ready`."""
        ...

    def ready(self) -> bool:
        """Return whether bytes of a body may be moved now."""
        ...

    def wait(self, resume: Callable[[], object]) -> None:
        """Call back once when bytes may be moved."""
        ...

    def charge(self, size: int) -> None:
        """Count bytes that were moved or written."""
        ...

    def cancel(self) -> None:
        """Call back no more: the relay has ended."""
        ...
