"""One worker, as its master sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol as Connection

from natproxy.daemon.workers.channel import Channel, Message
from natproxy.daemon.workers.process import Launched
from natproxy.daemon.workers.state import TRANSITIONS, Event, State


class StartFailed(Exception):
    """A worker could not start, for the reason that is this exception's text."""


class LaunchedAs(NamedTuple):
    """A worker that has just been started, and what identifies it.

    :ivar boot: random text; this process.
    :ivar control: path of its control socket; ``None`` if it has none.
    :ivar launched: its process, and how it is reached.
    """

    boot: str
    control: str | None
    launched: Launched


class Launch(Protocol):
    """Starts the process of a worker."""

    def __call__(self, number: int, /) -> LaunchedAs:
        """Start worker ``number``.

        :raises OSError: if it cannot be started.
        """
        ...


class Worker:
    """A worker, as its master sees it.

    :param number: from 0.
    :param generation: counted up by each reload that replaces the workers.
    :param started: what was started.
    :param changed: called with the worker and the event when its state has changed, or it has sent
        a message that is no change (``None``).
    :param now: returns the time, in seconds.
    :ivar number: as the parameter.
    :ivar generation: likewise.
    :ivar boot: random text; this process.
    :ivar control: path of its control socket; ``None`` if it has none.
    :ivar process: its process.
    :ivar state: what it does.
    :ivar since: when it began to serve.
    :ivar heard: when its last message was received.
    :ivar channel: the messages from it and to it.
    :ivar log: what receives its log, once the reactor serves it.
    :ivar reason: why it cannot start; empty if it has not reported one.
    """

    def __init__(
        self,
        number: int,
        generation: int,
        started: LaunchedAs,
        changed: Callable[[Worker, Event], object],
        now: Callable[[], float],
    ) -> None:
        self.number = number
        self.generation = generation
        self.boot = started.boot
        self.control = started.control
        self.process = started.launched.process
        self.launched = started.launched
        self.state = State.STARTING
        self.since = now()
        self.heard = now()
        self.reason = ""
        self.log: Connection | None = None
        self.replies: dict[int, Deferred[Message]] = {}
        self.channel = Channel(self._received, self._closed)
        self._changed = changed
        self._now = now
        self._requests = 0

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self.process.pid

    @property
    def phase(self) -> str:
        """The name of its state."""
        return str(self.state.value)

    def send(self, action: str, **members: Any) -> None:
        """Send a message."""
        self.channel.send({"do": action, **members})

    def request(self, action: str, **members: Any) -> Deferred[Message]:
        """Send a message; fires with the reply, or fails with `StartFailed` if it ends before."""
        self._requests += 1
        reply: Deferred[Message] = Deferred()
        self.replies[self._requests] = reply
        self.send(action, id=self._requests, **members)
        return reply

    def happened(self, event: Event) -> None:
        """Change the state."""
        self.state = TRANSITIONS[self.state][event]
        if event is Event.READY:
            self.since = self._now()
        self._changed(self, event)

    def descriptors(self) -> list[int]:
        """Return those of the channel and the log, which the reactor serves."""
        both = [self.channel.transport, None if self.log is None else self.log.transport]
        return [cast(Any, each).fileno() for each in both if each is not None]

    def json(self) -> dict[str, Any]:
        """Return its members for a program that this one executes."""
        channel, log = self.descriptors()
        return {
            "number": self.number,
            "boot": self.boot,
            "control": self.control,
            "pid": self.pid,
            "state": self.phase,
            "channel": channel,
            "log": log,
        }

    def drain(self, seconds: float | None) -> None:
        """Make it finish its connections and end.

        :param seconds: for which it may take; ``None`` for any time.
        """
        self.send("drain", seconds=seconds)
        self.happened(Event.DRAIN)

    def retire(self, seconds: float | None) -> None:
        """Make it accept no more, and end when its clients have left.

        :param seconds: after which it drains; ``None`` for any time.
        """
        self.send("retire", seconds=seconds)
        self.happened(Event.DRAIN)

    def _received(self, message: Message) -> None:
        self.heard = self._now()
        event = message["event"]
        if event == "ready":
            self.happened(Event.READY)
        elif event == "draining":
            self.happened(Event.DRAIN)
        elif event == "failed":
            self.reason = str(message["reason"])
        elif event == "reply":
            reply = self.replies.pop(message["id"], None)
            if reply is not None:
                reply.callback(message)

    def _closed(self) -> None:
        """The channel is closed: the process has ended, or is about to."""
        if self.state is not State.ENDED:
            self.heard = self._now()
            self.happened(Event.LOSE)

    def ended(self) -> None:
        """Its process has ended."""
        replies, self.replies = self.replies, {}
        for reply in replies.values():
            reply.errback(StartFailed(f"worker {self.number} {self.process.end()}"))
        self.happened(Event.END)
