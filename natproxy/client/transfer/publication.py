"""Rename the files of a group to their names, once their bytes are on the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, groupby

from natproxy.client.errors import LocalError
from natproxy.client.retry import Cancellation
from natproxy.client.transfer.destination import Existing, LocalFile, keeps_existing
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.filesystem import sync_directory, sync_file
from natproxy.client.transfer.group import Group, Published, SmallFile, Staged
from natproxy.client.transfer.parallel import run_parallel
from natproxy.client.transfer.part_file import pass_on_permissions
from natproxy.client.transfer.tree import LocalTree
from natproxy.kernel.syncfs import has_syncfs, rename_new, syncfs

SYNC_THREADS = 32
"""Threads that synchronize files one by one where ``syncfs`` cannot be used."""

MOST_SYNCED = 16
"""Directories that are synchronized one by one; for more of them, ``syncfs`` takes less time."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Publisher:
    """Publishes groups of files that are staged below one root.

    :param tree: the root.
    :param run: a descriptor of the run directory, open since before anything is written in it:
        ``syncfs`` reports the errors since then.
    :param existing: what to do about files that exist.
    :param durable: whether a file is on the disk before it gets its name.
    """

    def __init__(self, tree: LocalTree, run: int, existing: Existing, durable: bool) -> None:
        self._tree = tree
        self._run = run
        self._existing = existing
        self._durable = durable
        self._syncfs = durable and has_syncfs(run)

    def publish(self, group: Group) -> list[Published]:
        """Synchronize the files of a group and rename them; return the result of each."""
        try:
            if self._durable and not self._syncfs:
                self._sync_each(group)
            else:
                for each in group.flat:
                    if each.file.replaces:
                        self._prepare(each)
                if self._durable:
                    syncfs(self._run)
        except OSError as error:
            for each in group.files():
                with suppress(OSError):
                    os.unlink(each.path, dir_fd=self._run)
            return _failed(group.files(), error)
        return self._name_all(group)

    def _sync_each(self, group: Group) -> None:
        """Prepare the files of a group, and synchronize them and its directories one by one."""
        files = (partial(self._prepare, each, sync=True) for each in group.files())
        directories = (partial(self._sync_directory, path) for path in group.directories.values())
        run_parallel(chain(files, directories), SYNC_THREADS, Cancellation(), lambda: None)

    def _prepare(self, staged: Staged, sync: bool = False) -> None:
        """Set the permissions of a file that replaces another one, and synchronize it.

        The file is opened once: afterwards, its permissions may not let its owner read it.
        """
        descriptor = os.open(staged.path, _READ, dir_fd=self._run)
        try:
            if staged.file.replaces:
                with suppress(LocalError), self._tree.directory(staged.file.directory) as directory:
                    pass_on_permissions(descriptor, directory, staged.file.last)
            if sync:
                sync_file(descriptor)
        finally:
            os.close(descriptor)

    def _sync_directory(self, path: bytes) -> None:
        descriptor = os.open(path, _READ, dir_fd=self._run)
        try:
            sync_directory(descriptor)
        finally:
            os.close(descriptor)

    def _name_all(self, group: Group) -> list[Published]:
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
                return rename_new(self._run, name, parent.fileno(), os.path.basename(path))
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
        run = self._run
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
            replacing = staged._replace(file=staged.file._replace(replaces=True))
            self._prepare(replacing, sync=self._durable)
        os.rename(staged.path, last, src_dir_fd=run, dst_dir_fd=directory.fileno())
        return False

    def _link(self, staged: Staged, directory: LocalDirectory) -> None:
        """Rename a file unless its name exists, where the system cannot do that in one step."""
        last = staged.file.last
        run = self._run
        if directory.lstat(last) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(staged.path, last, src_dir_fd=run, dst_dir_fd=directory.fileno())

    def _sync_names(self, touched: set[bytes], results: list[Published]) -> list[Published]:
        """Synchronize the names in directories; if that fails, no file is known to be there."""
        try:
            if self._syncfs and len(touched) > MOST_SYNCED:
                syncfs(self._run)
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
