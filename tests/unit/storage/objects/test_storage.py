"""Objects as files: how many requests they take, what is hidden, what is logged."""

from __future__ import annotations

import math
from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from natproxy.storage import NotFound, ObjectStorage, Snapshot
from natproxy.storage.objects.client import ObjectChanged, StoreError
from natproxy.storage.objects.location import Location
from natproxy.storage.objects.storage import FIRST, REPORT_EVERY
from tests.support.objects import PlayedStore


class ObjectStorageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = PlayedStore()
        self.now = 0.0
        self.lines: list[str] = []
        self.storage = ObjectStorage(Location("b", "p/"), self.store, clock=lambda: self.now)
        self.storage.report = self.lines.append
        self.store.put("p/a", b"content of a")

    def names(self, depth: float = math.inf) -> list[bytes]:
        with closing(self.storage.entries(b"", depth, b"")) as steps:
            return [entry.name for step in steps for entry in step.entries]

    def test_small_object_takes_one_request(self) -> None:
        with closing(self.storage.open(b"a")) as file:
            self.assertTrue(file.ready(0))
            self.assertEqual(file.read_at(0, 100), b"content of a")
        self.assertEqual(self.store.requests, [("get", "p/a")])

    def test_empty_object(self) -> None:
        self.store.put("p/empty")
        with closing(self.storage.open(b"empty")) as file:
            self.assertEqual((file.size, file.read_at(0, 10)), (0, b""))
        (snapshot,) = self.storage.snapshots([b"empty"], 10)
        self.assertEqual(snapshot, Snapshot(self.storage.metadata(b"empty"), b""))

    def test_large_object(self) -> None:
        content = bytes(range(251)) * (FIRST // 100)
        self.store.put("p/large", content)
        with closing(self.storage.open(b"large")) as file:
            data = b""
            while piece := file.read_at(len(data), 1 << 20):
                data += piece
            self.assertTrue(data == content)
            self.assertTrue(file.unchanged())
            self.assertFalse(file.is_racy())
        self.assertEqual(self.storage.memory.held, 0)

    def test_stored_digest(self) -> None:
        with closing(self.storage.open(b"a")) as file:
            self.assertIsNone(file.stored_sha256())
            self.store.digests["p/a"] = "ab" * 32
            self.assertEqual(file.stored_sha256(), "ab" * 32)
            self.store.put("p/a", b"other")
            self.assertIsNone(file.stored_sha256())
            del self.store.objects["p/a"]
            self.assertRaises(ObjectChanged, file.stored_sha256)

    def test_failures_of_the_store_are_no_missing_files(self) -> None:
        self.store.error = StoreError("busy")
        for call in (
            lambda: self.storage.metadata(b"a"),
            lambda: self.storage.open(b"a"),
            lambda: self.names(),
            lambda: list(self.storage.top_files().names),
            lambda: self.storage.check(),
        ):
            self.assertRaises(StoreError, call)
        found = list(self.storage.snapshots([b"a", b"b"], 10))
        self.assertEqual([type(each) for each in found], [StoreError, StoreError])

    def test_prefix_without_objects_is_not_served(self) -> None:
        self.storage.check()
        with self.assertRaisesRegex(StoreError, "no object below this prefix"):
            ObjectStorage(Location("b", "q/"), self.store).check()
        ObjectStorage(Location("b"), PlayedStore()).check()

    def test_hidden_names_are_as_if_they_did_not_exist(self) -> None:
        self.store.put("p/.key", b"secret")
        self.store.put("p/sub/.key", b"secret")
        self.store.put("p/private/x", b"secret")
        self.storage.hide(lambda path: b".key" in path or path.startswith(b"private"))
        self.assertEqual(self.names(), [b"a", b"sub"])
        self.assertEqual(list(self.storage.top_files().names), [b"a"])
        for name in (b".key", b"sub/.key", b"private", b"private/x"):
            self.assertRaises(NotFound, self.storage.metadata, name)
            self.assertRaises(NotFound, self.storage.open, name)
            self.assertRaises(NotFound, lambda name=name: list(self.storage.entries(name, 1, b"")))
        hidden = self.storage.snapshots([b".key", b"sub/.key"], 100)
        self.assertEqual([type(each) for each in hidden], [NotFound, NotFound])
        self.storage.hide(None)
        self.assertEqual(self.storage.metadata(b".key").size, 6)

    def test_what_is_left_out_is_reported_now_and_then(self) -> None:
        self.store.put("p/x//y\n", b"")
        self.store.put("p/a/b", b"")
        for _ in range(5):
            self.assertEqual(self.names(), [b"a", b"x"])
        self.assertEqual(len(self.lines), 2)
        self.assertIn("s3://b: the key 'p/a/b' is left out of listings: an object", self.lines[0])
        self.assertIn("'p/x//y\\n' is left out", self.lines[1])
        self.now += REPORT_EVERY
        self.names()
        self.assertEqual(len(self.lines), 4)
        self.assertIn("'p/a/b', and 4 times others, is left out", self.lines[2])

    def test_order_that_turns_out_late_is_no_failure(self) -> None:
        store = PlayedStore(tree=True)
        store.by_name = False
        for key in ("a/x", "a-1"):
            store.put(key)
        storage = ObjectStorage(Location("b"), store)
        page = store.page

        def noticed(*arguments: object) -> object:
            store.by_name = True
            return page(*arguments)  # type: ignore[arg-type]

        store.page = noticed  # type: ignore[method-assign,assignment]
        names = [entry.name for step in storage.entries(b"", 1, b"") for entry in step.entries]
        self.assertEqual(names, [b"a", b"a-1"])

    def test_snapshots_that_are_not_wanted_are_not_requested(self) -> None:
        for number in range(100):
            self.store.put(f"p/{number}", b"x")
        snapshots = self.storage.snapshots([b"%d" % number for number in range(100)], 10)
        next(snapshots)
        snapshots.close()
        self.assertLess(len(self.store.requests), 20)
