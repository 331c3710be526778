"""The local directory as a storage."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing

from natproxy.kernel.openat2 import DIRECTORY as DIRECTORY_FLAGS
from natproxy.kernel.openat2 import Opener, choose_opener
from natproxy.metadata import FILE, Entry, Metadata
from natproxy.storage.interface import (
    Check,
    NotFound,
    Snapshots,
    Step,
    TopFiles,
    in_runs,
    unchecked,
)
from natproxy.storage.local.confinement import (
    PATH,
    READ,
    is_failure,
    is_out_of_resources,
    is_valid,
)
from natproxy.storage.local.hiding import Hides, Hiding
from natproxy.storage.local.metadata import Describe, RacyTimestamps, identity_of, metadata_of
from natproxy.storage.local.scans import Scans
from natproxy.storage.local.snapshots import SnapshotReader
from natproxy.storage.local.walk import Tree

GRANULE = 2.0
"""Seconds after a change of a file until the next one is sure to change its etag."""


class LocalFile:
    """An open file of a `LocalStorage`; see `natproxy.storage.interface.OpenFile`.

    :param descriptor: of a regular file; closed by `close`.
    :param result: of ``fstat(2)``.
    :param name: under which it was opened.
    """

    blocking = True
    __slots__ = ("_describe", "_descriptor", "_metadata", "_name", "_racy", "_result")

    def __init__(
        self,
        descriptor: int,
        result: os.stat_result,
        name: bytes,
        racy: RacyTimestamps,
        describe: Describe,
    ) -> None:
        self._descriptor = descriptor
        self._result = result
        self._name = name
        self._racy = racy
        self._describe = describe
        self._metadata: Metadata | None = None

    @property
    def size(self) -> int:
        """The size when it was opened, in bytes."""
        return self._result.st_size

    @property
    def metadata(self) -> Metadata:
        """The metadata when it was opened."""
        # Not at once: a DOWNLOAD needs the size only.
        if self._metadata is None:
            self._metadata = self._describe(self._result, self._name)
        return self._metadata

    @property
    def device(self) -> int:
        """The device that it is on, ``st_dev``."""
        return self._result.st_dev

    def fileno(self) -> int:
        """Return its descriptor; -1 after `close`."""
        return self._descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an offset on.

        :raises OSError: as ``pread(2)`` does.
        """
        return os.pread(self._descriptor, size, offset)

    def ready(self, offset: int) -> bool:
        """Return false: the page cache reports what can be read without waiting."""
        return False

    def interrupt(self) -> None:
        """Do nothing: the kernel does not interrupt a read of a disk."""

    def stored_sha256(self) -> None:
        """Return ``None``: file systems keep no digest."""

    def unchanged(self) -> bool:
        """Return whether size and mtime are those at opening, or it has grown.

        Not the identity: a rename or an unlink changes the ctime, and not the content.
        """
        now, then = os.fstat(self._descriptor), self._result
        return now.st_size > then.st_size or (
            (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
        )

    @property
    def identity(self) -> str:
        """Made of device, inode, size, mtime and ctime when it was opened."""
        return identity_of(self._result)

    def current_identity(self) -> str:
        """Return the identity that it has now."""
        return identity_of(os.fstat(self._descriptor))

    def is_racy(self) -> bool:
        """Return whether it may change again without a change of the identity."""
        return self._racy.is_racy(
            self.identity, self.device, self._result.st_ctime, GRANULE, self._racy.now()
        )

    def close(self) -> None:
        """Close its descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Root:
    """The descriptor of the served directory, in a ``with`` block.

    :raises NotFound: if the directory cannot be opened.
    :raises OSError: if the system lacks resources, or the disk fails.
    """

    # Not a generator with ``contextmanager``: it takes three times as long, for each command.
    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __enter__(self) -> int:
        try:
            self._descriptor = os.open(self._path, DIRECTORY_FLAGS)
        except OSError as error:
            if is_failure(error):
                raise
            raise NotFound from error
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class LocalStorage:
    """A local directory; see `natproxy.storage.interface.Storage`.

    Its path is resolved for each call, so that a directory that is replaced, or a link that is
    turned to the next release, is served from then on.

    Files are regular files. Links that stay inside are followed where ``openat2`` can confine
    them, and listed as what they lead to; a link to a directory is not descended into.

    :param path: of the directory.
    :param opener: how names below it are opened; see `choose_opener`.
    :param scans: the names of large directories, kept from one listing to the next.
    :param racy: decides whether an identity may be relied upon.
    :param describe: returns the metadata, with the etag: `metadata_of` or `replica_metadata_of`.
    """

    blocking = False

    def __init__(
        self,
        path: str | bytes,
        opener: Opener | None = None,
        scans: Scans | None = None,
        racy: RacyTimestamps | None = None,
        describe: Describe = metadata_of,
    ) -> None:
        self.path = os.fsencode(path)
        self._preferred = self._opener = opener or choose_opener()
        self._hiding: Hiding | None = None
        self._scans = scans or Scans()
        self._racy = racy or RacyTimestamps()
        self._describe = describe

    def hide(self, hides: Hides | None) -> None:
        """Neither list nor open the paths for which a function returns true, nor links to them.

        They are as if they did not exist. It holds for the calls that begin later.

        :param hides: called with paths below the directory, in any thread; ``None`` to hide
            nothing.
        """
        hiding = None if hides is None else Hiding(hides)
        self._opener = self._preferred if hiding is None else hiding.opener(self._preferred)
        self._hiding = hiding

    def check(self) -> None:
        """Check that the directory exists and can be listed.

        :raises OSError: if it does not, or cannot.
        """
        directory = os.open(self.path, DIRECTORY_FLAGS)
        try:
            with os.scandir(directory) as entries:
                next(entries, None)
        finally:
            os.close(directory)

    def metadata(self, name: bytes) -> Metadata:
        """Return the metadata of a regular file or a directory.

        :raises NotFound: if there is neither, or it is outside.
        :raises OSError: if descriptors or memory are used up, or the disk fails.
        """
        if name and not is_valid(name):
            raise NotFound
        with self._root() as root:
            # As long as for a missing file: the directory is opened in either case.
            if self._hiding is not None:
                self._hiding.refuse(name)
            return self._tree(root, unchecked, self._hiding).metadata(name)

    def open(self, name: bytes) -> LocalFile:
        """Open a regular file for reading.

        :raises NotFound: if it is absent, no regular file, outside, or unreadable.
        :raises OSError: as `metadata` does.
        """
        if not is_valid(name):
            raise NotFound
        with self._root() as root:
            if self._hiding is not None:
                self._hiding.refuse(name)
            return self._open_regular(root, name)

    def entries(
        self, name: bytes, depth: float, after: bytes, check: Check = unchecked
    ) -> Generator[Step, None, None]:
        """List the tree below a directory, or a file; see `Storage.entries`.

        Regular files, directories, and links inside the directory that lead to either are
        entries.
        """
        if name and not is_valid(name):
            raise NotFound
        hiding = self._hiding
        with (
            self._root() as root,
            closing(self._tree(root, check, hiding)) as tree,
        ):
            if hiding is not None:
                hiding.refuse(name)
            metadata = tree.metadata(name)
            if metadata.type != FILE:
                yield from tree.walk(name, depth, after)
            elif name > after:
                yield Step(name, [Entry(name, metadata)])

    def snapshots(
        self, names: Sequence[bytes], largest: int, check: Check = unchecked
    ) -> Snapshots:
        """Read small files, each in one state; see `Storage.snapshots`.

        A state is one in which the file's identity was the same before and after it was read.
        """
        with ExitStack() as opened:
            try:
                root = opened.enter_context(self._root())
            except NotFound as error:
                # There is no served directory.
                yield from [error] * len(names)
                return

            def open_file(name: bytes) -> LocalFile:
                if not is_valid(name):
                    raise NotFound
                return self._open_regular(root, name)

            reader = SnapshotReader(root, self._opener, open_file, self._describe, self._hiding)
            opened.callback(reader.close)
            for name in names:
                check()
                yield reader.read(name, largest)

    def top_files(self, check: Check = unchecked) -> TopFiles:
        """Return the names of regular files, and of links inside that lead to some.

        :raises OSError: if the directory cannot be read.
        """
        names: list[bytes] = []
        unread: list[bytes] = []
        hiding = self._hiding
        directory = os.open(self.path, DIRECTORY_FLAGS)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    check()
                    name = os.fsencode(entry.name)
                    if hiding is not None and hiding.hides_entry((b"",), name):
                        continue
                    try:
                        if self._is_file(directory, name, entry):
                            names.append(name)
                    except OSError as error:
                        if is_out_of_resources(error):
                            raise
                        unread.append(name)
        finally:
            os.close(directory)
        runs = [sorted(run) for run in in_runs(names)]
        return TopFiles(heapq.merge(*runs), tuple(sorted(unread)))

    def _root(self) -> _Root:
        return _Root(self.path)

    def _tree(self, root: int, check: Check, hiding: Hiding | None) -> Tree:
        return Tree(root, self._opener, self._scans, check, hiding, self._describe)

    def _is_file(self, directory: int, name: bytes, entry: os.DirEntry[str]) -> bool:
        """Return whether an entry of the directory is a file that can be opened.

        :raises OSError: if its type cannot be read.
        """
        if entry.is_file(follow_symlinks=False):
            return True
        if not entry.is_symlink():
            return False
        try:
            self._open_regular(directory, name).close()
        except NotFound:
            return False
        return True

    def _open_regular(self, root: int, name: bytes) -> LocalFile:
        try:
            opened = _open_entry(root, name) if b"/" not in name else None
            if opened is None:
                # The other end of a FIFO or a device notices that it is opened, even without
                # waiting: so the type is checked first, and once more after opening.
                descriptor, _ = _regular(self._opener(root, name, PATH))
                os.close(descriptor)
                opened = _regular(self._opener(root, name, READ))
                if self._hiding is not None:
                    _refuse_target(self._hiding, root, opened[0], name)
        except OSError as error:
            if is_failure(error):
                raise
            raise NotFound from error
        return LocalFile(*opened, name, self._racy, self._describe)


def _refuse_target(hiding: Hiding, root: int, descriptor: int, name: bytes) -> None:
    """Close a descriptor, and raise `NotFound`, if the file is hidden."""
    try:
        hiding.refuse_target(root, descriptor, name)
    except BaseException:
        os.close(descriptor)
        raise


def _open_entry(root: int, name: bytes) -> tuple[int, os.stat_result] | None:
    """Open a regular file directly in a directory; return ``None`` if there is a link, or no file.

    One component that is no link cannot lead outside: ``openat2``, which Python calls through
    ``ctypes``, is not needed.
    """
    if not stat.S_ISREG(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
        return None
    try:
        return _regular(os.open(name, READ | os.O_NOFOLLOW, dir_fd=root))
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        # A link has replaced it.
        return None


def _regular(descriptor: int) -> tuple[int, os.stat_result]:
    """Return a descriptor and its metadata; close it, and raise, if it is of no regular file."""
    try:
        result = os.fstat(descriptor)
        if not stat.S_ISREG(result.st_mode):
            raise NotFound
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, result
