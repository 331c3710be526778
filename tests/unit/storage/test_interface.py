"""`StorageSuite` over the local directory by both openers, memory, and objects."""

from __future__ import annotations

import os
import shutil
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from natproxy.kernel.openat2 import choose_opener, open_beneath, open_by_walk
from natproxy.storage import LocalStorage, ObjectStorage
from natproxy.storage.objects.location import Location
from natproxy.testing import MemoryStorage
from tests.support.objects import MTIME_NS, PlayedStore
from tests.support.storage_suite import MTIME, FilesSuite, ObjectsSuite, Tree, flatten


class LocalSuite(FilesSuite):
    """The local directory."""

    opener: staticmethod

    def build(self, tree: Tree) -> LocalStorage:
        self.top = os.fsencode(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.top, ignore_errors=True)
        directories = []
        for name, content in flatten(tree):
            path = os.path.join(self.top, name)
            if content is None:
                os.mkdir(path)
                directories.append(path)
            else:
                self.create(path, content)
        for path in directories:
            os.utime(path, ns=(0, MTIME))
        self.unreadable: os.stat_result | None = None

        def opener(directory: int, name: bytes, flags: int) -> int:
            return self.readable(self.opener(directory, name, flags), flags)

        return LocalStorage(self.top, opener)

    def create(self, path: bytes, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content)
        os.utime(path, ns=(0, MTIME))

    def replace(self, name: bytes, content: bytes) -> None:
        path = os.path.join(self.top, name)
        self.create(path + b".new", content)
        os.replace(path + b".new", path)

    def write(self, name: bytes, content: bytes) -> None:
        with open(os.path.join(self.top, name), "wb") as file:
            file.write(content)

    def make_unreadable(self, name: bytes) -> None:
        # Not by its mode: root reads everything.
        self.unreadable = os.stat(os.path.join(self.top, name))
        is_directory = os.path.isdir(os.path.join(self.top, name))
        stat, open_ = os.stat, os.open

        def failing_stat(path: bytes, **named: int) -> os.stat_result:
            result = stat(path, **named)
            if os.path.samestat(result, self.unreadable) and (path == b"." or not is_directory):
                raise PermissionError(13, "Permission denied")
            return result

        def failing_open(path: bytes, flags: int, *mode: int, **named: int) -> int:
            return self.readable(open_(path, flags, *mode, **named), flags)

        self.patch(os, "stat", failing_stat)
        self.patch(os, "open", failing_open)

    def readable(self, descriptor: int, flags: int) -> int:
        """Return a descriptor, unless it is of the unreadable directory and to be listed."""
        lists = flags & os.O_DIRECTORY and not flags & os.O_PATH
        unreadable = self.unreadable
        if lists and unreadable and os.path.samestat(os.fstat(descriptor), unreadable):
            os.close(descriptor)
            raise PermissionError(13, "Permission denied")
        return descriptor

    def test_steps_have_several_files_and_not_too_many(self) -> None:
        numbers = [b"sub/%03d" % number for number in range(300)]
        for name in numbers:
            self.replace(name, b"")
        os.mkfifo(os.path.join(self.top, b"sub/150-fifo"))
        os.mkdir(os.path.join(self.top, b"sub/200-directory"))
        steps = self.steps(b"sub")
        self.assertLess(len(steps), 20)
        self.assertLessEqual(max(len(step.entries) for step in steps), 64)
        self.assertEqual([len(step.entries) for step in steps[:3]], [1, 2, 4])
        names = [entry.name for step in steps for entry in step.entries]
        expected = [*numbers, b"sub/200-directory", b"sub/b", b"sub/deep", b"sub/deep/c"]
        self.assertEqual(names, sorted(expected))

    def test_nothing_is_read_once_the_check_has_raised(self) -> None:
        for number in range(100):
            self.replace(b"sub/%03d" % number, b"")
        left = 50

        def check() -> None:
            nonlocal left
            left -= 1
            if not left:
                self.patch(os, "stat", self.fail)
                raise InterruptedError

        with self.assertRaises(InterruptedError):
            list(self.storage.entries(b"sub", 1, b"", check))


class BeneathTests(LocalSuite, SynchronousTestCase):
    """Names are opened by ``openat2``."""

    opener = staticmethod(open_beneath)
    if choose_opener() is not open_beneath:
        skip = "no openat2 here"


class WalkTests(LocalSuite, SynchronousTestCase):
    """Names are opened one component at a time."""

    opener = staticmethod(open_by_walk)


class MemoryTests(FilesSuite, SynchronousTestCase):
    """The storage in memory."""

    storage: MemoryStorage

    def build(self, tree: Tree) -> MemoryStorage:
        storage = MemoryStorage()
        for name, content in flatten(tree):
            if content is None:
                storage.make_directory(name, MTIME)
            else:
                storage.put(name, content, MTIME)
        return storage

    def replace(self, name: bytes, content: bytes) -> None:
        self.storage.put(name, content)

    def write(self, name: bytes, content: bytes) -> None:
        self.storage.write(name, content)

    def make_unreadable(self, name: bytes) -> None:
        self.storage.make_unreadable(name)


class KeyOrderTests(ObjectsSuite, SynchronousTestCase):
    """A store that lists keys in the order of their bytes; its pages are short."""

    by_name = False
    mtime = MTIME_NS

    def build(self, tree: Tree) -> ObjectStorage:
        self.store = PlayedStore(self.by_name)
        self.store.page_size = 3
        self.store.put("beside", b"not served")
        for name, content in flatten(tree):
            if content is None:
                self.store.put(f"top/{name.decode()}/")
            else:
                self.store.put(f"top/{name.decode()}", content)
        return ObjectStorage(Location("bucket", "top/"), self.store)

    def replace(self, name: bytes, content: bytes) -> None:
        self.store.put(f"top/{name.decode()}", content)


class NameOrderTests(KeyOrderTests):
    """A store that lists keys as a file system does."""

    by_name = True
