"""Groups of upstreams in which tests play the connections, the waiting commands and the changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import error
from twisted.python.failure import Failure

from natproxy.protocol import Abilities, Command, parse_abilities, parse_command
from natproxy.proxy.upstreams import Target, Upstream, Upstreams
from natproxy.proxy.upstreams.group import Changed
from tests.support.doubles import TurnClock, Wire

FEAT_REPLY = b"OK\nNATPROXY 2\nGET offset length if-match\nLS after\nEND\n"
"""The reply to ``FEAT`` of a server with these abilities."""

VERSION_2 = parse_abilities(b"NATPROXY 2\nGET offset length if-match\nLS after\n")


def command_of(line: bytes) -> Command:
    """Return the command of a line."""
    command = parse_command(line)
    assert command is not None
    return command


LIST = command_of(b"LIST")


class PlayedConnector:
    """A connector; the test controls each of its attempts.

    :ivar attempts: the attempts so far.
    """

    def __init__(self, timeout: float = 5.0) -> None:
        self.timeout = timeout
        self.attempts: list[PlayedAttempt] = []

    def connect(self, factory: Any) -> Callable[[], object]:
        attempt = PlayedAttempt(factory, 50_000 + len(self.attempts))
        self.attempts.append(attempt)
        return attempt.cancel

    @property
    def last(self) -> PlayedAttempt:
        """The newest attempt."""
        return self.attempts[-1]


class PlayedAttempt:
    """An attempt to connect, and then the connection, as the upstream sees it."""

    def __init__(self, factory: Any, port: int) -> None:
        self.factory = factory
        self.cancelled = False
        self.wire = Wire(port, 9001)
        self.protocol: Any = None

    def cancel(self) -> None:
        self.cancelled = True

    def accept(self) -> None:
        """Accept the connection."""
        self.protocol = self.factory.buildProtocol(self.wire.getPeer())
        self.protocol.makeConnection(self.wire)

    def refuse(self) -> None:
        """Refuse the connection."""
        self.factory.clientConnectionFailed(None, Failure(error.ConnectionRefusedError()))

    def send(self, data: bytes) -> None:
        """Send bytes to the proxy."""
        self.protocol.dataReceived(data)

    def die(self) -> None:
        """Close the connection."""
        self.wire.lose(self.protocol)

    def reply(self, data: bytes) -> None:
        """Accept the connection, and send a reply."""
        self.accept()
        self.send(data)


class PlayedGroup:
    """A group whose upstreams have played connectors.

    :ivar changes: the events so far.
    """

    def __init__(self, *names: str, limit: int = 0) -> None:
        self.clock = TurnClock()
        self.upstreams = Upstreams(self.clock)
        self.connectors: dict[str, PlayedConnector] = {}
        self.changes: list[Changed] = []
        self.upstreams.subscribe(self.changes.append)
        self.use(*names, limit=limit)

    def use(self, *names: str, limit: int = 0) -> None:
        """Replace the members."""
        for name in names:
            self.connectors.setdefault(name, PlayedConnector())
        self.upstreams.use(
            [Target(name, f"tcp:{name}:1", self.connectors[name], limit=limit) for name in names]
        )

    def __getitem__(self, name: str) -> Upstream:
        found = self.upstreams.find(name)
        assert found is not None
        return found

    def chosen(self, line: bytes = b"LIST", *tried: str) -> str | None:
        """Choose an upstream for a command; return its name."""
        upstream = self.upstreams.choose(command_of(line), [self[name] for name in tried])
        return None if upstream is None else upstream.name

    def begun(self, line: bytes = b"LIST") -> str | None:
        """Choose an upstream for a command and begin a try there; return its name."""
        upstream = self.upstreams.choose(command_of(line))
        if upstream is None:
            return None
        upstream.begin()
        return upstream.name


class PlayedWaiter:
    """A command that waits.

    :ivar result: ``None``, or the name of the upstream that it was sent to, or why it was refused.
    """

    def __init__(self, upstreams: Upstreams, line: bytes = b"LIST") -> None:
        self.command = command_of(line)
        self.result: str | None = None
        self._upstreams = upstreams

    def proceed(self) -> None:
        upstream = self._upstreams.choose(self.command)
        assert upstream is not None
        upstream.begin()
        self.result = upstream.name

    def refuse(self, reason: str) -> None:
        self.result = reason


def abilities_of(*verbs: bytes) -> Abilities:
    """Return the abilities of a server of version 2 with these verbs."""
    return parse_abilities(b"\n".join((b"NATPROXY 2", *verbs)) + b"\n")
