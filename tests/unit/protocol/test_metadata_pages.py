"""Entries that the server cannot read, and the header of a page of ``LS``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from natproxy.protocol import (
    DIRECTORY,
    MAX_LINE,
    MAX_SIZE,
    UNREAD,
    UNREAD_METADATA,
    Entry,
    EntryLines,
    Framing,
    Metadata,
    Page,
    format_entry,
    format_page,
    parse_entry,
    parse_header,
    parse_page,
)
from tests.support.wire import (
    RefusingCase,
    checked,
    entry_names,
    metadata_list,
)

A_DIRECTORY = Metadata(DIRECTORY, 0, 10**9, "x")
WORDS = b"type=dir size=0 mtime=1.000000000 etag=x"

pages = st.builds(Page, st.integers(0, MAX_SIZE), st.none() | entry_names)


class UnreadEntryTests(RefusingCase):
    def test_entry_that_cannot_be_read_is_formatted_as_specified(self) -> None:
        line = b"type=unread size=0 mtime=0.0 etag=- a%20b\n"
        self.assertEqual(format_entry(Entry(b"a b", UNREAD_METADATA)), line)
        entry = parse_entry(line[:-1])
        self.assertEqual(entry, Entry(b"a b", UNREAD_METADATA))
        self.assertEqual(entry.metadata.type, UNREAD)
        self.assertFalse(entry.unread)

    def test_directory_that_cannot_be_listed_is_marked(self) -> None:
        line = WORDS + b" unread=1 a/b\n"
        self.assertEqual(format_entry(Entry(b"a/b", A_DIRECTORY, unread=True)), line)
        self.assertEqual(parse_entry(line[:-1]), Entry(b"a/b", A_DIRECTORY, unread=True))
        self.assertEqual(parse_entry(WORDS + b" a/b"), Entry(b"a/b", A_DIRECTORY))

    def test_only_1_marks_a_directory(self) -> None:
        for word in (b"unread=0", b"unread=", b"unread", b"unread=11", b"xunread=1"):
            self.assertFalse(parse_entry(WORDS + b" " + word + b" a").unread, word)

    def test_name_that_looks_like_the_mark_is_a_name(self) -> None:
        self.assertEqual(parse_entry(WORDS + b" unread=1"), Entry(b"unread=1", A_DIRECTORY))

    @checked
    @given(entry_names, metadata_list, st.booleans())
    def test_any_entry_comes_back(self, name: bytes, metadata: Metadata, unread: bool) -> None:
        entry = Entry(name, metadata, unread)
        lines = EntryLines()
        self.assertEqual(lines.feed(format_entry(entry)), [entry])


class PageHeaderTests(RefusingCase):
    def test_header_is_formatted_as_specified(self) -> None:
        for page, line in (
            (Page(), b"OK 7\n"),
            (Page(unread=2), b"OK 7 unread=2\n"),
            (Page(after=b"a b/c"), b"OK 7 after=a%20b/c\n"),
            (Page(2, b"c"), b"OK 7 unread=2 after=c\n"),
        ):
            self.assertEqual(format_page(7, page), line)

    @checked
    @given(st.integers(0, MAX_SIZE), pages)
    def test_any_header_comes_back(self, length: int, page: Page) -> None:
        line = format_page(length, page)
        header = parse_header(line.removesuffix(b"\n"), Framing.COUNTED)
        self.assertEqual((header.size, parse_page(header.words)), (length, page))

    def test_longest_name_fits_into_a_header(self) -> None:
        line = format_page(MAX_SIZE, Page(MAX_SIZE, b"\xff" * 4095))
        self.assertLessEqual(len(line), MAX_LINE)

    def test_header_without_further_words_is_parsed(self) -> None:
        self.assertEqual(parse_page(b""), Page())
        self.assertEqual(parse_page(b"other=1 word"), Page())

    def test_malformed_header_is_refused(self) -> None:
        for words in (b"unread=", b"unread=-1", b"unread=x", b"after=", b"after=%", b"after=a%2"):
            self.assert_refused(parse_page, words)
