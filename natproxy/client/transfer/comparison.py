"""Compare the entries that a server lists with a local tree: two sorted sequences, merged."""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Sequence
from itertools import islice
from stat import S_ISDIR, S_ISLNK, S_ISREG

from natproxy.client.errors import LocalError, NotUnderstood
from natproxy.client.listing import require_inside
from natproxy.client.transfer.extra import ExtraPaths
from natproxy.client.transfer.filesystem import stored_as
from natproxy.client.transfer.leftovers import may_be_leftover
from natproxy.client.transfer.obstacles import DEEPEST, directory_error, file_error
from natproxy.client.transfer.partial import is_partial
from natproxy.client.transfer.plan import MirrorPlan, Obstacle, name_of, path_below
from natproxy.client.transfer.run_directory import is_run_directory
from natproxy.client.transfer.runs import new_run, unchanged_run, with_shared_type
from natproxy.client.transfer.selection import Equality, Selection
from natproxy.client.transfer.traversal import LocalEntry, Traversal
from natproxy.protocol import DIRECTORY, FILE, UNREAD, Entry, Metadata

MOST_UNLISTED = 128 << 20
"""Bytes that are held for directories that the server does not list, although it lists entries
in them. One such entry may need `DEEPEST` directories, all with long paths."""

# Bytes that are held for a directory, besides its path.
_DIRECTORY_SIZE = 256


class _DirectoryState(enum.Enum):
    """Whether the content of a listed directory can be mirrored."""

    READY = enum.auto()
    BLOCKED = enum.auto()
    """An obstacle prevents it."""
    SKIPPED = enum.auto()
    """The directory, or one above it, is named like a partial download."""


class Comparison:
    """Fills a plan: call `add` for each listed entry in order, then `finish`.

    :param plan: the plan to fill.
    :param delete: whether `MirrorPlan.extra` is needed.
    :param selection: of entries; others are neither downloaded nor extra. ``None`` for all.
    :param equality: when a local file counts as unchanged; one that is to be compared by its
        digest is not yet known to be.
    :raises LocalError: if the local directory cannot be listed.
    """

    def __init__(
        self,
        plan: MirrorPlan,
        delete: bool,
        selection: Selection | None = None,
        equality: Equality = Equality.SIZE_AND_TIME,
    ) -> None:
        self._top = plan.top
        self._prefix = plan.top + b"/" if plan.top else b""
        self._selection = selection or None
        self._equality = equality
        self.plan = plan
        self._tree = plan.tree
        self._delete = delete
        # By path, of each directory that is listed or contains a listed entry.
        self._states = {b"": _DirectoryState.READY}
        # Bytes that are held for directories that are not listed.
        self._unlisted_size = 0
        # Directories that contain a listed entry.
        self._with_entries: set[bytes] = set()
        # Directories that are listed and exist locally.
        self._common: set[bytes] = set()
        self._extra = ExtraPaths(self._tree)
        # Whether a directory that is not listed was found here under the name of its content.
        self._unlisted = False
        # A directory under an alias whose content is not compared: nothing is extra then.
        self._uncompared: LocalError | None = None
        # The prefix of paths in the directory of the last listed entry, if that is ready.
        self._ready: bytes | None = None
        self._local = Traversal(self._tree, self._unreadable)

    def add_page(self, page: Sequence[Entry]) -> None:
        """Compare the next entries that the server lists.

        :raises NotUnderstood: if a name is outside of the listed directory.
        """
        number = 0
        while number < len(page):
            number = self._skip_unchanged(page, number)
            number = self._skip_new(page, number)
            if number < len(page):
                self.add(page[number])
                number += 1

    def _skip_unchanged(self, page: Sequence[Entry], number: int) -> int:
        """Count entries that are the same here, which most entries are; return the next number."""
        level = self._local.level
        if (
            level is None
            or level.prefix != self._ready
            or self._selection is not None
            or self._equality is Equality.CHECKSUM
        ):
            return number
        ignore_time = self._equality is Equality.SIZE_ONLY
        count = unchanged_run(page, number, self._prefix + level.prefix, level, ignore_time)
        if count:
            plan = self.plan
            plan.local_files += count
            plan.source_files += count
            plan.unchanged += count
            self._local.advance(count)
        return number + count

    def _skip_new(self, page: Sequence[Entry], number: int) -> int:
        """Plan to download files of a directory that has no files here; return the next number."""
        ready = self._ready
        if ready is None or self._selection is not None or not self._has_no_alias(ready[:-1]):
            return number
        local = self._local.current
        end = None if local is None else self._prefix + local.path
        count = new_run(page, number, self._prefix + ready, end)
        self.plan.downloads += map(with_shared_type, islice(page, number, number + count))
        self.plan.source_files += count
        return number + count

    def _has_no_alias(self, directory: bytes) -> bool:
        """Return whether nothing is known to have another name in a directory here."""
        if directory in self._local.empty:
            return True
        return bool(directory) and directory not in self._common

    def add(self, entry: Entry) -> None:
        """Compare the next entry that the server lists.

        :raises NotUnderstood: if its name is outside of the listed directory.
        """
        path = _below(entry.name, self._top)
        self._advance_to(path)
        local = self._local.current
        if local is not None and local.path != path:
            local = None
        directory = entry.metadata.type == DIRECTORY
        if self._selection is not None and not self._selection.includes(path, directory):
            if local is not None:
                self._pass_over(local)
            return
        if local is not None:
            self._count_local(local)
        if not self._compare(entry, path, local) and local is not None:
            self._local.skip()
        if local is not None:
            self._local.advance()

    @property
    def has_aliases(self) -> bool:
        """Whether local entries may have other names than in the listing."""
        return self._extra.has_aliases or self._unlisted

    def finish(self) -> None:
        """Compare the remaining local paths and complete the plan."""
        self._advance_to(None)
        plan = self.plan
        if self._delete and self._uncompared is not None:
            plan.local_errors.append(self._uncompared)
        elif self._delete and plan.incomplete is None:
            plan.extra = self._extra.paths()

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
            selection = self._selection
            if selection is not None and not selection.includes(local.path, local.is_directory):
                self._pass_over(local)
                continue
            self._count_local(local)
            if not local.mode:
                self._extra.keep(local.path)
                self._local.skip()
                if self._delete and local.error is not None:
                    self.plan.local_errors.append(local.error)
            elif local.is_directory and is_run_directory(os.path.basename(local.path)):
                # Another run uses it, or was killed.
                self.plan.leftovers = self.plan.leftovers or b"/" not in local.path
                self._extra.keep(local.path)
                self._local.skip()
            elif local.is_directory:
                self._extra.add(local.path, directory=True)
            elif is_partial(os.path.basename(local.path)):
                self._extra.keep(local.path)
                if may_be_leftover(os.path.basename(local.path)):
                    self.plan.leftover_files.append(local.path)
            else:
                self._extra.add(local.path, directory=False)
            self._local.advance()

    def _pass_over(self, local: LocalEntry) -> None:
        """Advance over a local entry that is not selected, and keep it."""
        assert self._selection is not None
        self._extra.keep(local.path)
        if not (local.is_directory and self._selection.enters(local.path)):
            self._local.skip()
        self._local.advance()

    def _compare(self, entry: Entry, path: bytes, local: LocalEntry | None) -> bool:
        """Compare an entry; return whether its local content is to be compared as well."""
        plan = self.plan
        kind = entry.metadata.type
        plan.source_files += kind == FILE
        above = os.path.dirname(path)
        state = self._state_of(above)
        if state is _DirectoryState.READY:
            self._ready = above + b"/" if above else b""
        else:
            self._ready = None
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
        if self._has_no_alias(path[: max(0, path.rfind(b"/"))]):
            return None
        try:
            metadata = self._tree.lstat(path)
        except LocalError as error:
            return LocalEntry(path, 0, error=error)
        if metadata is None:
            return None
        self._extra.add_alias(metadata)
        if not compared and S_ISDIR(metadata.st_mode):
            reason = OSError(errno.EEXIST, "is here under another name: nothing deleted")
            self._uncompared = LocalError(self._tree.path_of(path), reason)
        return _local_entry(path, metadata)

    def _compare_directory(self, path: bytes, local: LocalEntry | None) -> _DirectoryState:
        """Compare a directory that is listed or contains a listed entry."""
        error = directory_error(self._tree, path, local)
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
        found = local
        error = None if local is None else local.error
        if local is not None and S_ISLNK(local.mode):
            try:
                target = self._tree.stat_target(path)
            except LocalError as failure:
                error = failure
            else:
                found = None if target is None else _local_entry(path, target)
        error = error or file_error(self._tree, path, local, found)
        if error is not None:
            self._add_obstacle(path, error)
            return
        entry = with_shared_type(entry)
        if found is None or not self._is_same(found, entry.metadata):
            plan.downloads.append(entry)
        elif self._equality is Equality.CHECKSUM:
            plan.same_size.append(entry)
        else:
            plan.unchanged += 1

    def _is_same(self, found: LocalEntry, metadata: Metadata) -> bool:
        """Return whether a local file counts as unchanged, apart from its digest."""
        if not S_ISREG(found.mode) or found.size != metadata.size:
            return False
        if self._equality is not Equality.SIZE_AND_TIME:
            return True
        return stored_as(found.mtime_ns, metadata.mtime_ns)

    def _state_of(self, directory: bytes) -> _DirectoryState:
        """Return the state of the directory that contains a listed entry.

        A server may list the content of a directory without the directory itself.

        :raises NotUnderstood: if it does that for directories that exceed `MOST_UNLISTED`.
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
                self._unlisted_size += len(above) + _DIRECTORY_SIZE
                if self._unlisted_size > MOST_UNLISTED:
                    raise NotUnderstood("the server lists entries in directories it does not list")
                self._extra.keep(above)
                if state is _DirectoryState.READY and is_partial(os.path.basename(above)):
                    known = _DirectoryState.SKIPPED
                    self.plan.skipped_directories.append(name_of(above, self._top))
                elif state is _DirectoryState.READY:
                    known = self._compare_unlisted_directory(above)
                self._states[above] = known
            state = known
        return state

    def _compare_unlisted_directory(self, path: bytes) -> _DirectoryState:
        directories = self.plan.directories
        if directories and directories[-1] == os.path.dirname(path):
            # Nothing is in a directory that does not exist.
            return self._compare_directory(path, None)
        try:
            metadata = self._tree.lstat(path)
        except LocalError as error:
            return self._compare_directory(path, LocalEntry(path, 0, error=error))
        local = None if metadata is None else _local_entry(path, metadata)
        self._unlisted = self._unlisted or local is not None
        return self._compare_directory(path, local)

    def _unreadable(self, path: bytes, error: LocalError) -> None:
        """Handle a local directory that cannot be listed."""
        if not path:
            raise error
        self._extra.keep(path)
        if path in self._states:
            self._states[path] = _DirectoryState.BLOCKED
            self._add_obstacle(path, error)
        elif self._delete:
            self.plan.local_errors.append(error)

    def _add_obstacle(self, path: bytes, error: LocalError) -> None:
        self.plan.obstacles.append(Obstacle(name_of(path, self._top), error))

    def _count_local(self, local: LocalEntry) -> None:
        if not (local.is_directory or (local.mode and is_partial(os.path.basename(local.path)))):
            self.plan.local_files += 1


def _below(name: bytes, directory: bytes) -> bytes:
    """Return an entry's path below the listed directory.

    :raises NotUnderstood: if it is outside of the directory.
    """
    require_inside(name, directory, itself=False)
    return path_below(name, directory)


def _local_entry(path: bytes, found: os.stat_result) -> LocalEntry:
    return LocalEntry(path, found.st_mode, found.st_size, found.st_mtime_ns)
