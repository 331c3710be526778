"""Compare the entries that a server lists with a local tree: two sorted sequences, merged."""

from __future__ import annotations

import enum
import errno
import os
import stat

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.listing import require_inside
from natproxy.client.transfer.deletion import ExtraPath
from natproxy.client.transfer.destination import same_size_and_time
from natproxy.client.transfer.partial import is_partial
from natproxy.client.transfer.plan import MirrorPlan, Obstacle, name_of, path_below
from natproxy.client.transfer.traversal import LocalEntry, Traversal
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import DIRECTORY, FILE, UNREAD, Entry

DEEPEST = 256
"""Levels of directories that are created."""


class _DirectoryState(enum.Enum):
    """Whether the content of a listed directory can be mirrored."""

    READY = enum.auto()
    BLOCKED = enum.auto()
    """An obstacle prevents it."""
    SKIPPED = enum.auto()
    """The directory, or one above it, is named like a partial download."""


class Comparison(Closing):
    """Fills a plan: call `add` for each listed entry in order, then `finish`.

    :param plan: the plan to fill.
    :param delete: whether `MirrorPlan.extra` is needed.
    :raises LocalError: if the local directory cannot be listed.
    """

    def __init__(self, plan: MirrorPlan, delete: bool) -> None:
        self._top = plan.top
        self.plan = plan
        self._tree = plan.tree
        self._delete = delete
        # By path, of each directory that is listed or contains a listed entry.
        self._states = {b"": _DirectoryState.READY}
        # Directories that contain a listed entry.
        self._with_entries: set[bytes] = set()
        # Directories that are listed and exist locally.
        self._common: set[bytes] = set()
        # Local paths that are not extra although they are not listed.
        self._kept = {b""}
        self._candidates: list[ExtraPath] = []
        # Device and inode of local files whose listed name is an alias of the local one.
        self._aliases: set[tuple[int, int]] = set()
        # A directory under an alias whose content is not compared: nothing is extra then.
        self._uncompared: LocalError | None = None
        self._local = Traversal(self._tree, self._unreadable)

    def close(self) -> None:
        """Close the open local directory."""
        self._local.close()

    def add(self, entry: Entry) -> None:
        """Compare the next entry that the server lists.

        :raises NotUnderstood: if its name is outside of the listed directory.
        """
        path = _below(entry.name, self._top)
        self._advance_to(path)
        local = self._local.current
        if local is not None and local.path == path:
            self._count_local(local)
        else:
            local = None
        if not self._compare(entry, path, local) and local is not None:
            self._local.skip()
        if local is not None:
            self._local.advance()

    def finish(self) -> None:
        """Compare the remaining local paths and complete the plan."""
        self._advance_to(None)
        plan = self.plan
        if self._delete and self._uncompared is not None:
            plan.local_errors.append(self._uncompared)
        elif self._delete and plan.incomplete is None:
            self._keep_aliases()
            plan.extra = [
                each for each in reversed(self._candidates) if each.path not in self._kept
            ]

    def without_listed_content(self) -> list[bytes]:
        """Return the common directories, sorted, whose content is extra without an exception."""
        above: set[bytes] = set()
        for path, _ in self.plan.extra:
            while (path := os.path.dirname(path)) and path not in above:
                above.add(path)
        return sorted((self._common - self._with_entries) & above)

    def _advance_to(self, path: bytes | None) -> None:
        """Advance over the local paths before a listed path: the server does not list them."""
        while (local := self._local.current) is not None and (path is None or local.path < path):
            self._count_local(local)
            if local.stat is None:
                self._keep(local.path)
                self._local.skip()
                if self._delete and local.error is not None:
                    self.plan.local_errors.append(local.error)
            elif stat.S_ISDIR(local.stat.st_mode):
                self._candidates.append(ExtraPath(local.path, directory=True))
            elif is_partial(os.path.basename(local.path)):
                self._keep(local.path)
            else:
                self._candidates.append(ExtraPath(local.path, directory=False))
            self._local.advance()

    def _compare(self, entry: Entry, path: bytes, local: LocalEntry | None) -> bool:
        """Compare an entry; return whether its local content is to be compared as well."""
        plan = self.plan
        kind = entry.metadata.type
        plan.source_files += kind == FILE
        state = self._state_of(os.path.dirname(path))
        partial = kind in (FILE, DIRECTORY) and is_partial(os.path.basename(path))
        if state is not _DirectoryState.READY or partial:
            if state is _DirectoryState.BLOCKED:
                plan.blocked += 1
            else:
                plan.skipped += 1
                state = _DirectoryState.SKIPPED
            if kind == DIRECTORY:
                self._states[path] = state
                if partial and state is _DirectoryState.SKIPPED:
                    plan.skipped_directories.append(entry.name)
            return False
        if local is None:
            local = self._find_alias(path, compared=kind == FILE or self._has_content(entry))
        if kind == UNREAD or entry.unread:
            plan.unread.append(entry.name)
        if kind == DIRECTORY:
            self._states[path] = self._compare_directory(path, local)
            return self._states[path] is _DirectoryState.READY and self._has_content(entry)
        if kind == FILE:
            self._compare_file(entry, path, local)
        elif kind != UNREAD:
            plan.unknown += 1
        return False

    def _has_content(self, entry: Entry) -> bool:
        return entry.metadata.type == DIRECTORY and not entry.unread

    def _find_alias(self, path: bytes, compared: bool) -> LocalEntry | None:
        """Return the local entry that a listed name refers to as an alias; ``None`` without one.

        A file system may ignore case, or normalize accented letters.

        :param compared: whether the content of the entry is compared. If not, nothing is extra:
            the local traversal has other names for the content than the listing.
        """
        above = os.path.dirname(path)
        if above and above not in self._common:
            return None
        try:
            metadata = self._tree.lstat(path)
        except LocalError as error:
            return LocalEntry(path, None, error)
        if metadata is None:
            return None
        self._aliases.add((metadata.st_dev, metadata.st_ino))
        if not compared and stat.S_ISDIR(metadata.st_mode):
            reason = OSError(errno.EEXIST, "is here under another name: nothing deleted")
            self._uncompared = LocalError(self._tree.path_of(path), reason)
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

    def _compare_directory(self, path: bytes, local: LocalEntry | None) -> _DirectoryState:
        """Compare a directory that is listed or contains a listed entry."""
        error = _too_deep(self._tree, path)
        if error is None and local is not None:
            error = local.error
            if local.stat is not None and not stat.S_ISDIR(local.stat.st_mode):
                kind = "link" if stat.S_ISLNK(local.stat.st_mode) else "file"
                reason = OSError(errno.ENOTDIR, f"is a {kind} here, a directory there")
                error = LocalError(self._tree.path_of(path), reason)
        if error is not None:
            self._add_obstacle(path, error)
            return _DirectoryState.BLOCKED
        if local is None:
            self.plan.directories.append(path)
        else:
            self._common.add(path)
        return _DirectoryState.READY

    def _compare_file(self, entry: Entry, path: bytes, local: LocalEntry | None) -> None:
        plan = self.plan
        found = None if local is None else local.stat
        error = None if local is None else local.error
        if found is not None and stat.S_ISLNK(found.st_mode):
            try:
                found = self._tree.stat_target(path)
            except LocalError as failure:
                error = failure
        if error is None and found is not None and stat.S_ISDIR(found.st_mode):
            reason = OSError(errno.EISDIR, "is a directory here, a file there")
            error = LocalError(self._tree.path_of(path), reason)
        elif local is not None and local.stat is not None and not _is_replaceable(local.stat):
            reason = OSError(errno.EEXIST, "is neither a file nor a link here, a file there")
            error = LocalError(self._tree.path_of(path), reason)
        if error is not None:
            self._add_obstacle(path, error)
        elif found is not None and same_size_and_time(found, entry.metadata):
            plan.unchanged += 1
        else:
            # All entries share one string for the type: there may be a million of them.
            plan.downloads.append(Entry(entry.name, entry.metadata._replace(type=FILE)))

    def _state_of(self, directory: bytes) -> _DirectoryState:
        """Return the state of the directory that contains a listed entry.

        A server may list the content of a directory without the directory itself.
        """
        self._with_entries.add(directory)
        known = self._states.get(directory)
        if known is not None:
            return known
        names = directory.split(b"/")
        state = _DirectoryState.READY
        for levels in range(1, min(len(names), DEEPEST + 1) + 1):
            above = b"/".join(names[:levels])
            known = self._states.get(above)
            if known is None:
                known = state
                self._keep(above)
                if state is _DirectoryState.READY:
                    known = self._compare_unlisted_directory(above)
                self._states[above] = known
            state = known
        return state

    def _compare_unlisted_directory(self, path: bytes) -> _DirectoryState:
        try:
            metadata = self._tree.lstat(path)
        except LocalError as error:
            return self._compare_directory(path, LocalEntry(path, None, error))
        local = None if metadata is None else LocalEntry(path, metadata)
        return self._compare_directory(path, local)

    def _unreadable(self, path: bytes, error: LocalError) -> None:
        """Handle a local directory that cannot be listed."""
        if not path:
            raise error
        self._keep(path)
        if path in self._states:
            self._states[path] = _DirectoryState.BLOCKED
            self._add_obstacle(path, error)
        elif self._delete:
            self.plan.local_errors.append(error)

    def _add_obstacle(self, path: bytes, error: LocalError) -> None:
        self.plan.obstacles.append(Obstacle(name_of(path, self._top), error))

    def _count_local(self, local: LocalEntry) -> None:
        if local.stat is None or not (
            stat.S_ISDIR(local.stat.st_mode) or is_partial(os.path.basename(local.path))
        ):
            self.plan.local_files += 1

    def _keep(self, path: bytes) -> None:
        """Keep a local path and the directories above it."""
        while path not in self._kept:
            self._kept.add(path)
            path = os.path.dirname(path)


def _below(name: bytes, directory: bytes) -> bytes:
    """Return an entry's path below the listed directory.

    :raises NotUnderstood: if it is outside of the directory.
    """
    require_inside(name, directory, itself=False)
    return path_below(name, directory)


def _is_replaceable(found: os.stat_result) -> bool:
    """Return whether a downloaded file may replace this one."""
    return stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)


def _too_deep(tree: LocalTree, path: bytes) -> LocalError | None:
    if path.count(b"/") < DEEPEST:
        return None
    return LocalError(tree.path_of(path), OSError(errno.ENAMETOOLONG, "is too deep"))
