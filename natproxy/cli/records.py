"""Records about files, written to standard output: lines for people, JSON for programs."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Generic, TypeVar

from natproxy.cli.encoding import output_for
from natproxy.client.blocking.session import Session
from natproxy.client.errors import (
    CannotConnect,
    ClientError,
    ConnectionBroken,
    ServerError,
    Unavailable,
    Unsupported,
    UsageError,
)
from natproxy.client.requests import Request, name_text
from natproxy.client.retry import Retrier
from natproxy.protocol import UNREAD, Digest, Metadata, printable

_Reply = TypeVar("_Reply")


AHEAD = 32
"""Commands about names without a reply at most."""


class Replies(Generic[_Reply]):
    """Iterates over names on a server and its reply for each of them.

    The commands are sent ahead of the replies, over one connection. A command that fails is sent
    once more, alone; a temporary failure is retried from then on. A name that the server refuses
    is reported and skipped.

    :param names: the names.
    :param session: with the server.
    :param request: returns the request for a name.
    :param send: carries out the request for one name alone, and returns its reply.
    :param retry: runs each ``send``.
    :param complain: called with a line for each name that is skipped.
    :ivar exit_status: of the first name that was skipped; 0 if none was.
    """

    def __init__(
        self,
        names: Sequence[bytes],
        session: Session,
        request: Callable[[bytes], Request[_Reply]],
        send: Callable[[bytes], _Reply],
        retry: Retrier,
        complain: Callable[[str], object],
    ) -> None:
        self.exit_status = 0
        self._names = names
        self._session = session
        self._request = request
        self._send = send
        self._retry = retry
        self._complain = complain

    def __iter__(self) -> Iterator[tuple[bytes, _Reply]]:
        names = deque(self._names)
        while names:
            # The first command shows whether the server can be reached, and its version.
            yield from self._single(names.popleft())
            if names:
                yield from self._pipelined(names)

    def _single(self, name: bytes) -> Iterator[tuple[bytes, _Reply]]:
        try:
            reply = self._retry(partial(self._send, name))
        except (Unsupported, Unavailable):
            # The other names would fail in the same way.
            raise
        except (ServerError, UsageError) as error:
            self._complain(str(error))
            self.exit_status = self.exit_status or error.exit_status
        else:
            yield name, reply

    def _pipelined(self, names: deque[bytes]) -> Iterator[tuple[bytes, _Reply]]:
        """Yield names, which are removed, with their replies; end early if the connection fails."""
        requests = map(self._request, tuple(names))
        with closing(self._session.pipeline(requests, AHEAD)) as replies:
            while True:
                try:
                    _, reply = next(replies)
                except (StopIteration, CannotConnect, ConnectionBroken):
                    return
                name = names.popleft()
                if isinstance(reply, ClientError):
                    yield from self._single(name)
                else:
                    self._retry.succeeded()
                    yield name, reply


def record_of(name: bytes, metadata: Metadata, unread: bool = False) -> dict[str, Any]:
    """Return the JSON object for a name and its metadata.

    :param unread: whether it is a directory that the server cannot list.
    """
    if metadata.type == UNREAD:
        unknown = dict.fromkeys(("size", "mtime", "mtime_ns", "etag"))
        return {"name": name_text(name), "type": metadata.type} | unknown
    return {
        "name": name_text(name),
        "type": metadata.type,
        "size": metadata.size,
        "mtime": metadata.mtime_ns / 10**9,
        "mtime_ns": metadata.mtime_ns,
        "etag": metadata.etag,
        **({"unread": True} if unread else {}),
    }


def digest_record(name: bytes, digest: Digest) -> dict[str, Any]:
    """Return the JSON object for a name and its digest."""
    return {
        "name": name_text(name),
        "sha256": digest.sha256,
        "size": digest.size,
        "etag": digest.etag,
    }


def time_text(nanoseconds: int) -> str:
    """Return a time since the epoch as local time, for people."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(nanoseconds // 10**9))
    except (OverflowError, ValueError, OSError):
        return f"@{nanoseconds // 10**9}"


def write_json(records: Iterable[dict[str, Any]]) -> None:
    """Write an array as its members arrive, one to a line.

    The array is closed even if the iteration raises an error.
    """
    from json import dumps

    begun = False
    try:
        for each in records:
            sys.stdout.write(f"{',' if begun else '['}\n  {dumps(each)}")
            begun = True
    finally:
        if begun:
            sys.stdout.write("\n]\n")
    if not begun:
        sys.stdout.write("[]\n")


def write_lines(lines: Iterable[bytes], raw: bool = False) -> None:
    """Write lines that end with a name on the server.

    On a terminal, control characters are escaped. Elsewhere, the names are written as this
    program accepts them as arguments.

    :param raw: write the bytes of the names unless on a terminal, whatever the locale.
    """
    if sys.stdout.isatty():
        for line in lines:
            sys.stdout.write(printable(line, 8192) + "\n")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.writelines((line if raw else output_for(line)) + b"\n" for line in lines)
