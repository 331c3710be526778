"""Messages that point at the wrong word."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.filter.errors import FilterError, quoted, suggestion, width


class ExplainedTests(SynchronousTestCase):
    def explained(self, text: str, position: int, length: int = 1) -> list[str]:
        return FilterError("wrong", text, position, length).explained().splitlines()

    def test_carets_are_below_the_word(self) -> None:
        self.assertEqual(
            self.explained("verb GET and byts > 1", 13, 4),
            ["wrong", "  verb GET and byts > 1", "               ^^^^"],
        )

    def test_end_has_a_caret(self) -> None:
        self.assertEqual(self.explained("verb", 4, 0), ["wrong", "  verb", "      ^"])

    def test_long_text_is_cut_around_the_word(self) -> None:
        _, text, carets = self.explained("a" * 1000 + " byts " + "b" * 1000, 1001, 4)
        self.assertLess(len(text), 80)
        self.assertTrue(text.startswith("  …a"))
        self.assertTrue(text.endswith("b…"))
        self.assertEqual(text[carets.index("^") : len(carets)], "byts")

    def test_long_word_is_cut(self) -> None:
        lines = self.explained("x" * 4000, 0, 4000)
        self.assertTrue(all(len(line) < 80 for line in lines), lines)

    def test_unprintable_characters_are_replaced(self) -> None:
        self.assertEqual(self.explained("\x1b[2J\nx", 5)[1], "  ?[2J?x")

    def test_wide_characters_take_two_columns(self) -> None:
        self.assertEqual(self.explained("名 x", 2)[2], "     ^")
        self.assertEqual(width("a\u0301名"), 3)


class SuggestionTests(SynchronousTestCase):
    def test_near_words(self) -> None:
        self.assertEqual(suggestion("BYTS", ("bytes", "verb")), "; did you mean bytes?")
        self.assertEqual(suggestion("nat_prt", ("nat-port", "verb")), "; did you mean nat-port?")
        self.assertEqual(suggestion("xyz", ("bytes", "verb")), "")

    def test_long_words_are_cut(self) -> None:
        self.assertEqual(quoted("x" * 41), f"'{'x' * 40}…'")
        self.assertEqual(suggestion("x" * 100_000, ("bytes",)), "")
