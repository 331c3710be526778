"""The rest of a body whose upstream has failed: the request for it, and the check of its header."""

from __future__ import annotations

from natproxy.nat import Outcome
from natproxy.protocol import (
    RANGE_NOT_SATISFIABLE,
    Arguments,
    Command,
    ErrorKind,
    Header,
    Refusal,
    WireError,
    format_request,
    kind_of,
    parse_arguments,
    parse_error,
    parse_range,
    printable,
    retry_after,
)
from natproxy.proxy.failure import Kind, Loss

_TEMPORARY = (ErrorKind.UNAVAILABLE, ErrorKind.LIMITED, ErrorKind.NO_UPSTREAM_REPLY)
_OF_ANOTHER_FILE = (ErrorKind.CHANGED, ErrorKind.NOT_FOUND)

CHANGED = "the file has changed"


class Resumption:
    """The part of a file that a reply promises, of which the rest can be requested.

    :param command: that was sent: a ``GET``.
    :param header: of the reply to it.
    :ivar remaining: bytes that have not been received; those before them have been passed on.
    :raises WireError: if the rest cannot be requested.
    """

    def __init__(self, command: Command, header: Header) -> None:
        try:
            name = parse_arguments(command).name
        except Refusal as refusal:
            raise WireError(refusal.message) from refusal
        part = parse_range(header.size, header.words)
        self._name = name
        self._end = part.offset + part.length
        self._size, self._etag = part.metadata.size, part.metadata.etag
        self.remaining = part.length
        self.request()

    @property
    def offset(self) -> int:
        """Position in the file of the next byte."""
        return self._end - self.remaining

    def request(self) -> Command:
        """Return the command that requests the rest."""
        arguments = Arguments(
            self._name, offset=self.offset, length=self.remaining, if_match=self._etag
        )
        line = format_request(b"GET", arguments).removesuffix(b"\n")
        return Command(b"GET", line.removeprefix(b"GET "), line)

    def check(self, header: Header) -> Loss | None:
        """Return why the reply to `request` does not continue the body; ``None`` if it does."""
        if header.error is not None:
            return _loss_by_error(header.error)
        try:
            part = parse_range(header.size, header.words)
        except WireError as malformed:
            return Loss(Kind.FINAL, Outcome.ERROR, reason=str(malformed), counts=True)
        if part.metadata.etag != self._etag or part.metadata.size != self._size:
            return Loss(Kind.FINAL, Outcome.UPSTREAM_GONE, reason=CHANGED)
        if part.offset != self.offset or part.length != self.remaining:
            text = "another range than was requested"
            return Loss(Kind.FINAL, Outcome.ERROR, reason=text, counts=True)
        return None


def _loss_by_error(error: bytes) -> Loss:
    code, message = parse_error(error)
    kind = kind_of(code, message)
    if kind in _OF_ANOTHER_FILE or code == RANGE_NOT_SATISFIABLE:
        return Loss(Kind.FINAL, Outcome.UPSTREAM_GONE, reason=CHANGED)
    reason = f"the rest was refused: {printable(error, 80)}"
    if kind in _TEMPORARY:
        return Loss(
            Kind.BUSY, Outcome.UPSTREAM_GONE, reason=reason, wait=float(retry_after(message))
        )
    return Loss(Kind.FINAL, Outcome.UPSTREAM_GONE, reason=reason)
