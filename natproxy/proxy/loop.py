"""Whether an upstream of a proxy leads back to the proxy: directly, or through other proxies.

In such a loop each command would become a new one, until descriptors are used up. A command that
comes from the proxy's end of an upstream connection is refused at once. Behind other proxies it has
another address. So a proxy that has many commands like each other in flight sends a probe: ``VIA``
and a random number. Every proxy, also one of an older version, sends it on; a file server does not
support it. If the probe comes back as a command of a client, there is a loop, and commands are
refused until a later probe does not come back. With several upstreams, each gets a probe of its
own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import cast

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger

from natproxy.access import Verdict, refuse
from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import LOOP_DETECTED, PROXY_ERROR, VIA, Command, is_loop_probe
from natproxy.proxy.exchange import Exchange
from natproxy.proxy.resources import Resources
from natproxy.proxy.upstreams import Upstream
from natproxy.relay import Outbound
from natproxy.server.state import Symbol, transition_table

SEVERAL = 64
"""`LoopGuard.several` at first.

A probe is a command too: it must not be frequent in a proxy that has many clients for one file.
"""

ALIKE = 4
"""Different lines among the last `SEVERAL` commands at most, if a loop is suspected."""

INTERVAL = 10.0
"""Seconds between two probes: of a loop, or while the number of commands in flight is the same."""

PROBE_TIMEOUT = 5.0
"""Seconds that a probe may take."""

LOOP = f"{PROXY_ERROR}the upstream of this proxy leads back to it"

_REFUSAL = refuse(LOOP_DETECTED, LOOP, Outcome.ERROR, LOOP)


class State(Symbol):
    """What is known about a loop."""

    CLEAR = "clear"
    """None is suspected."""
    PROBING = "probing"
    """Probes are under way; commands are sent to the upstreams."""
    LOOPED = "looped"
    """There is one; commands are refused."""
    CHECKING = "checking"
    """Probes are under way; commands are still refused."""


class Event(Symbol):
    """What changes the `State`."""

    PROBE = "probe"
    """A probe is sent to each upstream."""
    RETURNED = "returned"
    """A probe has come back."""
    ENDED = "ended"
    """Each probe has been replied to, has failed, or has taken too long."""


TRANSITIONS = transition_table(
    {
        State.CLEAR: {Event.PROBE: State.PROBING},
        State.PROBING: {Event.RETURNED: State.LOOPED, Event.ENDED: State.CLEAR},
        State.LOOPED: {
            Event.PROBE: State.CHECKING,
            Event.RETURNED: State.LOOPED,
            # The replies to the probes come back the same way.
            Event.ENDED: State.LOOPED,
        },
        State.CHECKING: {Event.RETURNED: State.LOOPED, Event.ENDED: State.CLEAR},
    }
)
"""The next state, by state and event."""


class LoopGuard:
    """Finds out whether an upstream leads back to the proxy.

    :param clock: schedules the probes.
    :param resources: of the proxy.
    :ivar state: see `State`.
    :ivar closed: whether commands are refused: see `refusal`.
    :ivar several: commands in flight from which on a loop is suspected.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, resources: Resources) -> None:
        self.state = State.CLEAR
        self.closed = False
        self.several = SEVERAL
        self._clock = clock
        self._resources = resources
        self._threshold = 0
        self._until = 0.0
        self._reported = -INTERVAL
        # Those that are under way, by their random numbers.
        self._probes: dict[bytes, _Probe] = {}

    def client_connected(self) -> None:
        """Suspect a loop if enough commands are in flight that are alike, and send probes."""
        table = self._resources.table
        in_flight = len(table)
        if in_flight < self.several or self.state is not State.CLEAR:
            return
        now = self._clock.seconds()
        if now >= self._until:
            self._threshold = self.several
        if in_flight < self._threshold:
            return
        # As many probes as the number of commands has doubled.
        self._threshold = 2 * in_flight
        self._until = now + INTERVAL
        last = islice(reversed([*table]), SEVERAL)
        if len({entry.command.line for entry in last}) <= ALIKE:
            self._send_probes()

    def refuses(self, command: Command) -> bool:
        """Return whether a command is to be refused.

        If it is a probe that is under way, there is a loop.
        """
        probe = self._probes.get(command.name) if is_loop_probe(command) else None
        if probe is None:
            return self.closed
        if not self.closed:
            self._report(probe.upstream)
        self.state = TRANSITIONS[self.state][Event.RETURNED]
        self.closed = True
        self._until = self._clock.seconds() + INTERVAL
        return True

    def refusal(self) -> Verdict:
        """Return the refusal of a command, and check now and then whether the loop still exists."""
        waiting = self.state is not State.LOOPED or self._probes
        if not waiting and self._clock.seconds() >= self._until:
            self._send_probes()
        return _REFUSAL

    def refuse_own_connection(self) -> Verdict:
        """Return the refusal of a command that has come from this proxy directly."""
        now = self._clock.seconds()
        if now >= self._reported + INTERVAL:
            self._reported = now
            self._report()
        return _REFUSAL

    def _report(self, upstream: Upstream | None = None) -> None:
        several = upstream is not None and len(self._resources.upstreams) > 1
        self._log.error(
            "the upstream {name}leads back to this proxy, so that commands are refused:"
            " set --upstream to a file server, or to a proxy in front of one",
            name=f"{upstream.name} " if upstream is not None and several else "",
        )

    def stop(self) -> None:
        """Cancel the probes that are under way: the daemon stops."""
        for probe in list(self._probes.values()):
            probe.cancel(Outcome.DRAINED)

    def _send_probes(self) -> None:
        self.state = TRANSITIONS[self.state][Event.PROBE]
        upstreams = self._resources.upstreams
        probes = [
            _Probe(self._clock, self._resources, upstream, self._ended)
            for upstream in upstreams.eligible
        ]
        self._probes = {probe.nonce: probe for probe in probes}
        if not probes:
            self._all_ended()
        # One may end before another one is sent.
        for probe in probes:
            probe.send()

    def _ended(self, probe: _Probe) -> None:
        del self._probes[probe.nonce]
        if not self._probes:
            self._all_ended()

    def _all_ended(self) -> None:
        self.state = TRANSITIONS[self.state][Event.ENDED]
        self.closed = self.state is not State.CLEAR


class _Outbound:
    """Discards the reply to a probe."""

    paused = False

    def write(self, data: bytes) -> None:
        """Discard bytes."""


class _Probe:
    """The client of a probe; it has an entry in the table, as every command has.

    :param upstream: to which it is sent.
    :param ended: called once, when it has ended.
    :ivar nonce: the random number in it.
    """

    log = Logger()
    may_authenticate = False

    def __init__(
        self,
        clock: IReactorTime,
        resources: Resources,
        upstream: Upstream,
        ended: Callable[[_Probe], object],
    ) -> None:
        resources = replace(resources, upstreams=resources.upstreams.only(upstream))
        self.upstream = upstream
        self.nonce = secrets.token_hex(16).encode("ascii")
        self.started_at = clock.seconds()
        self.outbound = cast(Outbound, _Outbound())
        self.identity: str | None = None
        # As of a client on a UNIX socket: a PROXY header to the upstream has no address then.
        self.local_address: IAddress = UNIXAddress(None)
        self.client_address: Address = resources.address_of(self.local_address)
        line = VIA + b" " + self.nonce
        self._exchange = Exchange(self, resources, Command(VIA, self.nonce, line))
        self._when_ended = ended
        self._timer: IDelayedCall | None = clock.callLater(PROBE_TIMEOUT, self._expire)

    def send(self) -> None:
        """Send the probe to the upstream."""
        self._exchange.proceed()

    def body_begun(self) -> None:
        """Do nothing: the whole probe has a time-out."""

    def reply_suspended(self) -> None:
        """Do nothing: a probe is not repeated."""

    def reply_resumed(self) -> None:
        """Do nothing, as `reply_suspended`."""

    def reply_finished(self) -> None:
        """Report the end: a reply, or an error in its place, has been written."""
        self._end()

    def reply_broken_off(self, outcome: Outcome) -> None:
        """Report the end: the upstream connection was reset."""
        self._end()

    def cancel(self, outcome: Outcome) -> None:
        """Reset the upstream connection, or cancel the attempt to connect."""
        if not self._exchange.cancel(outcome):
            self._end()

    def _expire(self) -> None:
        self._timer = None
        self.cancel(Outcome.TIMEOUT)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._when_ended(self)
