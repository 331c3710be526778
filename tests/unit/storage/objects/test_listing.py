"""Listings of keys: their order, what is left out, and how many requests they take."""

from __future__ import annotations

import math

from twisted.trial.unittest import SynchronousTestCase

from natproxy.storage.objects.client import StoreError
from natproxy.storage.objects.keys import HIDDEN, INVALID, Keys, is_valid, stems
from natproxy.storage.objects.listing import items_below
from tests.support.objects import PlayedStore


class ListingCase(SynchronousTestCase):
    by_name = False

    def setUp(self) -> None:
        self.store = PlayedStore(self.by_name)
        self.omitted: list[tuple[str, str]] = []
        self.checks = 0

    def put(self, *keys: str) -> None:
        for key in keys:
            self.store.put(key)

    def listed(self, depth: float = math.inf, after: str = "", top: str = "") -> list[str]:
        """Return the names, a directory's with a slash at its end."""
        keys = Keys(self.store, self.check, lambda *omitted: self.omitted.append(omitted))
        return [
            item.name + ("/" if item.info is None else "")
            for item in items_below(keys, top, depth, after)
        ]

    def check(self) -> None:
        self.checks += 1


class OrderTests(ListingCase):
    def test_directory_comes_before_names_that_it_is_a_prefix_of(self) -> None:
        self.put("a-1", "a.txt", "a/x", "a0")
        for depth, names in ((1, []), (2, ["a/x"]), (math.inf, ["a/x"])):
            self.assertEqual(self.listed(depth), ["a/", "a-1", "a.txt", *names, "a0"])

    def test_listing_continues_after_any_name(self) -> None:
        self.put("a-1", "a-1/y", "a.txt", "a/b/c", "a/b.d/e", "a/x", "a0", "b/c/d", "b-/x")
        for depth in (1, 2, 3, math.inf):
            whole = self.listed(depth)
            names = [name.removesuffix("/") for name in whole]
            self.assertEqual(names, sorted(names))
            for place, name in enumerate(names):
                self.assertEqual(self.listed(depth, name), whole[place + 1 :], (depth, name))

    def test_stems_that_are_beyond_the_page_are_looked_for_once(self) -> None:
        self.put(*(f"a-{number:04}.txt" for number in range(3000)), "a/x")
        for depth in (1, math.inf):
            self.store.requests.clear()
            names = self.listed(depth)
            self.assertEqual(names[:2], ["a/", "a-0000.txt"])
            # Three pages of keys and the last one; and one for `a/`, and for the stem of the last
            # name of each page.
            self.assertLessEqual(len(self.store.requests), 9)

    def test_no_request_is_needed_for_stems_on_the_page(self) -> None:
        self.put(*(f"d/{number:03}.part.txt" for number in range(500)))
        self.listed()
        self.assertEqual(self.store.requests, [("page", "")])

    def test_stems(self) -> None:
        self.assertEqual(stems("a-b.c d"), ["a", "a-b", "a-b.c"])
        self.assertEqual(stems("..-x"), [])
        self.assertEqual(stems("-a"), [])

    def test_store_in_another_order_is_noticed(self) -> None:
        self.store = PlayedStore(tree=True)
        self.store.by_name = False
        self.put("a/x", "a-1")
        with self.assertRaisesRegex(StoreError, "order of a file system"):
            self.listed()
        self.assertTrue(self.store.by_name)
        self.assertEqual(self.listed(), ["a/", "a-1", "a/x"])


class OmissionTests(ListingCase):
    def test_keys_that_are_no_names(self) -> None:
        self.put("a//b", "a//c", "a/./d", "a/../e", "..", "/f", "g\0", "h/.", "i/ok", "a/z", "j//")
        self.assertEqual(self.listed(), ["a/", "a/z", "h/", "i/", "i/ok", "j/"])
        self.assertEqual(self.listed(1), ["a/", "h/", "i/", "j/"])
        self.assertEqual({reason for _, reason in self.omitted}, {INVALID})
        for name in ("", ".", "..", "a//b", "/a", "a/", "a/.", "./a", "a/../b", "a\0"):
            self.assertFalse(is_valid(name), name)
        for name in ("...", "a..b", ".a", "a.", "a/...", "a b"):
            self.assertTrue(is_valid(name), name)

    def test_many_keys_that_are_no_names_take_one_request(self) -> None:
        self.put(*(f"a//{number:05}" for number in range(5000)), "b")
        self.assertEqual(self.listed(), ["a/", "b"])
        self.assertEqual(len(self.omitted), 1)
        self.assertLessEqual(len(self.store.requests), 3)

    def test_object_hides_the_directory_of_its_name(self) -> None:
        self.put("a", "a/x", "a/y/z", "a-1", "b/c", "b/c/d")
        for depth in (1, 2, math.inf):
            self.omitted.clear()
            expected = ["a", "a-1", "b/"] + (["b/c"] if depth > 1 else [])
            self.assertEqual(self.listed(depth), expected)
            self.assertIn(HIDDEN, {reason for _, reason in self.omitted})
        self.assertEqual(self.listed(math.inf, "a"), ["a-1", "b/", "b/c"])
        self.assertEqual(self.listed(math.inf, "a/x"), ["b/", "b/c"])
        self.assertEqual(self.listed(2, "a-1"), ["b/", "b/c"])

    def test_markers_of_directories(self) -> None:
        self.put("a/", "b/c/", "b/x")
        self.assertEqual(self.listed(), ["a/", "b/", "b/c/", "b/x"])
        self.assertEqual(self.listed(1, top="a/"), [])
        self.assertEqual(self.omitted, [])

    def test_check_is_called_for_each_key(self) -> None:
        self.put(*(f"a//{number}" for number in range(50)), *map(str, range(50)))
        self.listed()
        self.assertGreaterEqual(self.checks, 100)


class ByNameTests(OmissionTests):
    """The same from a store that lists keys as a file system does."""

    by_name = True

    def test_many_keys_that_are_no_names_take_one_request(self) -> None:
        self.put(*(f"a//{number:05}" for number in range(5000)), "b")
        self.assertEqual(self.listed(), ["a/", "b"])
        self.assertLessEqual(len(self.store.requests), 3)

    def test_check_is_called_for_each_key(self) -> None:
        self.put(*map(str, range(50)))
        self.listed()
        self.assertGreaterEqual(self.checks, 50)
