"""One upstream: a file server, or a proxy in front of one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from natproxy.protocol import Abilities
from natproxy.proxy.interfaces import Connector
from natproxy.proxy.upstreams.queue import CommandQueue
from natproxy.proxy.upstreams.state import TRANSITIONS, Event, Health, Mode, State


class Target(NamedTuple):
    """Where the commands of an upstream are sent, as the settings state it.

    :ivar name: unique in the group.
    :ivar description: the endpoint's string.
    :ivar header: whether its connections begin with a PROXY header; see `natproxy.proxy.header`.
    :ivar limit: commands that it may have at the same time; 0 for no limit.
    """

    name: str
    description: str
    connector: Connector
    header: bool = False
    limit: int = 0


class Group(Protocol):
    """What an upstream uses of its group.

    :ivar health: when it is down.
    :ivar checking: whether checks run.
    """

    health: Health
    checking: bool
    queue: CommandQueue

    def seconds(self) -> float:
        """Return the seconds of the group's clock."""
        ...

    def abilities_changed(self) -> None:
        """Take into account that an upstream supports other verbs than before."""
        ...

    def state_changed(self, upstream: Upstream, reason: str) -> None:
        """Log, publish and take into account that the health of an upstream has changed."""
        ...


class Upstream:
    """One file server, or proxy, to which commands are sent.

    :param target: its settings.
    :param group: of which it is a member.
    :ivar name: unique in the group: as configured, or the host and port of its endpoint.
    :ivar description: the endpoint's string.
    :ivar header: whether its connections begin with a PROXY header.
    :ivar limit: tries that it may have at the same time; 0 for no limit.
    :ivar state: its health; only `Upstream` changes it.
    :ivar mode: whether it takes commands; set by the group.
    :ivar active: tries on it now.
    :ivar abilities: verbs and arguments by its last ``FEAT`` reply; ``None`` if there was none.
    :ivar since: seconds of the clock at which the health changed last.
    :ivar last_check: seconds of the clock at which the last check ended; ``None`` before the
        first.
    :ivar last_error: why a check or a command failed last; ``None`` if none has.
    :ivar failures: commands in a row that have failed.
    :ivar commands: tries so far.
    :ivar failed_commands: tries so far that have failed.
    :ivar checks: checks so far.
    :ivar failed_checks: checks so far that have failed.
    """

    def __init__(self, target: Target, group: Group) -> None:
        self.state = State.UP
        self.mode = Mode.READY
        self.active = 0
        self.abilities: Abilities | None = None
        self.since = group.seconds()
        self.last_check: float | None = None
        self.last_error: str | None = None
        self.failures = 0
        self.commands = 0
        self.failed_commands = 0
        self.checks = 0
        self.failed_checks = 0
        self._group = group
        # Checks in a row whose result is not that of the state.
        self._contrary = 0
        self.name = target.name
        self.use(target)

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.state.value} {self.mode.value}>"

    def use(self, target: Target) -> None:
        """Send further commands to another place."""
        self.description = target.description
        self.connector = target.connector
        self.header = target.header
        self.limit = target.limit

    @property
    def full(self) -> bool:
        """Whether it has as many tries as it may have."""
        return 0 < self.limit <= self.active

    def begin(self) -> None:
        """Count a try that starts."""
        self.active += 1
        self.commands += 1

    def end(self) -> None:
        """Count that a try has ended, however it has."""
        self.active -= 1
        queue = self._group.queue
        # Not the length, which is a call: this is on the path of each command.
        if queue.waiting:
            queue.wake()

    def succeeded(self) -> None:
        """Note that the header of a reply was received in time."""
        self.failures = 0

    def failed(self, reason: str) -> None:
        """Note that a command has failed.

        There was no connection, it was lost before or inside the reply, or it was silent, or the
        reply was malformed.

        :param reason: in words.
        """
        self.failures += 1
        self.failed_commands += 1
        self.last_error = reason
        group = self._group
        most = group.health.failures
        if group.checking and 0 < most <= self.failures and self.state is State.UP:
            self._change(
                Event.FALL, f"{self.failures} commands in a row have failed; the last: {reason}"
            )

    def check_passed(self, abilities: Abilities) -> None:
        """Note that a check has passed.

        :param abilities: what the reply to it lists.
        """
        self.checks += 1
        self.last_check = self._group.seconds()
        if abilities != self.abilities:
            self.abilities = abilities
            self._group.abilities_changed()
        rise = self._group.health.rise
        if self._contradicts(State.DOWN) and self._contrary >= rise:
            self.failures = 0
            self._change(Event.RISE, f"{self._contrary} checks in a row have passed")

    def check_failed(self, reason: str) -> None:
        """Note that a check has failed.

        :param reason: in words.
        """
        self.checks += 1
        self.failed_checks += 1
        self.last_check = self._group.seconds()
        self.last_error = reason
        fall = self._group.health.fall
        if self._contradicts(State.UP) and self._contrary >= fall:
            self._change(
                Event.FALL, f"{self._contrary} checks in a row have failed; the last: {reason}"
            )

    def reset(self, reason: str) -> None:
        """Forget what checks and commands have found out.

        :param reason: in words.
        """
        self.abilities = None
        self.failures = 0
        self.last_error = None
        was_down = self.state is State.DOWN
        self._change(Event.RESET, reason, publish=was_down)

    def _contradicts(self, state: State) -> bool:
        """Count a check whose result contradicts a state; return whether it is the present one."""
        if self.state is state:
            self._contrary += 1
            return True
        self._contrary = 0
        return False

    def _change(self, event: Event, reason: str, publish: bool = True) -> None:
        self.state = TRANSITIONS[self.state][event]
        self._contrary = 0
        if publish:
            self.since = self._group.seconds()
            self._group.state_changed(self, reason)
