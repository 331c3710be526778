"""Hidden names: neither listed nor opened, by whichever name or link they are reached."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.patterns import NamePattern, NamePatterns
from natproxy.kernel.openat2 import open_by_walk
from natproxy.storage import LocalStorage, NotFound, Snapshot
from natproxy.storage.local import hiding
from natproxy.storage.local.scans import Scans
from tests.support.files import open_descriptors

FILES = ("a", "keys/a.key", "keys/list", "pub/a", "pub/secret/deep/x", "secret/a", "z.key")
LINKS = {
    "l-file": "secret/a",
    "l-key": "keys/a.key",
    "l-dir": "secret",
    "l-pub": "pub",
    "l-ok": "pub/a",
    "l-chain": "l-file",
    "l-up": "pub/../secret/a",
    "pub/l-out": "../secret/a",
    "keys/l-name": "list",
}
HIDDEN = (
    "secret",
    "secret/a",
    "secret/missing",
    "pub/secret",
    "pub/secret/deep/x",
    "keys/a.key",
    "z.key",
    "l-file",
    "l-key",
    "l-chain",
    "l-up",
    "pub/l-out",
    "l-dir",
    "l-dir/a",
    "l-pub/l-out",
    "l-pub/secret/deep/x",
)
SHOWN = ("a", "keys/list", "keys/l-name", "pub/a", "l-ok", "l-pub/a")


class HidingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.top = self.mktemp()
        for name in FILES:
            path = os.path.join(self.top, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(name)
        for name, target in LINKS.items():
            os.symlink(target, os.path.join(self.top, name))
        self.storage = LocalStorage(self.top, scans=Scans(least=1))
        self.hide("secret", "*.key")
        before = open_descriptors()
        self.addCleanup(lambda: self.assertEqual(open_descriptors(), before))

    def hide(self, *patterns: str) -> None:
        first = NamePatterns(map(NamePattern, patterns)).first
        self.storage.hide(lambda path: first(path) is not None)

    def listed(self, name: bytes = b"", depth: float = math.inf, after: bytes = b"") -> list[str]:
        return [
            os.fsdecode(entry.name)
            for step in self.storage.entries(name, depth, after)
            for entry in step.entries
        ]

    def assert_missing(self, name: str) -> None:
        path = name.encode()
        with self.assertRaises(NotFound):
            self.storage.metadata(path)
        with self.assertRaises(NotFound):
            self.storage.open(path)
        with self.assertRaises(NotFound):
            self.listed(path)


class HidingTests(HidingCase):
    def test_hidden_names_are_missing(self) -> None:
        for name in HIDDEN:
            self.assert_missing(name)

    def test_other_names_are_there(self) -> None:
        for name in SHOWN:
            self.assertGreater(self.storage.metadata(name.encode()).size, 0)
            self.storage.open(name.encode()).close()

    def test_snapshots(self) -> None:
        names = [name.encode() for name in (*SHOWN, *HIDDEN, *SHOWN)]
        found = [*self.storage.snapshots(names, 1000)]
        kinds = [type(each) for each in found]
        shown = [Snapshot] * len(SHOWN)
        self.assertEqual(kinds, [*shown, *[NotFound] * len(HIDDEN), *shown])

    def test_snapshot_after_a_hidden_directory_is_of_the_right_one(self) -> None:
        _, found = self.storage.snapshots([b"l-dir/a", b"a"], 1000)
        assert isinstance(found, Snapshot)
        self.assertEqual(found.data, b"a")

    def test_listings(self) -> None:
        expected = ["a", "keys", "keys/l-name", "keys/list", "l-ok", "l-pub", "pub", "pub/a"]
        self.assertEqual(self.listed(), expected)
        self.assertEqual(self.listed(depth=1), ["a", "keys", "l-ok", "l-pub", "pub"])
        self.assertEqual(self.listed(b"pub"), ["pub/a"])
        self.assertEqual(self.listed(b"l-pub"), ["l-pub/a"])

    def test_pages_continue_and_name_nothing_that_is_hidden(self) -> None:
        positions = [
            step.position
            for step in self.storage.entries(b"", math.inf, b"")
            if step.position is not None
        ]
        for position in positions:
            self.assertNotIn(b"secret", position)
            self.assertNotIn(b".key", position)
            rest = self.listed(after=position)
            self.assertEqual(rest, [name for name in self.listed() if name.encode() > position])

    def test_pages_may_continue_after_a_hidden_name(self) -> None:
        self.assertEqual(self.listed(after=b"pub/secret/deep"), [])
        self.assertEqual(self.listed(after=b"keys/a.key"), self.listed()[2:])

    def test_files_of_the_top_directory(self) -> None:
        self.assertEqual([*self.storage.top_files().names], [b"a", b"l-ok"])

    def test_another_pattern_holds_at_once(self) -> None:
        self.listed()
        self.hide("/pub")
        self.assert_missing("l-pub/a")
        self.assertIn("secret/a", self.listed())
        self.storage.hide(None)
        self.assertIn("pub/secret/deep/x", self.listed())
        self.storage.open(b"l-file").close()

    def test_served_directory_is_never_hidden(self) -> None:
        self.hide("*")
        self.assertEqual(self.storage.metadata(b"").type, "dir")
        self.assertEqual(self.listed(), [])

    def test_unread_names_are_not_reported(self) -> None:
        self.hide("a")
        self.assertNotIn(b"a", self.storage.top_files().unread)

    def test_removed_target_is_hidden(self) -> None:
        opened: list[bytes] = []
        readlink = os.readlink

        def removed(path: bytes) -> bytes:
            # The file was replaced between its opening and the look at its path.
            opened.append(found := readlink(path))
            return found + b" (deleted)" if found.endswith(b".key") else found

        self.patch(hiding.os, "readlink", removed)
        self.assert_missing("l-key")
        self.assertTrue(opened)

    def test_target_outside_of_the_directory_is_missing(self) -> None:
        readlink = os.readlink
        self.patch(
            hiding.os,
            "readlink",
            lambda path: b"/elsewhere" if readlink(path).endswith(b"pub/a") else readlink(path),
        )
        self.assert_missing("l-ok")

    def test_no_link_is_followed_where_its_target_is_not_known(self) -> None:
        self.patch(hiding.os.path, "isdir", lambda path: False)
        self.hide("secret", "*.key")
        self.assertIs(self.storage._opener, open_by_walk)
        for name in (*HIDDEN, "l-ok", "l-pub/a"):
            self.assert_missing(name)
        self.storage.open(b"pub/a").close()
        self.assertEqual(self.listed(b"pub"), ["pub/a"])

    def test_listing_of_hidden_names_can_be_stopped(self) -> None:
        self.hide("*")

        class Stopped(Exception):
            pass

        checks = iter(range(3))

        def check() -> None:
            if next(checks, None) is None:
                raise Stopped

        def steps() -> Iterator[object]:
            return self.storage.entries(b"", 1, b"", check)

        for number in range(40_000):
            os.mknod(os.path.join(self.top, f"n{number}"))
        with self.assertRaises(Stopped):
            [*steps()]
