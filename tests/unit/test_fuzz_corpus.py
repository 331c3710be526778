"""Each input of the corpus passes its target: a fault that was found once stays fixed."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from fuzz import engine
from fuzz.engine import CORPUS, Fault, replay
from fuzz.pieces import Reader, pieces_of
from fuzz.targets import NAMES, words_of


class CorpusTests(SynchronousTestCase):
    def test_each_input_passes(self) -> None:
        for name in NAMES:
            self.assertGreater(replay(name, [CORPUS / name]), 5, name)

    def test_each_directory_is_of_a_target(self) -> None:
        self.assertEqual({path.name for path in CORPUS.iterdir()}, set(NAMES))

    def test_inputs_are_small(self) -> None:
        for path in CORPUS.rglob("*"):
            self.assertLessEqual(path.stat().st_size, engine.LONGEST, path)


class ReplayTests(SynchronousTestCase):
    def test_fault_is_raised_and_its_file_is_named(self) -> None:
        seen: list[bytes] = []

        def check(data: bytes) -> None:
            seen.append(data)
            assert data != b"2", "wrong"

        with TemporaryDirectory() as directory, patch.object(engine, "load", lambda name: check):
            for text in ("1", "2", "3"):
                Path(directory, text).write_text(text)
            with self.assertRaisesRegex(Fault, f"any with {Path(directory, '2')}: wrong"):
                replay("any", [Path(directory)])
        self.assertEqual(seen, [b"1", b"2"])


class EngineTests(SynchronousTestCase):
    def test_missing_atheris_is_named_with_its_extra(self) -> None:
        with patch.dict(sys.modules, {"atheris": None}), self.assertRaises(SystemExit) as caught:
            engine.fuzz("times", None, 1)
        self.assertIn("atheris is missing: pip install -e '.[fuzz]'", str(caught.exception))


class WordsTests(SynchronousTestCase):
    def test_words_are_escaped(self) -> None:
        self.assertEqual(engine.escaped(b'a"\\\xff'), r"\x61\x22\x5c\xff")
        self.assertIn(b"GET", words_of("commands"))
        self.assertEqual(words_of("journal"), [])

    def test_no_word_is_empty(self) -> None:
        # libFuzzer refuses the whole dictionary.
        for name in NAMES:
            self.assertNotIn(b"", words_of(name), name)


class PiecesTests(SynchronousTestCase):
    def test_pieces_are_the_whole(self) -> None:
        self.assertEqual(pieces_of(b"\x02abcde"), (b"abcde", [b"ab", b"cd", b"e"]))
        self.assertEqual(pieces_of(b"\x00abc"), (b"abc", [b"abc"]))
        self.assertEqual(pieces_of(b""), (b"", []))

    def test_reader(self) -> None:
        reader = Reader(b"\x01\x02\x03abc")
        self.assertEqual((reader.number(2), reader.choice("xyz")), (258, "x"))
        self.assertTrue(reader)
        self.assertEqual(reader.rest(), b"abc")
        self.assertFalse(reader)
        self.assertEqual(reader.number(4), 0)
