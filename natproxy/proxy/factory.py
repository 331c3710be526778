"""The factory of the proxy's client connections, and what its commands share."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from natproxy.nat import Failed, NATTable, Removed
from natproxy.proxy.interfaces import Connector
from natproxy.proxy.loop import LoopGuard
from natproxy.proxy.protocol import ProxyProtocol
from natproxy.proxy.resources import Resources
from natproxy.proxy.retries import Retries
from natproxy.proxy.upstreams import Target, Upstreams
from natproxy.relay import Relays
from natproxy.server.admission import Admission
from natproxy.server.command_log import log_translation
from natproxy.server.deadlines import Deadlines
from natproxy.server.factory import CommandFactory


class ProxyFactory(CommandFactory):
    """Makes the client connections of one proxy.

    :param clock: for every time-out.
    :param connector: makes the connections to its one upstream, until `Upstreams.use` sets others.
    :param reply_timeout: seconds in which the upstream must send the header of a reply, and
        then each further part of it.
    :param idle_timeout: seconds that a client may take for its next step.
    :param admission: limits the number of clients.
    :param relays: move the bodies of replies.
    :param first_command_timeout: seconds that a client may take for its first command; 0
        for no limit but ``idle_timeout``.
    :param wall_clock: returns seconds since the epoch, for the events of the table.
    :param resume_for: seconds for which a body is tried to be continued; see `Retries`.
    :ivar table: the translations that exist now.
    :ivar resources: what the client connections use.
    :ivar loops: finds out whether the upstream leads back to the proxy.
    :ivar stop_logging: ends the log of commands.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connector: Connector,
        reply_timeout: float = 60.0,
        idle_timeout: float = 600.0,
        admission: Admission | None = None,
        relays: Relays | None = None,
        first_command_timeout: float = 0.0,
        wall_clock: Callable[[], float] = time.time,
        resume_for: float = 0.0,
    ) -> None:
        super().__init__(clock, idle_timeout, admission, first_command_timeout)
        self.table = NATTable(clock.seconds, wall_clock)
        self.stop_logging = self.table.subscribe(log_translation, (Removed, Failed))
        upstreams = Upstreams(clock)
        upstreams.use([Target("upstream", "", connector)])
        self.resources = Resources(
            self.table,
            upstreams,
            relays or Relays(),
            Deadlines(clock, reply_timeout),
            Retries(clock, resume_for),
            self.minimum_rate,
            self.address_of,
        )
        self.deadlines.append(self.resources.replies)
        self.loops = LoopGuard(clock, self.resources)
        self.protocol = partial(ProxyProtocol, self.resources, self.loops)

    def start(self) -> None:
        """Begin to check the upstreams, if there are several."""
        self.resources.upstreams.start()

    def drain(self) -> Deferred[None]:
        """Wait until every client has finished, then close the pipes of the relays."""
        self.resources.upstreams.stop()
        return super().drain().addCallback(self._drained)

    def _drained(self, _: None) -> None:
        self.loops.stop()
        self.resources.relays.close()
