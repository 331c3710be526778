"""Replies of a control socket, as the client reads them: HTTP, JSON, and lines of events."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

from fuzz.oracles import is_safe
from fuzz.pieces import split
from natproxy.client.control.daemon import Daemon, LostEvents, MissingWorker
from natproxy.client.control.http import Reply
from natproxy.client.errors import ClientError
from natproxy.records.record import Record
from natproxy.records.whois import WhoisQuery

QUERY = WhoisQuery(50_000, None, None, None, None)

WORDS = (
    *("HTTP/1.1 200 OK\r\n", "Content-Length: ", "Transfer-Encoding: chunked\r\n", "\r\n\r\n"),
    *(f'"{member}":' for member in Record._fields),
    *(
        '"translations":[',
        '"gap":',
        '"from":',
        '"to":',
        '"cause":',
        '"lost"',
        '"2026-11-26T14:03:07Z"',
    ),
)


def records_of(found: object) -> None:
    """Check that events and translations are what the command line takes them for."""
    assert isinstance(found, (Record, LostEvents, MissingWorker))
    if isinstance(found, LostEvents):
        assert found.number >= 0
    elif isinstance(found, Record):
        found.json()


CALLS: tuple[Callable[[Daemon], object], ...] = (
    lambda daemon: daemon.status(),
    lambda daemon: [*map(records_of, daemon.table())],
    lambda daemon: [*map(records_of, daemon.history())],
    lambda daemon: [*map(records_of, daemon.events(follow=True))],
    lambda daemon: daemon.whois(QUERY),
    lambda daemon: list(daemon.whois_each([QUERY, QUERY])),
    lambda daemon: daemon.kill(1),
    lambda daemon: daemon.drain(),
    lambda daemon: daemon.reload(),
)


class Socket:
    """A connection on which a reply arrives in pieces."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = split(data, size)

    def recv(self, most: int) -> bytes:
        """Return the next bytes."""
        piece = next(self._pieces, b"")
        assert len(piece) <= most
        return piece

    def gettimeout(self) -> float:
        """Return a time-out, for messages."""
        return 1.0

    def close(self) -> None:
        """Close it."""


def check(data: bytes) -> None:
    """Check a reply: the call is the first byte, the size of pieces the second.

    A body is the reply of status 200 that ends with the connection.
    """
    call = CALLS[data[0] % len(CALLS)] if data else CALLS[0]
    size = data[1] or 65_536 if len(data) > 1 else 1
    sent = data[2:]
    if not sent.startswith(b"HTTP/"):
        sent = b"HTTP/1.1 200 OK\r\n\r\n" + sent

    def request(path: str, *_: object) -> Reply:
        return Reply(Socket(sent, size), path)  # type: ignore[arg-type]

    with patch("natproxy.client.control.daemon.request", request):
        try:
            call(Daemon("/run/proxy.sock"))
        except ClientError as error:
            assert is_safe(str(error))
