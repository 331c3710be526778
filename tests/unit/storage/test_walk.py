"""The pages of a tree, compared with a naive model: for both openers."""

from __future__ import annotations

import math
import os
import shutil
import stat
from itertools import accumulate
from typing import Union

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.descriptors import WALK
from natproxy.fileserver.pages import make_page
from natproxy.kernel.openat2 import choose_opener, open_beneath, open_by_walk
from natproxy.protocol import FILE, MAX_LINE, Entry, Metadata, format_entry
from natproxy.storage import LocalStorage
from natproxy.storage.interface import Check, Step, unchecked
from natproxy.storage.local.scans import Runs, Scans
from tests.support.storage import (
    REFUSED_LINKS,
    PagesCase,
    descriptors_left,
    page_of,
    parsed,
)

Tree = dict[bytes, Union[bytes, "Link", "Tree"]]

NAMES = st.sampled_from(
    (
        *(b"a", b"a-", b"a.b", b"a0", b"a b", b"a\nb", b"a%2Fb", b"END", b"more", b"%41", b"-rf"),
        *(b"=", b"k=v", b"...", b"\x01", b"\xe9", b"\xff", b"\\"),
    )
)
TARGETS = st.sampled_from(
    (
        *(b"a", b"a-", b"a/a", b"./a/", b"a/..", b".", b"..", b"../a", b"../..", b"../../a"),
        *(b"nothing", b"../outside", b"/", b"END", b"\xff"),
    )
)


class Link(bytes):
    """Where a link leads."""


trees = st.recursive(
    st.dictionaries(NAMES, st.binary(max_size=3) | TARGETS.map(Link), max_size=4),
    lambda inner: st.dictionaries(NAMES, st.binary(max_size=3) | inner, max_size=5),
    max_leaves=12,
)
paths = st.lists(NAMES | st.just(b""), max_size=4).map(b"/".join)


def plant(directory: bytes, tree: Tree) -> None:
    """Make a tree of files and directories."""
    os.mkdir(directory)
    for name, node in tree.items():
        path = os.path.join(directory, name)
        if isinstance(node, dict):
            plant(path, node)
        elif isinstance(node, Link):
            os.symlink(node, path)
        else:
            with open(path, "wb") as file:
                file.write(node)


class Watched(Scans):
    """Notes the inodes of the directories that are entered."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[int] = []

    def of(self, directory: int, check: Check = unchecked) -> Runs:
        self.entered.append(os.fstat(directory).st_ino)
        return super().of(directory, check)


class BothOpeners:
    """What is the same, whichever way names are opened."""

    @settings(
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(st.data(), trees)
    def test_pages_are_those_of_the_model(self, data: st.DataObject, tree: Tree) -> None:
        shutil.rmtree(self.served)
        plant(self.served, tree)
        directories = [name for name in self.model() if os.path.isdir(self.path(name))]
        directories = [name for name in directories if not os.path.islink(self.path(name))]
        name = data.draw(st.sampled_from([b"", *directories]))
        depth = data.draw(st.sampled_from([1, 2, 3, math.inf]))
        whole = self.model(name, depth)
        after = data.draw(paths | st.just(b"") | st.sampled_from(whole or [b""]))
        limits = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        self.follows_header = data.draw(st.booleans())
        entries = list(self.pages(name, depth, after, limits))
        self.assertEqual([entry.name for entry in entries], [n for n in whole if n > after])
        for entry in entries:
            result = os.stat(self.path(entry.name))
            size = result.st_size if stat.S_ISREG(result.st_mode) else 0
            self.assertEqual(entry.metadata, self.storage.metadata(entry.name))
            self.assertEqual(entry.metadata[1:3], (size, result.st_mtime_ns))

    def test_order_is_by_the_bytes_of_full_paths(self) -> None:
        shutil.rmtree(self.served)
        plant(self.served, {b"a": {b"x": b"", b"b": {b"c": b""}}, b"a-b": b"", b"a0": b""})
        whole = [b"a", b"a-b", b"a/b", b"a/b/c", b"a/x", b"a0"]
        self.assertEqual(self.names(), whole)
        self.assertEqual(self.names(b"", 2), [name for name in whole if name.count(b"/") < 2])
        self.assertEqual(self.names(b"", 1), [b"a", b"a-b", b"a0"])
        self.assertEqual(self.names(b"a", 1), [b"a/b", b"a/x"])

    def test_name_after_which_a_page_begins_need_not_exist(self) -> None:
        shutil.rmtree(self.served)
        plant(self.served, {b"a": {b"x": b"", b"z": b""}, b"a-b": b"", b"c": b""})
        whole = [b"a", b"a-b", b"a/x", b"a/z", b"c"]
        marks = (b"a/", b"a/y", b"a/x/deep/er", b"a//", b"a/\xff", b"a.", b"b/q", b"\0", b"/", b"d")
        for after in (*whole, *marks):
            left = [name for name in whole if name > after]
            self.assertEqual(self.names(b"", math.inf, after), left)
            below = [name for name in left if name.startswith(b"a/")]
            self.assertEqual(self.names(b"a", math.inf, after), below)

    def test_sub_trees_that_end_before_are_not_read(self) -> None:
        shutil.rmtree(self.served)
        plant(self.served, {b"%d" % n: {b"x": {}, b"y": {b"z": b""}} for n in range(5)})
        scans = Watched()
        storage = LocalStorage(self.served, self.opener, scans)
        self.assertEqual(parsed(page_of(storage, b"", math.inf, b"3/y", 1))[0][0].name, b"3/y/z")
        on_the_way = [os.stat(self.path(name)).st_ino for name in (b"", b"3", b"3/y")]
        self.assertEqual(scans.entered[:3], on_the_way)
        # One more, to see whether there is a further entry.
        self.assertLessEqual(len(scans.entered), 4)

    def test_page_that_ends_with_the_last_entry_is_complete(self) -> None:
        whole = self.model()
        self.assertEqual(parsed(self.page(b"", math.inf, b"", len(whole)))[1], False)
        self.assertEqual(parsed(self.page(b"", math.inf, b"", len(whole) - 1))[1], True)
        os.symlink(b"nowhere", self.path(b"zz-dangling"))
        os.mkfifo(self.path(b"zz-fifo"))
        os.mkdir(self.path(b"zz"))
        self.assertEqual(self.names(limits=[len(whole)]), [*whole, b"zz"])
        entries, more = parsed(self.page(b"", math.inf, b"", len(whole) + 1))
        self.assertEqual((len(entries), more), (len(whole) + 1, False))

    def test_page_of_a_file_is_its_line(self) -> None:
        metadata = self.storage.metadata(b"sub/b.txt")
        line = format_entry(Entry(b"sub/b.txt", metadata))
        for depth in (1, math.inf):
            self.assertEqual(self.page(b"sub/b.txt", depth, b"", 1).body, line)
            self.assertEqual(self.page(b"sub/b.txt", depth, b"sub/b", 1).body, line)
            self.assertEqual(self.page(b"sub/b.txt", depth, b"sub/b.txt", 1).body, b"")

    def test_links_are_listed_as_what_they_lead_to_and_never_descended_into(self) -> None:
        os.symlink(b".", self.path(b"sub/here"))
        os.symlink(b"..", self.path(b"sub/deep/above"))
        os.symlink(b"../..", self.path(b"sub/deep/top"))
        os.symlink(b"../../..", self.path(b"sub/deep/out"))
        real = [b"a.txt", b"b c", b"sub", b"sub/b.txt", b"sub/deep", b"sub/deep/c"]
        links = [b"inside", b"insub", b"sub/deep/above", b"sub/deep/top", b"sub/here", b"sub/up"]
        if not self.follows_links:
            self.assertEqual(self.names(), real)
            return
        self.assertEqual(self.names(), sorted([*real, *links, b"sublink"]))
        found = {entry.name: entry.metadata for entry in self.pages()}
        self.assertEqual(found[b"inside"], found[b"a.txt"])
        self.assertEqual(found[b"sub/up"], found[b"a.txt"])
        self.assertEqual(found[b"sublink"], found[b"sub"])
        self.assertEqual(found[b"sub/deep/top"], self.storage.metadata(b""))
        # Named, a link is the directory.
        below = [name.replace(b"sub/", b"sublink/", 1) for name in found if name[:4] == b"sub/"]
        self.assertEqual(self.names(b"sublink"), below)
        self.assertEqual(self.names(b"sublink", limits=[1]), below)

    def test_refused_links_are_not_listed(self) -> None:
        for name in (*REFUSED_LINKS, b"absolute"):
            self.assertNotIn(name, self.names())

    def test_tree_of_1100_levels_takes_no_more_descriptors_than_a_flat_one(self) -> None:
        levels = list(accumulate([b"d"] * 1100, lambda above, name: above + b"/" + name))
        rest = [name for name in self.model() if name > b"d"]
        for level in levels:
            os.mkdir(self.path(level))
        try:
            with descriptors_left(WALK):
                self.assertEqual(self.names(b"d", limits=[600]), levels[1:])
            after = levels[1000]
            self.assertEqual(self.names(b"", math.inf, after + b"\xff"), rest)
            self.assertEqual(self.names(b"d", 3, after), [])
        finally:
            for level in reversed(levels):
                os.rmdir(self.path(level))

    def test_walk_returns_to_the_directories_above(self) -> None:
        levels = list(accumulate([b"m"] * 100, lambda above, name: above + b"/" + name))
        for level in levels:
            os.mkdir(self.path(level))
            for name in (b"/a", b"/z"):
                self.put(level + name, b"")
        for limit in (7, 1000):
            self.assertEqual(self.names(b"m", limits=[limit]), self.model(b"m"))

    def test_path_too_long_for_a_system_call_is_not_served(self) -> None:
        directory = os.open(self.served, os.O_RDONLY)
        for _ in range(17):
            os.mkdir(b"\xff" * 250, dir_fd=directory)
            below = os.open(b"\xff" * 250, os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = below
        too_deep = os.fstat(directory).st_ino
        os.close(directory)
        scans = Watched()
        entries = list(self.pages(storage=LocalStorage(self.served, self.opener, scans)))
        self.assertNotIn(too_deep, scans.entered)
        longest = max(entry.name for entry in entries)
        self.assertEqual(longest, b"/".join([b"\xff" * 250] * 16))
        self.assertTrue(all(len(format_entry(entry)) < MAX_LINE for entry in entries))
        self.storage.metadata(longest)
        self.assert_without_metadata(longest + b"/" + b"\xff" * 250)


class BeneathTests(BothOpeners, PagesCase):
    """``openat2``."""

    opener = staticmethod(open_beneath)
    follows_links = True
    if choose_opener() is not open_beneath:
        skip = "no openat2 here"


class WalkTests(BothOpeners, PagesCase):
    """One component at a time."""

    opener = staticmethod(open_by_walk)
    follows_links = False


class PageTests(SynchronousTestCase):
    def test_page_is_of_a_mebibyte_at_most(self) -> None:
        metadata = Metadata(FILE, 1, 2, "etag")
        whole = [Entry(b"%04d" % number + b"\xff" * 250, metadata) for number in range(2500)]
        paged = make_page((Step(entry.name, [entry]) for entry in whole), 10_000, lambda: 0.0)
        body = paged.body
        entries, more = parsed(paged)
        self.assertTrue(more)
        self.assertEqual(entries, whole[: len(entries)])
        self.assertLessEqual(len(body), 2**20 + len(b"more\n"))
        self.assertGreater(len(body), 2**20 - 1000)

    def test_page_that_ends_inside_a_step_continues_after_its_last_entry(self) -> None:
        metadata = Metadata(FILE, 1, 2, "etag")
        entries = [Entry(b"%d" % number, metadata) for number in range(6)]
        steps = [Step(b"2", entries[:3]), Step(b"5\0", entries[3:])]
        for limit in range(1, 7):
            page = make_page(iter(steps), limit, lambda: 0.0)
            self.assertEqual(parsed(page), (entries[:limit], limit < 6))
            self.assertIsNone(page.page.after)
        # It ends behind a step, whose position is not the name of an entry.
        self.assertEqual(make_page(iter(steps), 10, lambda: 0.0, 6).page.after, b"5\0")
        self.assertEqual(parsed(make_page(iter(steps), 10, lambda: 0.0, 2)), (entries[:3], True))
