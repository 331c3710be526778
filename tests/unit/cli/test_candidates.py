"""Local names as candidates for completion."""

from __future__ import annotations

import os
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.candidates import local_names


class LocalNamesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.realpath(self.mktemp())
        os.makedirs(os.path.join(self.directory, "sub/deep"))
        for name in ("file", ".hidden", "-dash", "~tilde"):
            with open(os.path.join(self.directory, name), "w"):
                pass
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)

    def test_names_have_the_form_that_was_typed(self) -> None:
        self.assertEqual(local_names(""), ["./-dash", "./~tilde", "file", "sub/"])
        self.assertEqual(local_names("./"), ["./-dash", "./file", "./sub/", "./~tilde"])
        self.assertEqual(local_names("f"), ["file"])
        self.assertEqual(local_names("."), [".hidden"])
        self.assertEqual(local_names("sub/d"), ["sub/deep/"])
        self.assertEqual(local_names(f"{self.directory}/s"), [f"{self.directory}/sub/"])
        self.assertEqual(local_names("", directories_only=True), ["sub/"])
        self.assertEqual(local_names("nowhere/"), [])
        with mock.patch.dict(os.environ, HOME=self.directory):
            self.assertEqual(local_names("~/s"), ["~/sub/"])
