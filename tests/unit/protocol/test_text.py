"""Bytes from outside as text that is safe to display."""

from __future__ import annotations

import sys
import unicodedata
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import (
    printable,
)
from tests.support.wire import (
    awkward_bytes,
    checked,
)


class PrintableTests(SynchronousTestCase):
    def test_no_more_is_escaped_than_is_shown(self) -> None:
        escaped: list[str] = []

        def escape(character: str) -> str:
            escaped.append(character)
            return "?"

        with mock.patch("natproxy.protocol.text._escape", escape):
            self.assertEqual(printable(b"\x01" * 16_000, 80), "?" * 77 + "...")
        self.assertEqual(len(escaped), 81)

    def test_utf_8_is_shown_and_the_rest_escaped(self) -> None:
        self.assertEqual(printable("a é € 😀".encode()), "a é € 😀")
        self.assertEqual(printable(b"a\xffb\xc3"), "a\\xffb\\xc3")
        self.assertEqual(printable(b"a\r\n\tb\0\x7f"), "a\\x0d\\x0a\\x09b\\x00\\x7f")
        self.assertEqual(printable("\u2028\u202e\u0085".encode()), "\\u2028\\u202e\\x85")
        self.assertEqual(printable(b"\xed\xa0\x80"), "\\xed\\xa0\\x80")

    def test_every_invisible_character_is_escaped(self) -> None:
        ignorable = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x3164, 0xFE0F, 0xFFA0, 0xE0100}
        for code in range(sys.maxunicode + 1):
            character = chr(code)
            invisible = unicodedata.category(character) in ("Cf", "Cc", "Zl", "Zp")
            if not invisible and code not in ignorable:
                continue
            shown = printable(f"a{character}b".encode())
            self.assertTrue(shown.isascii(), hex(code))
            digits = {4: "\\x", 6: "\\u", 10: "\\U"}
            self.assertEqual(shown, f"a{digits[len(shown) - 2]}{code:0{len(shown) - 4}x}b")

    def test_what_people_write_is_shown(self) -> None:
        for text in ("naïve café", "日本語", "Привет", "שלום", "नमस्ते", "e\u0301", "😀", "a\u00a0b"):
            self.assertEqual(printable(text.encode()), text)

    def test_escapes_cannot_be_imitated(self) -> None:
        self.assertNotEqual(printable(rb"\x0a"), printable(b"\n"))
        self.assertEqual(printable(rb"\x0a"), r"\\x0a")

    @checked
    @given(awkward_bytes | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
    def test_neither_a_line_can_be_forged_nor_a_terminal_driven(self, text: bytes) -> None:
        shown = printable(text)
        self.assertLessEqual(len(shown.splitlines()), 1)
        categories = {unicodedata.category(character) for character in shown}
        self.assertFalse(categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}, shown)
        directions = {unicodedata.bidirectional(character) for character in shown}
        self.assertFalse(directions & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI"})
        shown.encode("utf-8")

    @checked
    @given(st.binary(max_size=200), st.integers(10, 100))
    def test_text_is_never_longer_than_the_limit(self, text: bytes, limit: int) -> None:
        shown = printable(text, limit)
        self.assertLessEqual(len(shown), limit)
        if printable(text, 10_000) != shown:
            self.assertTrue(shown.endswith("..."))
            self.assertTrue(printable(text, 10_000).startswith(shown[:-3]))

    def test_text_at_the_limit_is_not_cut(self) -> None:
        self.assertEqual(printable(b"x" * 20, 20), "x" * 20)
        self.assertEqual(printable(b"x" * 21, 20), "x" * 17 + "...")

    def test_cut_is_marked_when_every_character_has_four_bytes(self) -> None:
        self.assertEqual(printable("😀".encode() * 21, 20), "😀" * 17 + "...")
