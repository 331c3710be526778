"""``ls``, ``list``, ``stat``, ``hash``: what is there, told to people and to programs."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from natproxy import wire
from natproxy.cli.sessions import Sessions, persistence_of
from natproxy.client.errors import ClientError, NotFound
from natproxy.client.retrying import Persistence
from natproxy.client.session import Session

_Answer = TypeVar("_Answer")


def ls(options: Namespace, sessions: Sessions) -> int:
    """List a folder: the paths of what is in it, folders with a slash at the end."""
    session, (name,) = sessions.targets(options, [options.path])
    persistently = persistence_of(options, session, sessions.complain)
    plain = not (name or options.long or options.recursive or options.json)
    if persistently(lambda: session.version) < 2 and plain:
        _write_lines(_names(session, persistently))
        return 0
    entries = _entries(session, persistently, name, math.inf if options.recursive else 1)
    if options.json:
        _write_json(_object_of(entry.name, entry.status) for entry in entries)
    elif options.long:
        _write_lines(_long(entry) for entry in entries)
    else:
        _write_lines(_shown(entry) for entry in entries)
    return 0


def list_(options: Namespace, sessions: Sessions) -> int:
    """List the names in the top folder, as version 1 does."""
    session = sessions.session(options)
    _write_lines(_names(session, persistence_of(options, session, sessions.complain)))
    return 0


def stat(options: Namespace, sessions: Sessions) -> int:
    """Tell what files are like."""
    session, names = sessions.targets(options, options.paths)
    persistently = persistence_of(options, session, sessions.complain)
    asked = _Asked(lambda name: persistently(partial(session.stat, name)), names, sessions.complain)
    if options.json:
        _write_json(_object_of(name, status) for name, status in asked)
    else:
        for name, status in asked:
            sys.stdout.write(
                f"name:     {wire.printable(name or wire.ROOT)}\n"
                f"type:     {status.type}\n"
                f"size:     {status.size}\n"
                f"modified: {time_text(status.mtime_ns)}\n"
                f"etag:     {status.etag}\n"
            )
    return asked.exit_status


def hash_(options: Namespace, sessions: Sessions) -> int:
    """Print SHA-256 digests in the form of ``sha256sum``."""
    session, names = sessions.targets(options, options.paths)
    persistently = persistence_of(options, session, sessions.complain)
    asked = _Asked(lambda name: persistently(partial(session.hash, name)), names, sessions.complain)
    if options.json:
        _write_json(
            {
                "name": os.fsdecode(name),
                "sha256": digest.sha256,
                "size": digest.size,
                "etag": digest.etag,
            }
            for name, digest in asked
        )
    else:
        _write_lines(_sum_line(name, digest) for name, digest in asked)
    return asked.exit_status


def _names(session: Session, persistently: Persistence) -> Iterator[bytes]:
    """Yield the names of a version 1 listing; once the first has come, nothing is retried."""
    listing = session.list()

    def first() -> bytes | None:
        nonlocal listing
        try:
            return next(listing, None)
        except ClientError:
            listing = session.list()
            raise

    name = persistently(first)
    if name is not None:
        yield name
        yield from listing


def _entries(
    session: Session, persistently: Persistence, name: bytes, depth: float
) -> Iterator[wire.Entry]:
    """Yield the entries of a listing; one that breaks off is continued after the last entry."""
    last = b""
    listing = session.ls(name, depth)

    def following() -> wire.Entry | None:
        nonlocal listing
        try:
            return next(listing, None)
        except ClientError:
            listing = session.ls(name, depth, last)
            raise

    while (entry := persistently(following)) is not None:
        yield entry
        last = entry.name


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
            except NotFound as error:
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


def _shown(entry: wire.Entry) -> bytes:
    return entry.name + b"/" if entry.status.type == wire.DIRECTORY else entry.name


def _long(entry: wire.Entry) -> bytes:
    size = "-" if entry.status.type == wire.DIRECTORY else str(entry.status.size)
    return f"{size:>12}  {time_text(entry.status.mtime_ns)}  ".encode() + _shown(entry)


def _sum_line(name: bytes, digest: wire.Digest) -> bytes:
    # As sha256sum does: a line with an escaped name begins with a backslash.
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"" if escaped == name else b"\\"
    return mark + digest.sha256.encode("ascii") + b"  " + escaped


def _object_of(name: bytes, status: wire.Status) -> dict[str, Any]:
    return {
        "name": os.fsdecode(name),
        "type": status.type,
        "size": status.size,
        "mtime": status.mtime_ns / 10**9,
        "mtime_ns": status.mtime_ns,
        "etag": status.etag,
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


def _write_lines(lines: Iterable[bytes]) -> None:
    """Write names as they are, or so that they can't drive a terminal."""
    if sys.stdout.isatty():
        for line in lines:
            sys.stdout.write(wire.printable(line, 8192) + "\n")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(line + b"\n" for line in lines)
