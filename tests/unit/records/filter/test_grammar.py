"""The grammar: precedence, lists, limits, and where errors point."""

from __future__ import annotations

from datetime import timezone

from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.filter import FilterError, parse
from natproxy.records.filter.grammar import MAX_DEPTH, MAX_VALUES
from natproxy.records.filter.tokens import MAX_LENGTH
from tests.support.filters import NOW


def normal(text: str) -> str:
    """Return the normal form of a filter."""
    return str(parse(text, NOW, timezone.utc))


class NormalFormTests(SynchronousTestCase):
    def test_empty(self) -> None:
        for text in ("", "  \n"):
            self.assertEqual(normal(text), "")
            self.assertFalse(parse(text))

    def test_and_binds_more_tightly_than_or(self) -> None:
        self.assertEqual(
            normal("verb GET or (verb LIST and bytes > 1)"),
            "verb = GET or verb = LIST and bytes > 1",
        )
        self.assertEqual(
            normal("(verb GET or verb LIST) and bytes > 1"),
            "(verb = GET or verb = LIST) and bytes > 1",
        )

    def test_not_binds_most_tightly(self) -> None:
        self.assertEqual(normal("not verb GET and bytes 1"), "not verb = GET and bytes = 1")
        self.assertEqual(normal("not (verb GET and bytes 1)"), "not (verb = GET and bytes = 1)")
        self.assertEqual(normal("NOT not verb GET"), "not not verb = GET")

    def test_lists(self) -> None:
        for text in (
            "verb GET,LIST",
            "verb in GET, LIST",
            "verb in (GET, LIST)",
            "verb=(GET,LIST)",
        ):
            self.assertEqual(normal(text), "verb in (GET, LIST)")
        for text in ("verb != GET, LIST", "verb not in (GET,LIST)"):
            self.assertEqual(normal(text), "verb not in (GET, LIST)")

    def test_members_in_any_case_and_with_underscores(self) -> None:
        self.assertEqual(normal("Nat_Port == 1 AND BYTES<2"), "nat-port = 1 and bytes < 2")

    def test_needless_parentheses_are_removed(self) -> None:
        self.assertEqual(normal("((((verb GET))) or (bytes 1))"), "verb = GET or bytes = 1")

    def test_keyword_in_quotes_is_a_value(self) -> None:
        self.assertEqual(normal("name 'and' and verb GET"), "name = 'and' and verb = GET")


class ErrorTests(SynchronousTestCase):
    def assert_wrong(self, text: str, word: str, reason: str) -> None:
        """Assert that the error points at a word: the last one of that text."""
        with self.assertRaisesRegex(FilterError, reason) as caught:
            parse(text, NOW, timezone.utc)
        error = caught.exception
        self.assertEqual(text[error.position : error.position + error.length], word, text)

    def test_errors_point_at_the_word(self) -> None:
        for text, word, reason in (
            ("byts > 1M", "byts", r"'byts' is no member; did you mean bytes\?"),
            ("port 4", "port", "did you mean nat-port"),
            ("qqq 4", "qqq", "known are age, "),
            ("10.0.0.5", "10.0.0.5", r"did you mean client 10.0.0.5\?"),
            ("10.0.0.0/8", "10.0.0.0/8", r"did you mean client 10.0.0.0/8\?"),
            ("[::1]:40001", "[::1]:40001", r"did you mean client \[::1\]:40001\?"),
            ("verb GET and 40001", "40001", r"did you mean nat-port 40001 or serial 40001\?"),
            ("get", "get", r"did you mean verb GET\?"),
            ("killed", "killed", r"did you mean outcome killed\?"),
            ("KILL", "KILL", r"did you mean event kill\?"),
            ("*.iso", r"*.iso", r"did you mean name '\*\.iso'\?"),
            ("a/\x1b", "a/\x1b", r"^'a/\?' is no member; known are"),
            ("verb GET bytes 1", "bytes", "'and' or 'or' is needed before 'bytes'"),
            ("verb GET && bytes 1", "&&", "write 'and'"),
            ("verb GET || bytes 1", "||", "write 'or'"),
            ("name a=b", "=", "quote a value that contains it"),
            ("! verb GET", "!", "write 'not'"),
            ("verb > GET", ">", "'=' or '!=' only"),
            ("bytes > 1,2", "2", "one value, not with a list"),
            ("bytes > none", "none", "'none' is compared with '=' or '!='"),
            ("bytes >", "", "a value of bytes is needed: a number of bytes"),
            ("bytes and verb GET", "and", "a value of bytes is needed instead of 'and'"),
            ("bytes in", "", "a value of bytes is needed"),
            ("bytes = in 1", "in", "a value is needed after '='"),
            ("verb not GET", "not", "write 'not verb"),
            ("(verb GET", "(", "not closed"),
            ("verb in (GET", "(", "not closed"),
            ("verb in (GET LIST)", "LIST", "',' or '\\)' is needed"),
            ("verb GET)", ")", "no '\\(' for this"),
            ("verb GET and", "", "the filter ends where a member"),
            ("'verb' GET", "'verb'", "a member such as client is needed"),
            ("name 'x", "'", "the quote ' is not closed"),
            ("outcome completd", "completd", "did you mean completed"),
            ("outcome x", "x", "known are completed, error"),
            ("bytes 1Q", "1Q", "'Q' is no unit"),
            ("bytes -1", "-1", "is no value of bytes"),
            ("bytes 1e3", "1e3", "'e' is no unit|is no value"),
            ("bytes 9999999999999T", "9999999999999T", "too large"),
            ("nat-port 5-4", "5-4", "the first number of a range is the smaller one"),
            ("age > 1parsec", "1parsec", "the units are"),
            ("started > 25:00", "25:00", "no such time of day"),
            ("client 10.0.0.0/33", "10.0.0.0/33", "from 0 to 32"),
            ("client example.org", "example.org", "names are not resolved"),
            ("client 10.0.0.1:x", "10.0.0.1:x", "'x' is no port"),
            (r"name 'a\q'", "\\", "a backslash is followed"),
        ):
            self.assert_wrong(text, word, reason)

    def test_messages_are_printable(self) -> None:
        for value in ("10.0.0.1:\x1b[2J", "\x1b/24", "[::1\x1b", "\x1b", "\x1b:5"):
            for member in ("client", "bytes", "started", "age", "state", "\x1b"):
                with self.assertRaises(FilterError) as caught:
                    parse(f"{member} {value}", NOW, timezone.utc)
                self.assertTrue(str(caught.exception).isprintable(), caught.exception)

    def test_limits(self) -> None:
        parse("verb GET" + " " * (MAX_LENGTH - 8))
        with self.assertRaisesRegex(FilterError, "at most 4,096 are accepted"):
            parse(" " * (MAX_LENGTH + 1))
        parse("(" * MAX_DEPTH + "verb GET" + ")" * MAX_DEPTH)
        for deep in ("(", "not ", "not("):
            with self.assertRaisesRegex(FilterError, "inside each other"):
                parse(deep * (MAX_DEPTH + 1) + "verb GET")
        parse("verb " + ",".join("a" * MAX_VALUES))
        with self.assertRaisesRegex(FilterError, "more than 256 values"):
            parse(" or ".join(["verb a"] * (MAX_VALUES + 1)))

    def test_quoted_word_is_not_compared_with_the_known_ones(self) -> None:
        self.assertEqual(normal("outcome 'of-a-newer-version'"), "outcome = 'of-a-newer-version'")
