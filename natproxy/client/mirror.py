"""A local directory made like one on the server: what is new or changed is downloaded.

Nothing is written or deleted outside of it, whatever names the server lists and whatever
links are in it. What stands in the way of one file is no reason to leave out the others.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from natproxy import wire
from natproxy.client.answers import MOST_ENTRIES, as_name, see_within
from natproxy.client.deletion import Extra
from natproxy.client.destination import looks_the_same
from natproxy.client.errors import ListingIncomplete, LocalError, NotFound, UsageError
from natproxy.client.partial import is_partial
from natproxy.client.session import Session
from natproxy.client.transfer import Wanted
from natproxy.client.traversal import Found, Traversal
from natproxy.client.tree import LocalTree

DEEPEST = 256
"""Levels of directories that are created."""


class Obstacle(NamedTuple):
    """What keeps something of the server from being mirrored.

    :ivar name: of it on the server.
    :ivar error: what is wrong here.
    """

    name: bytes
    error: LocalError


@dataclass
class Plan:
    """What is to be done. Paths are below the mirror's root.

    :ivar fetch: files that are new or look different.
    :ivar unchanged: files that look the same: by size and time of last writing.
    :ivar directories: to be created.
    :ivar extra: what is here and not on the server, what is inside before what it is in.
    :ivar unread: names on the server that it cannot read: entries, and directories whose
        content it cannot list. Nothing at or below them is extra.
    :ivar incomplete: why something is missing that is not in ``unread``; nothing is extra then.
    :ivar obstacles: what keeps listed entries from being mirrored; what is in the way here
        is not extra, nor is what is in it.
    :ivar blocked: listed entries in directories that the obstacles name: left out as well.
    :ivar unjudged: what cannot be read here and is not listed; it is not extra, either.
    :ivar left_out: listed files and directories that have the names of incomplete downloads,
        which are for our own here, and what is in such directories.
    :ivar left_out_directories: those among them that are directories.
    :ivar unknown: listed entries of types that are not known.
    :ivar held: files here, incomplete downloads not among them.
    :ivar source_files: files that the server lists.
    """

    tree: LocalTree
    fetch: list[wire.Entry] = field(default_factory=list)
    unchanged: int = 0
    directories: list[bytes] = field(default_factory=list)
    extra: list[Extra] = field(default_factory=list)
    unread: list[bytes] = field(default_factory=list)
    incomplete: ListingIncomplete | None = None
    obstacles: list[Obstacle] = field(default_factory=list)
    blocked: int = 0
    unjudged: list[LocalError] = field(default_factory=list)
    left_out: int = 0
    left_out_directories: list[bytes] = field(default_factory=list)
    unknown: int = 0
    held: int = 0
    source_files: int = 0
    top: bytes = b""

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(entry.status.size for entry in self.fetch)

    @property
    def wanted(self) -> Iterator[Wanted]:
        """The files to fetch, as a `Transfer` takes them."""
        for name, status, _ in self.fetch:
            below = _cut(name, self.top)
            yield Wanted(name, self.tree.path_of(below), status, self.tree, below)

    def create_directories(self) -> None:
        """Create the directories; what would be in one that cannot be is not fetched.

        :raises LocalError: if the mirror's root cannot be created.
        """
        self.tree.create()
        failed: set[bytes] = set()
        for path in self.directories:
            if os.path.dirname(path) in failed:
                failed.add(path)
                self.blocked += 1
                continue
            try:
                self.tree.directory(path, create=True).close()
            except LocalError as error:
                failed.add(path)
                self.obstacles.append(Obstacle(_name(path, self.top), error))
        if failed:
            ready = [
                entry
                for entry in self.fetch
                if os.path.dirname(_cut(entry.name, self.top)) not in failed
            ]
            self.blocked += len(self.fetch) - len(ready)
            self.fetch = ready


def compare(
    session: Session,
    name: bytes,
    tree: LocalTree,
    delete: bool = True,
    limit: int | None = MOST_ENTRIES,
) -> Plan:
    """Compare a directory on the server with a local one; nothing is changed.

    :param name: of the directory on the server; empty for the served one.
    :param tree: the local directory; it need not exist.
    :param delete: whether `Plan.extra` is wanted.
    :param limit: entries that the server may list; `None` for any number.
    :raises UsageError: if it is not a directory on the server.
    :raises NotUnderstood: if the server lists names that would lead out of the directory.
    :raises TooManyEntries: if it lists more than the limit.
    :raises LocalError: if the local directory cannot be listed.
    """
    session.needs("tell what has changed")
    name = as_name(name)
    if name == wire.ROOT:
        name = b""
    if session.stat(name).type != wire.DIRECTORY:
        raise UsageError(f"{wire.printable(name)}: is not a folder; 'natproxy get' fetches files")
    with _Comparison(name, Plan(tree, top=name), delete) as comparison:
        try:
            for entry in session.walk(name, limit):
                comparison.take(entry)
        except ListingIncomplete as error:
            comparison.plan.incomplete = error
        return comparison.finish(session)


class _Place(enum.Enum):
    """What can be done in the place of a listed directory."""

    READY = enum.auto()
    BLOCKED = enum.auto()
    LEFT_OUT = enum.auto()


class _Comparison:
    """Two sorted sequences, merged: what the server lists, and what is here."""

    def __init__(self, name: bytes, plan: Plan, delete: bool) -> None:
        self._name = name
        self.plan = plan
        self._tree = plan.tree
        self._delete = delete
        # By path, of each directory that is listed, or that something listed is in.
        self._places = {b"": _Place.READY}
        self._holding: set[bytes] = set()
        # Directories that are both here and listed.
        self._both: set[bytes] = set()
        # What is not extra although the server does not list it.
        self._kept = {b""}
        self._candidates: list[Extra] = []
        self._local = Traversal(self._tree, self._unreadable)

    def __enter__(self) -> _Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self._local.close()

    def take(self, entry: wire.Entry) -> None:
        """Take the next entry that the server lists."""
        path = _below(entry.name, self._name)
        self._go_to(path)
        here = self._local.head
        if here is not None and here.path == path:
            self._hold(here)
        else:
            here = None
        if not self._judge(entry, path, here) and here is not None:
            self._local.skip()
        if here is not None:
            self._local.advance()

    def finish(self, session: Session) -> Plan:
        """Take what is left here, and return the plan."""
        self._go_to(None)
        plan = self.plan
        if self._delete and plan.incomplete is None:
            plan.extra = [
                each for each in reversed(self._candidates) if each.path not in self._kept
            ]
            self._find_unlisted(session)
        return plan

    def _go_to(self, path: bytes | None) -> None:
        """Pass what is here before a listed path: the server does not have it."""
        while (here := self._local.head) is not None and (path is None or here.path < path):
            self._hold(here)
            if here.status is None:
                self._keep(here.path)
                self._local.skip()
                if self._delete and here.error is not None:
                    self.plan.unjudged.append(here.error)
            elif stat.S_ISDIR(here.status.st_mode):
                self._candidates.append(Extra(here.path, directory=True))
            elif is_partial(os.path.basename(here.path)):
                self._keep(here.path)
            else:
                self._candidates.append(Extra(here.path, directory=False))
            self._local.advance()

    def _judge(self, entry: wire.Entry, path: bytes, here: Found | None) -> bool:
        """Decide about an entry; return whether what is in it here is to be compared as well."""
        plan = self.plan
        kind = entry.status.type
        plan.source_files += kind == wire.FILE
        place = self._place_of(os.path.dirname(path))
        partial = kind in (wire.FILE, wire.DIRECTORY) and is_partial(os.path.basename(path))
        if place is not _Place.READY or partial:
            if place is _Place.BLOCKED:
                plan.blocked += 1
            else:
                plan.left_out += 1
                place = _Place.LEFT_OUT
            if kind == wire.DIRECTORY:
                self._places[path] = place
                if partial and place is _Place.LEFT_OUT:
                    plan.left_out_directories.append(entry.name)
            return False
        if kind == wire.UNREAD or entry.unread:
            plan.unread.append(entry.name)
        if kind == wire.DIRECTORY:
            self._places[path] = self._directory(path, here)
            return self._places[path] is _Place.READY and not entry.unread
        if kind == wire.FILE:
            self._file(entry, path, here)
        elif kind != wire.UNREAD:
            plan.unknown += 1
        return False

    def _directory(self, path: bytes, here: Found | None) -> _Place:
        """Decide about a listed directory, or one that something listed is in."""
        error = _too_deep(self._tree, path)
        if error is None and here is not None:
            error = here.error
            if here.status is not None and not stat.S_ISDIR(here.status.st_mode):
                kind = "link" if stat.S_ISLNK(here.status.st_mode) else "file"
                reason = OSError(errno.ENOTDIR, f"is a {kind} here, a directory there")
                error = LocalError(self._tree.path_of(path), reason)
        if error is not None:
            self._obstacle(path, error)
            return _Place.BLOCKED
        if here is None:
            self.plan.directories.append(path)
        else:
            self._both.add(path)
        return _Place.READY

    def _file(self, entry: wire.Entry, path: bytes, here: Found | None) -> None:
        plan = self.plan
        found = None if here is None else here.status
        error = None if here is None else here.error
        if found is not None and stat.S_ISLNK(found.st_mode):
            try:
                found = self._tree.target(path)
            except LocalError as lack:
                error = lack
        if error is None and found is not None and stat.S_ISDIR(found.st_mode):
            reason = OSError(errno.EISDIR, "is a directory here, a file there")
            error = LocalError(self._tree.path_of(path), reason)
        if error is not None:
            self._obstacle(path, error)
        elif found is not None and looks_the_same(found, entry.status):
            plan.unchanged += 1
        else:
            # A million of them should not have a million strings that say "file".
            plan.fetch.append(wire.Entry(entry.name, entry.status._replace(type=wire.FILE)))

    def _place_of(self, directory: bytes) -> _Place:
        """Return what can be done in the directory that a listed entry is in.

        A server may list what is in a directory, and not the directory.
        """
        self._holding.add(directory)
        place = self._places.get(directory)
        if place is not None:
            return place
        names = directory.split(b"/")
        place = _Place.READY
        for levels in range(1, min(len(names), DEEPEST + 1) + 1):
            above = b"/".join(names[:levels])
            known = self._places.get(above)
            if known is None:
                known = place
                self._keep(above)
                if place is _Place.READY:
                    known = self._unlisted(above)
                self._places[above] = known
            place = known
        return place

    def _unlisted(self, path: bytes) -> _Place:
        try:
            status = self._tree.lstat(path)
        except LocalError as error:
            return self._directory(path, Found(path, None, error))
        return self._directory(path, None if status is None else Found(path, status))

    def _unreadable(self, path: bytes, error: LocalError) -> None:
        if not path:
            raise error
        self._keep(path)
        if path in self._places:
            self._places[path] = _Place.BLOCKED
            self._obstacle(path, error)
        elif self._delete:
            self.plan.unjudged.append(error)

    def _obstacle(self, path: bytes, error: LocalError) -> None:
        self.plan.obstacles.append(Obstacle(_name(path, self._name), error))

    def _hold(self, here: Found) -> None:
        if here.status is None or not (
            stat.S_ISDIR(here.status.st_mode) or is_partial(os.path.basename(here.path))
        ):
            self.plan.held += 1

    def _keep(self, path: bytes) -> None:
        """Let a path stay, and the directories that it is in."""
        while path not in self._kept:
            self._kept.add(path)
            path = os.path.dirname(path)

    def _find_unlisted(self, session: Session) -> None:
        """See that directories whose content would all be deleted can be listed.

        A server that does not mark what it cannot read, or a directory that has become
        unreadable between two pages, looks like an empty directory in a longer listing.
        """
        plan = self.plan
        above = self._above_extra()
        for path in sorted((self._both - self._holding) & above):
            name = _name(path, self._name)
            if not _is_listed(session, name):
                plan.unread.append(name)
                plan.extra = [each for each in plan.extra if not each.path.startswith(path + b"/")]

    def _above_extra(self) -> set[bytes]:
        found: set[bytes] = set()
        for path, _ in self.plan.extra:
            while (path := os.path.dirname(path)) and path not in found:
                found.add(path)
        return found


def _below(name: bytes, directory: bytes) -> bytes:
    """Return an entry's path below the directory that was listed; it is not to be trusted."""
    see_within(name, directory, itself=False)
    return _cut(name, directory)


def _cut(name: bytes, directory: bytes) -> bytes:
    return name[len(directory) + 1 :] if directory else name


def _name(path: bytes, directory: bytes) -> bytes:
    """Return the name on the server of what has a path here."""
    return directory + b"/" + path if directory else path


def _too_deep(tree: LocalTree, path: bytes) -> LocalError | None:
    if path.count(b"/") < DEEPEST:
        return None
    return LocalError(tree.path_of(path), OSError(errno.ENAMETOOLONG, "is too deep"))


def _is_listed(session: Session, name: bytes) -> bool:
    """Return whether the server can list a directory."""
    try:
        next(session.ls(name), None)
    except NotFound:
        return False
    return True
