"""The selection of entries: the first rule decides, and directories decide for their content."""

from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer import selection
from natproxy.client.transfer.pattern import Pattern
from natproxy.client.transfer.selection import Rule, Selection

PATTERNS = st.sampled_from(
    [b"a", b"/a", b"b/", b"a/b", b"*", b"*/", b"/*/b", b"**/a", b"a/**", b"b/***", b"[ab]"]
)
RULES = st.lists(st.tuples(st.booleans(), PATTERNS), max_size=4)
PATHS = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4)


def of(*rules: tuple[bool, bytes]) -> Selection:
    return Selection(Rule(include, Pattern(text)) for include, text in rules)


def only(*patterns: bytes) -> Selection:
    return of(*((True, each) for each in patterns))


def without(*patterns: bytes) -> Selection:
    return of(*((False, each) for each in patterns))


def reference(rules: list[tuple[bool, bytes]], names: list[bytes], directory: bool) -> bool:
    """Walk down from the root as rsync does, and apply the first rule that matches."""
    included = not (rules and rules[-1][0])
    for depth in range(1, len(names) + 1):
        path = b"/".join(names[:depth])
        is_directory = directory or depth < len(names)
        for include, text in rules:
            if Pattern(text).matches(path, is_directory):
                if not include:
                    return False
                included = True
                break
    return included


class SelectionTests(SynchronousTestCase):
    def included(self, chosen: Selection, *paths: bytes) -> list[bytes]:
        return [each for each in paths if chosen.includes(each.rstrip(b"/"), each.endswith(b"/"))]

    def test_without_rules_everything_is_included(self) -> None:
        chosen = Selection()
        self.assertEqual(self.included(chosen, b"a", b"b/", b"b/c"), [b"a", b"b/", b"b/c"])
        self.assertTrue(chosen.enters(b"b"))
        self.assertFalse(chosen)
        self.assertTrue(without(b"a"))

    def test_excluded_directory_is_excluded_with_its_content(self) -> None:
        chosen = of((False, b"/tmp/"), (True, b"*.csv"), (False, b"/none"))
        paths = (b"a.csv", b"tmp/", b"tmp/a.csv", b"tmp/d/", b"d/tmp/", b"d/tmp/x")
        self.assertEqual(self.included(chosen, *paths), [b"a.csv", b"d/tmp/", b"d/tmp/x"])
        self.assertFalse(chosen.enters(b"tmp"))
        self.assertFalse(chosen.enters(b"tmp/d"))
        self.assertTrue(chosen.enters(b"d/tmp"))

    def test_first_rule_that_matches_decides(self) -> None:
        chosen = of((True, b"a.tmp"), (False, b"*.tmp"))
        self.assertEqual(self.included(chosen, b"a.tmp", b"b.tmp", b"c"), [b"a.tmp", b"c"])

    def test_only_what_the_last_rules_include_is_selected(self) -> None:
        chosen = only(b"*.csv", b"all/")
        paths = (b"a.csv", b"a.txt", b"d/", b"d/b.csv", b"all/", b"all/x", b"all/e/", b"all/e/y")
        self.assertEqual(
            self.included(chosen, *paths),
            [b"a.csv", b"d/b.csv", b"all/", b"all/x", b"all/e/", b"all/e/y"],
        )
        self.assertTrue(chosen.enters(b"d"))

    def test_exclusion_before_the_last_inclusion_holds(self) -> None:
        chosen = of((False, b"old*"), (True, b"*.csv"))
        paths = (b"a.csv", b"old.csv", b"old/a.csv", b"d/a.csv", b"d/a.txt")
        self.assertEqual(self.included(chosen, *paths), [b"a.csv", b"d/a.csv"])

    def test_very_deep_path_is_compared(self) -> None:
        path = b"/".join([b"d"] * 2000)
        self.assertTrue(without(b"x").includes(path, directory=False))
        self.assertFalse(without(b"d").includes(path, directory=False))

    def test_number_of_remembered_directories_is_bounded(self) -> None:
        with mock.patch.object(selection, "MOST_CACHED", 10):
            chosen = without(b"/1/")
            for number in range(50):
                path = b"%d/a" % number
                self.assertEqual(chosen.includes(path, directory=False), number != 1)
                self.assertLessEqual(len(chosen._directories), 10)

    @given(RULES, st.lists(st.tuples(PATHS, st.booleans()), max_size=8))
    def test_selection_is_that_of_the_reference(
        self, rules: list[tuple[bool, bytes]], paths: list[tuple[list[bytes], bool]]
    ) -> None:
        chosen = of(*rules)
        for names, directory in paths:
            path = b"/".join(names)
            included = chosen.includes(path, directory)
            self.assertEqual(included, reference(rules, names, directory), path)
            if included and len(names) > 1:
                self.assertTrue(chosen.enters(b"/".join(names[:-1])))
