"""The Markdown pages: links and anchors lead somewhere, and what they name in the code exists."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path
from pkgutil import resolve_name

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.commands import COMMANDS
from natproxy.cli.parsing import program_parser
from natproxy.records.filter import parse
from tests.support.paths import ROOT

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "changelog.d/README.md", "examples/*.md")
    for page in ROOT.glob(pattern)
)

INTERNAL_PAGES = [ROOT / name for name in ("docs/architecture.md", "docs/storage.md")]
"""The pages that name classes of the code without their modules."""

FOREIGN = frozenset(
    {
        "ClientFactory",
        "IReadWriteDescriptor",
        "LineReceiver",
        "OSError",
        "ServiceMaker",
        "StreamServerEndpointService",
        "SystemExit",
    }
)
"""Names of Python and Twisted on these pages."""

_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?:natproxy|tests|docs|deploy|examples|twisted|benchmarks|man)/[\w./-]*")
_DOTTED = re.compile(r"(natproxy(?:\.\w+)+)(?:\(.*\))?")
_CLASS = re.compile(r"([A-Z](?=\w*[a-z])\w*[A-Z]\w*)(?:\.(\w+))?(?:\(.*\))?")


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(page: Path) -> Iterator[str]:
    """Return what a page has in backticks, outside of its fenced blocks."""
    return (span.strip("`") for span in _SPAN.findall(prose(page.read_text())))


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def links(text: str) -> list[str]:
    """Return the targets of a page's links."""
    return list(_LINK.findall(_SPAN.sub("``", prose(text))))


def command_lines(text: str) -> Iterator[list[str]]:
    """Return the words of each ``natproxy`` command in a page's sessions, without redirections."""
    for fence in _FENCE.findall(text):
        for line in re.findall(r"^ *\$ natproxy (.*)$", fence, re.MULTILINE):
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, ""
            words = list(lexer)
            ends = (number for number, word in enumerate(words) if set(word) <= set("|<>&;"))
            yield words[: next(ends, len(words))]


def dead_links(page: Path) -> Iterator[str]:
    """Return the relative links of a page that lead nowhere."""
    for target in links(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            yield f"{page.relative_to(ROOT)}: {target}"


def exists(dotted: str) -> bool:
    """Return whether a dotted name is a module or an attribute of one."""
    try:
        import_module(dotted)
    except ImportError:
        try:
            resolve_name(dotted)
        except (ImportError, AttributeError):
            return False
    return True


def classes() -> dict[str, str]:
    """Return each class of the package, and the source of its module."""
    return {
        node.name: text
        for path in (ROOT / "natproxy").rglob("*.py")
        for text in [path.read_text()]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    }


class LinksTests(SynchronousTestCase):
    def test_links_and_anchors_lead_somewhere(self) -> None:
        self.assertEqual([dead for page in PAGES for dead in dead_links(page)], [])

    def test_pages_that_the_code_names_exist(self) -> None:
        files = [
            path
            for directory in ("natproxy", "deploy", "examples", "man", "tests")
            for path in (ROOT / directory).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
        missing = {
            f"{path.relative_to(ROOT)}: {name}"
            for path in files
            for name in re.findall(r"\bdocs/\w+\.md", path.read_text())
            if not (ROOT / name).exists()
        }
        self.assertEqual(missing, set())


class NamesTests(SynchronousTestCase):
    def test_paths_exist(self) -> None:
        missing = [
            f"{page.relative_to(ROOT)}: {span}"
            for page in PAGES
            if page.name != "CHANGELOG.md"
            for span in spans(page)
            if _PATH.fullmatch(span) and not span.endswith(".py") and not (ROOT / span).exists()
        ]
        self.assertEqual(missing, [])

    def test_files_of_python_exist(self) -> None:
        # A table may name its directory once: `blocking/file.py` of `natproxy/client/`.
        files = [
            f"/{path.relative_to(ROOT)}"
            for directory in ("natproxy", "tests", "examples", "twisted", "benchmarks")
            for path in (ROOT / directory).rglob("*.py")
        ]
        missing = [
            f"{page.relative_to(ROOT)}: {span}"
            for page in PAGES
            if page.name != "CHANGELOG.md"
            for span in spans(page)
            if re.fullmatch(r"[\w./]+\.py", span)
            if "/" in span or page in INTERNAL_PAGES
            if not any(file.endswith(f"/{span}") for file in files)
        ]
        self.assertEqual(missing, [])

    def test_modules_and_their_attributes_exist(self) -> None:
        missing = [
            f"{page.relative_to(ROOT)}: {span}"
            for page in PAGES
            if page.name != "CHANGELOG.md"
            for span in spans(page)
            if (match := _DOTTED.fullmatch(span)) and not exists(match[1])
        ]
        self.assertEqual(missing, [])

    def test_classes_and_their_members_exist(self) -> None:
        known = classes()
        missing = [
            f"{page.relative_to(ROOT)}: {span}"
            for page in INTERNAL_PAGES
            for span in spans(page)
            if (match := _CLASS.fullmatch(span)) and match[1] not in FOREIGN
            if match[1] not in known
            or (match[2] and not re.search(rf"\b{match[2]}\b", known[match[1]]))
        ]
        self.assertEqual(missing, [])


class CommandsTests(SynchronousTestCase):
    def test_commands_in_sessions_have_the_options_that_are_shown(self) -> None:
        parser = program_parser(COMMANDS)
        seen = set()
        for page in PAGES:
            for words in command_lines(page.read_text()):
                with self.subTest(page=page.name, words=words):
                    try:
                        arguments = parser.parse_args(words)
                    except SystemExit:
                        self.fail(f"{page.name}: natproxy {' '.join(words)}")
                    seen.add(arguments.command)
                    if arguments.command in ("table", "history", "events", "export", "kill"):
                        parse(" ".join(arguments.filter))
        self.assertLessEqual({"table", "whois", "history", "events", "export", "kill"}, seen)

    def test_commands_in_backticks_have_the_options_that_are_shown(self) -> None:
        parser = program_parser(COMMANDS)
        unknown = []
        for page in PAGES:
            for span in spans(page):
                if page.name == "CHANGELOG.md" or not re.match(r"natproxy [a-z]+ .*--[a-z]", span):
                    continue
                # Where a value is left out or stands for others, only that is wrong.
                reported = StringIO()
                with contextlib.redirect_stderr(reported), contextlib.suppress(SystemExit):
                    parser.parse_args(shlex.split(span)[1:])
                if "unrecognized arguments" in reported.getvalue():
                    unknown.append(f"{page.name}: {span}")
        self.assertEqual(unknown, [])

    def test_redirections_and_pipes_are_left_out(self) -> None:
        page = "```\n$ natproxy table 'bytes > 1M' > x\n$ natproxy whois - < y | z\n$ ls\n```\n"
        self.assertEqual(list(command_lines(page)), [["table", "bytes > 1M"], ["whois", "-"]])


class AnchorsTests(SynchronousTestCase):
    def test_anchors_are_those_of_github(self) -> None:
        page = "# A `b` c\n## What happens when …\n```\n# no\n```\n## [x](y)\n## [x](z)\n"
        self.assertEqual(anchors(page), {"a-b-c", "what-happens-when-", "x", "x-1"})

    def test_links_of_code_are_none(self) -> None:
        page = "[a\nb](c#d) `[e](f)`\n```\n[g](h)\n```\n"
        self.assertEqual(links(page), ["c#d"])
