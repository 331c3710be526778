"""Records about files, written to standard output: lines for people, JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from natproxy.cli.encoding import output_for
from natproxy.client.errors import ServerError, Unavailable, Unsupported, UsageError
from natproxy.client.requests import name_text
from natproxy.client.retry import Retrier
from natproxy.protocol import UNREAD, Digest, Metadata, printable

_Reply = TypeVar("_Reply")


class Replies(Generic[_Reply]):
    """Iterates over names on a server and its reply for each of them.

    A temporary failure is retried. A name that the server refuses is reported and skipped.

    :param names: the names.
    :param send: sends the request for a name and returns its reply.
    :param retry: runs each request.
    :param complain: called with a line for each name that is skipped.
    :ivar exit_status: of the first name that was skipped; 0 if none was.
    """

    def __init__(
        self,
        names: Sequence[bytes],
        send: Callable[[bytes], _Reply],
        retry: Retrier,
        complain: Callable[[str], object],
    ) -> None:
        self.exit_status = 0
        self._names = names
        self._send = send
        self._retry = retry
        self._complain = complain

    def __iter__(self) -> Iterator[tuple[bytes, _Reply]]:
        for name in self._names:
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
