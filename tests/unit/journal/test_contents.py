"""Which segments a directory has, and what the search in them imports."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal import contents
from natproxy.journal.contents import Directory
from natproxy.journal.schema import CATALOGUE_FILE
from tests.support.journal_runs import SECOND, Translations
from tests.support.journals import MEMORY
from tests.support.paths import ROOT


class DirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = TemporaryDirectory(dir=MEMORY)
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name)
        self.daemon = Translations(self.path)
        self.addCleanup(self.daemon.close)
        self.daemon.start()
        self.directory = Directory(str(self.path))
        self.addCleanup(self.directory.close)

    def rows(self, number: int) -> None:
        for _ in range(number):
            self.daemon.wait(SECOND)
            self.daemon.remove(self.daemon.register(50_000))
            self.daemon.seal()

    def test_segment_that_is_being_created_is_opened_again(self) -> None:
        self.daemon.stop()
        (name,) = self.directory.files()
        aside = self.path / "aside"
        shutil.move(self.path / name, aside)
        (self.path / name).touch()
        pauses = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                os.replace(aside, self.path / name)

        self.patch(contents.time, "sleep", sleep)
        found = self.directory.contents()
        self.assertEqual([segment.name for segment in found.segments], [name])
        self.assertEqual((len(pauses), found.unreadable), (2, ()))

    def test_old_segment_that_is_damaged_is_not_waited_for(self) -> None:
        self.daemon.stop()
        (name,) = self.directory.files()
        (self.path / name).write_bytes(b"x" * 5000)
        os.utime(self.path / name, (1, 1))
        self.patch(contents.time, "sleep", self.fail)
        (error,) = self.directory.contents().unreadable
        self.assertEqual(error.name, name)

    def test_sealed_segments_are_opened_once_or_not_at_all(self) -> None:
        self.rows(3)
        opened: list[str] = []
        original = contents.SegmentReader

        def reader(directory: str, name: str) -> object:
            opened.append(name)
            return original(directory, name)

        self.patch(contents, "SegmentReader", reader)
        live = max(self.directory.files())
        self.directory.contents()
        self.assertEqual(opened, [live])
        (self.path / CATALOGUE_FILE).unlink()
        self.directory = Directory(str(self.path))
        opened.clear()
        self.directory.contents()
        self.assertEqual(len(opened), 4)
        self.directory.contents()
        self.assertEqual(opened[4:], [live])

    def test_only_sealed_segments_stay_open(self) -> None:
        self.rows(2)
        found = self.directory.contents()
        for name, identity in found.files.items():
            with self.directory.readers.use(name, identity):
                pass
        self.assertEqual(list(self.directory.readers._open), list(found.files)[:-1])


class ImportTests(SynchronousTestCase):
    def test_search_needs_no_twisted(self) -> None:
        known: set[str] = set()
        waiting = ["natproxy.journal.search", "natproxy.journal.erase"]
        while waiting:
            module = waiting.pop()
            path = ROOT.joinpath(*module.split("."))
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if module in known or not path.exists():
                continue
            known.add(module)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                else:
                    continue
                for name in found:
                    self.assertNotIn(name.split(".")[0], ("twisted", "zope"), module)
                    if name.startswith("natproxy."):
                        waiting += [name, name.rpartition(".")[0]]
        self.assertIn("natproxy.records.filter", known)
