"""A file on the server as a Python file object."""

from __future__ import annotations

import io
import zipfile
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.client import Changed, ConnectionBroken, NotFound
from natproxy.client.blocking import file as remote_file
from natproxy.client.blocking import reply as remote_reply
from natproxy.client.blocking.file import RemoteFile
from natproxy.client.rate import RateMonitor
from tests.support.answering_server import Version2, metadata_of
from tests.support.blocking_sessions import SessionCase

CONTENT = b"".join(b"line %d\n" % number for number in range(12)) + b"no end"

Step = tuple[str, tuple[Any, ...]]

SIZES = st.integers(0, len(CONTENT) + 10)
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("read"), st.tuples(SIZES | st.just(-1))),
    st.tuples(st.just("readline"), st.just(()) | st.tuples(SIZES)),
    st.tuples(st.just("readlines"), st.just(())),
    st.tuples(st.just("readinto"), st.tuples(SIZES)),
    st.tuples(st.just("seek"), st.tuples(st.integers(-5, len(CONTENT) + 10), st.just(0))),
    st.tuples(
        st.just("seek"),
        st.tuples(st.integers(-len(CONTENT), len(CONTENT)), st.sampled_from([1, 2])),
    ),
    st.tuples(st.just("tell"), st.just(())),
    st.tuples(st.just("__next__"), st.just(())),
)


def outcome(file: io.BufferedIOBase, name: str, arguments: tuple[Any, ...]) -> object:
    """What a method of a file does: its result, or the kind of its error."""
    if name == "readinto":
        buffer = bytearray(arguments[0])
        return file.readinto(buffer), bytes(buffer)
    try:
        return getattr(file, name)(*arguments)
    except (ValueError, StopIteration) as error:
        return type(error)


class ReadingCase(SessionCase):
    def open(self, content: bytes = CONTENT, block: int | None = None) -> RemoteFile:
        if block is not None:
            self.patch(remote_file, "BLOCK", block)
        self.version2 = Version2({b"a": content})
        self.session = self.serve(self.version2)
        file = self.session.open("a")
        self.addCleanup(file.close)
        return file

    def asked(self) -> int:
        """Return how many parts of the file have been requested."""
        return sum(line.startswith(b"GET ") for line in self.server.lines)


class LikeAFileHereTests(ReadingCase):
    @settings(deadline=None)
    @given(st.lists(STEPS, max_size=25))
    def check(self, steps: list[Step]) -> None:
        self.file.seek(0)
        like = io.BytesIO(CONTENT)
        for name, arguments in steps:
            if name == "seek" and arguments[1] and like.tell() + arguments[0] < 0:
                # `BytesIO` stops at the beginning where a file refuses.
                continue
            if name == "seek" and arguments[1] == 2 and len(CONTENT) + arguments[0] < 0:
                continue
            self.assertEqual(outcome(self.file, name, arguments), outcome(like, name, arguments))
            self.assertEqual(self.file.tell(), like.tell())

    def test_it_reads_and_seeks_like_a_file_here(self) -> None:
        for block in (1, 7, 64):
            self.file = self.open(block=block)
            self.check()

    def test_it_iterates_over_lines(self) -> None:
        self.assertEqual(list(self.open(block=5)), CONTENT.splitlines(keepends=True))

    def test_seeking_before_the_beginning_is_refused_and_moves_nothing(self) -> None:
        file = self.open(block=10)
        file.seek(30)
        for offset, whence in ((-1, 0), (-31, 1), (-len(CONTENT) - 1, 2)):
            self.assertRaises(ValueError, file.seek, offset, whence)
            self.assertEqual(file.tell(), 30)
        self.assertRaises(ValueError, file.seek, 0, 9)

    def test_past_the_end_there_is_nothing(self) -> None:
        file = self.open()
        self.assertEqual(file.seek(10**15), 10**15)
        self.assertEqual((file.read(), file.read(1), file.readline()), (b"", b"", b""))
        self.assertEqual(self.asked(), 0)

    def test_empty_file_is_not_requested(self) -> None:
        file = self.open(b"")
        self.assertEqual((file.read(), list(file)), (b"", []))
        self.assertEqual(self.asked(), 0)

    def test_what_it_is(self) -> None:
        file = self.open()
        self.assertTrue(file.readable() and file.seekable())
        self.assertFalse(file.writable())
        self.assertEqual(file.metadata, metadata_of(CONTENT))
        self.assertRaises(io.UnsupportedOperation, file.write, b"x")

    def test_closed_file_is_not_read(self) -> None:
        with self.open() as file:
            file.read(1)
        for use in (file.read, file.tell, file.readline, lambda: file.seek(0)):
            self.assertRaises(ValueError, use)

    def test_those_who_take_a_file_take_it(self) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("in it", CONTENT)
        with zipfile.ZipFile(self.open(packed.getvalue())) as archive:
            self.assertEqual(archive.read("in it"), CONTENT)
        text = io.TextIOWrapper(self.open("ä\nö\n".encode()), encoding="utf-8")
        self.assertEqual(text.readlines(), ["ä\n", "ö\n"])
        text.close()


class RequestTests(ReadingCase):
    def test_small_reads_are_served_from_one_reply(self) -> None:
        file = self.open()
        for _ in range(20):
            file.read(3)
        file.seek(5)
        file.readline()
        self.assertEqual(self.asked(), 1)

    def test_whole_file_is_requested_once(self) -> None:
        content = bytes(300_000)
        file = self.open(content, block=1000)
        self.assertEqual(file.read(), content)
        self.assertEqual(self.asked(), 1)
        file.seek(100)
        file.read(1)
        self.assertEqual(len(file.read()), 300_000 - 101)
        self.assertEqual(self.asked(), 3)

    def test_slow_part_fails(self) -> None:
        file = self.open()
        dripping = RateMonitor("h:1", 0)
        dripping.received(1, 60)
        with mock.patch.object(remote_reply, "RateMonitor", return_value=dripping):
            self.assertRaises(ConnectionBroken, file.read, 10)
        self.assertEqual(file.read(10), CONTENT[:10])

    def test_each_part_must_be_of_the_file_that_was_opened(self) -> None:
        file = self.open(block=8)
        self.assertEqual(file.read(4), b"line")
        self.version2.files[b"a"] = CONTENT[:-1] + b"!"
        self.assertEqual(file.read(4), b" 0\nl")
        for read in (file.read, lambda: file.read(1), file.readline, lambda: next(file)):
            error = self.assertRaises(Changed, read)
            self.assertEqual(str(error), "a: changed on the server")
        self.version2.files[b"a"] = CONTENT
        self.assertEqual(file.read(), CONTENT[8:])

    def test_file_that_goes_away(self) -> None:
        file = self.open()
        del self.version2.files[b"a"]
        self.assertRaises(NotFound, file.read)

    def test_two_files_share_the_session(self) -> None:
        first = self.open(block=8)
        self.version2.files[b"b"] = CONTENT[::-1]
        with self.session.open("b") as second:
            for offset in range(0, len(CONTENT), 8):
                self.assertEqual(first.read(8), CONTENT[offset : offset + 8])
                self.assertEqual(second.read(8), CONTENT[::-1][offset : offset + 8])
        self.assertEqual(self.server.connections, 1)
