"""When a command is tried again: its states, the times, and what the commands of a proxy share."""

from __future__ import annotations

from weakref import WeakSet

from twisted.internet.interfaces import IReactorTime

from natproxy.protocol import VERBS, VERSION_1, Abilities, Command
from natproxy.proxy.upstreams import Upstream
from natproxy.server.state import Symbol, transition_table

FIRST_DELAY = 0.1
"""Seconds before an upstream that has failed is tried again; each further delay is doubled."""

LONGEST_DELAY = 2.0
"""Seconds between two attempts at most."""

MOST_LOSSES = 5
"""Connections that one command loses before a header until that is an error. A command by which
each server that executes it crashes must not be sent to them for as long as a header may take."""

DIGEST_LIMIT = 5.0
"""Seconds after which a ``HASH`` is not tried again: the digest would be computed from the start.
"""


class State(Symbol):
    """How far a command is."""

    QUEUED = "queued"
    """It waits for its first or its next attempt; nothing of the reply has been passed on."""
    CONNECTING = "connecting"
    """An upstream connection is being made; nothing of the reply has been passed on."""
    SENT = "sent"
    """The command has been sent; nothing of the reply has been passed on."""
    RELAYING = "relaying"
    """A part of the body has been passed on, and its upstream sends more."""
    INTERRUPTED = "interrupted"
    """A part of the body has been passed on. It waits for the next attempt to continue the body."""
    RECONNECTING = "reconnecting"
    """A connection is being made to continue the body."""
    RESUMING = "resuming"
    """The rest of the body has been requested, and no header been received."""
    ENDED = "ended"
    """The client's side has been notified of the end."""


class Event(Symbol):
    """What changes the `State`."""

    CONNECT = "connect"
    """An upstream has been chosen."""
    CONNECTED = "connected"
    """The connection is made, and its entry is in the table."""
    BODY_BEGUN = "body begun"
    """The header has been received, and not yet the whole body."""
    POSTPONED = "postponed"
    """The attempt has failed, and another one is to follow; or every upstream is full."""
    ENDED = "ended"
    """The reply is complete, or is not continued, or the client is gone."""


TRANSITIONS = transition_table(
    {
        State.QUEUED: {
            Event.CONNECT: State.CONNECTING,
            Event.POSTPONED: State.QUEUED,
            Event.ENDED: State.ENDED,
        },
        State.CONNECTING: {
            Event.CONNECTED: State.SENT,
            Event.POSTPONED: State.QUEUED,
            Event.ENDED: State.ENDED,
        },
        State.SENT: {
            Event.BODY_BEGUN: State.RELAYING,
            Event.POSTPONED: State.QUEUED,
            Event.ENDED: State.ENDED,
        },
        State.RELAYING: {Event.POSTPONED: State.INTERRUPTED, Event.ENDED: State.ENDED},
        State.INTERRUPTED: {
            Event.CONNECT: State.RECONNECTING,
            Event.POSTPONED: State.INTERRUPTED,
            Event.ENDED: State.ENDED,
        },
        State.RECONNECTING: {
            Event.CONNECTED: State.RESUMING,
            Event.POSTPONED: State.INTERRUPTED,
            Event.ENDED: State.ENDED,
        },
        State.RESUMING: {
            Event.BODY_BEGUN: State.RELAYING,
            Event.POSTPONED: State.INTERRUPTED,
            Event.ENDED: State.ENDED,
        },
        State.ENDED: {},
    }
)
"""The next state, by state and event."""

BEGUN = frozenset({State.RELAYING, State.INTERRUPTED, State.RECONNECTING, State.RESUMING})
"""The states in which a part of the reply has been passed on."""


class Retries:
    """What the attempts of all commands of a proxy share.

    :param clock: schedules the attempts.
    :param resume_for: see below.
    :ivar resume_for: seconds for which the body of a reply is tried to be continued; 0 for not at
        all.
    :ivar get_supported: the upstreams whose last reply to ``FEAT`` that was passed on has ``GET``.
    :ivar retried: further attempts of commands of which no header had been received, so far.
    :ivar interrupted: bodies so far whose upstream has failed, and that could be continued.
    :ivar resumed: those of them that were continued.
    :ivar resumed_bytes: bytes that were missing of them.
    """

    def __init__(self, clock: IReactorTime, resume_for: float = 0.0) -> None:
        self.clock = clock
        self.resume_for = resume_for
        self.get_supported: WeakSet[Upstream] = WeakSet()
        self.retried = 0
        self.interrupted = 0
        self.resumed = 0
        self.resumed_bytes = 0

    def json(self) -> dict[str, int]:
        """Return the counters for ``/v1/status``."""
        return {
            "retried": self.retried,
            "interrupted": self.interrupted,
            "resumed": self.resumed,
            "resumed_bytes": self.resumed_bytes,
        }


class Schedule:
    """When the attempts of one command follow each other."""

    def __init__(self) -> None:
        self._delay = 0.0

    def next_delay(self) -> float:
        """Return the seconds before every upstream is tried again."""
        self._delay = min(max(2 * self._delay, FIRST_DELAY), LONGEST_DELAY)
        return self._delay


def may_be_repeated(command: Command, seconds: float) -> bool:
    """Return whether a command to which no header was received may be sent again.

    :param seconds: since it began.
    """
    # What an unknown verb does is not known. One of them is the probe of a loop.
    return command.verb in VERBS and (command.verb != b"HASH" or seconds < DIGEST_LIMIT)


def most_losses(command: Command, abilities: Abilities | None, known: bool, members: int) -> int:
    """Return how many connections a command may lose before a header until that is an error.

    Where the upstream may be a server of version 1 that closes the connection on a verb that it
    does not support, it is one for each upstream, and another one.

    :param abilities: of the upstream that was lost last; ``None`` if they are not known.
    :param known: whether it is known to be of version 2 all the same.
    :param members: how many upstreams there are.
    """
    supported = known or (abilities or VERSION_1).supports(command.verb)
    return MOST_LOSSES if supported else members + 1
