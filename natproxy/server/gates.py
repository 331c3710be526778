"""The gates of a daemon, in its factory only where they have something to decide."""

from __future__ import annotations

from natproxy.access import NO_LIMITS, Bandwidth, Limits, ScopeLimits
from natproxy.server.factory import CommandFactory


class LimitGate:
    """The gate of the limits of one daemon; it is in the factory only if there are limits.

    :param factory: of the daemon.
    """

    def __init__(self, factory: CommandFactory) -> None:
        self._factory = factory
        self._bandwidth = Bandwidth(factory.clock)
        self._limits = Limits(factory.clock.seconds, self._bandwidth)

    def set(
        self, client: ScopeLimits, identity: ScopeLimits, total: ScopeLimits, max_delay: float
    ) -> None:
        """Set the limits for the commands that begin from now on; see `Limits.set`.

        :param max_delay: seconds for which a command may be delayed.
        """
        factory = self._factory
        factory.arrivals.limit(client.connections_per_second)
        client = client._replace(connections_per_second=None)
        self._limits.set(client, identity, total)
        factory.delays.longest = max_delay
        factory.use_gate(self._limits, (client, identity, total) != (NO_LIMITS,) * 3)
        factory.bandwidth = self._bandwidth if self._bandwidth.limited else None
        factory.delays.retry_all()
