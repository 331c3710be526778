"""The upstreams of a proxy, and the choice of one for each try of a command."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from natproxy.nat.subscribers import Subscribers
from natproxy.protocol import VERBS, VERSION_1, Abilities, Command, common_abilities
from natproxy.proxy.upstreams.checks import HealthChecks
from natproxy.proxy.upstreams.queue import CommandQueue, Waiter
from natproxy.proxy.upstreams.state import Health, Mode, State
from natproxy.proxy.upstreams.upstream import Target, Upstream


class Changed(NamedTuple):
    """The health or the mode of an upstream has changed.

    :ivar time: seconds of the clock.
    :ivar reason: in words.
    """

    time: float
    upstream: Upstream
    state: State
    mode: Mode
    reason: str


class Upstreams:
    """The upstreams of a proxy.

    Each try of a command is sent to the one with the fewest, among those that take commands and are
    up; if every one is down, among all that take commands. Of several with equally few, each is
    chosen in turn.

    :param clock: for the queue, and for the times of events.
    :ivar boot: of this run of the daemon, for the PROXY header.
    :ivar health: when an upstream is down.
    :ivar checks: those of the upstreams.
    :ivar checking: whether they run; without them, no upstream is ever down.
    :ivar eligible: those that are chosen from.
    :ivar common: what all that are chosen from support; ``None`` if there is one upstream only, or
        if it is not known.
    :ivar queue: the commands that wait for an upstream.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.boot = ""
        self.health = Health()
        self.checks = HealthChecks(clock)
        self.checking = False
        self.common: Abilities | None = None
        self._clock = clock
        self.queue = CommandQueue(clock, self._has_place)
        self._members: tuple[Upstream, ...] = ()
        self.eligible: tuple[Upstream, ...] = ()
        # The only one, if it always has a place.
        self._only: Upstream | None = None
        # Those that support a verb, if others do not.
        self._by_verb: dict[bytes, tuple[Upstream, ...]] = {}
        self._limited = False
        self._started = False
        self._turn = 0
        self._subscribers: Subscribers[Changed] = Subscribers((Changed,))

    def __iter__(self) -> Iterator[Upstream]:
        """Return the upstreams, in the order of the settings."""
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def seconds(self) -> float:
        """Return the seconds of the clock."""
        return self._clock.seconds()

    def only(self, upstream: Upstream) -> Upstreams:
        """Return a group that has this upstream alone, for a command that no other may execute."""
        group = Upstreams(self._clock)
        group.boot = self.boot
        group._members = group.eligible = (upstream,)
        group._only = upstream
        return group

    def find(self, name: str) -> Upstream | None:
        """Return the upstream with a name; ``None`` if there is none."""
        return next((each for each in self._members if each.name == name), None)

    def use(self, targets: Sequence[Target]) -> None:
        """Send the commands from now on to these upstreams.

        An upstream whose name was in the group before keeps its mode, and its health, if it has the
        same endpoint. What runs on one that is removed is finished.
        """
        earlier = {each.name: each for each in self._members}
        members = []
        for target in targets:
            member = earlier.get(target.name)
            if member is None:
                member = Upstream(target, self)
            else:
                moved = member.description != target.description
                member.use(target)
                if moved:
                    self.checks.forget(member)
                    member.reset("it has another endpoint")
            members.append(member)
        self._members = tuple(members)
        self._update()

    def set_health(self, health: Health) -> None:
        """Set when an upstream is down, and how it is checked."""
        self.health = health
        self._update()

    def start(self) -> None:
        """Begin to check the upstreams: the daemon has started."""
        self._started = True
        self._update()

    def stop(self) -> None:
        """Cancel all checks: the daemon stops. Commands that wait are served as before."""
        self._started = False
        self._update()

    def choose(self, command: Command, tried: Collection[Upstream] = ()) -> Upstream | None:
        """Return the upstream for a try of a command; ``None`` if it must wait for a place.

        :param tried: upstreams that have failed to execute it: another one is preferred, also one
            that is down.
        """
        if self._only is not None:
            return self._only
        if self.queue.turn is not None and not self.queue.serving:
            # Those that wait are first, if there is a place for one of them.
            return None
        candidates = self.eligible
        if self._by_verb:
            candidates = self._by_verb.get(command.verb, candidates)
        chosen = None
        if tried:
            others = [each for each in candidates if each not in tried]
            chosen = self._least_used(others or self._last_resort(command, tried))
        return self._least_used(candidates) if chosen is None else chosen

    def may_respond(self, tried: Collection[Upstream]) -> bool:
        """Return whether a command that these have failed to execute may succeed after a while.

        It may, if another one takes commands and is full, or if one is not known to be down.
        """
        return any(
            each not in tried or (self.checking and each.state is State.UP)
            for each in self._members
            if each.mode is Mode.READY
        )

    def wait(self, waiter: Waiter) -> None:
        """Let a command wait for which `choose` has returned ``None``; see `CommandQueue.add`."""
        self.queue.add(waiter)

    def cancel_wait(self, waiter: Waiter) -> None:
        """Remove a command from the queue, if it waits: it is no longer wanted."""
        self.queue.remove(waiter)

    def set_mode(self, name: str, mode: Mode) -> bool:
        """Set whether an upstream takes commands; return whether there is one with the name."""
        upstream = self.find(name)
        if upstream is None:
            return False
        if upstream.mode is not mode:
            upstream.mode = mode
            self.state_changed(upstream, "set by command")
        return True

    def subscribe(self, callback: Callable[[Changed], object]) -> Callable[[], None]:
        """Call back with each later change of health or mode.

        :return: ends the subscription, at any time.
        """
        return self._subscribers.add(callback, (Changed,))

    def abilities_changed(self) -> None:
        """Take into account that an upstream supports other verbs than before."""
        self._update()

    def state_changed(self, upstream: Upstream, reason: str) -> None:
        """Log, publish and take into account that health or mode of an upstream has changed."""
        self._update()
        down = upstream.state is State.DOWN
        (self._log.warn if down else self._log.info)(
            "upstream {name} is {state}, mode {mode}: {reason}",
            name=upstream.name,
            state=upstream.state.value,
            mode=upstream.mode.value,
            reason=reason,
        )
        event = Changed(self.seconds(), upstream, upstream.state, upstream.mode, reason)
        self._subscribers.publish(event)

    def _update(self) -> None:
        """Note which upstreams are chosen from, after a change of any of them."""
        ready = tuple(each for each in self._members if each.mode is Mode.READY)
        up = tuple(each for each in ready if each.state is State.UP)
        self.eligible = eligible = up or ready
        self._limited = any(each.limit for each in eligible)
        sole = len(self._members) == 1 and len(eligible) == 1 and not self._limited
        self._only = eligible[0] if sole else None
        self.common = None
        if len(self._members) > 1:
            self.common = common_abilities(filter(None, (each.abilities for each in eligible)))
        self._by_verb = _by_verb(eligible)
        self.queue.open = bool(eligible)
        self._check()
        self.queue.wake()

    def _check(self) -> None:
        """Check the upstreams that are to be checked now, if the daemon runs."""
        if not self._started:
            self.checks.stop()
            self.checking = False
            return
        was, self.checking = self.checking, self.health.interval > 0
        self.checks.use(self._members, self.health)
        if was and not self.checking:
            for each in self._members:
                each.reset("it is no longer checked")

    def _last_resort(self, command: Command, tried: Collection[Upstream]) -> list[Upstream]:
        """Return those that are down and may execute a command: checks may not be so far yet."""
        verb = command.verb
        if verb == b"FEAT" and verb in self._by_verb:
            return []
        return [
            each
            for each in self._members
            if each.mode is Mode.READY
            and each.state is State.DOWN
            and each not in tried
            and (each.abilities is None or each.abilities.supports(verb))
        ]

    def _has_place(self, command: Command) -> bool:
        candidates = self._by_verb.get(command.verb, self.eligible)
        return any(not each.full for each in candidates)

    def _least_used(self, candidates: Sequence[Upstream]) -> Upstream | None:
        """Return the one with the fewest tries that is not full; ``None`` if each is."""
        if self._limited:
            candidates = [each for each in candidates if not each.full]
        count = len(candidates)
        if not count:
            return None
        self._turn = turn = (self._turn + 1) % count
        best = candidates[turn]
        if best.active:
            # The others, in the order of their turns.
            for index in range(turn + 1 - count, turn):
                other = candidates[index]
                if other.active < best.active:
                    best = other
        return best


def _by_verb(upstreams: Sequence[Upstream]) -> dict[bytes, tuple[Upstream, ...]]:
    """Return the upstreams that support a verb, for each verb that some support, and some do not.

    One whose abilities are not known counts as one that supports everything. ``FEAT`` is for those
    of version 1, if there are any: what the group supports in common is version 1 then, and so is
    their reply.
    """
    if all(each.abilities == upstreams[0].abilities for each in upstreams):
        return {}
    chosen = {}
    for verb in VERBS:
        able = tuple(
            each for each in upstreams if each.abilities is None or each.abilities.supports(verb)
        )
        if 0 < len(able) < len(upstreams):
            chosen[verb] = able
    old = tuple(each for each in upstreams if each.abilities == VERSION_1)
    if old:
        chosen[b"FEAT"] = old
    return chosen
