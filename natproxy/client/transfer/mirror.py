"""A local directory made like one on the server: what is new or changed is downloaded.

Nothing is written or deleted outside of it, whatever names the server lists and whatever
links are in it. What stands in the way of one file is no reason to leave out the others.
"""

from __future__ import annotations

import enum
import errno
import math
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from natproxy.client.blocking.session import Session
from natproxy.client.errors import ListingIncomplete, LocalError, NotFound, UsageError
from natproxy.client.requests import MOST_ENTRIES, Pages, as_name, see_within
from natproxy.client.transfer.deletion import ExtraPath
from natproxy.client.transfer.destination import same_size_and_time
from natproxy.client.transfer.partial import is_partial
from natproxy.client.transfer.plan import MirrorPlan, Obstacle, name_of, path_below
from natproxy.client.transfer.traversal import LocalEntry, Traversal
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import DIRECTORY, FILE, ROOT, UNREAD, Entry, printable

DEEPEST = 256
"""Levels of directories that are created."""


_Answer = TypeVar("_Answer")


class Retry(Protocol):
    """Takes a step, perhaps more than once, and returns its result."""

    def __call__(self, step: Callable[[], _Answer], /) -> _Answer: ...


def once(step: Callable[[], _Answer]) -> _Answer:
    """Take a step once."""
    return step()


def compare(
    session: Session,
    name: bytes,
    tree: LocalTree,
    delete: bool = True,
    limit: int | None = MOST_ENTRIES,
    retried: Retry = once,
) -> MirrorPlan:
    """Compare a directory on the server with a local one; nothing is changed.

    :param name: of the directory on the server; empty for the served one.
    :param tree: the local directory; it need not exist.
    :param delete: whether `MirrorPlan.extra` is wanted.
    :param limit: entries that the server may list; `None` for any number.
    :param retried: takes each question and returns its answer: a `Retrier`, for example.
        A listing that breaks off goes on with the page that is missing.
    :raises UsageError: if it is not a directory on the server.
    :raises NotUnderstood: if the server lists names that would lead out of the directory.
    :raises TooManyEntries: if it lists more than the limit.
    :raises LocalError: if the local directory cannot be listed.
    """
    retried(partial(session.needs, "tell what has changed"))
    name = as_name(name)
    if name == ROOT:
        name = b""
    if retried(partial(session.stat, name)).type != DIRECTORY:
        raise UsageError(f"{printable(name)}: not a directory; 'natproxy get' fetches files")
    with _Comparison(name, MirrorPlan(tree, top=name), delete) as comparison:
        try:
            pages = Pages(limit=limit)
            early = b""
            while pages.more:
                for entry in retried(partial(session.page, pages, name, math.inf)):
                    comparison.take(entry)
                    if pages.more and not early and entry.metadata.type != UNREAD:
                        early = entry.name
            pages.end()
            comparison.early = early
        except ListingIncomplete as error:
            comparison.plan.incomplete = error
        return comparison.finish(session, retried)


class _Place(enum.Enum):
    """What can be done in the place of a listed directory."""

    READY = enum.auto()
    BLOCKED = enum.auto()
    LEFT_OUT = enum.auto()


class _Comparison:
    """Two sorted sequences, merged: what the server lists, and what is here."""

    def __init__(self, name: bytes, plan: MirrorPlan, delete: bool) -> None:
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
        self._candidates: list[ExtraPath] = []
        # Device and inode of what is here under another name than the listed one.
        self._aliases: set[tuple[int, int]] = set()
        self._hidden: LocalError | None = None
        self._local = Traversal(self._tree, self._unreadable)
        # The first entry of a listing of several pages.
        self.early = b""

    def __enter__(self) -> _Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self._local.close()

    def take(self, entry: Entry) -> None:
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

    def finish(self, session: Session, retried: Retry) -> MirrorPlan:
        """Take what is left here, and return the plan."""
        self._go_to(None)
        plan = self.plan
        if self._delete and self._hidden is not None:
            plan.local_errors.append(self._hidden)
        elif self._delete and plan.incomplete is None:
            self._keep_aliases()
            plan.extra = [
                each for each in reversed(self._candidates) if each.path not in self._kept
            ]
            self._find_vanished(session, retried)
            self._find_unlisted(session, retried)
        return plan

    def _go_to(self, path: bytes | None) -> None:
        """Pass what is here before a listed path: the server does not have it."""
        while (here := self._local.head) is not None and (path is None or here.path < path):
            self._hold(here)
            if here.stat is None:
                self._keep(here.path)
                self._local.skip()
                if self._delete and here.error is not None:
                    self.plan.local_errors.append(here.error)
            elif stat.S_ISDIR(here.stat.st_mode):
                self._candidates.append(ExtraPath(here.path, directory=True))
            elif is_partial(os.path.basename(here.path)):
                self._keep(here.path)
            else:
                self._candidates.append(ExtraPath(here.path, directory=False))
            self._local.advance()

    def _judge(self, entry: Entry, path: bytes, here: LocalEntry | None) -> bool:
        """Decide about an entry; return whether what is in it here is to be compared as well."""
        plan = self.plan
        kind = entry.metadata.type
        plan.source_files += kind == FILE
        place = self._place_of(os.path.dirname(path))
        partial = kind in (FILE, DIRECTORY) and is_partial(os.path.basename(path))
        if place is not _Place.READY or partial:
            if place is _Place.BLOCKED:
                plan.blocked += 1
            else:
                plan.skipped += 1
                place = _Place.LEFT_OUT
            if kind == DIRECTORY:
                self._places[path] = place
                if partial and place is _Place.LEFT_OUT:
                    plan.skipped_directories.append(entry.name)
            return False
        if here is None:
            here = self._alias(path, follow=kind == FILE or self._compared(entry))
        if kind == UNREAD or entry.unread:
            plan.unread.append(entry.name)
        if kind == DIRECTORY:
            self._places[path] = self._directory(path, here)
            return self._places[path] is _Place.READY and self._compared(entry)
        if kind == FILE:
            self._file(entry, path, here)
        elif kind != UNREAD:
            plan.unknown += 1
        return False

    def _compared(self, entry: Entry) -> bool:
        return entry.metadata.type == DIRECTORY and not entry.unread

    def _alias(self, path: bytes, follow: bool) -> LocalEntry | None:
        """Look for a listed name that is here under another one: where case does not count,
        or where accents are written in another way.

        :param follow: whether what is in it is compared as well; if not, nothing is extra,
            since what is in it is not known by its listed name.
        """
        above = os.path.dirname(path)
        if above and above not in self._both:
            return None
        try:
            metadata = self._tree.lstat(path)
        except LocalError as error:
            return LocalEntry(path, None, error)
        if metadata is None:
            return None
        self._aliases.add((metadata.st_dev, metadata.st_ino))
        if not follow and stat.S_ISDIR(metadata.st_mode):
            reason = OSError(errno.EEXIST, "is here under another name: nothing deleted")
            self._hidden = LocalError(self._tree.path_of(path), reason)
        return LocalEntry(path, metadata)

    def _keep_aliases(self) -> None:
        for path, _ in self._candidates if self._aliases else ():
            try:
                metadata = self._tree.lstat(path)
            except LocalError:
                self._keep(path)
            else:
                if metadata is not None and (metadata.st_dev, metadata.st_ino) in self._aliases:
                    self._keep(path)

    def _directory(self, path: bytes, here: LocalEntry | None) -> _Place:
        """Decide about a listed directory, or one that something listed is in."""
        error = _too_deep(self._tree, path)
        if error is None and here is not None:
            error = here.error
            if here.stat is not None and not stat.S_ISDIR(here.stat.st_mode):
                kind = "link" if stat.S_ISLNK(here.stat.st_mode) else "file"
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

    def _file(self, entry: Entry, path: bytes, here: LocalEntry | None) -> None:
        plan = self.plan
        found = None if here is None else here.stat
        error = None if here is None else here.error
        if found is not None and stat.S_ISLNK(found.st_mode):
            try:
                found = self._tree.target(path)
            except LocalError as lack:
                error = lack
        if error is None and found is not None and stat.S_ISDIR(found.st_mode):
            reason = OSError(errno.EISDIR, "is a directory here, a file there")
            error = LocalError(self._tree.path_of(path), reason)
        elif here is not None and here.stat is not None and not _is_replaceable(here.stat):
            reason = OSError(errno.EEXIST, "is neither a file nor a link here, a file there")
            error = LocalError(self._tree.path_of(path), reason)
        if error is not None:
            self._obstacle(path, error)
        elif found is not None and same_size_and_time(found, entry.metadata):
            plan.unchanged += 1
        else:
            # A million of them should not have a million strings that say "file".
            plan.downloads.append(Entry(entry.name, entry.metadata._replace(type=FILE)))

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
            metadata = self._tree.lstat(path)
        except LocalError as error:
            return self._directory(path, LocalEntry(path, None, error))
        return self._directory(path, None if metadata is None else LocalEntry(path, metadata))

    def _unreadable(self, path: bytes, error: LocalError) -> None:
        if not path:
            raise error
        self._keep(path)
        if path in self._places:
            self._places[path] = _Place.BLOCKED
            self._obstacle(path, error)
        elif self._delete:
            self.plan.local_errors.append(error)

    def _obstacle(self, path: bytes, error: LocalError) -> None:
        self.plan.obstacles.append(Obstacle(name_of(path, self._name), error))

    def _hold(self, here: LocalEntry) -> None:
        if here.stat is None or not (
            stat.S_ISDIR(here.stat.st_mode) or is_partial(os.path.basename(here.path))
        ):
            self.plan.local_files += 1

    def _keep(self, path: bytes) -> None:
        """Let a path stay, and the directories that it is in."""
        while path not in self._kept:
            self._kept.add(path)
            path = os.path.dirname(path)

    def _find_vanished(self, session: Session, retried: Retry) -> None:
        """See that the first page of the listing is still true after the last one.

        A server that is restarted with another directory, or whose storage is unmounted, lists
        nothing more from then on: what it has not listed is not known to be missing.
        """
        plan = self.plan
        if plan.extra and self.early and not retried(partial(_is_there, session, self.early)):
            plan.extra = []
            shown = printable(self.early)
            plan.incomplete = ListingIncomplete(0, f"{shown} vanished from the server meanwhile")

    def _find_unlisted(self, session: Session, retried: Retry) -> None:
        """See that directories whose content would all be deleted can be listed.

        A server that does not mark what it cannot read, or a directory that has become
        unreadable between two pages, looks like an empty directory in a longer listing.
        """
        plan = self.plan
        above = self._above_extra()
        for path in sorted((self._both - self._holding) & above):
            name = name_of(path, self._name)
            if not retried(partial(_is_listed, session, name)):
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
    return path_below(name, directory)


def _is_replaceable(found: os.stat_result) -> bool:
    """Return whether a downloaded file may take the place of this one."""
    return stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)


def _too_deep(tree: LocalTree, path: bytes) -> LocalError | None:
    if path.count(b"/") < DEEPEST:
        return None
    return LocalError(tree.path_of(path), OSError(errno.ENAMETOOLONG, "is too deep"))


def _is_there(session: Session, name: bytes) -> bool:
    """Return whether the server still has what it has listed."""
    try:
        session.stat(name)
    except NotFound:
        return False
    return True


def _is_listed(session: Session, name: bytes) -> bool:
    """Return whether the server can list a directory."""
    try:
        next(session.ls(name), None)
    except NotFound:
        return False
    return True
