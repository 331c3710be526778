"""Paths at the prompt: what they are relative to."""

from __future__ import annotations

import posixpath

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.context import Sessions, resolve

PARTS = st.lists(st.sampled_from([b"a", b"b", b"..", b".", b"", b"...", b"-c"]), max_size=6)
DIRECTORIES = st.lists(st.sampled_from([b"a", b"d"]), max_size=3).map(b"/".join)


class ResolveTests(SynchronousTestCase):
    @given(PARTS.map(b"/".join), DIRECTORIES)
    def test_paths_are_those_of_a_file_system_without_links(
        self, path: bytes, directory: bytes
    ) -> None:
        whole = posixpath.normpath(posixpath.join(b"/" + directory, path))
        self.assertEqual(resolve(path, directory), whole.strip(b"/"))

    def test_command_line_leaves_paths_to_the_server(self) -> None:
        with Sessions() as sessions:
            self.assertFalse(sessions.at_prompt)
            self.assertEqual(sessions.absolute(b"a/../b"), b"a/../b")
            self.assertEqual(sessions.absolute(b"./-a/./b/."), b"-a/b")
            self.assertEqual(sessions.absolute(b"/a/"), b"/a/")
            self.assertEqual(sessions.absolute(b".a"), b".a")
            sessions.directory = b""
            self.assertTrue(sessions.at_prompt)
            self.assertEqual(sessions.absolute(b"a/../b"), b"b")
            sessions.directory = b"d"
            self.assertEqual(sessions.absolute(b"b"), b"d/b")
            self.assertEqual(sessions.absolute(b"/b"), b"b")
