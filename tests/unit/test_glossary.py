"""One word for one thing, and plain technical English, in code, docs and messages.

Each banned word has the contexts in which it may stand; its reason is the word to use instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from tests.support.paths import ROOT


class Ban(NamedTuple):
    """A word that is not used.

    :ivar word: a regular expression; whole words, in any case.
    :ivar instead: what to write.
    :ivar allowed: regular expressions of the contexts in which it may stand.
    """

    word: str
    instead: str
    allowed: tuple[str, ...] = ()


BANS = (
    Ban(r"folders?", "directory"),
    Ban(r"answer(s|ed|ing)?", "reply, respond"),
    Ban(
        r"gave|give|gives|given|giving",
        "return, pass, specify",
        (r"giv(e|es|ing|en) up", r"gave up"),
    ),
    Ban(r"tell|tells|told|telling", "report, log, return", (r"def tell\(", r"`tell`")),
    Ban(r"say|says|said|saying", "state, print, specify, report"),
    Ban(r"ask|asks|asked|asking|questions?", "request, command, call"),
    Ban(
        r"somebody|someone|nobody|anybody|whoever",
        "name the thing: caller, client, peer",
        # The result of whois.
        (r"(?-i:NOBODY)", r"[\"`]nobody[\"`]"),
    ),
    Ban(r"hurry|let go|let_go|defect|astray|put up with", "abort, close, fail, unsafe"),
    Ban(r"abandon(s|ed|ing|ment)?", "cancel"),
    Ban(r"rooms?|wings?", "package, module; space"),
    Ban(r"outflow", "outbound"),
    Ban(r"sinks?", "outbound, receiver"),
    Ban(r"warmth|warm", "page cache, cached"),
    Ban(
        r"fetch(es|ed|ing|er)?",
        "download, read",
        (
            r"fetch_range",
            r"self\.fetcher",
            r"def _fetch\(",
            r"git fetch",
            r"sec-fetch",
            r"[\"`]fetched[\"`]",
        ),
    ),
    Ban(r"sort of|kind of thing|of course|by itself|on its own", "leave it out"),
    Ban(r"knows? (of|about|nothing|no|how|where|which|what|that|who|when)", "has, uses, imports"),
    Ban(r"lets? pass|goes? on|went on|going on|gone on|go on", "continue, resume"),
    Ban(r"wants? to|would like|thinks? of|thought of|cares?", "no personification"),
)

MODULE_NAMES = frozenset(
    {
        "answers",
        "closing",
        "common",
        "endings",
        "exchanging",
        "handler",
        "handlers",
        "helper",
        "helpers",
        "kept",
        "manager",
        "managers",
        "misc",
        "names",
        "running",
        "sessions",
        "together",
        "util",
        "utils",
        "warmth",
        "ways",
        "words",
        "writing",
    }
)


def texts() -> Iterator[tuple[Path, str]]:
    """Return every file that the rule is about, and its text."""
    yield ROOT / "README.md", (ROOT / "README.md").read_text()
    for directory, pattern in (("natproxy", "*.py"), ("docs", "*.md"), ("man", "*.1")):
        for path in sorted((ROOT / directory).rglob(pattern)):
            if "reports" not in path.parts:
                yield path, path.read_text()


def offences(text: str, bans: tuple[Ban, ...] = BANS) -> Iterator[str]:
    """Return a line for each banned word in a text."""
    for ban in bans:
        word = re.compile(rf"(?<![A-Za-z])(?:{ban.word})(?![A-Za-z])", re.IGNORECASE)
        if word.search(text) is None:
            continue
        allowed = [re.compile(context, re.IGNORECASE) for context in ban.allowed]
        for number, line in enumerate(text.splitlines(), 1):
            for match in word.finditer(line):
                if not any(
                    found.start() <= match.start() and match.end() <= found.end()
                    for context in allowed
                    for found in context.finditer(line)
                ):
                    yield f"{number}: {match[0]!r} (write: {ban.instead}): {line.strip()}"


class GlossaryTests(SynchronousTestCase):
    def test_no_banned_word(self) -> None:
        found = [
            f"{path.relative_to(ROOT)}:{offence}"
            for path, text in texts()
            for offence in offences(text)
        ]
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_no_module_has_a_name_that_says_nothing(self) -> None:
        found = [path for path in (ROOT / "natproxy").rglob("*.py") if path.stem in MODULE_NAMES]
        self.assertEqual(found, [])


class OffencesTests(SynchronousTestCase):
    def test_word_is_found_whole_in_any_case_and_in_identifiers(self) -> None:
        bans = (Ban("folders?", "directory", ("a folder icon",)),)
        found = list(offences("Folder\nsub_folder\nfolderol\na folder icon, a folder", bans))
        self.assertEqual([line.split(":")[0] for line in found], ["1", "2", "4"])
