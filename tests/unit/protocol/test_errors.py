"""Errors on the wire: codes and texts as kinds, and the one place that compares texts."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import (
    ErrorKind,
    Framing,
    denied_word,
    error_line,
    errors,
    forbidden_text,
    kind_of,
    parse_error,
    parse_header,
    retry_after,
)
from tests.support.paths import ROOT
from tests.support.wire import awkward_bytes, checked

TEXTS = {name for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)}
"""The names of the English texts."""

COMPARING = {"startswith", "endswith", "find", "index", "count", "match", "fullmatch", "search"}
"""Methods that look into a text."""

ALLOWED = {
    "server in str(error)",
    "'locked' in str(error)",
    "'locked' not in str(error)",
    "'interrupted' in str(error)",
}
"""Comparisons with an address in a message, and with texts of SQLite.

`sqlite3` of Python 3.10 has no codes of errors.
"""


def mentions_text(node: ast.AST) -> bool:
    """Return whether an expression contains one of the texts, or the text of an exception."""
    return any(
        (isinstance(inner, ast.Name) and inner.id in TEXTS)
        or (isinstance(inner, ast.Attribute) and inner.attr in TEXTS)
        or (
            isinstance(inner, ast.Call)
            and isinstance(inner.func, ast.Name)
            and inner.func.id == "str"
            and any(
                isinstance(argument, ast.Name) and argument.id in ("error", "failure", "exc")
                for argument in inner.args
            )
        )
        for inner in ast.walk(node)
    )


def comparisons(source: str) -> Iterator[int]:
    """Return the lines that compare or search the text of an error."""
    for node in ast.walk(ast.parse(source)):
        compared: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in COMPARING:
                compared = [node.func.value, *node.args]
        elif isinstance(node, ast.MatchValue):
            compared = [node.value]
        if any(map(mentions_text, compared)) and ast.unparse(node) not in ALLOWED:
            yield node.lineno


class OnePlaceTests(SynchronousTestCase):
    def test_no_other_module_compares_the_text_of_an_error(self) -> None:
        found = [
            f"{path.relative_to(ROOT)}:{line}"
            for path in sorted((ROOT / "natproxy").rglob("*.py"))
            if path.parts[-2:] != ("protocol", "errors.py")
            for line in comparisons(path.read_text())
        ]
        self.assertEqual(found, [])

    def test_comparison_is_found(self) -> None:
        for source in (
            "if message == EMPTY_RESPONSE: pass",
            "if message.startswith(PROXY_ERROR): pass",
            "if protocol.UNKNOWN_COMMAND in text: pass",
            "if 'gone' in str(error): pass",
            "str(error).startswith('proxy')",
        ):
            self.assertEqual(list(comparisons(source)), [1], source)
        for source in ("error_line(FILE_NOT_FOUND)", "print(str(error))", "code == 404"):
            self.assertEqual(list(comparisons(source)), [], source)

    def test_texts_are_known_to_the_test(self) -> None:
        self.assertIn("EMPTY_RESPONSE", TEXTS)
        self.assertIn("PROXY_ERROR", TEXTS)


class KindTests(SynchronousTestCase):
    def assert_kind(self, kind: ErrorKind, *replies: bytes) -> None:
        for reply in replies:
            self.assertIs(kind_of(*parse_error(reply)), kind, reply)

    def test_missing_file(self) -> None:
        self.assert_kind(ErrorKind.NOT_FOUND, b"file not found", b"404 file not found", b"404 x")

    def test_unknown_verb(self) -> None:
        self.assert_kind(ErrorKind.UNSUPPORTED, b"unknown command")

    def test_other_file(self) -> None:
        self.assert_kind(ErrorKind.CHANGED, b"412 changed etag=a", b"412")

    def test_temporary_failure(self) -> None:
        self.assert_kind(
            ErrorKind.UNAVAILABLE,
            b"502 proxy error: the server refuses connections",
            b"503 proxy error: the proxy has no free port left",
            b"503 malformed reply header",
            b"504 proxy error: the server was silent for 60 s",
            b"proxy error: the server was silent for 60 s",
        )

    def test_limit(self) -> None:
        self.assert_kind(
            ErrorKind.LIMITED,
            b"429 too many digests at once",
            b"429 too many commands of this client retry-after=3",
            b"too many commands of this client retry-after=3",
        )
        self.assertEqual(retry_after(b"too many commands retry-after=3"), 3)
        for text in (
            b"",
            b"retry-after=3",
            b"a retry-after=0",
            b"a retry-after=3 b",
            b"a retry-after=1234567890",
        ):
            self.assertEqual(retry_after(text), 0, text)

    def test_upstream_without_a_proper_reply(self) -> None:
        self.assert_kind(
            ErrorKind.NO_UPSTREAM_REPLY,
            b"empty response from server",
            b"502 empty response from server",
            b"proxy error: malformed reply header 'x'",
            b"502 proxy error: reply header too long",
        )

    def test_forbidden(self) -> None:
        self.assert_kind(ErrorKind.FORBIDDEN, b"403 forbidden name=a", b"403", b"forbidden")
        self.assert_kind(ErrorKind.OTHER, b"forbidden name=a", b"Forbidden")

    def test_name_in_the_error_of_a_pack(self) -> None:
        self.assertEqual(denied_word(b"forbidden name=a%20b"), b"a%20b")
        self.assertIsNone(denied_word(b"forbidden"))
        self.assertEqual(forbidden_text(b"a%20b"), "forbidden name=a%20b")
        self.assertEqual(forbidden_text(), "forbidden")

    def test_any_other_error(self) -> None:
        self.assert_kind(
            ErrorKind.OTHER,
            b"",
            b"400 missing file name",
            b"400 file not found",
            b"416 range size=5",
            b"500 internal error",
            b"299 nonsense",
            b"4040 x",
            b"File not found",
            b"line too long",
            b"malformed reply header",
        )

    @given(st.binary())
    def test_every_reply_has_a_kind(self, reply: bytes) -> None:
        self.assertIsInstance(kind_of(*parse_error(reply)), ErrorKind)


class LineTests(SynchronousTestCase):
    def test_message_stays_on_one_line_of_ascii(self) -> None:
        self.assertEqual(error_line("a\r\n b\x0b\u00e9"), b"ERR a b \\xe9\n")

    def test_code_comes_first(self) -> None:
        self.assertEqual(error_line("gone", 404), b"ERR 404 gone\n")


class ErrorTests(SynchronousTestCase):
    def test_code_comes_before_the_message(self) -> None:
        self.assertEqual(error_line("file not found", 404), b"ERR 404 file not found\n")
        self.assertEqual(error_line("changed etag=x", 412), b"ERR 412 changed etag=x\n")
        self.assertEqual(error_line("\u00e9\r\nOK 5\n", 500), b"ERR 500 \\xe9 OK 5\n")

    def test_code_and_message_are_taken_apart(self) -> None:
        for error, code, message in (
            (b"404 file not found", 404, b"file not found"),
            (b"412 changed etag=x", 412, b"changed etag=x"),
            (b"416", 416, b""),
            (b"416 ", 416, b""),
            (b"500 \xff\r", 500, b"\xff\r"),
        ):
            self.assertEqual(parse_error(error), (code, message))

    def test_message_of_version_1_has_no_code(self) -> None:
        for error in (
            *(b"", b"file not found", b"unknown command", b"proxy error: 404 or so"),
            *(b"40", b"4040", b"4040 x", b"099 x", b"600 x", b"-404 x", b"404x", b" 404 x"),
            *(b"404\tx", b"404: x", "\u0664\u0660\u0664 x".encode()),
        ):
            self.assertEqual(parse_error(error), (None, error))

    @checked
    @given(st.text(max_size=40), st.none() | st.integers(100, 599))
    def test_any_error_is_one_line_that_comes_back(self, message: str, code: int | None) -> None:
        line = error_line(message, code)
        self.assertTrue(line.isascii())
        self.assertEqual(line.find(b"\n"), len(line) - 1)
        header = parse_header(line[:-1], Framing.COUNTED)
        if code is not None:
            words = error_line(message)[len(b"ERR ") : -1]
            self.assertEqual(parse_error(header.error), (code, words))

    @checked
    @given(awkward_bytes)
    def test_any_error_of_a_peer_is_understood(self, error: bytes) -> None:
        code, message = parse_error(error)
        self.assertTrue(error.endswith(message))
        self.assertEqual(code is None, message == error)
