"""What every storage does: the suite that is run over each of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, cycle, islice

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natproxy.metadata import DIRECTORY, FILE, UNREAD_METADATA, Entry
from natproxy.storage import NotFound, ObjectStorage, Snapshot, Step, Storage, TooLarge
from natproxy.storage.objects import ranges
from natproxy.storage.objects.ranges import PIECE
from tests.support.storage import descriptors

Tree = dict[bytes, "bytes | Tree"]

MTIME = 1_500_000_000_123_456_000

NAMES = st.sampled_from(
    (b"a", b"a-", b"a.b", b"a0", b"a\n", b"END", b"b", b"...", b"\x01", b"\xff")
)
TREES = st.recursive(
    st.dictionaries(NAMES, st.binary(max_size=3), max_size=3),
    lambda trees: st.dictionaries(NAMES, st.binary(max_size=3) | trees, max_size=4),
    max_leaves=12,
)
ANY_PATH = st.lists(NAMES | st.just(b""), max_size=4).map(b"/".join)

BAD_NAMES = (
    *(b".", b"..", b"/", b"//", b"/a", b"a/", b"sub/", b"sub//b", b"./a", b"sub/./b", b"sub/../a"),
    *(b"../a", b"a/..", b"a\0", b"\0", b"absent", b"absent/a", b"a/b", b"x" * 5000, b"a/" * 3000),
)


def flatten(tree: Tree, top: bytes = b"") -> Iterator[tuple[bytes, bytes | None]]:
    """Return each path of a tree with its content; `None` for a directory."""
    for name, node in tree.items():
        yield top + name, node if isinstance(node, bytes) else None
        if not isinstance(node, bytes):
            yield from flatten(node, top + name + b"/")


def parts(step: Step) -> Iterator[Step]:
    """Return a step as several, which end where a page may end inside of it."""
    for entry in step.entries[:-1]:
        yield Step(entry.name, (entry,))
    yield step._replace(entries=step.entries[-1:])


SETTINGS = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class StorageSuite:
    """The cases, with a storage of the tree `TREE`."""

    TREE: Tree = {
        b"a": b"the a",
        b"b": b"",
        b"sub": {b"b": b"the b", b"deep": {b"c": b"0123456789"}},
        b"empty": {},
    }

    storage: Storage
    trees = TREES
    mtime: int | None = MTIME
    """That of every file; `None` if the storage chooses it."""
    connects = False
    """Whether connections stay open for later."""

    def build(self, tree: Tree) -> Storage:
        """Return a storage with this tree; every mtime is `MTIME`."""
        raise NotImplementedError

    def replace(self, name: bytes, content: bytes) -> None:
        """Put another file under a name, as by a rename."""
        raise NotImplementedError

    def setUp(self) -> None:
        super().setUp()
        before = self.held()
        self.addCleanup(lambda: self.assertEqual(self.held() - before, set()))
        self.storage = self.build(self.TREE)

    def held(self) -> set[str]:
        """Return the open descriptors."""
        return set() if self.connects else descriptors()

    def steps(self, name: bytes = b"", depth: float = math.inf, after: bytes = b"") -> list[Step]:
        with closing(self.storage.entries(name, depth, after)) as steps:
            return list(steps)

    def entries(
        self, name: bytes = b"", depth: float = math.inf, after: bytes = b""
    ) -> list[Entry]:
        return [entry for step in self.steps(name, depth, after) for entry in step.entries]

    def names(self, name: bytes = b"", depth: float = math.inf, after: bytes = b"") -> list[bytes]:
        return [entry.name for entry in self.entries(name, depth, after)]

    def read(self, name: bytes) -> bytes:
        with closing(self.storage.open(name)) as file:
            return b"".join(file.read_at(offset, 2) for offset in range(0, file.size, 2))

    def test_it_passes_the_check(self) -> None:
        self.storage.check()

    def test_metadata(self) -> None:
        for name, kind, size in ((b"a", FILE, 5), (b"b", FILE, 0), (b"sub", DIRECTORY, 0)):
            metadata = self.storage.metadata(name)
            self.assertEqual(metadata[:2], (kind, size))
            if kind == FILE and self.mtime is not None:
                self.assertEqual(metadata.mtime_ns, self.mtime)
            self.assertRegex(metadata.etag, "^[!-~]{1,128}$")
        self.assertEqual(self.storage.metadata(b"").type, DIRECTORY)
        self.assertEqual(self.storage.metadata(b"sub/deep/c").size, 10)

    def test_nothing_is_found_under_other_names(self) -> None:
        for name in BAD_NAMES:
            self.assertRaises(NotFound, self.storage.metadata, name)
            self.assertRaises(NotFound, self.storage.open, name)
            self.assertRaises(NotFound, self.steps, name)
        for name in (b"", b"sub", b"empty"):
            self.assertRaises(NotFound, self.storage.open, name)

    def test_open_file(self) -> None:
        with closing(self.storage.open(b"sub/deep/c")) as file:
            self.assertEqual((file.size, file.metadata), (10, self.storage.metadata(b"sub/deep/c")))
            self.assertEqual(file.read_at(3, 4), b"3456")
            self.assertEqual(file.read_at(8, 100), b"89")
            self.assertEqual((file.read_at(10, 1), file.read_at(100, 1)), (b"", b""))
            self.assertTrue(file.unchanged())
            self.assertEqual(file.current_identity(), file.identity)
            self.assertIsInstance(file.is_racy(), bool)
            self.assertIsInstance(file.device, int)
            descriptor = file.fileno()
            if descriptor is not None:
                self.assertEqual(os.pread(descriptor, 4, 3), b"3456")
        file.close()

    def snapshots(self, *names: bytes, largest: int = 100) -> list[object]:
        """Return snapshots, and the class of each exception in the place of one."""
        with closing(self.storage.snapshots(names, largest)) as snapshots:
            return [each if isinstance(each, Snapshot) else type(each) for each in snapshots]

    def test_snapshots(self) -> None:
        names = (b"a", b"sub/b", b"sub/deep/c", b"sub/b", b"b", b"a")
        self.assertEqual(
            self.snapshots(*names),
            [Snapshot(self.storage.metadata(name), self.read(name)) for name in names],
        )
        others = (*BAD_NAMES, b"", b"sub", b"empty")
        self.assertEqual(self.snapshots(*others), [NotFound] * len(others))
        self.assertEqual(
            self.snapshots(b"a", b"absent", b"sub/deep/c", b"a", largest=9)[1:3],
            [NotFound, TooLarge],
        )

    def test_snapshots_that_are_closed_early_hold_nothing(self) -> None:
        before = self.held()
        snapshots = self.storage.snapshots([b"sub/b", b"a"], 100)
        next(snapshots)
        snapshots.close()
        self.assertLessEqual(self.held(), before)

    def test_order_is_by_the_bytes_of_full_paths(self) -> None:
        self.storage = self.build(
            {
                b"a": {b"x": b"", b"b": {b"c": b""}},
                b"a-b": b"",
                b"a0": b"",
                b"\xc3\xbf": b"",
                b"Z": b"",
            }
        )
        whole = [b"Z", b"a", b"a-b", b"a/b", b"a/b/c", b"a/x", b"a0", b"\xc3\xbf"]
        self.assertEqual(self.names(), whole)
        self.assertEqual(self.names(depth=1), [n for n in whole if b"/" not in n])
        self.assertEqual(self.names(b"a"), [b"a/b", b"a/b/c", b"a/x"])

    def test_listing_of_a_file_is_its_own_entry(self) -> None:
        (entry,) = self.entries(b"sub/b")
        self.assertEqual(entry, Entry(b"sub/b", self.storage.metadata(b"sub/b")))
        self.assertEqual(self.names(b"sub/b", after=b"sub/a"), [b"sub/b"])
        self.assertEqual(self.names(b"sub/b", after=b"sub/b"), [])

    def test_empty_directory(self) -> None:
        self.assertEqual(self.names(b"empty"), [])
        self.storage = self.build({})
        self.assertEqual(self.names(), [])
        self.assertEqual(list(self.storage.top_files().names), [])

    @SETTINGS
    @given(st.data())
    def test_listings_and_their_parts_are_those_of_a_model(self, data: st.DataObject) -> None:
        self.compare_with_model(data)

    def compare_with_model(self, data: st.DataObject) -> None:
        """List a tree, as a whole and in parts, and read its files."""
        tree = data.draw(self.trees)
        self.storage = self.build(tree)
        model = dict(flatten(tree))
        top = data.draw(st.sampled_from([b"", *(n for n, c in model.items() if c is None)]))
        depth = data.draw(st.sampled_from([1, 2, 3, math.inf]))
        path = top + b"/" if top else b""
        whole = sorted(
            name
            for name in model
            if name.startswith(path) and name[len(path) :].count(b"/") < depth
        )
        after = data.draw(ANY_PATH | st.just(b"") | st.sampled_from(whole or [b""]))
        wanted = [name for name in whole if name > after]
        entries = self.entries(top, depth, after)
        self.assertEqual([entry.name for entry in entries], wanted)
        for name, metadata, unread in entries:
            content = model[name]
            kind, size = (DIRECTORY, 0) if content is None else (FILE, len(content))
            self.assertEqual((metadata.type, metadata.size, unread), (kind, size, False))
            self.assertEqual(metadata, self.storage.metadata(name))
            if content is not None:
                self.assertEqual(self.read(name), content)
        limits = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        self.assertEqual(self.in_parts(top, depth, after, limits), wanted)
        files = sorted(name for name, c in model.items() if c is not None and b"/" not in name)
        names, unread_names = self.storage.top_files()
        self.assertEqual((list(names), unread_names), (files, ()))

    def in_parts(self, name: bytes, depth: float, after: bytes, limits: list[int]) -> list[bytes]:
        """List a few entries at a time, and continue each time from the last position."""
        found: list[bytes] = []
        for limit in cycle(limits):
            before = after
            with closing(self.storage.entries(name, depth, after)) as steps:
                for part in islice(chain.from_iterable(map(parts, steps)), limit):
                    found += [entry.name for entry in part.entries]
                    if part.position is not None:
                        self.assertGreater(part.position, after)
                        self.assertLessEqual(len(part.position), 4096)
                        for entry in part.entries:
                            self.assertGreaterEqual(part.position, entry.name)
                        after = part.position
            if after == before:
                return found
        raise AssertionError("no limits")

    def test_check_is_called_and_ends_the_work(self) -> None:
        class Enough(Exception):
            pass

        def check() -> None:
            raise Enough

        self.assertRaises(Enough, lambda: list(self.storage.entries(b"", math.inf, b"", check)))
        self.assertRaises(Enough, lambda: list(self.storage.top_files(check).names))
        self.assertRaises(Enough, lambda: list(self.storage.snapshots([b"a"], 9, check)))

    def test_listing_that_is_closed_early_holds_nothing(self) -> None:
        before = self.held()
        steps = self.storage.entries(b"", math.inf, b"")
        next(steps)
        steps.close()
        self.assertLessEqual(self.held(), before)


class FilesSuite(StorageSuite):
    """What storages do besides whose files can be written to, and can be unreadable."""

    def make_unreadable(self, name: bytes) -> None:
        """Let a file exist whose metadata cannot be read, or a directory that cannot be listed."""
        raise NotImplementedError

    def test_replaced_or_removed_file_stays_what_it_was(self) -> None:
        with closing(self.storage.open(b"a")) as file:
            self.replace(b"a", b"other content")
            self.assertTrue(file.unchanged())
            self.assertEqual((file.read_at(0, 100), file.size), (b"the a", 5))
            now = self.storage.metadata(b"a")
            self.assertEqual(now.size, 13)
            self.assertNotEqual(now.etag, file.metadata.etag)

    def test_file_that_is_written_to_has_changed_unless_it_has_grown(self) -> None:
        for content, unchanged in ((b"other", False), (b"the", False), (b"the a and more", True)):
            self.replace(b"a", b"the a")
            with closing(self.storage.open(b"a")) as file:
                self.write(b"a", content)
                self.assertIs(file.unchanged(), unchanged, content)
                self.assertNotEqual(file.current_identity(), file.identity)
                with closing(self.storage.open(b"a")) as other:
                    self.assertEqual(file.current_identity(), other.identity)

    def write(self, name: bytes, content: bytes) -> None:
        """Write to a file in place."""
        raise NotImplementedError

    def test_unreadable_file_is_listed_without_metadata(self) -> None:
        whole = self.names()
        self.make_unreadable(b"sub/b")
        found = {entry.name: entry.metadata for entry in self.entries()}
        self.assertEqual(list(found), whole)
        self.assertEqual(found[b"sub/b"], UNREAD_METADATA)

    def test_directory_that_cannot_be_listed_is_marked_where_it_would_be(self) -> None:
        self.make_unreadable(b"sub")
        left = [b"a", b"b", b"empty", b"sub"]
        for depth, marked in ((1, []), (2, [b"sub"]), (math.inf, [b"sub"])):
            entries = self.entries(depth=depth)
            self.assertEqual([entry.name for entry in entries], left)
            self.assertEqual([entry.name for entry in entries if entry.unread], marked)
        self.assertRaises(NotFound, self.steps, b"sub")
        self.assertEqual(self.names(depth=1, after=b"empty"), [b"sub"])

    def test_directory_that_becomes_unreadable_inside_of_it_fails(self) -> None:
        self.make_unreadable(b"sub")
        self.assertRaises(OSError, self.steps, b"", math.inf, b"sub/b")

    def test_directory_whose_mark_may_be_missing_is_a_step_without_a_position(self) -> None:
        self.replace(b"sub-x", b"")
        self.replace(b"sub-y", b"")
        self.make_unreadable(b"sub")
        unread = [step for step in self.steps(after=b"sub-x") if step.unread]
        self.assertEqual(unread, [Step(None, (), True)])
        self.assertEqual(self.names(after=b"sub-x"), [b"sub-y"])
        self.assertEqual([s for s in self.steps(depth=1, after=b"sub-x") if s.unread], [])


OBJECT_NAMES = st.sampled_from(
    ("a", "a-", "a-b", "a.b", "a0", "a b", "END", "b", "...", "a#b", "\u00ff", "\U0001f600")
).map(str.encode)


class ObjectsSuite(StorageSuite):
    """What storages of objects do besides."""

    storage: ObjectStorage
    trees = st.recursive(
        st.dictionaries(OBJECT_NAMES, st.binary(max_size=3), max_size=3),
        lambda trees: st.dictionaries(OBJECT_NAMES, st.binary(max_size=3) | trees, max_size=4),
        max_leaves=12,
    )

    def test_replaced_object_is_not_mixed_with_the_one_that_was_opened(self) -> None:
        self.patch(ranges, "LARGEST", PIECE)
        content = b"before" * 200_000
        self.replace(b"a", content)
        with closing(self.storage.open(b"a")) as file:
            self.assertEqual(file.read_at(0, 6), b"before")
            self.replace(b"a", b"after." * 200_000)
            with self.assertRaisesRegex(OSError, "replaced or removed"):
                offset = 6
                while data := file.read_at(offset, 1 << 20):
                    offset += len(data)
                    self.assertNotIn(b"after", data)
        self.assertNotEqual(self.storage.metadata(b"a").etag, file.metadata.etag)
