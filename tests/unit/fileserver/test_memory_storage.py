"""The whole file server over a storage in memory: no descriptor, no directory."""

from __future__ import annotations

import errno
import hashlib
import math

from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.factory import CONCURRENT_READS, Reads
from natproxy.fileserver.lookups import CONCURRENT_LOOKUPS
from natproxy.kernel.mounts import Mounts
from natproxy.protocol import (
    Entry,
    Page,
    Range,
    format_entry,
    format_metadata,
    format_page,
    format_range,
    parse_pack,
)
from natproxy.relay import Method, PageCache, Relays
from natproxy.relay.files import BLOCK, CHUNK, CopyingFileRelay, ThreadedFileRelay
from natproxy.server.threads import WORK_TIMEOUT
from natproxy.testing import MemoryFile, MemoryStorage
from tests.support.doubles import PlayedThread
from tests.support.fileserver import FileServerCase

LARGE = bytes(range(256)) * (3 * BLOCK // 256) + b"."


class MemoryCase(FileServerCase):
    """A file server over a `MemoryStorage`.

    :ivar reads: the threads in which files are read.
    """

    blocking = False

    def setUp(self) -> None:
        super().setUp()
        self.lose_clients()
        self.storage = MemoryStorage(
            {b"a": b"the a", b"large": LARGE, b"sub/b c": b"", b"END": b""},
            blocking=self.blocking,
        )
        self.serve(self.storage)
        self.reads = PlayedThread()
        cache = PageCache(Reads(self.reads, self.clock), Mounts())
        self.factory.services.relays = Relays(None, Method.AUTO, cache)

    def header(self, name: bytes, length: int, offset: int = 0) -> bytes:
        return format_range(Range(length, offset, self.storage.metadata(name)))


class UnreadableEntryTests(MemoryCase):
    def test_removed_entry_is_neither_listed_nor_unreadable_when_it_returns(self) -> None:
        for name in (b"sub", b"a"):
            self.storage.make_unreadable(name)
            self.storage.remove(name)
        self.assertEqual(self.send_and_run(b"LIST\n"), b"OK\nlarge\nEND\n")
        self.assertTrue(self.send_and_run(b"LS depth=inf\n").startswith(b"OK "))
        self.storage.put(b"a", b"new")
        self.assertEqual(self.send(b"DOWNLOAD a\n"), b"OK 3\nnew")

    def test_missing_entry_cannot_be_made_unreadable(self) -> None:
        self.assertRaises(KeyError, self.storage.make_unreadable, b"missing")


class MemoryTests(MemoryCase):
    """Reads do not block."""

    def test_list(self) -> None:
        self.assertEqual(self.send_and_run(b"LIST\n"), b"OK\na\nlarge\nEND\n")
        self.assertIn("END", self.journal.line_with("LIST omits"))
        self.storage.error = OSError(errno.EIO, "the store is away")
        failed = b"ERR the server cannot list its files\n"
        self.assertEqual(self.send_and_run(b"LIST\n"), failed)

    def test_download(self) -> None:
        self.assertEqual(self.send(b"DOWNLOAD a\n"), b"OK 5\nthe a")
        self.assertEqual(self.send(b"DOWNLOAD sub/b c\n"), b"OK 0\n")
        self.assertEqual(self.send(b"DOWNLOAD sub\n"), b"ERR file not found\n")

    def test_stat(self) -> None:
        for name, word in ((b"a", b"a"), (b"sub", b"sub"), (b"", b"."), (b"sub/b c", b"sub/b%20c")):
            reply = b"OK " + format_metadata(self.storage.metadata(name)) + b"\n"
            self.assertEqual(self.send(b"STAT " + word + b"\n"), reply)
        self.assertEqual(self.send(b"STAT nothing\n"), b"ERR 404 file not found\n")

    def test_ls(self) -> None:
        names = [b"END", b"a", b"large", b"sub", b"sub/b c"]
        lines = [format_entry(Entry(name, self.storage.metadata(name))) for name in names]
        body = b"".join(lines)
        self.assertEqual(self.send_and_run(b"LS depth=inf\n"), format_page(len(body)) + body)
        body = b"".join(lines[1:3]) + b"more\n"
        self.assertEqual(
            self.send_and_run(b"LS depth=inf after=END limit=2\n"), format_page(len(body)) + body
        )
        self.assertEqual(self.send_and_run(b"LS nothing\n"), b"ERR 404 file not found\n")
        self.storage.make_unreadable(b"sub")
        body = b"".join(lines[:3]) + lines[3].replace(b" sub", b" unread=1 sub")
        self.assertEqual(
            self.send_and_run(b"LS depth=inf\n"), format_page(len(body), Page(1)) + body
        )

    def test_entry_that_was_unreadable_when_it_was_removed(self) -> None:
        for name in (b"sub", b"sub/b c"):
            self.storage.make_unreadable(name)
        self.storage.remove(b"sub")
        self.assertNotIn(b"sub", self.send_and_run(b"LS depth=inf\n"))
        self.storage.put(b"sub/b c", b"")
        self.assertEqual(self.storage.metadata(b"sub/b c").size, 0)

    def test_get(self) -> None:
        self.assertEqual(self.send(b"GET a\n"), self.header(b"a", 5) + b"the a")
        self.assertEqual(self.send(b"GET a offset=4 length=9\n"), self.header(b"a", 1, 4) + b"a")
        self.assertEqual(self.send(b"GET a offset=6\n"), b"ERR 416 range size=5\n")
        etag = self.storage.metadata(b"a").etag.encode()
        self.assertEqual(self.send(b"GET a if-match=x\n"), b"ERR 412 changed etag=" + etag + b"\n")
        self.assertEqual(self.send(b"GET sub\n"), b"ERR 404 file not found\n")

    def test_large_file_is_copied_chunk_by_chunk_without_a_thread(self) -> None:
        self.wire.fill_when_written_to()
        sent = self.send(b"GET large\n")
        self.assertIs(type(self.protocol._relay), CopyingFileRelay)
        self.assertEqual(len(sent), len(self.header(b"large", len(LARGE))) + CHUNK)
        while self.protocol._relay is not None:
            self.wire.empty()
            sent += self.wire.taken()
        self.assertTrue(sent == self.header(b"large", len(LARGE)) + LARGE)
        self.assertEqual(self.reads.calls, 0)

    def test_file_that_is_modified_while_it_is_sent_is_not_sent_to_its_end(self) -> None:
        self.wire.fill_when_written_to()
        self.send(b"GET large\n")
        self.storage.write(b"large", b"?" * len(LARGE))
        for _ in range(10):
            if self.wire.open:
                self.wire.empty()
        self.assertTrue(self.wire.aborted)
        self.journal.line_with("was modified")

    def test_pack(self) -> None:
        self.protocol.dataReceived(b"PACK sub/b%20c absent large a\n")
        self.thread.run()
        header, _, body = self.wire.taken().partition(b"\n")
        self.assertEqual(header, b"OK %d" % len(body))
        names = [b"sub/b c", b"absent", b"large", b"a"]
        for name, metadata, data, code in parse_pack(body, names):
            if code:
                self.assertEqual(code, {b"absent": 404, b"large": 413}[name])
            else:
                self.assertEqual(metadata, self.storage.metadata(name))
                self.assertEqual(data, self.storage.open(name).read_at(0, 1000))

    def test_hash(self) -> None:
        sha256 = hashlib.sha256(b"the a").hexdigest()
        etag = self.storage.metadata(b"a").etag
        reply = f"OK sha256={sha256} size=5 etag={etag}\n".encode()
        self.assertEqual(self.send_and_run(b"HASH a\n"), reply)
        self.assertEqual(self.send(b"HASH a\n"), reply)
        self.send(b"HASH large\n")
        self.storage.write(b"large", b"?")
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"ERR 503 the file is changing\n")

    def test_feat(self) -> None:
        self.assertTrue(self.send(b"FEAT\n").startswith(b"OK\nNATPROXY 2\n"))

    def test_error_of_the_storage_is_not_reported_as_not_found(self) -> None:
        self.storage.error = OSError(errno.EIO, "the store is away")
        unavailable = b"ERR 503 the server cannot open files at present\n"
        for command in (b"STAT a\n", b"GET a\n", b"HASH a\n"):
            self.assertEqual(self.send(command), unavailable)
        self.assertEqual(self.send_and_run(b"LS\n"), unavailable)
        lines = [line for line in self.journal.lines() if "cannot open" in line]
        self.assertEqual(len(lines), 4)
        self.assertIn("the store is away", lines[0])


class BlockingTests(MemoryCase):
    """Look-ups and reads may wait for something: they are made in threads."""

    blocking = True

    def send(self, command: bytes) -> bytes:
        """Send a command, let a thread look up its file, and return what is replied then."""
        self.assertEqual(super().send(command), b"")
        self.thread.run()
        return self.wire.taken()

    def test_lookup_is_made_in_a_thread(self) -> None:
        for command in (b"STAT a", b"GET a offset=5", b"HASH a", b"DOWNLOAD sub/b c"):
            self.assertEqual(super().send(command + b"\n"), b"")
            while self.thread.asked:
                self.thread.run()
            self.assertTrue(self.wire.taken().startswith(b"OK "))
        for command in (b"STAT b", b"GET b", b"HASH b", b"GET sub"):
            self.assertEqual(self.send(command + b"\n"), b"ERR 404 file not found\n")
        self.assertEqual(self.send(b"DOWNLOAD b\n"), b"ERR file not found\n")
        refused = self.send(b"GET a offset=6\n")
        self.assertTrue(refused.startswith(b"ERR 416 "), refused)
        self.assertTrue(self.send(b"GET a if-match=x\n").startswith(b"ERR 412 "))

    def test_stored_digest_is_not_computed(self) -> None:
        self.storage.store_sha256(b"a", "ab" * 32)
        self.send(b"HASH a\n")
        self.thread.run()
        self.assertIn(b"sha256=" + b"ab" * 32, self.wire.taken())
        self.send(b"HASH a length=4\n")
        self.thread.run()
        self.assertIn(hashlib.sha256(b"the ").hexdigest().encode(), self.wire.taken())

    def test_error_of_the_storage_is_not_reported_as_not_found(self) -> None:
        self.storage.error = OSError(errno.EIO, "the store is away")
        for command in (b"STAT a\n", b"GET a\n", b"HASH a\n", b"DOWNLOAD a\n"):
            reply = self.send(command)
            self.assertIn(b"the server cannot open files at present", reply)
        lines = [line for line in self.journal.lines() if "cannot open" in line]
        self.assertEqual(len(lines), 4)
        self.assertIn("the store is away", lines[0])

    def test_file_of_a_client_that_has_gone_is_closed(self) -> None:
        opened: list[MemoryFile] = []
        open_file = self.storage.open

        def recorded(name: bytes) -> MemoryFile:
            opened.append(open_file(name))
            return opened[-1]

        self.patch(self.storage, "open", recorded)
        protocol, wire = self.new_client(43_300)
        protocol.dataReceived(b"GET a\n")
        wire.lose(protocol)
        self.thread.run()
        self.assertTrue(opened.pop().closed)
        # One that waits for a thread is not opened at all.
        for number in range(CONCURRENT_LOOKUPS):
            self.new_client(43_400 + number)[0].dataReceived(b"GET a\n")
        protocol, wire = self.new_client(43_300)
        protocol.dataReceived(b"GET a\n")
        self.assertEqual(len(self.thread.asked), CONCURRENT_LOOKUPS)
        wire.lose(protocol)
        while self.thread.asked:
            self.thread.run()
        self.assertEqual(len(opened), CONCURRENT_LOOKUPS)

    def test_file_that_was_opened_too_late_is_closed(self) -> None:
        opened: list[MemoryFile] = []
        open_file = self.storage.open
        self.patch(self.storage, "open", lambda name: opened.append(open_file(name)) or opened[0])
        super().send(b"GET a\n")
        self.clock.advance(WORK_TIMEOUT)
        self.assertEqual(self.wire.taken(), b"ERR 503 the storage does not respond\n")
        self.thread.run()
        self.assertTrue(opened[0].closed)

    def test_bytes_in_memory_are_not_read_in_a_thread(self) -> None:
        self.patch(MemoryFile, "ready", lambda file, offset: offset < 2 * BLOCK)
        sent = self.send(b"GET large\n")
        while self.protocol._relay is not None:
            self.reads.run()
            sent += self.wire.taken()
        self.assertEqual(
            len(sent + self.wire.taken()), len(self.header(b"large", len(LARGE)) + LARGE)
        )
        self.assertEqual(self.reads.calls, 2)

    def test_read_of_a_client_that_has_gone_is_interrupted(self) -> None:
        interrupted: list[bool] = []
        self.patch(MemoryFile, "interrupt", lambda file: interrupted.append(file.closed))
        protocol, wire = self.new_client(43_300)
        protocol.dataReceived(b"GET large\n")
        self.thread.run()
        self.assertEqual(len(self.reads.asked), 1)
        wire.lose(protocol)
        self.assertEqual(interrupted, [False])
        self.reads.run()

    def test_file_is_read_in_threads(self) -> None:
        self.send(b"GET large\n")
        self.assertIs(type(self.protocol._relay), ThreadedFileRelay)
        sent = b""
        while self.protocol._relay is not None:
            self.assertLessEqual(len(self.reads.asked), 1)
            self.reads.run()
            sent += self.wire.taken()
        self.assertTrue(sent == self.header(b"large", len(LARGE)) + LARGE)
        self.assertGreater(self.reads.calls, 3)

    def test_empty_part_is_sent_at_once(self) -> None:
        self.assertEqual(self.send(b"GET a offset=5\n"), self.header(b"a", 0, 5))
        self.assertEqual(self.reads.calls, 0)

    def test_reads_share_half_of_the_threads(self) -> None:
        clients = [self.new_client(50_000 + number) for number in range(CONCURRENT_READS)]
        for protocol, _ in clients:
            protocol.dataReceived(b"DOWNLOAD a\n")
            self.thread.run()
        self.assertEqual(self.reads.calls, CONCURRENT_READS // 2)
        while self.reads.asked:
            self.reads.run()
        self.assertEqual({client.taken() for _, client in clients}, {b"OK 5\nthe a"})


class MemoryNameTests(SynchronousTestCase):
    def test_nothing_is_created_below_a_file(self) -> None:
        storage = MemoryStorage({b"a": b""})
        for name in (b"a/b", b"a/b/c"):
            with self.assertRaises(ValueError):
                storage.put(name, b"")
            with self.assertRaises(ValueError):
                storage.make_directory(name)
        self.assertEqual([step.position for step in storage.entries(b"", math.inf, b"")], [b"a"])
