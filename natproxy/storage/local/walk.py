"""A walk through the tree below a directory, in the order of full paths.

Names are full paths below the served directory. A walk begins after any name; sub-trees that
end before it are not read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator, Sequence

from natproxy.kernel.openat2 import DIRECTORY as DIRECTORY_FLAGS
from natproxy.kernel.openat2 import Opener
from natproxy.metadata import DIRECTORY, UNREAD_METADATA, Entry, Metadata
from natproxy.storage.interface import Check, NotFound, Step, unchecked
from natproxy.storage.local.confinement import (
    MAX_PATH,
    PATH,
    is_absent,
    is_failure,
    is_out_of_resources,
)
from natproxy.storage.local.hiding import Hiding
from natproxy.storage.local.metadata import Describe, metadata_of
from natproxy.storage.local.scans import Runs, Scans, keys_after

READABLE = b"\0"
"""Ends the position behind a directory's entry if the directory was readable at that time.

No name has such a byte, so that the position sorts before every name that begins with the
directory's.
"""

# A link that took a directory's place after the scan is not descended into.
_BELOW = DIRECTORY_FLAGS | os.O_NOFOLLOW

# Errors of a link's resolution after which its target may be inside and in place. Any other
# error means that the link leads nowhere, or outside.
_LINK_UNREAD = frozenset((errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT))


class _Level:
    """A directory on the way from the top of a walk to the current one.

    :param batches: the keys of the directory that lead to a path greater than ``rest``.
    :ivar path: with a slash at its end; empty for the served directory.
    :ivar rest: the path, below this one, after which entries are listed.
    """

    __slots__ = ("_batches", "_index", "_keys", "path", "rest")

    def __init__(self, path: bytes, rest: bytes, batches: Iterator[Sequence[bytes]]) -> None:
        self.path = path
        self.rest = rest
        self._batches = batches
        self._keys: Sequence[bytes] = ()
        self._index = 0

    def ahead(self, most: int) -> Sequence[bytes]:
        """Return some of the next keys; none at the end of the directory."""
        if self._index == len(self._keys):
            self._keys = next(self._batches, ())
            self._index = 0
        return self._keys[self._index : self._index + most]

    def skip(self, count: int) -> None:
        """Move behind the next keys."""
        self._index += count


_UNREADABLE = _Level(b"", b"", iter(()))
"""In the place of the level of a directory that cannot be read."""

_MOST_FILES = 64
"""Files in one step of a walk. The first steps have fewer: a listing may end soon."""


class Tree:
    """The served directory during one call of a storage.

    One directory is open at a time, besides the top: a tree may be deeper than there are
    descriptors. The caller closes it.

    :param root: descriptor of the served directory; the caller closes it.
    :param opener: how names below it are opened.
    :param scans: the names in its directories.
    :param check: called at each step of a walk; an exception that it raises ends the walk.
    :param hiding: decides which names are hidden. The caller has checked the name that it passes.
    :param describe: returns the metadata of a file or a directory.
    """

    def __init__(
        self,
        root: int,
        opener: Opener,
        scans: Scans,
        check: Check = unchecked,
        hiding: Hiding | None = None,
        describe: Describe = metadata_of,
    ) -> None:
        self._root = root
        self._opener = opener
        self._scans = scans
        self._check = check
        self._hiding = hiding
        self._describe = describe
        self._top = b""
        # The paths under which the top of a walk is: as it is named, and as it is resolved.
        self._prefixes: tuple[bytes, ...] = ()
        self._path = b""
        self._directory = root
        # Directories that this walk has marked as unread, each with a slash at its end.
        self._unread: set[bytes] = set()
        # The directory that was scanned last when its entry was made.
        self._probed: tuple[bytes, Runs] | None = None

    def close(self) -> None:
        """Close the directory that is open."""
        self._move(b"", self._root)

    def metadata(self, name: bytes) -> Metadata:
        """Return the metadata of a file or a directory.

        :raises NotFound: if there is neither under this name.
        :raises OSError: if descriptors or memory are used up, or the disk fails.
        """
        if not name:
            return self._describe(os.fstat(self._root), name)
        try:
            return self._metadata_below(name)
        except OSError as error:
            if is_failure(error):
                raise
            raise NotFound from error

    def walk(self, name: bytes, depth: float, after: bytes) -> Generator[Step, None, None]:
        """Walk through a directory; see `natproxy.storage.interface.Storage.entries`.

        :raises NotFound: if it cannot be read.
        :raises OSError: as `metadata` does, or if a directory that was listed as readable
            cannot be read any more.
        """
        top = name + b"/" if name else b""
        if after.startswith(top):
            rest = after.removeprefix(top)
        elif after < top:
            rest = b""
        else:
            return
        self._top = top
        try:
            directory = self._open(top)
            if self._hiding is not None:
                self._prefixes = self._hiding.prefixes(self._root, directory, top)
            levels = [self._level(top, rest, self._scan(directory))]
        except OSError as error:
            if is_failure(error):
                raise
            raise NotFound from error
        most_files = 1
        while levels:
            self._check()
            level = levels[-1]
            path, rest = level.path, level.rest
            descends = len(levels) < depth
            keys = level.ahead(most_files)
            if not keys:
                levels.pop()
            elif (key := keys[0]).endswith(b"/"):
                level.skip(1)
                below = path + key
                if descends and len(below) < MAX_PATH and below not in self._unread:
                    resumed = rest.startswith(key)
                    entered = self._enter(below, rest.removeprefix(key) if resumed else b"", after)
                    if entered is _UNREADABLE:
                        # No position: a listing that continued there would begin inside.
                        yield Step(None, unread=True)
                    elif entered is not None:
                        levels.append(entered)
                        if not resumed:
                            yield Step(below)
            else:
                try:
                    directory = self._open(path)
                except OSError as error:
                    if not is_absent(error):
                        raise _with_path(error, path) from error
                    if path == top:
                        raise NotFound from error
                    levels.pop()
                else:
                    files, other = self._files(directory, path, keys)
                    level.skip(len(files))
                    if files:
                        most_files = min(2 * most_files, _MOST_FILES)
                        yield Step(files[-1].name, files)
                        if other is None:
                            continue
                    level.skip(1)
                    key = keys[len(files)]
                    name = path + key
                    if len(name) <= MAX_PATH:
                        entry = self._entry(directory, path, key, descends, other)
                        readable = descends and self._will_enter(name, entry)
                        yield Step(
                            name + READABLE if readable else name, () if entry is None else (entry,)
                        )

    def _files(
        self, directory: int, path: bytes, keys: Sequence[bytes]
    ) -> tuple[list[Entry], os.stat_result | None]:
        """Return entries of the first keys, as long as they are those of regular files.

        Nearly all entries are made here: nothing else is done for each.

        :param directory: descriptor of the directory.
        :return: also the metadata of the next key, if it is of something else.
        """
        entries: list[Entry] = []
        check, read, is_regular, describe = self._check, os.stat, stat.S_ISREG, self._describe
        longest = MAX_PATH - len(path)
        for key in keys:
            check()
            if key.endswith(b"/"):
                break
            try:
                result = read(key, dir_fd=directory, follow_symlinks=False)
            except OSError:
                # It is read again, and the error handled, as the next one.
                break
            if len(key) > longest or not is_regular(result.st_mode):
                return entries, result
            name = path + key
            entries.append(Entry(name, describe(result, name)))
        return entries, None

    def _will_enter(self, name: bytes, entry: Entry | None) -> bool:
        """Return whether an entry is a directory that was found to be readable."""
        return (
            entry is not None
            and entry.metadata.type == DIRECTORY
            and not entry.unread
            and self._probed is not None
            and self._probed[0] == name + b"/"
        )

    def _entry(
        self,
        directory: int,
        path: bytes,
        key: bytes,
        descends: bool,
        result: os.stat_result | None,
    ) -> Entry | None:
        """Return the entry of a key, or ``None`` if there is nothing to list.

        :param result: its metadata, if they have been read.
        """
        name = path + key
        is_link = False
        try:
            if result is None:
                result = os.stat(key, dir_fd=directory, follow_symlinks=False)
            is_link = stat.S_ISLNK(result.st_mode)
            if is_link:
                # Resolved from the served directory, not from this one: a link may lead
                # upwards as long as it stays inside.
                return Entry(name, self._metadata_below(name))
            metadata = self._describe(result, name)
        except NotFound:
            return None
        except OSError as error:
            if is_out_of_resources(error):
                raise
            if error.errno not in _LINK_UNREAD if is_link else is_absent(error):
                return None
            self._unread.add(name + b"/")
            return Entry(name, UNREAD_METADATA)
        if not descends or metadata.type != DIRECTORY or len(name) + 1 >= MAX_PATH:
            return Entry(name, metadata)
        return Entry(name, metadata, not self._listable(directory, path, key))

    def _listable(self, directory: int, path: bytes, key: bytes) -> bool:
        """Return whether a directory can be listed; note it as unread if it cannot."""
        below = path + key + b"/"
        try:
            probed = os.open(key, _BELOW, dir_fd=directory)
            try:
                _search(probed)
                self._probed = (below, self._scan(probed))
            finally:
                os.close(probed)
        except OSError as error:
            if is_out_of_resources(error):
                raise
            if not is_absent(error):
                self._unread.add(below)
                return False
            # It has vanished since, which is found again when it is entered.
        return True

    def _enter(self, path: bytes, rest: bytes, after: bytes) -> _Level | None:
        """Return the level of a sub-directory.

        :return: ``None`` if it has vanished, or was marked as unread in an earlier listing;
            `_UNREADABLE` if it cannot be read, and was perhaps listed without that mark.
        :raises OSError: if it cannot be read, and was listed without a mark.
        """
        try:
            directory = self._open(path)
            _search(directory)
            if self._probed is not None and self._probed[0] == path:
                runs = self._probed[1]
            else:
                runs = self._scan(directory)
        except OSError as error:
            if is_out_of_resources(error):
                raise
            if is_absent(error):
                return None
            # Clients take what is not listed for removed. If this walk has yielded the
            # directory without a mark, or the one before ended inside of it or right after an
            # entry without a mark, the listing has to begin anew.
            name = path[:-1]
            if name > after or after.startswith((path, name + READABLE)):
                raise _with_path(error, path) from error
            # Its entry was the last one before, and marked; or other names lie between, and
            # whether it was marked is not known.
            return None if after == name else _UNREADABLE
        finally:
            self._probed = None
        return self._level(path, rest, runs)

    def _level(self, path: bytes, rest: bytes, runs: Runs) -> _Level:
        """Return the level of a directory, without the keys that are hidden."""
        batches = keys_after(runs, rest)
        if self._hiding is not None:
            below = path[len(self._top) :]
            prefixes = [prefix + below for prefix in self._prefixes]
            batches = self._hiding.visible(batches, prefixes, self._check)
        return _Level(path, rest, batches)

    def _scan(self, directory: int) -> Runs:
        return self._scans.of(directory, self._check)

    def _metadata_below(self, name: bytes) -> Metadata:
        if b"/" not in name:
            # One component that is a regular file cannot lead outside.
            result = os.stat(name, dir_fd=self._root, follow_symlinks=False)
            if stat.S_ISREG(result.st_mode):
                return self._describe(result, name)
        descriptor = self._opener(self._root, name, PATH)
        try:
            if self._hiding is not None:
                self._hiding.refuse_target(self._root, descriptor, name)
            return self._describe(os.fstat(descriptor), name)
        finally:
            os.close(descriptor)

    def _open(self, path: bytes) -> int:
        if path != self._path:
            above, slash, component = path[:-1].rpartition(b"/")
            if not path:
                self._move(path, self._root)
            elif path == self._top:
                self._move(path, self._opener(self._root, path[:-1], DIRECTORY_FLAGS))
            elif above + slash == self._path:
                # A single component that is no link can't lead outside.
                self._move(path, os.open(component, _BELOW, dir_fd=self._directory))
            else:
                self._move(path, self._opener(self._root, path[:-1], _BELOW))
        return self._directory

    def _move(self, path: bytes, directory: int) -> None:
        if self._directory != self._root:
            os.close(self._directory)
        self._path, self._directory = path, directory


def _search(directory: int) -> None:
    """Raise ``OSError`` unless names can be looked up in a directory."""
    os.stat(b".", dir_fd=directory)


def _with_path(error: OSError, path: bytes) -> OSError:
    return OSError(error.errno, error.strerror, os.fsdecode(path))
