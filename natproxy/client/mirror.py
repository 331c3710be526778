"""A folder here made like one on the server: what is new or changed is fetched."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from natproxy import wire
from natproxy.client.destination import looks_the_same
from natproxy.client.errors import LocalError, NotUnderstood, UsageError
from natproxy.client.partial import is_partial
from natproxy.client.session import Session, as_name
from natproxy.client.transfer import Wanted


@dataclass
class Plan:
    """What is to be done.

    :ivar fetch: files that are new or look different.
    :ivar unchanged: files that look the same: by size and time of last writing.
    :ivar folders: to be made.
    :ivar extra: paths here that the server doesn't have, what is inside before what it is in.
    """

    fetch: list[Wanted] = field(default_factory=list)
    unchanged: int = 0
    folders: list[bytes] = field(default_factory=list)
    extra: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(one.status.size for one in self.fetch if one.status is not None)


def compare(session: Session, name: bytes, folder: bytes) -> Plan:
    """Compare a folder on the server with one here; nothing is changed.

    :param name: of the folder on the server; empty for the served one.
    :param folder: here; it need not exist.
    :raises UsageError: if it isn't a folder on the server.
    :raises NotUnderstood: if the server gives names that would lead out of the folder.
    :raises LocalError: if something here can't be looked at, or is in the way.
    """
    session.needs("tell what has changed")
    name = as_name(name)
    if session.stat(name).type != wire.DIRECTORY:
        raise UsageError(f"{wire.printable(name)}: is not a folder; 'natproxy get' fetches files")
    plan = Plan()
    known = set()
    for entry in session.walk(name):
        below = _below(entry.name, name)
        path = os.path.join(folder, below)
        known.add(path)
        found = _look(path)
        if entry.status.type == wire.DIRECTORY:
            if found is None:
                plan.folders.append(path)
            elif not stat.S_ISDIR(found.st_mode):
                raise LocalError(path, OSError(errno.ENOTDIR, "is a file here, a folder there"))
        elif entry.status.type == wire.FILE:
            if found is not None and stat.S_ISDIR(found.st_mode):
                raise LocalError(path, OSError(errno.EISDIR, "is a folder here, a file there"))
            if found is not None and looks_the_same(found, entry.status):
                plan.unchanged += 1
            else:
                plan.fetch.append(Wanted(entry.name, path, entry.status))
    plan.extra = [path for path in _inside_first(folder) if path not in known]
    return plan


def remove(paths: list[bytes]) -> int:
    """Delete files, links and empty folders; give how many.

    :raises LocalError: at the first that can't be.
    """
    for path in paths:
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
            else:
                os.unlink(path)
        except OSError as error:
            raise LocalError(path, error) from error
    return len(paths)


def _below(name: bytes, folder: bytes) -> bytes:
    """Give an entry's path below the folder that was asked for; it is not to be trusted."""
    prefix = folder + b"/" if folder else b""
    below = name[len(prefix) :]
    if (
        not name.startswith(prefix)
        or b"\0" in below
        or not {b"", b".", b".."}.isdisjoint(below.split(b"/"))
    ):
        raise NotUnderstood(f"the server lists a name that leads astray: '{wire.printable(name)}'")
    return below


def _look(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LocalError(path, error) from error


def _inside_first(folder: bytes) -> Iterator[bytes]:
    """Give what is in a folder here; incomplete downloads are left out, and their folders."""

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise LocalError(os.fsencode(error.filename), error) from error

    kept: set[bytes] = set()
    for place, folders, files in os.walk(folder, topdown=False, onerror=unreadable):
        for name in files:
            if is_partial(name):
                kept.add(place)
            else:
                yield os.path.join(place, name)
        for name in folders:
            path = os.path.join(place, name)
            if path in kept:
                kept.add(place)
            else:
                yield path
