"""Replies to ``AUTH``: the token of a client is its identity.

The first daemon that receives a command ``AUTH`` replies to it; no daemon sends one on, publishes
it, or logs its argument. An error is sent after a second, in which other connections are served,
and commands that were received after it wait for its result. After three errors the connection is
closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper

from natproxy.address import FIRST_STAND_IN_PORT, Address, is_loopback
from natproxy.protocol import AUTH, UNAUTHORIZED, UNKNOWN_COMMAND, Command, parse_token
from natproxy.server.deadlines import Deadlines
from natproxy.server.expiry import Expiries
from natproxy.tokens.entries import TokenEntry, Tokens

DELAY = 1.0
"""Seconds from a token that is not accepted to the error."""

TRIES = 3
"""Errors on one connection, which is closed with the last of them."""

TOKENS_PER_UNIT = 2
"""Tokens to compare with that count as one unit of work: see `natproxy.server.rotation`."""

UNENCRYPTED = "tokens are accepted only with TLS, or from the daemon's own host"


class Result(Enum):
    """What has become of a command ``AUTH``."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """There is no such token."""
    EXPIRED = "expired"
    UNENCRYPTED = "unencrypted"
    """The connection may not be used for tokens: the token was not looked up."""
    UNSUPPORTED = "unsupported"
    """There are no tokens, or the command is malformed."""


_MESSAGES = {
    Result.REFUSED: "the token is not accepted",
    Result.EXPIRED: "the token has expired",
    Result.UNENCRYPTED: UNENCRYPTED,
}


class Attempts:
    """The ``AUTH`` commands of one connection.

    :ivar token: the entry of the token that was accepted last; ``None`` without one.
    :ivar errors: how many were not accepted.
    :ivar pending: the result of which the error is delayed; ``None`` while none is.
    """

    __slots__ = ("errors", "pending", "token")

    def __init__(self) -> None:
        self.token: TokenEntry | None = None
        self.errors = 0
        self.pending: Result | None = None


class Client(Protocol):
    """A client's connection: see `natproxy.server.identity.IdentifiedReceiver`."""

    log: Logger
    transport: Any
    attempts: Attempts | None

    @property
    def client_address(self) -> Address:
        """The client's address."""
        ...

    def identify(self, name: str | None) -> None:
        """Set the identity of a token; ``None``: there is none any more."""
        ...

    def reply(self, line: bytes) -> None:
        """Write a whole reply to the current command."""
        ...

    def reply_error(self, message: str, code: int | None = None) -> None:
        """Reply to the current command with an error."""
        ...

    def drain(self) -> None:
        """Finish the current command, begin no other, and close."""
        ...

    def authentication_refused(self) -> None:
        """Call `Authenticator.refuse`: the delay of an error is over."""
        ...


class Authenticator:
    """Replies to the ``AUTH`` commands of one daemon's clients.

    :param clock: for the delay of errors.
    :param log_failure: logs an error at a limited rate; called with a log, an address and a reason.
    :param wall_clock: returns seconds since the epoch.
    :ivar delays: of the errors.
    :ivar results: how many commands there were so far, by their result.
    """

    def __init__(
        self,
        clock: IReactorTime,
        log_failure: Callable[[Logger, Address, str], object],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.delays = Deadlines(clock, DELAY)
        self.results = dict.fromkeys(Result, 0)
        self._tokens = Tokens()
        self._plain = False
        self._log_failure = log_failure
        self._wall_clock = wall_clock
        self._expiries: Expiries[Client] = Expiries(clock, wall_clock, self.revoke)

    def configure(self, tokens: Tokens, plain: bool) -> None:
        """Set what is accepted from now on; see `revoke`.

        :param tokens: without any of them, there is no ``AUTH``.
        :param plain: whether tokens are accepted from other hosts without TLS.
        """
        self._tokens, self._plain = tokens, plain

    @property
    def units(self) -> int:
        """Units of work of comparing a token with all those that are accepted."""
        return len(self._tokens) // TOKENS_PER_UNIT

    def revoke(self, client: Client) -> None:
        """Take a client's identity away if its token is no longer accepted, or has expired."""
        state = client.attempts
        if state is None or state.token is None:
            return
        if state.token not in self._tokens or state.token.expired(self._wall_clock()):
            self.forget(client)
            client.identify(None)

    def offered(self, client: Client) -> bool:
        """Return whether a client may send ``AUTH``, so that ``FEAT`` announces it."""
        return len(self._tokens) > 0 and (self._plain or is_protected(client))

    def begin(self, client: Client, command: Command) -> None:
        """Reply to a command of which `Command.secret` is true, or delay the reply."""
        if command.verb != AUTH or not self._tokens:
            self.results[Result.UNSUPPORTED] += 1
            client.reply_error(UNKNOWN_COMMAND)
            return
        state = client.attempts
        if state is None:
            state = client.attempts = Attempts()
        result, entry = self._look_up(client, command)
        self.results[result] += 1
        if entry is not None:
            self.forget(client)
            state.token = entry
            self._expiries.add(client, entry)
            client.identify(entry.name)
            client.reply(b"OK identity=%b\n" % entry.name.encode("ascii"))
        else:
            state.pending = result
            self.delays.set(client.authentication_refused)

    def refuse(self, client: Client) -> None:
        """Send the error that was delayed; close the connection if it is the last one."""
        state = client.attempts
        assert state is not None
        assert state.pending is not None
        message = _MESSAGES[state.pending]
        state.pending = None
        state.errors += 1
        if state.errors >= TRIES:
            client.drain()
        client.reply_error(message, UNAUTHORIZED)

    def forget(self, client: Client) -> None:
        """Forget a client's token: it has another one, or none, or the connection has ended."""
        state = client.attempts
        if state is not None and state.token is not None:
            self._expiries.discard(client, state.token)
            state.token = None

    def cancel(self, client: Client) -> None:
        """Forget the error that is delayed: the connection has ended."""
        self.delays.cancel(client.authentication_refused)

    def _look_up(self, client: Client, command: Command) -> tuple[Result, TokenEntry | None]:
        if not (self._plain or is_protected(client)):
            return self._failed(client, Result.UNENCRYPTED, UNENCRYPTED)
        token = parse_token(command)
        entry = None if token is None else self._tokens.find(token)
        if entry is None:
            return self._failed(client, Result.REFUSED, "unknown token")
        if entry.expired(self._wall_clock()):
            return self._failed(client, Result.EXPIRED, f"the token of {entry.name} has expired")
        return Result.ACCEPTED, entry

    def _failed(self, client: Client, result: Result, reason: str) -> tuple[Result, None]:
        self._log_failure(client.log, client.client_address, reason)
        return result, None


def is_protected(client: Client) -> bool:
    """Return whether only this host and the client can read what the client sends.

    That is so with TLS, through a UNIX socket, and from a loopback address. Behind a PROXY header,
    both the load balancer and the client that it names must be on this host.
    """
    transport = client.transport
    # Of all transports, those with TLS have it, and those that wrap one.
    if hasattr(transport, "getPeerCertificate"):
        return True
    if not is_local(client.client_address):
        return False
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    peer = transport.getPeer()
    return isinstance(peer, UNIXAddress) or is_loopback(getattr(peer, "host", ""))


def is_local(address: Address) -> bool:
    """Return whether an address is that of a UNIX socket, or a loopback address."""
    return address.port >= FIRST_STAND_IN_PORT or is_loopback(address.host)
