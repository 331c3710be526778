"""The replies of version 2: metadata, ranges, digests and pages of entries."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from natproxy.protocol import (
    FILE,
    MAX_LINE,
    MAX_SIZE,
    Digest,
    Entry,
    EntryLines,
    Framing,
    Metadata,
    Range,
    WireError,
    format_digest,
    format_entry,
    format_metadata,
    format_range,
    parse_digest,
    parse_entry,
    parse_header,
    parse_metadata,
    parse_range,
)
from tests.support.wire import (
    RefusingCase,
    awkward_bytes,
    checked,
    cut,
    entry_names,
    metadata_list,
    sizes,
    tokens,
)

HEX = "0123456789abcdef" * 4
METADATA = Metadata(FILE, 5, 1_500_000_000, "x-1")
WORDS = b"type=file size=5 mtime=1.500000000 etag=x-1"

entries = st.builds(Entry, entry_names, metadata_list)
hostile_words = st.lists(
    st.sampled_from(
        [
            *(b"type=file", b"size=5", b"mtime=1.5", b"etag=x", b"offset=0", b"more", b"", b"="),
            *(b"sha256=" + HEX.encode(), b"size=", b"size=-1", b"mtime=-", b"mtime=1.", b"a%2"),
        ]
    )
    | awkward_bytes
    | st.binary(max_size=60),
    max_size=8,
).map(b" ".join)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """A part of a file, which may be all of it, or nothing at its end."""
    metadata = draw(metadata_list)._replace(type=FILE)
    offset = draw(st.integers(0, metadata.size))
    return Range(draw(st.integers(0, metadata.size - offset)), offset, metadata)


class MetadataTests(RefusingCase):
    @checked
    @given(metadata_list)
    @example(Metadata(FILE, 0, -1, "x"))
    @example(Metadata(FILE, 0, -(10**9) - 1, "x"))
    def test_any_metadata_is_parsed_from_its_text(self, metadata: Metadata) -> None:
        words = format_metadata(metadata)
        self.assertTrue(words.decode("ascii").isprintable())
        self.assertEqual(parse_metadata(words), metadata)

    def test_metadata_is_formatted_as_specified(self) -> None:
        self.assertEqual(format_metadata(METADATA), WORDS)
        for nanoseconds, written in (
            (0, b"0.000000000"),
            (1, b"0.000000001"),
            (-1, b"-0.000000001"),
            (-1_500_000_000, b"-1.500000000"),
            (1_700_000_000_123_456_789, b"1700000000.123456789"),
        ):
            words = format_metadata(METADATA._replace(mtime_ns=nanoseconds))
            self.assertIn(b" mtime=" + written + b" ", words)

    def test_fraction_of_a_second_may_have_up_to_nine_digits_or_none(self) -> None:
        for written, nanoseconds in (
            (b"1", 10**9),
            (b"1.5", 1_500_000_000),
            (b"-1.5", -1_500_000_000),
            (b"1.05", 1_050_000_000),
            (b"0.12345678", 123_456_780),
            (b"0.123456789", 123_456_789),
            (b"-0.0", 0),
            (b"007.1", 7_100_000_000),
        ):
            words = WORDS.replace(b"1.500000000", written)
            self.assertEqual(parse_metadata(words).mtime_ns, nanoseconds, written)

    def test_time_that_is_none_is_refused(self) -> None:
        for written in (
            *(b"", b"-", b".", b"1.", b".5", b"+1", b"--1", b"1e9", b"1,5", b"inf", b"nan", b"1_0"),
            *(b"1.1234567890", b"1.-5", b"1" * 20, b"\xd9\xa3", b"1.\xd9\xa3", b"1\x1f"),
        ):
            self.assert_refused(parse_metadata, WORDS.replace(b"1.500000000", written))

    def test_order_is_free_and_what_is_unknown_is_ignored(self) -> None:
        for words in (
            b"etag=x-1 mtime=1.5 size=5 type=file",
            WORDS + b" owner=me flags= =x word a=b=c \xff=\xfe \x1b[2J",
            b"  " + WORDS.replace(b" ", b"   ") + b"  ",
        ):
            self.assertEqual(parse_metadata(words), METADATA)

    def test_type_of_a_newer_server_is_taken(self) -> None:
        self.assertEqual(parse_metadata(WORDS.replace(b"file", b"fifo")).type, "fifo")

    def test_value_may_hold_an_equals_sign(self) -> None:
        self.assertEqual(parse_metadata(WORDS + b"==").etag, "x-1==")

    def test_whatever_is_missing_is_named(self) -> None:
        for key in ("type", "size", "mtime", "etag"):
            words = b" ".join(word for word in WORDS.split() if not word.startswith(key.encode()))
            self.assert_refused(parse_metadata, words)
            with self.assertRaises(WireError) as caught:
                parse_metadata(words)
            self.assertIn(f"without a proper {key}", str(caught.exception))

    def test_size_that_is_none_is_refused(self) -> None:
        for written in (
            *(b"", b"-1", b"+5", b"5.0", b"0x5", b"1_0", b"five", b"\xd9\xa3", b"5\x1f", b"5\x1c6"),
            *(b"%d" % (MAX_SIZE + 1), b"9" * 19, b"9" * 10_000),
        ):
            self.assert_refused(parse_metadata, WORDS.replace(b"size=5", b"size=" + written))

    def test_token_that_is_empty_or_too_long_or_not_printable_is_refused(self) -> None:
        self.assertEqual(parse_metadata(WORDS.replace(b"x-1", b"x" * 128)).etag, "x" * 128)
        for written in (b"", b"x" * 129, b"\xff", b"\xc3\xa9", b"\x1b[2J", b"a\0"):
            self.assert_refused(parse_metadata, WORDS.replace(b"x-1", written))
            self.assert_refused(parse_metadata, WORDS.replace(b"file", written))

    @checked
    @given(hostile_words)
    def test_any_bytes_are_a_status_or_refused(self, words: bytes) -> None:
        try:
            metadata = parse_metadata(words)
        except WireError as error:
            self.assert_harmless(error)
        else:
            self.assertEqual(parse_metadata(format_metadata(metadata)), metadata)


class RangeTests(RefusingCase):
    @checked
    @given(ranges())
    def test_any_range_comes_back_from_its_header(self, part: Range) -> None:
        line = format_range(part)
        self.assertEqual(line.find(b"\n"), len(line) - 1)
        header = parse_header(line[:-1], Framing.COUNTED)
        self.assertEqual(header.size, part.length)
        self.assertEqual(parse_range(header.size, header.words), part)

    def test_range_is_formatted_as_specified(self) -> None:
        self.assertEqual(
            format_range(Range(2, 3, METADATA)),
            b"OK 2 offset=3 size=5 mtime=1.500000000 etag=x-1\n",
        )

    def test_range_outside_of_its_file_is_refused(self) -> None:
        words = b"offset=%d size=5 mtime=1 etag=x"
        self.assertEqual(parse_range(0, words % 5).offset, 5)
        for length, offset in ((6, 0), (1, 5), (0, 6), (MAX_SIZE, MAX_SIZE)):
            self.assert_refused(parse_range, length, words % offset)

    def test_whatever_is_missing_or_malformed_is_refused(self) -> None:
        words = b"offset=0 size=5 mtime=1 etag=x"
        self.assertEqual(parse_range(5, words + b" new=1").length, 5)
        for word in words.split():
            self.assert_refused(parse_range, 0, words.replace(word, b""))
            self.assert_refused(parse_range, 0, words.replace(word, word.split(b"=")[0] + b"="))
        self.assert_refused(parse_range, 0, words.replace(b"offset=0", b"offset=-1"))

    @checked
    @given(st.integers(0, MAX_SIZE), hostile_words)
    def test_any_bytes_are_a_range_or_refused(self, length: int, words: bytes) -> None:
        try:
            part = parse_range(length, words)
        except WireError as error:
            self.assert_harmless(error)
        else:
            self.assertLessEqual(part.offset + part.length, part.metadata.size)


class DigestTests(RefusingCase):
    @checked
    @given(st.binary(min_size=32, max_size=32), sizes, tokens)
    def test_any_digest_comes_back(self, sha256: bytes, size: int, etag: str) -> None:
        digest = Digest(sha256.hex(), size, etag)
        self.assertEqual(parse_digest(format_digest(digest)), digest)

    def test_digest_is_formatted_as_specified(self) -> None:
        words = f"sha256={HEX} size=5 etag=x".encode()
        self.assertEqual(format_digest(Digest(HEX, 5, "x")), words)
        self.assertEqual(parse_digest(words + b" new=1"), Digest(HEX, 5, "x"))

    def test_hexadecimal_is_taken_in_either_case_and_given_in_lower(self) -> None:
        words = f"sha256={HEX.upper()} size=5 etag=x".encode()
        self.assertEqual(parse_digest(words).sha256, HEX)

    def test_what_is_no_digest_is_refused(self) -> None:
        for written in (b"", HEX[1:].encode(), HEX.encode() + b"0", b"g" * 64, b"\xff" * 64):
            self.assert_refused(parse_digest, b"sha256=" + written + b" size=5 etag=x")
        for words in (b"size=5 etag=x", b"sha256=%b etag=x", b"sha256=%b size=5"):
            self.assert_refused(parse_digest, words.replace(b"%b", HEX.encode()))

    @checked
    @given(hostile_words)
    def test_any_bytes_are_a_digest_or_refused(self, words: bytes) -> None:
        try:
            digest = parse_digest(words)
        except WireError as error:
            self.assert_harmless(error)
        else:
            self.assertEqual(parse_digest(format_digest(digest)), digest)


class EntryTests(RefusingCase):
    @checked
    @given(entries)
    def test_any_entry_is_one_line_and_comes_back(self, entry: Entry) -> None:
        line = format_entry(entry)
        self.assertEqual(line.find(b"\n"), len(line) - 1)
        self.assertEqual(parse_entry(line[:-1]), entry)

    def test_entry_is_formatted_as_specified(self) -> None:
        self.assertEqual(format_entry(Entry(b"a b/c", METADATA)), WORDS + b" a%20b/c\n")

    def test_last_word_is_the_name_whatever_it_looks_like(self) -> None:
        for word in (b"size=7", b"etag=", b"more", b"a=b"):
            self.assertEqual(parse_entry(WORDS + b" " + word), Entry(word, METADATA))

    def test_line_without_a_name_or_a_status_is_refused(self) -> None:
        for line in (b"", b" ", b"a", b"more", WORDS, WORDS + b" ", WORDS + b" a%2", b" a"):
            self.assert_refused(parse_entry, line)
        self.assert_refused(parse_entry, WORDS + b" \xff")
        self.assert_refused(parse_entry, WORDS + b" a\r")

    @checked
    @given(hostile_words)
    def test_any_bytes_are_an_entry_or_refused(self, line: bytes) -> None:
        try:
            entry = parse_entry(line)
        except WireError as error:
            self.assert_harmless(error)
        else:
            self.assertEqual(parse_entry(format_entry(entry)[:-1]), entry)


USUAL = b"type=file size=5 mtime=1500000000.123456789 etag=x-1 "
page_lines = st.sampled_from(
    [
        *(USUAL + b"a", USUAL + b"sub/b%20c", USUAL + b"%zz", USUAL + b"unread=1", USUAL + b"more"),
        *(USUAL.replace(b"=file", b"=dir") + b"unread=1 d", USUAL + b"unread=0 a", USUAL, b"more"),
        *(USUAL.replace(b"=5", b"=%d" % MAX_SIZE) + b"a", USUAL.replace(b"=5", b"=" + b"9" * 19)),
        *(b"type=unread size=0 mtime=0.0 etag=- u", USUAL + b"a b", USUAL + b"\xff", b"", b" "),
        *(USUAL.replace(b"=1", b"=-1") + b"a", USUAL + b"a\r", b"x" + USUAL + b"a", USUAL + b"  a"),
    ]
)


class WholePageTests(RefusingCase):
    def parsed(self, *pieces: bytes) -> tuple[list[Entry], bool] | str:
        """Return entries, and whether more follow; or the error."""
        lines, entries = EntryLines(), []
        try:
            for piece in pieces:
                entries += lines.feed(piece)
            lines.end()
        except WireError as error:
            return str(error)
        return entries, lines.more

    @checked
    @given(st.lists(page_lines, max_size=5), st.sampled_from([b"", b"more\n", b"mor", b"\n"]))
    @example([USUAL + b"a", USUAL + b"b%25"], b"more\n")
    @example([b"x" + USUAL + b"a"], b"")
    def test_page_is_understood_as_its_lines_are(self, lines: list[bytes], end: bytes) -> None:
        page = b"".join(line + b"\n" for line in lines) + end
        # The first byte alone: then no piece consists of whole lines.
        self.assertEqual(self.parsed(page), self.parsed(page[:1], page[1:]))

    def test_line_that_is_too_long_is_refused_in_a_whole_page_too(self) -> None:
        longest = b"x" * (MAX_LINE - len(USUAL))
        self.assertEqual(len(EntryLines().feed(USUAL + longest + b"\n")), 1)
        self.assert_refused(EntryLines().feed, USUAL + longest + b"x\n")


class EntryLinesTests(RefusingCase):
    A_LINE = WORDS + b" a\n"
    AN_ENTRY = Entry(b"a", METADATA)

    @checked
    @given(st.lists(entries, max_size=6), st.booleans(), st.data())
    def test_any_pieces_give_the_same_entries(
        self, page: list[Entry], more: bool, data: st.DataObject
    ) -> None:
        written = b"".join(map(format_entry, page)) + b"more\n" * more
        lines, read = EntryLines(), []
        for piece in data.draw(cut(written)):
            read += lines.feed(piece)
        lines.end()
        self.assertEqual((read, lines.more), (page, more))

    def test_page_may_be_empty(self) -> None:
        lines = EntryLines()
        self.assertEqual(list(lines.feed(b"")), [])
        lines.end()
        self.assertFalse(lines.more)

    def test_page_that_was_cut_says_so(self) -> None:
        lines = EntryLines()
        self.assertEqual(list(lines.feed(self.A_LINE + b"mor")), [self.AN_ENTRY])
        self.assertFalse(lines.more)
        self.assertEqual(list(lines.feed(b"e\n")), [])
        self.assertTrue(lines.more)

    def test_file_called_more_is_an_entry(self) -> None:
        lines = EntryLines()
        entry = Entry(b"more", METADATA)
        self.assertEqual(list(lines.feed(format_entry(entry))), [entry])
        self.assertFalse(lines.more)

    def test_page_that_ends_inside_a_line_is_refused(self) -> None:
        for page in (b"m", b"more", self.A_LINE + b"more", self.A_LINE[:-1]):
            lines = EntryLines()
            lines.feed(page)
            self.assert_refused(lines.end)

    def test_line_after_the_last_one_of_a_page_is_refused(self) -> None:
        for after in (self.A_LINE, b"more\n", b"\n", b"END\n", b"\xff\x1b[2J\n"):
            self.assert_refused(EntryLines().feed, b"more\n" + after)
            lines = EntryLines()
            lines.feed(b"more\n")
            self.assert_refused(lines.feed, after)

    def test_line_that_is_no_entry_is_refused(self) -> None:
        for line in (b"\n", b"END\n", b"More\n", b"more \n", b"more\r\n", b"\0" * 9000 + b"\n"):
            self.assert_refused(EntryLines().feed, line)

    def test_line_over_the_limit_is_refused_in_any_pieces(self) -> None:
        longest = WORDS + b" ".ljust(MAX_LINE - len(WORDS), b"x")
        self.assertEqual(len(longest), MAX_LINE)
        (entry,) = EntryLines().feed(longest + b"\n")
        self.assertEqual(entry.metadata, METADATA)
        self.assert_refused(EntryLines().feed, longest + b"x")
        self.assert_refused(EntryLines().feed, longest + b"x\n")
        self.assert_refused(EntryLines().feed, self.A_LINE + longest + b"x\n" + self.A_LINE)

    @checked
    @given(st.lists(hostile_words | st.just(WORDS + b" a"), max_size=6), st.data())
    def test_any_bytes_are_a_page_or_refused(self, page: list[bytes], data: st.DataObject) -> None:
        written = b"\n".join(page)

        def read(pieces: list[bytes]) -> tuple[list[Entry], bool] | None:
            lines, found = EntryLines(), []
            try:
                for piece in pieces:
                    found += lines.feed(piece)
                lines.end()
            except WireError:
                return None
            return found, lines.more

        self.assertEqual(read(data.draw(cut(written))), read([written]))
