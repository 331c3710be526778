"""Small files are staged in a run directory, and get their names in groups.

The bytes of a group are on the disk before the first of its files gets its name. A new directory
is staged with its content and gets its name by one rename; a file of an existing directory gets
its own. Whatever ends the process, every name is that of a whole file.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, groupby
from typing import NamedTuple

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.retry import Cancellation
from natproxy.client.transfer.destination import Existing, LocalFile, keeps_existing
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.filesystem import (
    EARLIEST,
    LATEST,
    inheritance,
    set_time,
    sync_directory,
    sync_file,
)
from natproxy.client.transfer.parallel import run_parallel
from natproxy.client.transfer.part_file import pass_on_permissions
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.run_directory import RunDirectory, remove_leftovers
from natproxy.client.transfer.tree import LocalTree
from natproxy.kernel.openat2 import DIRECTORY
from natproxy.kernel.syncfs import has_syncfs, rename_new, syncfs
from natproxy.protocol import Metadata

GROUP_FILES = 4000
"""Files of a group: the next one begins with another directory, or after half as many more."""

GROUP_SIZE = 64 << 20
"""Bytes of a group."""

SYNC_THREADS = 32
"""Threads that synchronize files one by one where ``syncfs`` cannot be used."""

MOST_SYNCED = 16
"""Directories that are synchronized one by one; for more of them, ``syncfs`` takes less time."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


# Failing to set a time; one object saves a microsecond for each file.
_not_an_error = suppress(OSError)


class Unstageable(Exception):
    """Files of a directory cannot be staged: each is to be downloaded in the directory itself."""


class SmallFile(NamedTuple):
    """A small file to download.

    :ivar number: of the request in its batch.
    :ivar request: the request; its tree and path may be those of the directory to save it in.
    :ivar directory: path of its directory below the tree's root.
    :ivar last: its name in the directory.
    :ivar replaces: whether a file with its name exists already.
    """

    number: int
    request: DownloadRequest
    directory: bytes
    last: bytes
    replaces: bool = False


class Staged(NamedTuple):
    """A whole file in the run directory.

    :ivar path: its path in the run directory.
    """

    file: SmallFile
    metadata: Metadata
    path: bytes


class Published(NamedTuple):
    """The result of a file of a group.

    :ivar error: why it is not certainly on the disk with its name; ``None`` if it is.
    :ivar unchanged: whether the existing file has been kept instead.
    """

    file: SmallFile
    size: int
    error: LocalError | None = None
    unchanged: bool = False


class Group:
    """Files and new directories that get their names together.

    :ivar count: number of files.
    :ivar size: bytes of the files.
    :ivar flat: files of existing directories.
    :ivar tops: new directories whose parent exists, each with its name in the run directory.
    :ivar nested: the files at any depth of each of these directories.
    :ivar directories: all new directories, each with its path in the run directory.
    """

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.flat: list[Staged] = []
        self.tops: dict[bytes, bytes] = {}
        self.nested: dict[bytes, list[Staged]] = {}
        self.directories: dict[bytes, bytes] = {}

    def files(self) -> Iterator[Staged]:
        """Yield all files."""
        return chain(self.flat, *self.nested.values())


class _Place(NamedTuple):
    """Where the files of one directory are written.

    :ivar directory: the path that they will have below the root.
    :ivar descriptor: of the staged directory, or of the run directory.
    :ivar prefix: of their paths in the run directory; ``None`` if they have no names yet.
    :ivar files: the list of files to add them to.
    """

    directory: bytes
    descriptor: int
    prefix: bytes | None
    files: list[Staged]


class Staging(Closing):
    """Stages small files below one root. While one thread stages, another one may commit.

    :param tree: the root; it is created if it does not exist.
    :param existing: what to do about files that exist.
    :param durable: whether a file is on the disk before it gets its name.
    """

    def __init__(self, tree: LocalTree, existing: Existing, durable: bool = True) -> None:
        self._tree = tree
        self._existing = existing
        self._durable = durable
        self._root: LocalDirectory | None = None
        # ``None`` until the first file is written.
        self._opened_run: RunDirectory | None = None
        self._syncfs = False
        self._inheritance: tuple[int, int | None, bytes] | None = None
        self._names = 0
        self._group = Group()
        self._place: _Place | None = None
        # The existing directory that was looked into last, and its path.
        self._opened: LocalDirectory | None = None
        self._opened_path = b""
        # The new directory that was looked into last.
        self._new_path: bytes | None = None
        self._existing_paths = {b""}
        # Directories of earlier groups: they have their names, or will get them before the files
        # of the current group do.
        self._created: set[bytes] = set()
        self._now = time.time_ns()
        # The path in the run directory of a file that is not complete.
        self._unfinished: bytes | None = None
        self._committing = threading.Lock()

    def fills(self, file: SmallFile) -> bool:
        """Return whether the current group is to be committed before a file is written."""
        group = self._group
        if group.size >= GROUP_SIZE or group.count >= GROUP_FILES * 3 // 2:
            return True
        place = self._place
        return group.count >= GROUP_FILES and not (place and place.directory == file.directory)

    def find(self, request: DownloadRequest, directory: bytes) -> os.stat_result | None:
        """Return the metadata of the existing file of a request; ``None`` if there is none.

        :param directory: the path of the file's directory below the root.
        :raises LocalError: if it is not a regular file, or its directory cannot be opened.
        :raises Unstageable: if its directory passes on another group or access control list to
            new files than the root does, or is on another file system.
        """
        if directory == self._new_path or not self._tree.exists:
            return None
        if (self._opened is None or self._opened_path != directory) and not self._open(directory):
            self._new_path = directory
            return None
        assert self._opened is not None
        try:
            if self._opened.lstat(os.path.basename(request.path)) is None:
                return None
        except OSError as error:
            raise LocalError(request.path, error) from error
        return LocalFile(request.path, request.tree, request.below).stat()

    def write(self, file: SmallFile, metadata: Metadata, data: bytes | memoryview) -> None:
        """Write a whole file, which gets its name when its group is committed.

        :raises LocalError: if that fails; nothing is left of the file then.
        :raises Unstageable: if there can be no run directory in the root.
        """
        place = self._place
        try:
            if place is None or place.directory != file.directory:
                place = self._enter(file.directory)
            if place.prefix is None:
                self._names += 1
                name = path = b"%d" % self._names
            else:
                name = file.last
                path = place.prefix + name
            # An interrupt may come at any moment, even before the descriptor is known.
            self._unfinished = path
            self._create(place.descriptor, name, metadata.mtime_ns, data)
        except OSError as error:
            self._remove_unfinished()
            raise LocalError(file.request.path, error) from error
        self._unfinished = None
        place.files.append(Staged(file, metadata, path))
        group = self._group
        group.count += 1
        group.size += metadata.size

    def take_group(self) -> Group:
        """Return the current group, and begin another one."""
        # Whatever is in a new directory gets a name with it.
        self._remove_unfinished()
        group, self._group = self._group, Group()
        self._leave()
        self._created.update(group.directories)
        self._now = time.time_ns()
        return group

    def commit(self, group: Group) -> list[Published]:
        """Synchronize the files of a group and rename them; return the result of each."""
        with self._committing:
            try:
                self._pass_on_permissions(group)
                if self._durable:
                    self._sync(group)
            except OSError as error:
                for each in group.files():
                    with suppress(OSError):
                        os.unlink(each.path, dir_fd=self._run.descriptor)
                return _failed(group.files(), error)
            return self._publish(group)

    def close(self) -> None:
        """Remove the run directory, with files that have not got their names."""
        self._leave()
        self._close_opened()
        # A directory that is renamed must not be emptied meanwhile.
        with self._committing:
            if self._opened_run is not None:
                self._opened_run.close()
        if self._root is not None:
            self._root.close()

    @property
    def _run(self) -> RunDirectory:
        assert self._opened_run is not None
        return self._opened_run

    def _begin(self) -> None:
        """Create the run directory.

        :raises Unstageable: if that fails.
        """
        try:
            self._tree.create()
            self._root = self._tree.directory(b"")
            remove_leftovers(self._root)
            self._opened_run = RunDirectory(self._root)
        except (OSError, LocalError) as error:
            raise Unstageable from error
        self._syncfs = self._durable and has_syncfs(self._run.descriptor)

    def _open(self, directory: bytes) -> bool:
        """Open an existing directory of files; return false if it does not exist."""
        self._close_opened()
        above = directory
        opened: LocalDirectory | None = None
        while opened is None:
            if above in self._created or above in self._group.directories:
                return False
            try:
                opened = self._tree.directory(above)
            except LocalError as error:
                if error.errno != errno.ENOENT or not above:
                    raise
                above = os.path.dirname(above)
        try:
            # A new directory inherits from its parent, and passes it on.
            if self._inheritance is None:
                with self._tree.directory(b"") as root:
                    self._inheritance = inheritance(root.fileno())
            if inheritance(opened.fileno()) != self._inheritance:
                raise Unstageable
        except OSError as error:
            opened.close()
            raise Unstageable from error
        except BaseException:
            opened.close()
            raise
        self._existing_paths.add(above)
        if above != directory:
            opened.close()
            return False
        self._opened, self._opened_path = opened, directory
        return True

    def _close_opened(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _enter(self, directory: bytes) -> _Place:
        """Return the place for the files of a directory."""
        self._leave()
        if self._opened_run is None:
            self._begin()
        group = self._group
        if directory in self._existing_paths or directory in self._created:
            place = _Place(directory, self._run.descriptor, None, group.flat)
        else:
            path, top = self._stage(directory)
            descriptor = os.open(path, DIRECTORY | os.O_NOFOLLOW, dir_fd=self._run.descriptor)
            place = _Place(directory, descriptor, path + b"/", group.nested[top])
        self._place = place
        return place

    def _stage(self, directory: bytes) -> tuple[bytes, bytes]:
        """Stage a new directory and its new parents.

        :return: its path in the run directory, and the new directory that contains it and whose
            parent exists.
        """
        group = self._group
        above = os.path.dirname(directory)
        path = group.directories.get(directory)
        if above in self._existing_paths or above in self._created:
            top = directory
            if path is None:
                self._names += 1
                path = group.tops[top] = b"%d" % self._names
                group.nested[top] = []
                os.mkdir(path, dir_fd=self._run.descriptor)
        else:
            parent, top = self._stage(above)
            if path is None:
                path = parent + directory[len(above) :]
                os.mkdir(path, dir_fd=self._run.descriptor)
        group.directories[directory] = path
        return path, top

    def _leave(self) -> None:
        if self._place is not None and self._place.prefix is not None:
            os.close(self._place.descriptor)
        self._place = None

    def _create(self, directory: int, name: bytes, mtime_ns: int, data: bytes | memoryview) -> None:
        descriptor = os.open(name, _CREATE, 0o666, dir_fd=directory)
        try:
            written = os.write(descriptor, data) if data else 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            if EARLIEST <= mtime_ns <= LATEST:
                with _not_an_error:
                    os.utime(descriptor, ns=(self._now, mtime_ns))
            else:
                set_time(descriptor, mtime_ns)
        finally:
            os.close(descriptor)

    def _remove_unfinished(self) -> None:
        if self._unfinished is not None:
            with suppress(OSError):
                os.unlink(self._unfinished, dir_fd=self._run.descriptor)
            self._unfinished = None

    def _pass_on_permissions(self, group: Group) -> None:
        """Set the permissions of files that replace others."""
        for each in group.flat:
            if each.file.replaces:
                with suppress(LocalError), self._tree.directory(each.file.directory) as directory:
                    self._pass_on(each, directory)

    def _pass_on(self, staged: Staged, directory: LocalDirectory, sync: bool = False) -> None:
        descriptor = os.open(staged.path, _READ, dir_fd=self._run.descriptor)
        try:
            pass_on_permissions(descriptor, directory, staged.file.last)
            if sync:
                sync_file(descriptor)
        finally:
            os.close(descriptor)

    def _sync(self, group: Group) -> None:
        """Synchronize the files and directories of a group to the disk."""
        if self._syncfs:
            syncfs(self._run.descriptor)
            return
        files = (partial(self._sync_one, each.path, sync_file) for each in group.files())
        directories = (
            partial(self._sync_one, path, sync_directory) for path in group.directories.values()
        )
        run_parallel(chain(files, directories), SYNC_THREADS, Cancellation(), lambda: None)

    def _sync_one(self, path: bytes, sync: Callable[[int], None]) -> None:
        descriptor = os.open(path, _READ, dir_fd=self._run.descriptor)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)

    def _publish(self, group: Group) -> list[Published]:
        """Rename the directories and files of a group; return the result of each file."""
        results: list[Published] = []
        touched: set[bytes] = set()
        # Files of new directories that another process has created meanwhile.
        merged: list[Staged] = []
        for top, name in group.tops.items():
            files = group.nested[top]
            try:
                if self._name_directory(name, top):
                    touched.add(os.path.dirname(top))
                    results += [Published(each.file, each.metadata.size) for each in files]
                else:
                    merged += files
            except LocalError as error:
                results += [Published(each.file, each.metadata.size, error) for each in files]
        for path, some in groupby(chain(merged, group.flat), lambda each: each.file.directory):
            results += self._name_files(path, some)
            touched.add(path)
        if self._durable:
            return self._sync_names(touched, results)
        return results

    def _name_directory(self, name: bytes, path: bytes) -> bool:
        """Rename a staged directory; return false if its name exists."""
        with self._tree.parent(path) as parent:
            try:
                return rename_new(
                    self._run.descriptor, name, parent.fileno(), os.path.basename(path)
                )
            except FileExistsError:
                return False
            except OSError as error:
                raise LocalError(self._tree.path_of(path), error) from error

    def _name_files(self, path: bytes, files: Iterable[Staged]) -> Iterator[Published]:
        """Rename the files of one directory."""
        try:
            directory = self._tree.directory(path, create=True)
        except LocalError as error:
            for each in files:
                yield Published(each.file, each.metadata.size, error)
            return
        with directory:
            for each in files:
                try:
                    unchanged = self._name_file(each, directory)
                except (OSError, LocalError) as error:
                    yield Published(each.file, each.metadata.size, _local_error(each.file, error))
                else:
                    yield Published(each.file, each.metadata.size, None, unchanged)

    def _name_file(self, staged: Staged, directory: LocalDirectory) -> bool:
        """Rename a file; return whether an existing one is kept instead."""
        run = self._run.descriptor
        last = staged.file.last
        if not staged.file.replaces:
            try:
                if not rename_new(run, staged.path, directory.fileno(), last):
                    self._link(staged, directory)
                return False
            except FileExistsError:
                # Another process has created it meanwhile.
                pass
        request = staged.file.request
        file = LocalFile(request.path, request.tree, request.below)
        if keeps_existing(file, self._existing, staged.metadata):
            return True
        if not staged.file.replaces:
            self._pass_on(staged, directory, sync=self._durable)
        os.rename(staged.path, last, src_dir_fd=run, dst_dir_fd=directory.fileno())
        return False

    def _link(self, staged: Staged, directory: LocalDirectory) -> None:
        """Rename a file unless its name exists, where the system cannot do that in one step."""
        last = staged.file.last
        run = self._run.descriptor
        if directory.lstat(last) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(staged.path, last, src_dir_fd=run, dst_dir_fd=directory.fileno())

    def _sync_names(self, touched: set[bytes], results: list[Published]) -> list[Published]:
        """Synchronize the names in directories; if that fails, no file is known to be there."""
        try:
            if self._syncfs and len(touched) > MOST_SYNCED:
                syncfs(self._run.descriptor)
            else:
                for path in touched:
                    with self._tree.directory(path) as directory:
                        directory.sync()
        except (OSError, LocalError) as error:
            return [
                each
                if each.error is not None
                else each._replace(error=_local_error(each.file, error))
                for each in results
            ]
        return results


def _failed(files: Iterable[Staged], error: OSError) -> list[Published]:
    return [
        Published(each.file, each.metadata.size, _local_error(each.file, error)) for each in files
    ]


def _local_error(file: SmallFile, error: OSError | LocalError) -> LocalError:
    return error if isinstance(error, LocalError) else LocalError(file.request.path, error)
