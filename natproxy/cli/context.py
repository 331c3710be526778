"""Which server a command line means, and the sessions that its commands share."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from natproxy.address import Address
from natproxy.cli.encoding import remote_name
from natproxy.cli.output import write_line
from natproxy.client.blocking.session import Session
from natproxy.client.context import Closing
from natproxy.client.errors import UsageError
from natproxy.client.requests import as_name
from natproxy.client.retry import RETRY_FOR, Cancellation, Retrier, RetryPolicy, check_timeout
from natproxy.client.url import parse_path, parse_server


class Sessions(Closing):
    """The sessions of one run: at the prompt, many commands use the same one.

    :ivar complain: is told what went wrong with one of several things, in one line.
    :ivar prompting: whether a prompt follows each command.
    """

    def __init__(self) -> None:
        self.complain: Callable[[str], object] = complain
        self.prompting = False
        self._sessions: dict[Address, Session] = {}

    def close(self) -> None:
        """Close them all."""
        for session in self._sessions.values():
            session.close()

    def session(self, options: Namespace) -> Session:
        """Give the session with the server of ``--server``.

        :raises UsageError: if it, or a time-out, can't be read.
        """
        return self._with(parse_server(options.server), options)

    def targets(self, options: Namespace, paths: Sequence[str]) -> tuple[Session, list[bytes]]:
        """Give the session and the file names that a command's paths mean.

        :param paths: on the server of ``--server``, or ``natproxy://HOST:PORT/PATH``.
        :raises UsageError: if one can't be read, or they are on different servers.
        """
        servers = set()
        names = []
        for path in paths:
            server, path = parse_path(path)
            servers.add(parse_server(options.server) if server is None else server)
            names.append(as_name(remote_name(path)))
        if len(servers) > 1:
            raise UsageError("paths on different servers: one at a time")
        if not servers:
            return self.session(options), names
        return self._with(servers.pop(), options), names

    def _with(self, server: Address, options: Namespace) -> Session:
        # At the prompt, commands inherit the options of the program, and there may be none.
        connecting = getattr(options, "connect_timeout", None)
        check_timeout("--timeout", options.timeout)
        check_timeout("--connect-timeout", connecting)
        session = self._sessions.setdefault(server, Session(server))
        session.timeout = options.timeout
        session.connect_timeout = connecting
        return session


def retry_policy_of(options: Namespace) -> RetryPolicy:
    """Return how long a command retries: what its options say."""
    retry_for = options.retry_for
    if retry_for is None:
        # Who waits for a server wants some patience.
        retry_for = RETRY_FOR if options.wait else 0.0
    return RetryPolicy(retry_for, options.retries, options.wait)


def retrier_of(options: Namespace, session: Session, tell: Callable[[str], object]) -> Retrier:
    """Return what retries the steps of a command.

    :param tell: is told of each failure that is retried.
    """
    return Retrier(session.retry_context, retry_policy_of(options), Cancellation(), tell)


def complain(message: str) -> None:
    """Write an error message to standard error, in one line."""
    write_line(sys.stderr, f"natproxy: {message}")
