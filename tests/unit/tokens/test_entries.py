"""Tokens: their file, and the comparison with what a client has sent."""

from __future__ import annotations

import os
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.tokens import entries as tokens_module
from natproxy.tokens.entries import (
    LARGEST_FILE,
    MOST_TOKENS,
    TokenEntry,
    TokenFileError,
    Tokens,
    format_entry,
    format_moment,
    load_tokens,
    new_token,
    parse_entry,
    parse_moment,
    parse_tokens,
)
from tests.support.wire import checked

MOMENTS = st.integers(0, 4_000_000_000)


class TokensTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.made = [new_token(name) for name in ("alice", "bob", "carol")]
        self.tokens = Tokens(entry for _, entry in self.made)

    def test_token_is_found_with_its_entry(self) -> None:
        for token, entry in self.made:
            self.assertIs(self.tokens.find(token.encode()), entry)

    def test_anything_else_is_not(self) -> None:
        token = self.made[0][0].encode()
        for other in (
            b"",
            token[:-1],
            token + b"x",
            token.upper(),
            b"alice",
            self.made[0][1].digest,
        ):
            self.assertIsNone(self.tokens.find(other))

    def test_every_entry_is_compared_whichever_is_equal(self) -> None:
        for token in (self.made[0][0], self.made[2][0], "natproxy_wrong"):
            with mock.patch.object(
                tokens_module.hmac, "compare_digest", wraps=tokens_module.hmac.compare_digest
            ) as compare:
                self.tokens.find(token.encode())
            self.assertEqual(compare.call_count, 3, token)

    def test_tokens_are_random_and_salted(self) -> None:
        first, second = new_token("a"), new_token("a")
        self.assertNotEqual(first[0], second[0])
        self.assertNotEqual(first[1].salt, second[1].salt)
        # 256 bits, as base64, after the prefix.
        self.assertEqual(len(first[0]), len("natproxy_") + 43)

    def test_entry_does_not_contain_the_token(self) -> None:
        for token, entry in self.made:
            self.assertNotIn(token, repr(entry) + format_entry(entry))

    def test_entry_is_known_until_its_line_changes(self) -> None:
        entry = self.made[0][1]
        self.assertIn(entry, self.tokens)
        self.assertNotIn(entry, Tokens([entry._replace(expires=1)]))

    def test_expiry_is_exact(self) -> None:
        entry = self.made[0][1]._replace(expires=1000)
        self.assertEqual(
            [entry.expired(now) for now in (999.9, 1000.0, 1001.0)], [False, True, True]
        )
        self.assertFalse(self.made[0][1].expired(1e12))

    def test_number_is_limited(self) -> None:
        entry = self.made[0][1]
        self.assertEqual(len(Tokens([entry] * MOST_TOKENS)), MOST_TOKENS)
        with self.assertRaises(TokenFileError):
            Tokens([entry] * (MOST_TOKENS + 1))


class FileTests(SynchronousTestCase):
    @checked
    @given(
        st.text(string.ascii_letters + string.digits, min_size=1, max_size=64),
        st.none() | MOMENTS,
        st.none() | MOMENTS,
    )
    def test_entry_comes_back(self, name: str, created: int | None, expires: int | None) -> None:
        _, entry = new_token(name, created, expires)
        self.assertEqual(parse_entry(format_entry(entry)), entry)

    @checked
    @given(st.text(string.printable, max_size=200))
    def test_any_line_is_parsed_or_refused_by_its_number_alone(self, line: str) -> None:
        try:
            parse_tokens(f"# first\n{line}")
        except TokenFileError as error:
            self.assertRegex(str(error), r"^line [0-9]+: ")
            self.assertTrue(str(error).isprintable())

    def test_comments_empty_lines_and_carriage_returns_are_ignored(self) -> None:
        line = format_entry(new_token("alice")[1])
        self.assertEqual(len(parse_tokens(f"# a b\n\n \t\r\n  {line}  \r\n#{line}\n")), 1)

    def test_malformed_lines_are_named(self) -> None:
        good = format_entry(new_token("alice")[1])
        name, algorithm, salt, digest = good.split()
        for line, reason in (
            (f"{name} {algorithm} {salt}", "needed"),
            (f"-a {algorithm} {salt} {digest}", "a name is"),
            (f"{'a' * 65} {algorithm} {salt} {digest}", "a name is"),
            (f"{name} md5 {salt} {digest}", "unknown algorithm"),
            (f"{name} {algorithm} 00 {digest}", "salt"),
            (f"{name} {algorithm} {salt} {digest[:-1]}", "digest"),
            (f"{good} expires", "may follow"),
            (f"{good} expires=2027-01-01 expires=2028-01-01", "may follow"),
            (f"{good} expires=tomorrow", "a time is written"),
        ):
            with self.assertRaises(TokenFileError) as caught:
                parse_tokens(f"{good}\n{line}\n")
            text = str(caught.exception)
            self.assertTrue(text.startswith("line 2: "), text)
            self.assertIn(reason, text)
            self.assertNotIn(digest[:16], text)

    def test_times_that_cannot_be_written_again_are_malformed(self) -> None:
        for text in ("0227-11-26", "0001-01-01T00:00:00+05:00", "1969-12-31", "9999-01-01"):
            with self.assertRaisesRegex(ValueError, "a time is written as"):
                parse_moment(text)
        for text in ("1970-01-01T00:00:00Z", "9998-12-31T23:59:59Z"):
            self.assertEqual(format_moment(parse_moment(text)), text)

    def test_times(self) -> None:
        for text, seconds in (
            ("1970-01-02", 86_400),
            ("1970-01-02T00:00:00Z", 86_400),
            ("1970-01-02T01:00:00+01:00", 86_400),
            ("1970-01-02T00:00:01", 86_401),
        ):
            self.assertEqual(parse_moment(text), seconds)
        self.assertEqual(format_moment(86_400), "1970-01-02T00:00:00Z")

    @contextmanager
    def file(self, content: bytes, mode: int = 0o600) -> Iterator[str]:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "tokens")
            with open(path, "wb") as file:
                file.write(content)
            os.chmod(path, mode)
            yield path

    def test_file_is_loaded_even_if_others_can_read_it(self) -> None:
        line = format_entry(new_token("alice")[1]).encode() + b"\n"
        for mode in (0o600, 0o640, 0o644):
            with self.file(line, mode) as path:
                self.assertEqual([entry.name for entry in load_tokens(path).entries], ["alice"])

    def test_file_that_others_can_write_is_refused(self) -> None:
        for mode in (0o620, 0o602, 0o666):
            with self.file(b"", mode) as path, self.assertRaises(TokenFileError) as caught:
                load_tokens(path)
            self.assertIn("chmod go-w", str(caught.exception))

    def test_large_file_and_other_characters_are_refused(self) -> None:
        for content, reason in (
            (b"#" * (LARGEST_FILE + 1), "larger"),
            (b"#\n#\xff", "line 2: a character"),
        ):
            with self.file(content) as path, self.assertRaises(TokenFileError) as caught:
                load_tokens(path)
            self.assertIn(reason, str(caught.exception))

    def test_only_a_regular_file_is_read(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            fifo = os.path.join(directory, "fifo")
            os.mkfifo(fifo)
            for path in (fifo, directory):
                with self.assertRaises((TokenFileError, OSError)):
                    load_tokens(path)
            with self.assertRaises(FileNotFoundError):
                load_tokens(os.path.join(directory, "none"))


class EntryTests(SynchronousTestCase):
    def test_malformed_name_makes_no_token(self) -> None:
        for name in ("", "a b", "ü", "#a", "a" * 65, "a\n"):
            with self.assertRaises(ValueError):
                new_token(name)

    def test_entries_compare(self) -> None:
        self.assertEqual(TokenEntry("a", b"s", b"d"), TokenEntry("a", b"s", b"d"))
