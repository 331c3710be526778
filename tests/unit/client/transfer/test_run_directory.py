"""The directory of a run: locked while the run lasts, and removed by the next one after a crash."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from shutil import rmtree
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.partial import is_partial
from natproxy.client.transfer.run_directory import (
    RunDirectory,
    is_run_directory,
    remove_leftovers,
)
from tests.support.storage import descriptors


class RunDirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.before = descriptors()
        self.top = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(rmtree, self.top)
        self.root = LocalDirectory.at(self.top)
        self.addCleanup(self.root.close)

    def put(self, *names: bytes) -> None:
        path = os.path.join(self.top, *names)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"content")

    def crash(self, run: RunDirectory) -> None:
        """Leave a run directory as a killed process does."""
        os.close(run.descriptor)
        run.descriptor = -1

    def test_nobody_else_can_enter_it_and_its_name_is_reserved(self) -> None:
        with RunDirectory(self.root) as run:
            mode = os.stat(os.path.join(self.top, run.name)).st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o700)
            self.assertTrue(is_partial(run.name) and is_run_directory(run.name))
        for name in (b".natproxy-.part", b".natproxy-012345678x.part", b".natproxy", b".a.part"):
            self.assertFalse(is_run_directory(name))

    def test_nothing_is_left_of_one_that_cannot_be_opened_or_locked(self) -> None:
        for name in ("LocalDirectory.open", "lock"):
            denied = PermissionError(errno.EACCES, "denied")
            with mock.patch(f"{RunDirectory.__module__}.{name}", side_effect=denied):
                self.assertRaises(PermissionError, RunDirectory, self.root)
            self.assertEqual(os.listdir(self.top), [])

    def test_close_removes_it_with_its_content_and_follows_no_link(self) -> None:
        self.put(b"outside", b"precious")
        run = RunDirectory(self.root)
        self.put(run.name, b"1")
        self.put(run.name, b"2", b"sub", b"f")
        for name in (b"link", b"2/link"):
            os.symlink(os.path.join(self.top, b"outside"), os.path.join(self.top, run.name, name))
        run.close()
        run.close()
        self.assertEqual(os.listdir(self.top), [b"outside"])
        self.assertEqual(os.listdir(os.path.join(self.top, b"outside")), [b"precious"])
        self.root.close()
        self.assertEqual(descriptors(), self.before)

    def test_leftover_is_removed_unless_its_lock_is_held(self) -> None:
        held, left = RunDirectory(self.root), RunDirectory(self.root)
        self.addCleanup(held.close)
        self.put(left.name, b"1", b"f")
        self.crash(left)
        remove_leftovers(self.root)
        self.assertEqual(os.listdir(self.top), [held.name])

    def test_other_names_and_links_stay(self) -> None:
        name = b".natproxy-0123456789ab.part"
        self.put(b"d", b"f")
        self.put(b".natproxy-x.part", b"f")
        os.symlink(b"d", os.path.join(self.top, name))
        before = sorted(os.listdir(self.top))
        remove_leftovers(self.root)
        self.assertEqual(sorted(os.listdir(self.top)), before)
        self.assertEqual(os.listdir(os.path.join(self.top, b"d")), [b"f"])

    def test_leftover_of_another_user_or_without_locks_stays(self) -> None:
        run = RunDirectory(self.root)
        self.crash(run)
        with mock.patch("os.geteuid", return_value=os.geteuid() + 1):
            remove_leftovers(self.root)
        module = "natproxy.client.transfer.run_directory"
        with mock.patch(f"{module}.lock", return_value=False):
            remove_leftovers(self.root)
        self.assertEqual(os.listdir(self.top), [run.name])

    def test_directory_that_another_run_removes_before_it_is_locked_is_created_again(self) -> None:
        opened = LocalDirectory.open
        removals = [1, 1]

        def remove_first(directory: LocalDirectory, name: bytes, flags: int) -> int:
            early = removals.pop() if removals else 0
            if early and len(removals):
                directory.rmdir(name)
            descriptor = opened(directory, name, flags)
            if early:
                directory.rmdir(name)
            return descriptor

        with mock.patch.object(LocalDirectory, "open", remove_first):
            run = RunDirectory(self.root)
        self.addCleanup(run.close)
        self.assertEqual(os.listdir(self.top), [run.name])

    def test_names_that_cannot_be_created_are_an_error(self) -> None:
        denied = OSError(errno.EACCES, "denied")
        with mock.patch.object(LocalDirectory, "mkdir", side_effect=denied):
            self.assertRaises(OSError, RunDirectory, self.root)
        self.assertEqual(os.listdir(self.top), [])
