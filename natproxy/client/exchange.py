"""One command and its reply, without I/O: the caller moves the bytes."""

from __future__ import annotations

from typing import ClassVar

from natproxy.client.errors import NotUnderstood, UsageError, error_of
from natproxy.protocol import (
    VERBS,
    Arguments,
    Header,
    ReplyParser,
    WireError,
    format_command,
    format_request,
)


class Exchange:
    """A command to send, and the state of its reply.

    :param word: one of `natproxy.protocol.VERBS`.
    :param arguments: of the command; a verb of version 1 has the name only.
    :raises UsageError: if the command can't be sent: its name is too long, or version 1
        cannot represent it.
    :cvar introductory: whether it precedes the commands of a connection.
    :ivar line: to send.
    """

    introductory: ClassVar[bool] = False

    def __init__(self, word: bytes, arguments: Arguments | None = None) -> None:
        verb = VERBS[word]
        arguments = arguments or Arguments()
        try:
            if verb.version == 1:
                self.line = format_command(word, arguments.name)
            else:
                self.line = format_request(word, arguments)
        except WireError as error:
            raise UsageError(str(error)) from error
        self._name = arguments.name
        self._parser = ReplyParser(verb.framing)

    @property
    def header(self) -> Header | None:
        """The header of the reply; ``None`` until it has been received."""
        return self._parser.header

    @property
    def complete(self) -> bool:
        """Whether the whole reply has been received."""
        return self._parser.complete

    @property
    def clean(self) -> bool:
        """Whether the whole reply has been received, and nothing after it."""
        return self._parser.complete and not self._parser.surplus

    @property
    def remaining(self) -> int:
        """Bytes of a counted body that have not been received."""
        return self._parser.remaining

    @property
    def missing(self) -> str:
        """What has not been received, for messages."""
        return self._parser.missing

    def feed(self, data: bytes) -> bytes:
        """Take received bytes, and return those of the body.

        :raises NotUnderstood: if they break the protocol.
        :raises ServerError: if the reply is an error; the connection can be used again if
            `clean` is true.
        """
        headless = self._parser.header is None
        try:
            body = self._parser.feed(data)
        except WireError as error:
            raise NotUnderstood(str(error)) from error
        header = self._parser.header
        if headless and header is not None and header.error is not None:
            raise error_of(header.error, self._name)
        return body

    def take_surplus(self) -> bytes:
        """Return the bytes that were received after the end of the reply, and forget them."""
        surplus, self._parser.surplus = self._parser.surplus, b""
        return surplus

    def advance(self, size: int) -> None:
        """Count bytes of a counted body that were received without `feed`."""
        self._parser.advance(size)
