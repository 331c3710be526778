"""Small files get their names in groups, and only after their bytes are on the disk."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from shutil import rmtree
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.errors import LocalError
from natproxy.client.transfer import publication, staging
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.group import Published, SmallFile
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.run_directory import is_run_directory
from natproxy.client.transfer.staging import Staging, Unstageable
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import FILE, Metadata
from tests.support.storage import descriptors

MTIME = 1_600_000_000_123_456_789


def metadata_of(content: bytes, mtime_ns: int = MTIME) -> Metadata:
    return Metadata(FILE, len(content), mtime_ns, "e")


class StagingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.top = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(rmtree, self.top)
        self.root = os.path.join(self.top, b"root")
        self.tree = LocalTree(self.root)
        self.addCleanup(self.tree.close)

    def path(self, below: bytes) -> bytes:
        return os.path.join(self.root, below)

    def put(self, below: bytes, content: bytes, mtime_ns: int | None = None) -> None:
        os.makedirs(os.path.dirname(self.path(below)), exist_ok=True)
        with open(self.path(below), "wb") as file:
            file.write(content)
        if mtime_ns is not None:
            os.utime(self.path(below), ns=(mtime_ns, mtime_ns))
        if not self.tree.exists:
            self.tree.create()

    def staging(self, existing: Existing = Existing.UPDATE, durable: bool = True) -> Staging:
        staging = Staging(self.tree, existing, durable)
        self.addCleanup(staging.close)
        return staging

    def stage(self, staging: Staging, below: bytes, content: bytes, mtime_ns: int = MTIME) -> None:
        request = DownloadRequest(below, self.path(below), None, self.tree, below)
        directory, last = os.path.split(below)
        found = staging.find(request, directory)
        file = SmallFile(0, request, directory, last, found is not None)
        staging.write(file, metadata_of(content, mtime_ns), content)

    def commit(self, staging: Staging) -> dict[bytes, Published]:
        """Commit what is staged; return the results by name."""
        published = staging.commit(staging.take_group())
        return {each.file.request.name: each for each in published}

    def found(self) -> dict[bytes, bytes | None]:
        """Return all files with their content, and directories, but not the run directory."""
        found: dict[bytes, bytes | None] = {}
        for above, directories, files in os.walk(self.root):
            directories[:] = [name for name in directories if not is_run_directory(name)]
            for name in directories:
                found[os.path.relpath(os.path.join(above, name), self.root)] = None
            for name in files:
                path = os.path.join(above, name)
                with open(path, "rb") as file:
                    found[os.path.relpath(path, self.root)] = file.read()
        return found

    def runs(self) -> list[bytes]:
        return [name for name in os.listdir(self.root) if is_run_directory(name)]

    def assert_failed(self, published: Published, code: int) -> None:
        assert published.error is not None
        self.assertEqual(published.error.errno, code)


class NamesTests(StagingCase):
    def test_nothing_has_a_name_before_the_commit(self) -> None:
        before = descriptors()
        self.put(b"old/mine", b"mine")
        staging = self.staging()
        for name in (b"a", b"new/b", b"new/deep/er/c", b"old/d"):
            self.stage(staging, name, name)
        self.assertEqual(self.found(), {b"old": None, b"old/mine": b"mine"})
        published = self.commit(staging)
        self.assertEqual([each.error for each in published.values()], [None] * 4)
        self.assertEqual(
            self.found(),
            {
                b"a": b"a",
                b"new": None,
                b"new/b": b"new/b",
                b"new/deep": None,
                b"new/deep/er": None,
                b"new/deep/er/c": b"new/deep/er/c",
                b"old": None,
                b"old/mine": b"mine",
                b"old/d": b"old/d",
            },
        )
        staging.close()
        self.assertEqual(self.runs(), [])
        self.tree.close()
        self.assertEqual(descriptors(), before)

    def test_time_and_permissions_are_those_of_a_new_file(self) -> None:
        umask = os.umask(0o027)
        self.addCleanup(os.umask, umask)
        staging = self.staging()
        far = 2**63 * 10
        self.stage(staging, b"d/a", b"a")
        self.stage(staging, b"d/far", b"a", far)
        self.commit(staging)
        found = os.stat(self.path(b"d/a"))
        self.assertEqual((stat.S_IMODE(found.st_mode), found.st_mtime_ns), (0o640, MTIME))
        self.assertEqual(stat.S_IMODE(os.stat(self.path(b"d")).st_mode), 0o750)
        self.assertGreater(os.stat(self.path(b"d/far")).st_mtime, 2**31 - 10)

    def test_directory_of_an_earlier_group_takes_files_of_later_ones(self) -> None:
        staging = self.staging()
        self.stage(staging, b"d/a", b"1")
        first = staging.take_group()
        # Staged while the first group has not been committed.
        self.stage(staging, b"d/b", b"2")
        self.stage(staging, b"d/e/c", b"3")
        staging.commit(first)
        self.commit(staging)
        self.assertEqual(
            self.found(),
            {b"d": None, b"d/a": b"1", b"d/b": b"2", b"d/e": None, b"d/e/c": b"3"},
        )

    def test_group_ends_with_a_directory_or_at_its_limit(self) -> None:
        self.patch(staging, "GROUP_FILES", 2)
        stage = self.staging()
        full = []
        for name in (b"a/1", b"a/2", b"a/3", b"a/4", b"b/1"):
            request = DownloadRequest(name, self.path(name), None, self.tree, name)
            file = SmallFile(0, request, *os.path.split(name))
            full.append(stage.fills(file))
            stage.write(file, metadata_of(name), name)
            if name == b"a/2":
                other = file._replace(directory=b"b")
                self.assertTrue(stage.fills(other))
        self.assertEqual(full, [False, False, False, True, True])

    def test_group_is_smaller_while_none_is_committed(self) -> None:
        self.patch(staging, "GROUP_FILES", 4)
        self.patch(staging, "EARLY_FILES", 2)
        stage = self.staging()
        full = []
        for name in (b"a/1", b"a/2", b"a/3", b"a/4", b"a/5", b"a/6", b"a/7"):
            request = DownloadRequest(name, self.path(name), None, self.tree, name)
            file = SmallFile(0, request, *os.path.split(name))
            other = file._replace(directory=b"b")
            full.append(
                [stage.fills(each, idle) for each in (file, other) for idle in (False, True)]
            )
            stage.write(file, metadata_of(name), name)
        self.assertEqual(
            full,
            [
                # The same directory, busy and idle; another directory, likewise.
                [False, False, False, False],
                [False, False, False, False],
                [False, False, False, True],
                [False, False, False, True],
                [False, False, True, True],
                [False, False, True, True],
                [True, True, True, True],
            ],
        )

    def test_directory_that_appears_meanwhile_is_merged(self) -> None:
        for atomic in (True, False):
            staging = self.staging(Existing.REFUSE)
            with self.without_renameat2(not atomic):
                self.stage(staging, b"d/a", b"1")
                self.stage(staging, b"d/b", b"2")
                self.stage(staging, b"d/e/c", b"3")
                self.put(b"d/b", b"mine")
                published = self.commit(staging)
            self.assert_failed(published.pop(b"d/b"), errno.EEXIST)
            self.assertEqual([each.error for each in published.values()], [None] * 2)
            expected = {b"d/a": b"1", b"d/b": b"mine", b"d/e/c": b"3"}
            self.assertEqual({k: v for k, v in self.found().items() if v}, expected)
            rmtree(self.path(b"d"))

    def test_empty_directory_that_appears_meanwhile_is_not_replaced(self) -> None:
        # A plain rename over an empty directory succeeds.
        staging = self.staging()
        self.stage(staging, b"d/a", b"1")
        os.mkdir(self.path(b"d"))
        before = os.stat(self.path(b"d")).st_ino
        self.commit(staging)
        self.assertEqual(os.stat(self.path(b"d")).st_ino, before)
        self.assertEqual(self.found()[b"d/a"], b"1")

    def without_renameat2(self, absent: bool = True) -> Any:
        return mock.patch.object(
            publication, "rename_new", (lambda *_: False) if absent else publication.rename_new
        )

    def test_file_system_without_renameat2(self) -> None:
        self.put(b"d/mine", b"mine")
        stage = self.staging(Existing.REFUSE)
        with self.without_renameat2():
            for name in (b"a", b"d/b", b"new/c"):
                self.stage(stage, name, name)
            published = self.commit(stage)
        self.assertEqual([each.error for each in published.values()], [None] * 3)
        files = {k for k, v in self.found().items() if v}
        self.assertEqual(files, {b"a", b"d/b", b"d/mine", b"new/c"})


class ExistingTests(StagingCase):
    """The rules for existing files are those of `Download`."""

    def setUp(self) -> None:
        super().setUp()
        self.put(b"a", b"mine", MTIME)

    def replace(self, existing: Existing, content: bytes = b"new one") -> Published:
        stage = self.staging(existing)
        self.stage(stage, b"a", content)
        return self.commit(stage)[b"a"]

    def test_existing_file_is_replaced_kept_or_refused(self) -> None:
        self.assertTrue(self.replace(Existing.KEEP).unchanged)
        self.assert_failed(self.replace(Existing.REFUSE), errno.EEXIST)
        self.assertEqual(self.found(), {b"a": b"mine"})
        # The same size and time.
        self.assertTrue(self.replace(Existing.UPDATE, b"more").unchanged)
        self.assertEqual(self.found(), {b"a": b"mine"})
        self.assertFalse(self.replace(Existing.REPLACE, b"more").unchanged)
        self.assertEqual(self.found(), {b"a": b"more"})
        self.assertIsNone(self.replace(Existing.UPDATE).error)
        self.assertEqual(self.found(), {b"a": b"new one"})

    def test_permissions_of_the_replaced_file_are_kept(self) -> None:
        for mode in (0o600, 0o666, 0o755):
            os.chmod(self.path(b"a"), mode)
            self.replace(Existing.REPLACE)
            self.assertEqual(stat.S_IMODE(os.stat(self.path(b"a")).st_mode), mode)

    def test_permissions_of_a_file_that_appears_meanwhile_are_kept(self) -> None:
        stage = self.staging()
        self.stage(stage, b"b", b"new")
        self.put(b"b", b"mine")
        os.chmod(self.path(b"b"), 0o600)
        self.assertIsNone(self.commit(stage)[b"b"].error)
        self.assertEqual(stat.S_IMODE(os.stat(self.path(b"b")).st_mode), 0o600)
        self.assertEqual(self.found()[b"b"], b"new")

    def test_link_is_replaced_and_not_followed(self) -> None:
        outside = os.path.join(self.top, b"outside")
        with open(outside, "wb") as file:
            file.write(b"precious")
        os.chmod(outside, 0o600)
        os.unlink(self.path(b"a"))
        os.symlink(outside, self.path(b"a"))
        self.assertIsNone(self.replace(Existing.UPDATE).error)
        self.assertEqual(self.found(), {b"a": b"new one"})
        found = os.lstat(self.path(b"a"))
        self.assertEqual((stat.S_IMODE(found.st_mode), os.path.getsize(outside)), (0o600, 8))

    def test_what_is_not_a_file_stays_and_does_not_affect_others(self) -> None:
        stage = self.staging()
        for name in (b"d", b"fifo", b"z"):
            self.stage(stage, name, name)
        os.mkdir(self.path(b"d"))
        os.mkfifo(self.path(b"fifo"))
        published = self.commit(stage)
        self.assert_failed(published[b"d"], errno.EEXIST)
        self.assert_failed(published[b"fifo"], errno.EEXIST)
        self.assertIsNone(published[b"z"].error)
        self.assertTrue(stat.S_ISFIFO(os.lstat(self.path(b"fifo")).st_mode))

    def test_directory_that_becomes_a_link_or_a_file_is_not_followed(self) -> None:
        outside = os.path.join(self.top, b"outside")
        os.mkdir(outside)
        self.put(b"d/mine", b"mine")
        self.put(b"e/mine", b"mine")
        stage = self.staging()
        for name in (b"d/x", b"d/new/y", b"e/x"):
            self.stage(stage, name, name)
        for name in (b"d", b"e"):
            os.rename(self.path(name), self.path(name + b".old"))
        os.symlink(outside, self.path(b"d"))
        self.put(b"e", b"a file")
        published = self.commit(stage)
        self.assertTrue(all(each.error is not None for each in published.values()))
        self.assertEqual(os.listdir(outside), [])


class DurabilityTests(StagingCase):
    def setUp(self) -> None:
        super().setUp()
        self.put(b"old/mine", b"mine")
        self.steps: list[str] = []

    def record(self, module: object, name: str, step: str) -> None:
        function: Callable[..., object] = getattr(module, name)

        def recorded(*arguments: Any) -> object:
            self.steps.append(step)
            return function(*arguments)

        self.patch(module, name, recorded)

    def record_all(self, syncfs: bool) -> Staging:
        for name in ("syncfs", "sync_file", "sync_directory", "rename_new"):
            self.record(publication, name, name)
        self.patch(publication, "has_syncfs", lambda _: syncfs)
        sync = publication.LocalDirectory.sync

        def sync_names(directory: publication.LocalDirectory) -> None:
            self.steps.append("names")
            sync(directory)

        self.patch(publication.LocalDirectory, "sync", sync_names)
        return self.staging()

    def stage_some(self, stage: Staging) -> None:
        for name in (b"a", b"new/b", b"new/e/c", b"old/d"):
            self.stage(stage, name, name)

    def test_bytes_are_on_the_disk_before_any_name_and_names_afterwards(self) -> None:
        stage = self.record_all(syncfs=True)
        self.stage_some(stage)
        self.assertEqual(self.steps, [])
        self.commit(stage)
        self.assertEqual(self.steps, ["syncfs", *["rename_new"] * 3, *["names"] * 2])

    def test_many_directories_are_synchronized_at_once(self) -> None:
        self.patch(publication, "MOST_SYNCED", 1)
        stage = self.record_all(syncfs=True)
        self.stage_some(stage)
        self.commit(stage)
        self.assertEqual(self.steps, ["syncfs", *["rename_new"] * 3, "syncfs"])

    def test_each_file_and_directory_is_synchronized_without_syncfs(self) -> None:
        stage = self.record_all(syncfs=False)
        self.stage_some(stage)
        self.commit(stage)
        first, rest = self.steps[:6], self.steps[6:]
        self.assertEqual(sorted(first), ["sync_directory"] * 2 + ["sync_file"] * 4)
        self.assertEqual(rest, [*["rename_new"] * 3, *["names"] * 2])

    def test_file_that_its_owner_may_not_read_is_replaced_like_any_other(self) -> None:
        def open_as_owner(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            """Open a file as `os.open` does for others than root."""
            descriptor = real(path, flags, mode, **options)
            if not flags & os.O_CREAT and not os.fstat(descriptor).st_mode & 0o400:
                os.close(descriptor)
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return descriptor

        real = os.open
        for syncfs in (True, False):
            self.patch(publication, "has_syncfs", lambda _, value=syncfs: value)
            for mode in (0o200, 0o000):
                self.put(b"a", b"old")
                os.chmod(self.path(b"a"), mode)
                stage = self.staging(Existing.REPLACE)
                with mock.patch("os.open", open_as_owner):
                    self.stage(stage, b"a", b"new one")
                    self.stage(stage, b"b%d" % mode, b"new")
                    published = self.commit(stage)
                self.assertEqual([each.error for each in published.values()], [None] * 2)
                self.assertEqual(stat.S_IMODE(os.stat(self.path(b"a")).st_mode), mode)
                os.chmod(self.path(b"a"), 0o600)
                self.assertEqual(self.found()[b"a"], b"new one")

    def test_nothing_is_synchronized_if_that_is_not_wanted(self) -> None:
        self.record_all(syncfs=True)
        stage = self.staging(durable=False)
        self.stage_some(stage)
        published = self.commit(stage)
        self.assertEqual(self.steps, ["rename_new"] * 3)
        self.assertEqual([each.error for each in published.values()], [None] * 4)

    def test_nothing_gets_a_name_if_the_synchronization_fails(self) -> None:
        for syncfs, function in ((True, "syncfs"), (False, "sync_file")):
            self.patch(publication, "has_syncfs", lambda _, value=syncfs: value)
            stage = self.staging()
            self.stage_some(stage)
            failed = OSError(errno.EIO, "broken disk")
            with mock.patch.object(publication, function, side_effect=failed):
                published = self.commit(stage)
            self.assertEqual(len(published), 4)
            for name, each in published.items():
                self.assert_failed(each, errno.EIO)
                self.assertEqual(str(each.error), f"{os.fsdecode(self.path(name))}: broken disk")
            self.assertEqual(self.found(), {b"old": None, b"old/mine": b"mine"})
            # The next group is not affected, in the same directories either.
            self.stage(stage, b"new/b", b"again")
            self.assertIsNone(self.commit(stage)[b"new/b"].error)
            rmtree(self.path(b"new"))
            stage.close()
            self.assertEqual(self.runs(), [])

    def test_failure_to_synchronize_names_is_an_error_of_each_file(self) -> None:
        stage = self.staging()
        self.stage_some(stage)
        failed = OSError(errno.EIO, "broken disk")
        with mock.patch.object(publication.LocalDirectory, "sync", side_effect=failed):
            published = self.commit(stage)
        for each in published.values():
            self.assert_failed(each, errno.EIO)

    def test_killed_run_leaves_whole_files_and_the_next_one_removes_the_rest(self) -> None:
        stage = self.staging()
        self.stage_some(stage)
        self.commit(stage)
        self.stage(stage, b"new/late", b"late")
        self.stage(stage, b"z/late", b"late")
        # A killed process closes its descriptors, and does nothing else.
        os.close(stage._run.descriptor)
        stage._run.descriptor = -1
        self.assertEqual(len(self.runs()), 1)
        self.assertNotIn(b"new/late", self.found())
        after = self.staging()
        self.stage(after, b"new/late", b"late")
        self.assertEqual(len(self.runs()), 1)
        self.commit(after)
        after.close()
        self.assertEqual(self.runs(), [])
        self.assertEqual(self.found()[b"new/late"], b"late")


class FaultTests(StagingCase):
    def test_full_disk_fails_one_file_and_leaves_nothing_of_it(self) -> None:
        stage = self.staging()
        self.stage(stage, b"d/a", b"1")
        write = os.write
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for effect in ([full], [1, full]):
            side = iter(effect)

            def fail(file: int, data: bytes, side: Any = side) -> int:
                result = next(side)
                if isinstance(result, OSError):
                    raise result
                return write(file, data[:result])

            with mock.patch("os.write", fail):
                error = self.assertRaises(LocalError, self.stage, stage, b"d/b", b"123")
            self.assertEqual(error.errno, errno.ENOSPC)
        self.stage(stage, b"d/c", b"3")
        self.commit(stage)
        self.assertEqual(self.found(), {b"d": None, b"d/a": b"1", b"d/c": b"3"})

    def test_file_of_an_interrupted_write_gets_no_name(self) -> None:
        opened, write, utime = os.open, os.write, os.utime

        def interrupt_after(function: Callable[..., Any]) -> Callable[..., Any]:
            def interrupted(*arguments: Any, **named: Any) -> Any:
                function(*arguments, **named)
                raise KeyboardInterrupt

            return interrupted

        stage = self.staging()
        self.stage(stage, b"new/a", b"1")
        self.stage(stage, b"b", b"2")
        for name, function in (("open", opened), ("write", write), ("utime", utime)):
            for path in (b"new/c", b"d"):
                with mock.patch(f"os.{name}", interrupt_after(function)):
                    self.assertRaises(KeyboardInterrupt, self.stage, stage, path, b"3")
                published = self.commit(stage)
                self.assertNotIn(path, published)
                self.assertEqual(self.found(), {b"new": None, b"new/a": b"1", b"b": b"2"})

    def test_name_that_cannot_be_created_fails_alone(self) -> None:
        stage = self.staging()
        self.stage(stage, b"a", b"1")
        for name in (b"x" * 300, b"new/" + b"x" * 300):
            error = self.assertRaises(LocalError, self.stage, stage, name, b"2")
            self.assertEqual(error.errno, errno.ENAMETOOLONG)
        self.commit(stage)
        self.assertEqual(self.found(), {b"a": b"1", b"new": None})

    def test_mount_point_below_is_reported_as_such(self) -> None:
        self.put(b"old/mine", b"mine")
        stage = self.staging()
        for name in (b"a", b"old/b", b"new/c"):
            self.stage(stage, name, name)
        other = OSError(errno.EXDEV, "another file system")
        with mock.patch.object(publication, "rename_new", side_effect=other):
            published = self.commit(stage)
        for each in published.values():
            self.assert_failed(each, errno.EXDEV)

    def test_directory_that_passes_on_other_permissions_cannot_be_staged(self) -> None:
        self.put(b"d/mine", b"mine")
        real = staging.inheritance
        other = os.stat(self.path(b"d")).st_ino

        def inheritance(directory: int) -> tuple[int, int | None, bytes]:
            device, group, acl = real(directory)
            return device, group, b"acl" if os.fstat(directory).st_ino == other else acl

        self.patch(staging, "inheritance", inheritance)
        stage = self.staging()
        self.stage(stage, b"a", b"1")
        for name in (b"d/b", b"d/new/c"):
            self.assertRaises(Unstageable, self.stage, stage, name, b"2")
        self.stage(stage, b"e/b", b"3")
        self.assertIsNone(self.commit(stage)[b"e/b"].error)

    def test_root_in_which_nothing_can_be_created(self) -> None:
        self.tree.create()
        stage = self.staging()
        denied = OSError(errno.EACCES, "denied")
        before = descriptors()
        with mock.patch.object(publication.LocalDirectory, "mkdir", side_effect=denied) as mkdir:
            for name in (b"a", b"b", b"sub/c"):
                self.assertRaises(Unstageable, self.stage, stage, name, b"1")
        # One attempt: each of them reads the root. Further files are not requested in packs.
        mkdir.assert_called_once()
        self.assertRaises(Unstageable, self.stage, stage, b"d", b"1")
        stage.close()
        self.assertEqual(os.listdir(self.root), [])
        self.assertEqual(descriptors(), before)


NAMES = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4).map(b"/".join)


class AnyTreeTests(StagingCase):
    @settings(max_examples=40, deadline=None)
    @given(
        st.sets(NAMES, max_size=12),
        st.sets(NAMES, max_size=5),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
    )
    def test_any_tree_in_groups_of_any_size(
        self, wanted: set[bytes], there: set[bytes], sizes: list[int]
    ) -> None:
        # A name is that of a file, or of a directory, not of both.
        files = sorted(_leaves(wanted))
        for name in sorted(_leaves(there)):
            if not any(_clash(name, other) for other in files):
                self.put(name, b"mine")
        before = {name: content for name, content in self.found().items() if content}
        stage = self.staging()
        group = 0
        for number, name in enumerate(files):
            self.stage(stage, name, name)
            if number % sizes[group % len(sizes)] == 0:
                group += 1
                for published in self.commit(stage).values():
                    self.assertIsNone(published.error)
        self.commit(stage)
        stage.close()
        after = {name: content for name, content in self.found().items() if content is not None}
        self.assertEqual(after, before | {name: name for name in files})
        self.assertEqual(self.runs() if self.tree.exists else [], [])
        if self.tree.exists:
            self.tree.close()
            rmtree(self.root)
            self.tree = LocalTree(self.root)
            self.addCleanup(self.tree.close)


def _leaves(names: Iterable[bytes]) -> set[bytes]:
    found = set(names)
    return {name for name in found if not any(each.startswith(name + b"/") for each in found)}


def _clash(one: bytes, other: bytes) -> bool:
    return one != other and (one.startswith(other + b"/") or other.startswith(one + b"/"))
