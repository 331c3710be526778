"""GET, over a real directory: ranges, conditions, and files that change on the way."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.protocol import MAX_SIZE, Arguments, Range, format_range, format_request
from natproxy.relay.files import CHUNK
from natproxy.storage.local.metadata import metadata_of
from tests.support.files import open_descriptors
from tests.support.fileserver import FileServerCase

numbers = st.none() | st.integers(0, 50) | st.integers(0, MAX_SIZE)


class GetCase(FileServerCase):
    """Has a file of three chunks."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.files / "large file"
        self.content = os.urandom(CHUNK) + b"+" * CHUNK + b"the rest"
        self.path.write_bytes(self.content)

    def get(self, **arguments: object) -> bytes:
        """Send a ``GET`` of the file and return what is replied at once."""
        arguments_ = Arguments(os.fsencode(self.path.name), **arguments)
        return self.send(format_request(b"GET", arguments_))

    def header(self, length: int, offset: int = 0) -> bytes:
        return format_range(Range(length, offset, metadata_of(os.stat(self.path))))


class RangeTests(GetCase):
    def test_whole_file_and_its_header(self) -> None:
        self.path.write_bytes(b"END\nOK 5\n\r\n\0\xff")
        os.utime(self.path, ns=(0, 1_700_000_000_123_456_789))
        etag = metadata_of(os.stat(self.path)).etag
        header = f"OK 13 offset=0 size=13 mtime=1700000000.123456789 etag={etag}\n".encode()
        reply = header + b"END\nOK 5\n\r\n\0\xff"
        self.assertEqual(self.send(b"get large%20file\r\n"), reply)
        (event,) = self.journal.outcomes
        self.assertEqual((event["verb"], event["bytes"]), ("GET", len(reply)))

    def test_empty_file(self) -> None:
        self.path.write_bytes(b"")
        self.assertEqual(self.get(), self.header(0))
        self.assertEqual(self.get(length=5), self.header(0))
        self.assertEqual(self.get(offset=1), b"ERR 416 range size=0\n")

    def test_end_of_the_file_is_an_empty_success(self) -> None:
        size = len(self.content)
        self.assertEqual(self.get(offset=size), self.header(0, size))
        self.assertEqual(self.get(offset=size - 1), self.header(1, size - 1) + b"t")
        self.assertEqual(self.get(offset=size + 1), f"ERR 416 range size={size}\n".encode())

    @settings(deadline=None, database=None)
    @given(st.binary(max_size=40), numbers, numbers)
    def test_any_offset_and_length(
        self, content: bytes, offset: int | None, length: int | None
    ) -> None:
        self.path.write_bytes(content)
        arguments = {} if offset is None else {"offset": offset}
        reply = self.get(length=length, **arguments)
        offset = offset or 0
        if offset > len(content):
            self.assertEqual(reply, b"ERR 416 range size=%d\n" % len(content))
        else:
            part = content[offset:][:length]
            self.assertEqual(reply, self.header(len(part), offset) + part)
        self.assertEqual(open_descriptors(), self.descriptors)

    def test_large_part_is_sent_chunk_after_chunk(self) -> None:
        self.wire.fill_when_written_to()
        part = self.content[5:-3]
        reply = self.header(len(part), 5) + part
        sent = self.get(offset=5, length=len(part))
        self.assertEqual(len(sent), len(self.header(len(part), 5)) + CHUNK)
        for _ in range(2):
            self.wire.empty()
            sent += self.wire.taken()
        self.assertTrue(sent == reply)
        self.assertEqual(self.journal.ends, ["completed"])

    def test_only_files_have_bytes(self) -> None:
        (self.files / "directory").mkdir()
        for name in (b"directory", b".", b"absent", b"..", b"large%20file/"):
            self.assertEqual(self.send(b"GET " + name + b"\n"), b"ERR 404 file not found\n", name)


class ConditionTests(GetCase):
    def test_same_file_is_sent(self) -> None:
        etag = metadata_of(os.stat(self.path)).etag
        reply = self.get(if_match=etag, length=3)
        self.assertEqual(reply, self.header(3) + self.content[:3])

    def test_other_file_is_not(self) -> None:
        etag = metadata_of(os.stat(self.path)).etag
        os.truncate(self.path, 10)
        now = metadata_of(os.stat(self.path)).etag
        self.assertNotEqual(etag, now)
        self.assertEqual(self.get(if_match=etag), f"ERR 412 changed etag={now}\n".encode())
        # The etag is compared before the range.
        self.assertEqual(
            self.get(if_match=etag, offset=11), f"ERR 412 changed etag={now}\n".encode()
        )
        self.assertEqual(self.get(if_match=now), self.header(10) + self.content[:10])
        self.assertEqual(open_descriptors(), self.descriptors)
        self.assertEqual(self.journal.ends, ["completed"] * 3)


class ChangeOnTheWayTests(GetCase):
    def begin(self, **arguments: object) -> None:
        """Have the first chunk sent to a client that does not read yet."""
        # Whatever clock the file system has, the next change bears another time.
        os.utime(self.path, (1, 1))
        self.wire.fill_when_written_to()
        part = self.content[: arguments.get("length")]
        self.expected = self.header(len(part)) + part
        self.sent = self.get(**arguments)

    def receive_rest(self) -> None:
        for _ in range(3):
            if not self.wire.aborted:
                self.wire.empty()
                self.sent += self.wire.taken()

    def assert_broken_off(self, reason: str) -> None:
        self.receive_rest()
        self.assertTrue(self.wire.aborted)
        self.assertLess(len(self.sent), len(self.expected))
        self.assertEqual(self.journal.ends, ["error"])
        self.journal.line_with(f"reply to 127.0.0.1:43210 broken off: {reason}")
        self.assertEqual(open_descriptors(), self.descriptors)

    def assert_completed(self) -> None:
        self.receive_rest()
        self.assertTrue(self.wire.open)
        self.assertTrue(self.sent == self.expected)
        self.assertEqual(self.journal.ends, ["completed"])

    def test_written_in_place(self) -> None:
        self.begin()
        with self.path.open("r+b") as file:
            file.seek(2 * CHUNK)
            file.write(b"changed!")
        self.assert_broken_off("the file was modified while it was being sent")

    def test_written_where_it_has_been_read_already(self) -> None:
        self.begin()
        with self.path.open("r+b") as file:
            file.write(b"changed!")
        self.assert_broken_off("the file was modified while it was being sent")

    def test_grown_it_is_sent_at_its_promised_size(self) -> None:
        self.begin()
        with self.path.open("ab") as file:
            file.write(b"more")
        self.assert_completed()

    def test_shrunk(self) -> None:
        self.begin()
        os.truncate(self.path, CHUNK + 10)
        self.assert_broken_off(f"{CHUNK - 2} bytes missing")

    def test_shrunk_behind_the_part_that_is_sent(self) -> None:
        self.begin(length=CHUNK + 10)
        os.truncate(self.path, CHUNK + 10)
        self.assert_broken_off("the file was modified while it was being sent")

    def test_replaced_it_is_still_the_file_that_was_opened(self) -> None:
        self.begin()
        (self.files / "new").write_bytes(b"new content")
        os.replace(self.files / "new", self.path)
        self.assert_completed()

    def test_renamed_file_or_another_mode_is_not_a_change(self) -> None:
        for change in (
            lambda: self.path.chmod(0o600),
            lambda: os.link(self.path, self.files / "link"),
            lambda: self.path.unlink(),
        ):
            self.begin()
            change()
            self.assert_completed()
            self.journal.events.clear()

    def test_download_has_the_contract_of_version_1(self) -> None:
        self.wire.fill_when_written_to()
        sent = self.send(b"DOWNLOAD large file\n")
        with self.path.open("ab") as file:
            file.write(b"more")
        for _ in range(2):
            self.wire.empty()
            sent += self.wire.taken()
        self.assertTrue(sent == b"OK %d\n" % len(self.content) + self.content)

    def test_change_before_the_only_piece(self) -> None:
        stat = os.fstat
        called: list[int] = []

        def fstat(descriptor: int) -> os.stat_result:
            called.append(descriptor)
            result = stat(descriptor)
            # Between the header and the only piece.
            self.path.write_bytes(b"other")
            return result

        self.path.write_bytes(b"12345")
        os.utime(self.path, (1, 1))
        self.patch(os, "fstat", fstat)
        self.assertEqual(self.get(), b"")
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.journal.ends, ["error"])
