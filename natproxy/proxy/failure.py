"""Why an upstream connection could not be made, or was lost, as it is reported to the client."""

from __future__ import annotations

import errno
from typing import NamedTuple

from twisted.internet import error
from twisted.python.failure import Failure

from natproxy.nat import Outcome
from natproxy.protocol import (
    BAD_GATEWAY,
    EMPTY_RESPONSE,
    GATEWAY_TIMEOUT,
    PROXY_ERROR,
    UNAVAILABLE,
    VERBS,
    VERSION_1,
    Abilities,
    Command,
)
from natproxy.server.state import Symbol
from natproxy.tls.failure import refusal_of


class Kind(Symbol):
    """What an attempt of a command has failed by; it decides whether another one may follow."""

    UNREACHABLE = "unreachable"
    """There is no connection."""
    LOST = "lost"
    """The connection has ended, or was silent or too slow, before the end of the reply."""
    BUSY = "busy"
    """The reply to a request for the rest of a body is a temporary error."""
    UNSUPPORTED = "unsupported"
    """The upstream refuses the ``GET`` that was sent in place of a ``DOWNLOAD``."""
    FINAL = "final"
    """No other attempt may follow."""


class Loss(NamedTuple):
    """How an attempt of a command has failed.

    :ivar message: for the client, if nothing of the reply has been passed on.
    :ivar code: likewise, for a verb of version 2.
    :ivar reason: for the table's event.
    :ivar wait: seconds that the upstream requests before the next attempt.
    :ivar counts: whether it can be a failure of the upstream; see `is_failure_of_upstream`.
    :ivar detail: the system's message, for the log.
    """

    kind: Kind
    outcome: Outcome
    message: str = ""
    code: int | None = None
    reason: str | None = None
    wait: float = 0.0
    counts: bool = False
    detail: str = ""


def is_failure_of_upstream(loss: Loss, command: Command, abilities: Abilities | None) -> bool:
    """Return whether an attempt that has failed before a header is a failure of the upstream.

    No client must be able to take a healthy upstream down. A server of version 1 may close the
    connection on a verb that it does not support, or be silent; so may any server, on a verb that
    is in no version of the protocol.

    :param command: that was sent.
    :param abilities: of the upstream; ``None`` if they are not known.
    """
    if not loss.counts or loss.kind is Kind.UNREACHABLE:
        return loss.counts
    if command.verb == b"HASH" and loss.outcome is Outcome.TIMEOUT:
        # Of a large file, it is computed for longer than a server may be silent.
        return False
    return command.verb in VERBS and (abilities or VERSION_1).supports(command.verb)


class ConnectFailure(NamedTuple):
    """Why there is no upstream connection, as it is reported to the client.

    :ivar code: for a verb of version 2.
    :ivar counts: whether it is a failure of the upstream; false if it is one of the proxy's own.
    """

    outcome: Outcome
    code: int
    message: str
    counts: bool = True


NO_TLS = "there is no TLS with the server: "
"""Precedes the reason in a message."""

_TIMEOUTS = (error.TimeoutError, error.TCPTimedOutError)

_UPSTREAM_FAILURES = (
    (error.ConnectionRefusedError, "the server refuses connections"),
    (error.DNSLookupError, "the server's name cannot be resolved"),
    (error.NoRouteError, "there is no route to the server"),
)

_PROXY_FAILURES: dict[int | None, str] = {
    errno.EADDRNOTAVAIL: "the proxy has no free port left",
    errno.EMFILE: "the proxy has no free descriptor left",
    errno.ENFILE: "the proxy's system has no free descriptor left",
}

_OWN_ERRORS = (errno.ENOBUFS, errno.ENOMEM)


def explain(failure: Failure, timeout: float) -> ConnectFailure:
    """Return how a failure to connect is reported to the client.

    :param timeout: seconds that the attempt was allowed.
    """
    if failure.check(*_TIMEOUTS):
        message = f"the server did not accept a connection within {timeout:g} s"
        return ConnectFailure(Outcome.TIMEOUT, GATEWAY_TIMEOUT, message)
    for kind, message in _UPSTREAM_FAILURES:
        if failure.check(kind):
            return ConnectFailure(Outcome.ERROR, BAD_GATEWAY, message)
    refused = refusal_of(failure.value)
    if refused is not None:
        return ConnectFailure(Outcome.ERROR, BAD_GATEWAY, NO_TLS + refused)
    message = _PROXY_FAILURES.get(getattr(failure.value, "osError", None), "")
    if message:
        return ConnectFailure(Outcome.ERROR, UNAVAILABLE, message, counts=False)
    # Of a local address, or of memory; or an exception that is not of a connection at all.
    counts = (
        failure.check(error.ConnectError) is not None
        and failure.check(error.ConnectBindError) is None
        and getattr(failure.value, "osError", None) not in _OWN_ERRORS
    )
    return ConnectFailure(Outcome.ERROR, BAD_GATEWAY, "cannot connect to the server", counts)


def explain_loss(failure: Failure, unverified: bool, begun: bool) -> str:
    """Return the message for a client whose reply was not complete when its upstream was lost.

    :param unverified: whether the handshake of TLS was not complete.
    :param begun: whether a part of the reply had been received.
    """
    refused = refusal_of(failure.value)
    if refused is not None:
        return PROXY_ERROR + NO_TLS + refused
    if unverified:
        return f"{PROXY_ERROR}{NO_TLS}it closed the connection in the handshake"
    if begun:
        return f"{PROXY_ERROR}the server closed the connection inside its reply"
    # It can mean a server of version 1.
    return EMPTY_RESPONSE
