"""``ls``, ``list``, ``stat``, ``hash``: what is there, told to people and to programs."""

from __future__ import annotations

import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from natproxy.cli.context import Sessions, retrier_of
from natproxy.cli.encoding import output_for
from natproxy.client.blocking.session import Session
from natproxy.client.errors import (
    ClientError,
    ListingIncomplete,
    ServerError,
    Unavailable,
    Unsupported,
    UsageError,
)
from natproxy.client.listing import Listing
from natproxy.client.requests import name_text
from natproxy.client.retry import Retrier
from natproxy.protocol import DIRECTORY, ROOT, UNREAD, Digest, Entry, Metadata, printable

_Answer = TypeVar("_Answer")

MOST_UNREAD = 20
"""Lines about what the server cannot read."""


def ls(options: Namespace, sessions: Sessions) -> int:
    """List a directory: the paths of what is in it, directories with a slash at the end."""
    session, (name,) = sessions.targets(options, [options.path])
    retry = retrier_of(options, session, sessions.complain)
    plain = not (name or options.long or options.recursive or options.json)
    if retry(lambda: session.version) < 2 and plain:
        _write_lines(_names(session, retry))
        return 0
    # Nothing is held of what has been written: a listing may have any length.
    depth = math.inf if options.recursive else 1
    entries = _Listed(_entries(session, retry, name, depth))
    if options.json:
        _write_json(_object_of(entry.name, entry.metadata, entry.unread) for entry in entries)
    elif options.long:
        _write_lines(_long(entry) for entry in entries)
    else:
        _write_lines(_shown(entry) for entry in entries)
    return entries.complain(sessions.complain) if options.recursive else 0


def list_(options: Namespace, sessions: Sessions) -> int:
    """List the names in the top directory, as version 1 does."""
    session = sessions.session(options)
    _write_lines(_names(session, retrier_of(options, session, sessions.complain)))
    return 0


def stat(options: Namespace, sessions: Sessions) -> int:
    """Tell what files are like."""
    session, names = sessions.targets(options, options.paths)
    retry = retrier_of(options, session, sessions.complain)
    asked = _Asked(lambda name: retry(partial(session.stat, name)), names, sessions.complain)
    if options.json:
        _write_json(_object_of(name, metadata) for name, metadata in asked)
    else:
        for name, metadata in asked:
            sys.stdout.write(
                f"name:     {printable(name or ROOT)}\n"
                f"type:     {metadata.type}\n"
                f"size:     {metadata.size}\n"
                f"modified: {time_text(metadata.mtime_ns)}\n"
                f"etag:     {metadata.etag}\n"
            )
    return asked.exit_status


def hash_(options: Namespace, sessions: Sessions) -> int:
    """Print SHA-256 digests in the form of ``sha256sum``."""
    session, names = sessions.targets(options, options.paths)
    retry = retrier_of(options, session, sessions.complain)
    asked = _Asked(lambda name: retry(partial(session.hash, name)), names, sessions.complain)
    if options.json:
        _write_json(
            {
                "name": name_text(name),
                "sha256": digest.sha256,
                "size": digest.size,
                "etag": digest.etag,
            }
            for name, digest in asked
        )
    else:
        # `sha256sum -c` looks for the files under the names that `get` saves them under.
        _write_lines((_sum_line(name, digest) for name, digest in asked), as_they_are=True)
    return asked.exit_status


class _Listed:
    """Entries on their way to be written; those that the server cannot read are counted."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self._unread: list[bytes] = []
        self._count = 0
        self._incomplete: ListingIncomplete | None = None

    def __iter__(self) -> Iterator[Entry]:
        try:
            for entry in self._entries:
                if entry.unread or entry.metadata.type == UNREAD:
                    self._count += 1
                    if self._count <= MOST_UNREAD:
                        self._unread.append(entry.name)
                yield entry
        except ListingIncomplete as error:
            # It comes after the last entry, and is told with the others.
            self._incomplete = error

    def complain(self, complain: Callable[[str], object]) -> int:
        """Tell whose content may be missing, and return the exit status."""
        for name in self._unread:
            complain(f"{printable(name)}: the server cannot read it")
        if self._count > MOST_UNREAD:
            complain(f"and {self._count - MOST_UNREAD} more like this")
        if self._incomplete is not None:
            complain(str(self._incomplete))
        return ServerError.exit_status if self._count or self._incomplete else 0


def _names(session: Session, retry: Retrier) -> Iterator[bytes]:
    """Yield the names of a version 1 listing; once the first has come, nothing is retried."""
    listing = session.list()

    def first() -> bytes | None:
        nonlocal listing
        try:
            return next(listing, None)
        except ClientError:
            listing = session.list()
            raise

    name = retry(first)
    if name is not None:
        yield name
        yield from listing


def _entries(session: Session, retry: Retrier, name: bytes, depth: float) -> Iterator[Entry]:
    """Yield the entries of a listing; a page that fails temporarily is requested again."""
    for page in Listing(name, depth, limit=None).pages():
        yield from retry(partial(session.run, page))


class _Asked(Generic[_Answer]):
    """A question about each of several names; one that has no answer leaves the others alone.

    :param complain: is told why there is none.
    :ivar exit_status: of the first that had none; 0 as long as all have one.
    """

    def __init__(
        self,
        ask: Callable[[bytes], _Answer],
        names: Sequence[bytes],
        complain: Callable[[str], object],
    ) -> None:
        self.exit_status = 0
        self._ask = ask
        self._names = names
        self._complain = complain

    def __iter__(self) -> Iterator[tuple[bytes, _Answer]]:
        for name in self._names:
            try:
                answer = self._ask(name)
            except (Unsupported, Unavailable):
                # It would be the same for the others.
                raise
            except (ServerError, UsageError) as error:
                self._complain(str(error))
                self.exit_status = self.exit_status or error.exit_status
            else:
                yield name, answer


def time_text(nanoseconds: int) -> str:
    """Write a time as people here do."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(nanoseconds // 10**9))
    except (OverflowError, ValueError, OSError):
        return f"@{nanoseconds // 10**9}"


def _shown(entry: Entry) -> bytes:
    return entry.name + b"/" if entry.metadata.type == DIRECTORY else entry.name


def _long(entry: Entry) -> bytes:
    if entry.metadata.type == UNREAD:
        return f"{'-':>12}  {UNREAD:<19}  ".encode() + _shown(entry)
    size = "-" if entry.metadata.type == DIRECTORY else str(entry.metadata.size)
    return f"{size:>12}  {time_text(entry.metadata.mtime_ns)}  ".encode() + _shown(entry)


def _sum_line(name: bytes, digest: Digest) -> bytes:
    # As sha256sum does: a line with an escaped name begins with a backslash.
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"" if escaped == name else b"\\"
    return mark + digest.sha256.encode("ascii") + b"  " + escaped


def _object_of(name: bytes, metadata: Metadata, unread: bool = False) -> dict[str, Any]:
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


def _write_json(objects: Iterator[dict[str, Any]]) -> None:
    """Write an array, an object to a line, as they come; it ends even if they break off."""
    begun = False
    try:
        for each in objects:
            sys.stdout.write(f"{',' if begun else '['}\n  {json.dumps(each)}")
            begun = True
    finally:
        if begun:
            sys.stdout.write("\n]\n")
    if not begun:
        sys.stdout.write("[]\n")


def _write_lines(lines: Iterable[bytes], as_they_are: bool = False) -> None:
    """Write lines that end with a name on the server.

    On a terminal, they are escaped so that they cannot control it. Elsewhere, the names are
    what this program takes as arguments.

    :param as_they_are: whether the bytes of the names are written, whatever the locale.
    """
    if sys.stdout.isatty():
        for line in lines:
            sys.stdout.write(printable(line, 8192) + "\n")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(
            (line if as_they_are else output_for(line)) + b"\n" for line in lines
        )
