"""Paths, tools and names in CONTRIBUTING.md, and links of it and other pages, exist."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.paths import ROOT

PAGES = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "README.md",
    "examples/README.md",
    "changelog.d/README.md",
)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

# In backquotes: with a directory of the project at its beginning.
NAMED = re.compile(r"(?<![\w/.])(?:natproxy|tests|docs|examples|deploy|\.ci)/[\w./-]*[\w/]")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#([\w-]+))?\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


class PagesTests(SynchronousTestCase):
    def test_paths_exist(self) -> None:
        paths = NAMED.findall(CONTRIBUTING)
        self.assertGreater(len(paths), 20)
        missing = [path for path in paths if not (ROOT / path).exists()]
        self.assertEqual(missing, [])

    def test_links_lead_to_files_and_headings(self) -> None:
        for name in PAGES:
            page = ROOT / name
            for target, anchor in LINK.findall(page.read_text()):
                path = page.parent / target
                self.assertTrue(path.exists(), f"{name}: {target}")
                if anchor:
                    self.assertIn(anchor, anchors(path), f"{name}: {target}")

    def test_names_exist(self) -> None:
        # Classes, constants, private names and attributes; the verb NOOP is an example.
        names = set(re.findall(r"`(\w*(?:_\w+|[a-z][A-Z]\w+|[A-Z]{5,}))`", CONTRIBUTING))
        self.assertGreater(len(names), 8)
        files = [*(ROOT / "natproxy").rglob("*.py"), *(ROOT / "tests/unit").rglob("*.py")]
        words = {word for path in files for word in re.findall(r"\w+", path.read_text())}
        self.assertEqual(names - words - {"command_NOOP"}, set())

    def test_tools_are_in_the_extra_for_developers(self) -> None:
        found = [each for each in requires("natproxy") or () if "dev" in each.partition(";")[2]]
        names = {re.split(r"[<>=\[; ]", each)[0] for each in found}
        self.assertEqual({"ruff", "mypy", "nox", "pre-commit", "towncrier"} - names, set())
