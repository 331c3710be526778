"""The selection of entries is that of rsync, for trees and rules of many kinds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from unittest import skipUnless

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer.pattern import Pattern
from natproxy.client.transfer.selection import Rule, Selection

NAMES = (b"a", b"b", b"ab", b"A", b"a.c", b"b-", b"[x]", b"*", b"a*b", b"\\", b"a\\", b"\xe9", b"!")
PARTS = [
    "a", "b", "A", ".c", "*", "**", "***", "?", "/", "[ab]", "[!a]", "[^b-]", "[]a]", "[a-c]",
    "[[:upper:]]", "[c-a]", "[\\]]", "\\*", "\\?", "\\a", "-", "\xe9", "!", "]",
]  # fmt: skip
PATTERNS = st.builds(
    lambda start, parts, end: (start + "".join(parts) + end).encode("latin-1"),
    st.sampled_from(["", "", "/"]),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4),
    st.sampled_from(["", "", "/", "/**", "/***"]),
).filter(lambda text: text.strip(b"/") and not text.startswith(b"!"))
RULES = st.lists(st.tuples(st.booleans(), PATTERNS), max_size=3)


@skipUnless(shutil.which("rsync"), "rsync is needed")
class RsyncTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        self.entries: list[tuple[bytes, bool]] = []
        for first in NAMES:
            self.add(first, directory=len(self.entries) % 3 == 0)
        for above, directory in tuple(self.entries):
            for second in NAMES[:9] if directory else ():
                self.add(above + b"/" + second, second in (b"b", b"a*b"))
        for above, directory in tuple(self.entries):
            if directory and b"/" in above:
                self.add(above + b"/a", directory=False)

    def add(self, path: bytes, directory: bool) -> None:
        whole = os.path.join(os.fsencode(self.directory), b"source", path)
        os.makedirs(whole if directory else os.path.dirname(whole), exist_ok=True)
        if not directory:
            open(whole, "xb").close()
        self.entries.append((path, directory))

    def selected_by_rsync(self, rules: list[tuple[bool, bytes]]) -> set[bytes]:
        top = os.fsencode(self.directory)
        options = [
            (b"--include=" if include else b"--exclude=") + pattern for include, pattern in rules
        ]
        places = [top + b"/source/", top + b"/nothing/"]
        run = subprocess.run(
            [b"rsync", b"-rn", b"--out-format=%n", *options, *places],
            capture_output=True,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        lines = (
            re.sub(rb"\\#([0-7]{3})", lambda match: bytes([int(match[1], 8)]), line)
            for line in run.stdout.splitlines()
        )
        return {line for line in lines if line not in (b"", b"./")}

    @settings(max_examples=60)
    @given(RULES, PATTERNS)
    def test_same_entries_are_selected(self, rules: list[tuple[bool, bytes]], last: bytes) -> None:
        # An inclusion at the end has a meaning here, and none in rsync.
        rules = [*rules, (False, last)]
        chosen = Selection(Rule(include, Pattern(text)) for include, text in rules)
        expected = {
            path + b"/" * directory
            for path, directory in self.entries
            if chosen.includes(path, directory)
        }
        self.assertEqual(self.selected_by_rsync(rules), expected)
