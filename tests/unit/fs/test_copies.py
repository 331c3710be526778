"""Which copies fsspec's ``get`` makes, and the directory that is above all of them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fs.copies import Copy, _root_of, copies_of
from tests.support.wire import checked

paths = st.lists(
    st.sampled_from([b"a", b"b", b"", b".", b"..", b"x y"]), min_size=1, max_size=4
).flatmap(lambda parts: st.sampled_from([b"", b"/", b"//"]).map(lambda top: top + b"/".join(parts)))


class CopiesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.fs = MemoryFileSystem(skip_instance_cache=True)
        self.fs.store = {}
        for name in ("/copied/one", "/copied/sub/two", "/copied/sub/three"):
            self.fs.pipe_file(name, b"content")
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def test_copies_are_those_that_fsspec_makes(self) -> None:
        for rpath, recursive in (
            ("/copied", True),
            ("/copied/", True),
            ("/copied/sub/*", False),
            (["/copied/one", "/copied/sub/two"], False),
        ):
            for number, name in enumerate(("target", "target/", "missing/target/")):
                target = os.path.join(self.directory.name, f"{number}", name)
                copies = copies_of(self.fs, rpath, target, recursive, None, {})
                self.assertFalse(os.path.exists(target))
                self.fs.get(rpath, target, recursive=recursive)
                for source, local in copies:
                    if self.fs.isfile(source):
                        self.assertEqual(Path(local).read_bytes(), b"content")
                        os.unlink(local)
                left = [found for found in Path(self.directory.name).rglob("*") if found.is_file()]
                self.assertEqual(left, [])
                for path in sorted(Path(self.directory.name).rglob("*"), reverse=True):
                    path.rmdir()

    def test_lists_are_taken_as_they_are(self) -> None:
        with open(os.path.join(self.directory.name, "open"), "wb") as file:
            self.assertEqual(
                copies_of(self.fs, ["/copied/one", "no"], [file, "x"], False, None, {}),
                [Copy("/copied/one", file), Copy("/no", "x")],
            )

    def test_error_of_the_file_system_is_raised(self) -> None:
        with self.assertRaises(FileNotFoundError):
            copies_of(self.fs, "/nothing*", "x", False, None, {})


class RootTests(SynchronousTestCase):
    def test_directory_above_all_files_has_one_of_them(self) -> None:
        for files, root in (
            ([b"/t/a", b"/t/b"], b"/t"),
            ([b"/t/a", b"/t/s/b", b"/t/s/d/c"], b"/t"),
            ([b"t/s/b", b"t/a"], b"t"),
            ([b"/t/s/b", b"/t/r/a"], None),
            ([b"/a", b"/b"], None),
            ([b"a", b"b"], None),
            ([b"/t/a", b"t/b"], None),
            ([b"/t/a", b"/t/../t/b"], None),
            ([b"/t//a", b"/t//b"], None),
            ([], None),
        ):
            self.assertEqual(_root_of(files), root, files)

    @checked
    @given(st.lists(paths, max_size=4))
    def test_each_file_is_below_the_root_by_plain_names(self, files: list[bytes]) -> None:
        root = _root_of(files)
        if root is not None:
            for path in files:
                below = path[len(root) + 1 :]
                self.assertEqual(root + b"/" + below, path)
                directories = below.split(b"/")[:-1]
                self.assertTrue({b"", b".", b".."}.isdisjoint(directories), path)
