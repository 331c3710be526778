from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.top.keyboard import NAMES, keys_of


class KeysTests(SynchronousTestCase):
    def test_sequences_have_names(self) -> None:
        for sequence, name in NAMES.items():
            self.assertEqual(keys_of(f"a{sequence}b"), ["a", name, "b"])

    def test_escape_alone_is_a_key(self) -> None:
        self.assertEqual(keys_of("\x1b"), ["escape"])
        self.assertEqual(keys_of("\x1bq"), ["escape", "q"])

    def test_unknown_sequences_are_skipped(self) -> None:
        self.assertEqual(keys_of("a\x1b[1;5Cb\x1b[3~c\x1bOP"), ["a", "b", "c"])

    @given(text=st.text(alphabet="\x1b[OA;1~aé"))
    def test_no_text_is_an_error(self, text: str) -> None:
        for key in keys_of(text):
            self.assertTrue(len(key) == 1 or key in (*NAMES.values(), "escape"))
