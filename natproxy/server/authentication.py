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
from ipaddress import ip_address
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper

from natproxy.access.tokens import TokenEntry, Tokens
from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.protocol import AUTH, UNAUTHORIZED, UNKNOWN_COMMAND, Command, parse_token
from natproxy.server.certificate import identity_of
from natproxy.server.deadlines import Deadlines

DELAY = 1.0
"""Seconds from a token that is not accepted to the error."""

TRIES = 3
"""Errors on one connection, which is closed with the last of them."""

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


class AuthenticationState:
    """What a connection remembers of its ``AUTH`` commands.

    :ivar token: the entry of the token that was accepted last; ``None`` without one.
    :ivar errors: how many were not accepted.
    :ivar pending: the result of which the error is delayed; ``None`` while none is.
    """

    __slots__ = ("errors", "pending", "token")

    def __init__(self) -> None:
        self.token: TokenEntry | None = None
        self.errors = 0
        self.pending: Result | None = None


class AuthenticatedClient:
    """The part of a client's connection that has its identity: of its token or its certificate.

    :ivar identity: the client's authenticated name; ``None`` if it has none.
    :ivar authentication: of its ``AUTH`` commands; ``None`` before the first one.
    """

    log: Logger
    factory: Any
    transport: Any
    identity: str | None = None
    authentication: AuthenticationState | None = None
    # Of the certificate.
    _certified: str | None = None

    @property
    def client_address(self) -> Address:
        """The client's address."""
        raise NotImplementedError

    @property
    def may_authenticate(self) -> bool:
        """Whether the client may send ``AUTH``, so that ``FEAT`` announces it."""
        authenticator: Authenticator = self.factory.authenticator
        return authenticator.offered(self)

    def identify(self, name: str | None) -> None:
        """Set the identity of a token; ``None``: that of the certificate, if there is one."""
        self.identity = self._certified if name is None else name

    def find_certificate(self) -> None:
        """Set the identity of the client's certificate, if it has shown one."""
        self._certified = identity_of(self.transport)
        self.identify(None)

    def authentication_refused(self) -> None:
        """Reply to ``AUTH`` with an error: the delay is over."""
        self.factory.authenticator.refuse(self)

    def reply(self, line: bytes) -> None:
        """Write a whole reply to the current command, and continue with the next one."""
        raise NotImplementedError

    def reply_error(self, message: str, code: int | None = None) -> None:
        """Reply to the current command with an error, and continue with the next one."""
        raise NotImplementedError

    def drain(self) -> None:
        """Begin no other command, and close after the current one."""
        raise NotImplementedError


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

    def configure(self, tokens: Tokens, plain: bool) -> None:
        """Set what is accepted from now on; see `revoke`.

        :param tokens: without any of them, there is no ``AUTH``.
        :param plain: whether tokens are accepted from other hosts without TLS.
        """
        self._tokens, self._plain = tokens, plain

    def revoke(self, client: AuthenticatedClient) -> None:
        """Take a client's identity away if its token is no longer accepted."""
        state = client.authentication
        if state is None or state.token is None:
            return
        if state.token not in self._tokens or state.token.expired(self._wall_clock()):
            state.token = None
            client.identify(None)

    def offered(self, client: AuthenticatedClient) -> bool:
        """Return whether a client may send ``AUTH``, so that ``FEAT`` announces it."""
        return len(self._tokens) > 0 and (self._plain or is_protected(client))

    def begin(self, client: AuthenticatedClient, command: Command) -> None:
        """Reply to a command of which `Command.secret` is true, or delay the reply."""
        if command.verb != AUTH or not self._tokens:
            self.results[Result.UNSUPPORTED] += 1
            client.reply_error(UNKNOWN_COMMAND)
            return
        state = client.authentication
        if state is None:
            state = client.authentication = AuthenticationState()
        result, entry = self._look_up(client, command)
        self.results[result] += 1
        if entry is not None:
            state.token = entry
            client.identify(entry.name)
            client.reply(b"OK identity=%b\n" % entry.name.encode("ascii"))
        else:
            state.pending = result
            self.delays.set(client.authentication_refused)

    def refuse(self, client: AuthenticatedClient) -> None:
        """Send the error that was delayed; close the connection if it is the last one."""
        state = client.authentication
        assert state is not None
        assert state.pending is not None
        message = _MESSAGES[state.pending]
        state.pending = None
        state.errors += 1
        if state.errors >= TRIES:
            client.drain()
        client.reply_error(message, UNAUTHORIZED)

    def cancel(self, client: AuthenticatedClient) -> None:
        """Forget the error that is delayed: the connection has ended."""
        self.delays.cancel(client.authentication_refused)

    def _look_up(
        self, client: AuthenticatedClient, command: Command
    ) -> tuple[Result, TokenEntry | None]:
        if not (self._plain or is_protected(client)):
            return self._failed(client, Result.UNENCRYPTED, UNENCRYPTED)
        token = parse_token(command)
        entry = None if token is None else self._tokens.find(token)
        if entry is None:
            return self._failed(client, Result.REFUSED, "unknown token")
        if entry.expired(self._wall_clock()):
            return self._failed(client, Result.EXPIRED, f"the token of {entry.name} has expired")
        return Result.ACCEPTED, entry

    def _failed(
        self, client: AuthenticatedClient, result: Result, reason: str
    ) -> tuple[Result, None]:
        self._log_failure(client.log, client.client_address, reason)
        return result, None


def is_protected(client: AuthenticatedClient) -> bool:
    """Return whether nobody but this host can read what a client sends.

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
    return isinstance(peer, UNIXAddress) or _is_loopback(getattr(peer, "host", ""))


def is_local(address: Address) -> bool:
    """Return whether an address is that of a UNIX socket, or a loopback address."""
    return address.port >= FIRST_STAND_IN_PORT or _is_loopback(address.host)


def _is_loopback(host: str) -> bool:
    try:
        parsed = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)
