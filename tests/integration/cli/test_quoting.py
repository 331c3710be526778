"""Words as bash reads them."""

from __future__ import annotations

import os
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.shell.quoting import split


class ReadingTests(SynchronousTestCase):
    def test_escapes_are_those_of_bash(self) -> None:
        word = r"$'\a\b\e\E\f\n\r\t\v\\\'\"\?\x41\x4g\xc3\xa9\u00e9\u4e2d\U0001f600\101\7\z\x'"
        printed = subprocess.run(
            ["bash", "-c", f"printf %s {word}"],
            capture_output=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=True,
        ).stdout
        self.assertEqual([os.fsencode(each) for each in split(word)], [printed])
