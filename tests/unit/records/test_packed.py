"""The text of several names: what is written is what is read, and it is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import encode_name
from natproxy.records.packed import LONGEST, MOST, Named, format_packed, parse_packed

words = st.binary(max_size=8).map(lambda name: encode_name(name).decode())


class PackedTests(SynchronousTestCase):
    def test_text_for_people(self) -> None:
        self.assertEqual(format_packed("a.txt", 512), "a.txt and 511 others")
        self.assertEqual(format_packed("a.txt", 2), "a.txt and 1 other")
        self.assertEqual(format_packed("a", 3, ["b", "c%20d"]), "a and 2 others, b c%20d")

    def test_one_name(self) -> None:
        for text in ("", "a", "and", "a%20and%203%20others"):
            self.assertEqual(parse_packed(text), Named(text))

    def test_text_of_an_unknown_form_is_a_name(self) -> None:
        self.assertEqual(parse_packed("a and many others"), Named("a and many others"))

    @given(words, st.integers(2, 9_999))
    def test_first_name_and_number(self, name: str, files: int) -> None:
        self.assertEqual(parse_packed(format_packed(name, files)), Named(name, files))

    @given(words, st.lists(words.filter(bool), min_size=1, max_size=9))
    def test_all_names(self, name: str, others: list[str]) -> None:
        # Also names such as "and" or "3".
        text = format_packed(name, len(others) + 1, others)
        self.assertEqual(parse_packed(text), Named(name, len(others) + 1, " ".join(others)))

    def test_names_are_bounded_and_their_number_is_not(self) -> None:
        many = parse_packed(format_packed("a", 5000, ["b"] * 4999))
        assert many.others is not None
        self.assertEqual((many.files, len(many.others.split())), (5000, MOST - 1))
        long = parse_packed(format_packed("a", 101, ["x" * 1000] * 100))
        assert long.others is not None
        self.assertEqual(set(long.others.split()), {"x" * 1000})
        self.assertLessEqual(len(long.others), LONGEST)
        self.assertGreater(len(long.others), LONGEST - 1001)
        self.assertEqual(parse_packed(format_packed("a", 2, ["x" * 20_000])), Named("a", 2))
