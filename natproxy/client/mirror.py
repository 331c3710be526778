"""A folder here made like one on the server: what is new or changed is fetched.

Nothing is written outside of it, whatever names the server gives and whatever links are
in it: a link where a folder is to be is an error, and one where a file is to be is replaced.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from natproxy import wire
from natproxy.client.answers import as_name, see_within
from natproxy.client.destination import looks_the_same
from natproxy.client.errors import LocalError, NotFound, NotUnderstood, UsageError
from natproxy.client.partial import is_partial
from natproxy.client.session import Session
from natproxy.client.transfer import Wanted

DEEPEST = 256
"""Levels of folders that are made: nobody has more, and Python's stack is not endless."""


@dataclass
class Plan:
    """What is to be done.

    :ivar fetch: files that are new or look different.
    :ivar unchanged: files that look the same: by size and time of last writing.
    :ivar folders: to be made.
    :ivar extra: paths here that the server doesn't have, what is inside before what it is in.
    :ivar unread: folders of the server that it can't list: what is in them here isn't extra.
    :ivar left_out: files of the server that have the names of incomplete downloads: here,
        such names are for our own.
    """

    fetch: list[Wanted] = field(default_factory=list)
    unchanged: int = 0
    folders: list[bytes] = field(default_factory=list)
    extra: list[bytes] = field(default_factory=list)
    unread: list[bytes] = field(default_factory=list)
    left_out: int = 0

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
    known: set[bytes] = set()
    folders = {b""}
    found: dict[bytes, bytes] = {}
    for entry in session.walk(name):
        below = _below(entry.name, name)
        path = os.path.join(folder, below)
        if path in known:
            raise NotUnderstood(f"the server lists '{wire.printable(entry.name)}' twice")
        known.add(path)
        _look_at_folders(folder, os.path.dirname(below), folders)
        if entry.status.type == wire.DIRECTORY:
            if _is_folder(path):
                found[path] = entry.name
            else:
                plan.folders.append(path)
        elif entry.status.type == wire.FILE:
            if is_partial(os.path.basename(path)):
                plan.left_out += 1
            elif _looks_the_same(path, entry.status):
                plan.unchanged += 1
            else:
                plan.fetch.append(Wanted(entry.name, path, entry.status))
    # A server may tell of what is in a folder, and not of the folder.
    holding = {os.path.join(folder, below) for below in folders}
    known |= holding
    plan.extra = [path for path in _inside_first(folder) if path not in known]
    for path in sorted((found.keys() - holding) & _above(plan.extra, folder)):
        if not _is_listed(session, found[path]):
            plan.unread.append(found[path])
            plan.extra = [each for each in plan.extra if not each.startswith(path + b"/")]
    return plan


def remove(paths: list[bytes]) -> None:
    """Delete files, links and empty folders.

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


def _below(name: bytes, folder: bytes) -> bytes:
    """Give an entry's path below the folder that was asked for; it is not to be trusted."""
    see_within(name, folder, itself=False)
    return name[len(folder) + 1 :] if folder else name


def _look_at_folders(top: bytes, below: bytes, seen: set[bytes]) -> None:
    """See that nothing is in the way of a folder, or of one that it is in."""
    if below.count(b"/") >= DEEPEST:
        raise LocalError(os.path.join(top, below), OSError(errno.ENAMETOOLONG, "is too deep"))
    if below not in seen:
        _look_at_folders(top, os.path.dirname(below), seen)
        _is_folder(os.path.join(top, below))
        seen.add(below)


def _is_folder(path: bytes) -> bool:
    """Tell whether a folder is there, or can be made.

    Links that lead to folders aren't followed: what is synchronized stays inside.

    :raises LocalError: if something else is there.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LocalError(path, error) from error
    if not stat.S_ISDIR(mode):
        kind = "link" if stat.S_ISLNK(mode) else "file"
        raise LocalError(path, OSError(errno.ENOTDIR, f"is a {kind} here, a folder there"))
    return True


def _is_listed(session: Session, name: bytes) -> bool:
    """Tell whether a folder's listing can be had: a longer one passes over those that can't."""
    try:
        next(session.ls(name), None)
    except NotFound:
        return False
    return True


def _looks_the_same(path: bytes, status: wire.Status) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LocalError(path, error) from error
    if stat.S_ISDIR(found.st_mode):
        raise LocalError(path, OSError(errno.EISDIR, "is a folder here, a file there"))
    return looks_the_same(found, status)


def _above(paths: list[bytes], top: bytes) -> set[bytes]:
    """Give the folders that paths are in, below the top one."""
    found: set[bytes] = set()
    for path in paths:
        while len(path := os.path.dirname(path)) > len(top) and path not in found:
            found.add(path)
    return found


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
