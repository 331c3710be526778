"""The token of a session: what is sent on each new connection, and whether it may be. No I/O."""

from __future__ import annotations

import os
from typing import NoReturn

from natproxy.address import is_loopback
from natproxy.client.errors import (
    ClientError,
    ConnectionBroken,
    LocalError,
    NoUpstreamReply,
    ServerError,
    Unauthorized,
    UsageError,
)
from natproxy.client.exchange import Exchange
from natproxy.client.version import Features
from natproxy.kernel.small_file import FOR_ITS_OWNER, UnsuitableFile, read_small_file
from natproxy.protocol import AUTH, UNAUTHORIZED, Framing, ReplyParser, WireError, format_auth

LARGEST_FILE = 4096
"""Bytes of the file of a token."""


class Token:
    """A token, which no representation shows, and no pickle contains.

    :param text: as ``natproxy token new`` has printed it.
    :param plain: whether it may be sent to another host without TLS that verifies the server.
    :raises UsageError: if it is not one word of printable ASCII; the message does not show it.
    """

    __slots__ = ("_line", "plain")

    def __init__(self, text: str, plain: bool = False) -> None:
        try:
            self._line = format_auth(text)
        except WireError as error:
            raise UsageError(str(error)) from None
        self.plain = plain

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not pickled")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and (self._line, self.plain) == (other._line, other.plain)

    def __hash__(self) -> int:
        return hash((self._line, self.plain))

    def allowed(self, plain: bool) -> Token:
        """Return the same token; ``plain`` is as of the constructor."""
        token = object.__new__(Token)
        token._line, token.plain = self._line, plain
        return token

    @property
    def line(self) -> bytes:
        """The command that sends it, line feed included."""
        return self._line


class AuthExchange(Exchange):
    """The command ``AUTH``, which precedes the first command of a connection."""

    introductory = True

    def __init__(self, token: Token) -> None:
        self.line = token.line
        self._name = b""
        self._parser = ReplyParser(Framing.NOTHING)


class Authentication:
    """How the connections of one session send its token.

    With TLS that verifies the server, it is sent at once, in front of the first command. Otherwise
    only if the reply to ``FEAT`` on the same connection has ``AUTH``, so that no server and no
    proxy of an older version receives it.

    :param token: of the session.
    :param server: its name in messages.
    :param verified: whether TLS verifies the server.
    :ivar supported: whether a token may be of use: false once the server has shown that it has no
        ``AUTH``. It is then not sent again.
    """

    def __init__(self, token: Token, server: object, verified: bool) -> None:
        self._token = token
        self._server = server
        self.verified = verified
        self.supported = True

    def exchange(self) -> AuthExchange:
        """Return the command to send."""
        return AuthExchange(self._token)

    def check_peer(self, host: str) -> None:
        """Check that the token may be sent to the other end of a connection.

        :param host: its numeric address.
        :raises UsageError: if it is another host, and TLS does not verify it.
        """
        if not (self.verified or self._token.plain or is_loopback(host)):
            raise UsageError(
                f"the token is not sent to {self._server} without TLS that verifies the server:"
                " write natproxys://, or allow it with token-plain"
            )

    def announced(self, features: Features) -> bool:
        """Return whether ``AUTH`` is in a reply to ``FEAT``."""
        self.supported = AUTH in features.verbs
        return self.supported

    def not_announced(self, error: ClientError) -> None:
        """Note that ``FEAT`` has failed.

        :raises ClientError: the same, if a retry may succeed.
        """
        if error.passing and not isinstance(error, NoUpstreamReply):
            raise error
        self.supported = False

    def replied(self, exchange: Exchange) -> None:
        """Note that the reply to ``AUTH`` is no error."""
        header = exchange.header
        # A server of version 1 may reply with any line.
        self.supported = header is not None and header.words.startswith(b"identity=")

    def lost(self) -> None:
        """Note that the connection has ended in place of a reply to ``AUTH``.

        If it was sent because the reply to ``FEAT`` had it, a proxy of version 1 in between may
        have relayed that reply, and closed.
        """
        self.supported = self.verified

    def refused(self, error: ServerError) -> None:
        """Note an error in reply to ``AUTH``; return if the server has no such command.

        :raises Unauthorized: if it does not accept the token.
        :raises ConnectionBroken: if a retry may succeed.
        """
        if error.code == UNAUTHORIZED:
            raise Unauthorized(f"{self._server}: {error}") from error
        if error.passing:
            raise ConnectionBroken(f"{self._server}: {error}") from error
        self.supported = False


def read_token(path: str) -> Token:
    """Return the token in a file: its first line.

    :raises UsageError: if it is malformed, or other users can read the file, or it is too large.
    :raises LocalError: if the file cannot be read.
    """
    try:
        content = read_small_file(path, LARGEST_FILE, FOR_ITS_OWNER)
        return Token(content.split(b"\n")[0].strip().decode("latin-1"))
    except OSError as error:
        raise LocalError(os.fsencode(path), error) from error
    except (UnsuitableFile, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None


def authentication_of(
    token: Token | str | None, server: object, verified: bool
) -> Authentication | None:
    """Return how a session sends its token; ``None`` if it has none.

    :raises UsageError: if the token is malformed.
    """
    if token is None:
        return None
    return Authentication(token if isinstance(token, Token) else Token(token), server, verified)
