"""The reply to a PACK: records of several files, from a server that is not trusted."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from natproxy.protocol import (
    DIRECTORY,
    FILE,
    LARGEST_PACK,
    MAX_LINE,
    MAX_NAMES,
    MAX_PACKED,
    PACK_SIZE,
    Arguments,
    Entry,
    Metadata,
    PackRecord,
    WireError,
    format_packed,
    format_refused,
    format_request,
    grouped_names,
    parse_pack,
)
from tests.support.wire import RefusingCase, awkward_bytes, checked, cut, mtimes, tokens

METADATA = Metadata(FILE, 3, 1_500_000_000, "x-1")
LINE = b"type=file size=3 mtime=1.500000000 etag=x-1 "

# One dot stands for the served directory, whose name is empty.
names = awkward_bytes.filter(lambda name: name != b".")
codes = st.sampled_from([404, 413, 503]) | st.integers(100, 599)


@st.composite
def records(draw: st.DrawFn) -> PackRecord:
    """A file, or the error in place of one."""
    name = draw(names)
    if draw(st.booleans()):
        return PackRecord(name, None, b"", draw(codes))
    data = draw(awkward_bytes | st.just(bytes(MAX_PACKED)))
    name = name or b"a"
    return PackRecord(name, Metadata(FILE, len(data), draw(mtimes), draw(tokens)), data)


def body_of(*packed: PackRecord) -> bytes:
    """Return the body of a reply."""
    return b"".join(
        format_refused(record.code, record.name)
        if record.metadata is None
        else format_packed(Entry(record.name, record.metadata)) + record.data
        for record in packed
    )


def file_of(name: bytes, data: bytes = b"abc") -> PackRecord:
    return PackRecord(name, METADATA._replace(size=len(data)), data)


hostile_pieces = st.sampled_from(
    [
        *(LINE + b"a\n", LINE + b"a\nabc", LINE + b"b\nabc", b"error=404 a\n", b"error=404 b\n"),
        *(b"type=dir size=3 mtime=1.5 etag=x a\n", b"error=4 a\n", b"error=404 ", b"a\n", b"\n"),
        *(LINE.replace(b"=3", b"=65537") + b"a\n", LINE.replace(b"=3", b"=99999") + b"a\n"),
        *(LINE.replace(b"=3", b"=-3") + b"a\n", LINE + b"%61\nabc", LINE + b"%\nabc", b"more\n"),
    ]
) | st.binary(max_size=30)


class RecordTests(RefusingCase):
    def test_records_are_formatted_as_specified(self) -> None:
        self.assertEqual(
            body_of(file_of(b"a b"), PackRecord(b"%", None, b"", 404), file_of(b"c", b"")),
            LINE + b"a%20b\nabcerror=404 %25\n" + LINE.replace(b"=3", b"=0") + b"c\n",
        )
        self.assertEqual(format_refused(404, b""), b"error=404 .\n")

    @checked
    @given(st.lists(records(), min_size=1, max_size=6), st.lists(names, max_size=3))
    def test_any_records_come_back(self, packed: list[PackRecord], rest: list[bytes]) -> None:
        wanted = [record.name for record in packed]
        self.assertEqual(parse_pack(body_of(*packed), [*wanted, *rest]), packed)

    def test_other_spelling_of_a_name_or_of_metadata_is_understood(self) -> None:
        body = b"etag=x-1 size=003 new=1 mtime=1.5 type=file %61\nabcnew=1 error=503 b\n"
        self.assertEqual(
            parse_pack(body, [b"a", b"b"]), [file_of(b"a"), PackRecord(b"b", None, b"", 503)]
        )

    def test_data_are_not_copied(self) -> None:
        (record,) = parse_pack(body_of(file_of(b"a")), [b"a"])
        self.assertIsInstance(record.data, memoryview)


class HostileReplyTests(RefusingCase):
    def test_other_name_or_order(self) -> None:
        a, b = file_of(b"a"), file_of(b"b")
        refused = PackRecord(b"b", None, b"", 404)
        for body, wanted in (
            (body_of(b), [b"a"]),
            (body_of(b, a), [b"a", b"b"]),
            (body_of(a, a), [b"a", b"b"]),
            (body_of(b), [b"a", b"b"]),
            (body_of(refused, a), [b"a", b"b"]),
            (LINE + b"../a\nabc", [b"a"]),
        ):
            self.assert_refused(parse_pack, body, wanted)

    def test_none_or_too_many(self) -> None:
        self.assert_refused(parse_pack, b"", [b"a"])
        self.assert_refused(parse_pack, body_of(file_of(b"a"), file_of(b"a")), [b"a"])
        self.assert_refused(parse_pack, body_of(file_of(b"a")) + b"\n", [b"a"])

    def test_body_that_is_cut_anywhere(self) -> None:
        body = body_of(file_of(b"a"), PackRecord(b"b", None, b"", 404), file_of(b"c"))
        ends = {len(body_of(file_of(b"a"))), body.index(LINE + b"c"), len(body)}
        for length in range(len(body)):
            if length not in ends:
                self.assert_refused(parse_pack, body[:length], [b"a", b"b", b"c"])

    def test_file_that_is_too_large_or_none(self) -> None:
        for size in (MAX_PACKED + 1, 99_999, 10**6, 10**18, 10**19):
            line = LINE.replace(b"=3", b"=%d" % size)
            self.assert_refused(parse_pack, line + b"a\n" + bytes(MAX_PACKED + 1), [b"a"])
        self.assert_refused(
            parse_pack, LINE.replace(b"file", DIRECTORY.encode()) + b"a\nabc", [b"a"]
        )

    def test_line_without_an_end(self) -> None:
        for line in (
            b"x" * LARGEST_PACK,
            LINE + b"a" * LARGEST_PACK,
            b"error=404 " + b"%61" * 20_000,
        ):
            self.assert_refused(parse_pack, line, [b"a"])
            self.assert_refused(parse_pack, line + b"\n", [b"a"])

    @checked
    @given(st.lists(hostile_pieces, max_size=6).map(b"".join))
    @example(LINE + b"a\nab" + LINE + b"b\nabc")
    def test_any_bytes_are_records_of_the_first_names_or_refused(self, body: bytes) -> None:
        wanted = [b"a", b"b", b"a"]
        try:
            packed = parse_pack(body, wanted)
        except WireError as error:
            self.assert_harmless(error)
            return
        self.assertEqual([record.name for record in packed], wanted[: len(packed)])
        self.assertTrue(packed)
        for record in packed:
            size = 0 if record.metadata is None else record.metadata.size
            self.assertEqual(len(record.data), size)
            self.assertEqual(record.code == 0, record.metadata is not None)
        self.assertLessEqual(sum(len(record.data) for record in packed), len(body))

    @checked
    @given(st.data(), st.lists(records(), min_size=1, max_size=4))
    def test_pieces_in_another_order_are_never_mixed(
        self, data: st.DataObject, packed: list[PackRecord]
    ) -> None:
        pieces = data.draw(st.permutations(data.draw(cut(body_of(*packed)))))
        wanted = [record.name for record in packed]
        try:
            found = parse_pack(b"".join(pieces), wanted)
        except WireError as error:
            self.assert_harmless(error)
        else:
            self.assertEqual([record.name for record in found], wanted[: len(found)])


class GroupTests(RefusingCase):
    @checked
    @given(st.lists(st.tuples(names, st.integers(0, MAX_PACKED)), max_size=30), st.integers(1, 60))
    def test_groups_fit_on_a_line_and_in_a_reply(
        self, files: list[tuple[bytes, int]], repeated: int
    ) -> None:
        files = files * repeated
        sizes = dict(files)
        groups = list(grouped_names((name, sizes[name]) for name, _ in files))
        self.assertEqual([name for group in groups for name in group], [name for name, _ in files])
        for group in groups:
            self.assertLessEqual(len(group), MAX_NAMES)
            line = format_request(b"PACK", Arguments(names=tuple(group)))
            self.assertLessEqual(len(line), MAX_LINE + 1)
            self.assertLessEqual(sum(sizes[name] for name in group[:-1]), PACK_SIZE)

    def test_groups_are_as_large_as_they_may_be(self) -> None:
        many = [(b"%07d" % number, 0) for number in range(1000)]
        self.assertEqual([len(group) for group in grouped_names(many)], [512, 488])
        long = [(b"x" * 99, 0)] * 200
        self.assertEqual([len(group) for group in grouped_names(long)], [163, 37])
        large = [(b"a", MAX_PACKED)] * 20
        self.assertEqual([len(group) for group in grouped_names(large)], [15, 5])
        self.assertEqual(list(grouped_names([])), [])
