"""``PACK``: small files in one reply, who waits for a thread to read them, and memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver import packs
from natproxy.fileserver.factory import LISTING_THREADS
from natproxy.fileserver.packs import (
    CONCURRENT_PACKS_OF_TREE,
    MEMORY,
    QUEUED_PACKS,
    make_pack,
)
from natproxy.metadata import FILE, Entry, Metadata
from natproxy.protocol import (
    MAX_NAMES,
    MAX_PACKED,
    PACK_SIZE,
    Arguments,
    format_entry,
    format_request,
    parse_pack,
)
from natproxy.relay import DIRECT
from natproxy.server.threads import WORK_TIMEOUT, WorkCancelled
from natproxy.storage import Changing, NotFound, Snapshot, TooLarge
from tests.support.doubles import Wire
from tests.support.fileserver import Version2Case
from tests.support.logged_errors import LoggedErrorsCase

METADATA = Metadata(FILE, 3, 1_500_000_000, "x-1")
LINE = b"type=file size=3 mtime=1.500000000 etag=x-1 "


def reply_of(body: bytes) -> bytes:
    return b"OK %d\n%b" % (len(body), body)


class MakePackTests(SynchronousTestCase):
    def pack(self, names: list[bytes], *found: Any, **options: Any) -> bytes:
        return make_pack(names, iter(found), **options).reply

    def test_record_for_each_name(self) -> None:
        self.assertEqual(
            self.pack(
                [b"a b", b"c", b"d", b"e", b""],
                Snapshot(METADATA, b"abc"),
                NotFound(),
                TooLarge(),
                Changing(),
                OSError(errno.EIO, "Input/output error"),
            ),
            reply_of(
                LINE + b"a%20b\nabcerror=404 c\nerror=413 d\nerror=503 e\nerror=503 .\n",
            ),
        )

    def test_first_failure_of_the_storage_is_kept_for_the_log(self) -> None:
        first, second = OSError(errno.EIO, "first"), OSError(errno.EIO, "second")
        pack = make_pack([b"a", b"b", b"c"], iter([NotFound(), first, second]))
        self.assertIs(pack.error, first)
        self.assertIsNone(make_pack([b"a"], iter([Changing()])).error)

    def test_pack_ends_with_the_record_that_reaches_its_size(self) -> None:
        snapshot = Snapshot(METADATA, b"abc")
        one = LINE + b"a\nabc"
        for size, count in ((0, 1), (1, 1), (len(one), 1), (len(one) + 1, 2), (2 * len(one), 2)):
            reply = self.pack([b"a"] * 9, *[snapshot] * 9, size=size)
            self.assertEqual(reply, reply_of(one * count), size)
        refused = b"error=404 a\n"
        self.assertEqual(self.pack([b"a"] * 9, *[NotFound()] * 9, size=30), reply_of(refused * 3))

    def test_pack_ends_when_it_takes_too_long(self) -> None:
        clock = Clock()

        def slow() -> Iterator[NotFound]:
            while True:
                clock.advance(packs.MAX_SECONDS / 3)
                yield NotFound()

        pack = make_pack([b"a"] * 9, slow(), clock=clock.seconds)
        self.assertEqual(pack.reply, reply_of(b"error=404 a\n" * 3))


class PackTests(Version2Case):
    def record(self, name: str) -> bytes:
        data = (self.files / name).read_bytes()
        return format_entry(Entry(os.fsencode(name), self.metadata(name))) + data

    def test_files_and_errors(self) -> None:
        (self.files / "empty").touch()
        (self.files / "large").write_bytes(bytes(MAX_PACKED + 1))
        (self.files / "fits").write_bytes(bytes(MAX_PACKED))
        os.mkfifo(self.files / "fifo")
        body = (
            self.record("a")
            + self.record("sub/b=c d")
            + b"error=404 absent\nerror=404 sub\nerror=404 ../a\nerror=404 .\nerror=404 fifo\n"
            + self.record("empty")
            + b"error=413 large\n"
            + self.record("fits")
            + self.record("a")
        )
        self.assertEqual(
            self.send_and_run(
                b"pack a sub/b%3dc%20d absent sub ../a . fifo empty large fits %61\r\n"
            ),
            reply_of(body),
        )
        self.assert_logged("PACK", len(reply_of(body)))

    def test_metadata_are_those_of_the_other_verbs(self) -> None:
        (self.files / "sub" / "link").symlink_to("../a")
        for name in (b"a", b"sub/b%3Dc%20d", b"sub/link"):
            stat = self.send(b"STAT " + name + b"\n").removeprefix(b"OK ").rstrip()
            (listed,) = self.send_and_run(b"LS " + name + b"\n").splitlines()[1:]
            packed = self.send_and_run(b"PACK " + name + b"\n").splitlines()[1]
            self.assertEqual(packed.rpartition(b" ")[0], stat)
            self.assertEqual(packed, listed)

    def test_malformed_command_is_refused_as_a_whole(self) -> None:
        for line, message in (
            (b"PACK", b"missing file name"),
            (b"PACK a %zz", b"malformed name '%zz'"),
            (b"PACK a \xff", b"malformed name '\\\\udcff'"),
            (b"PACK" + b" a" * (MAX_NAMES + 1), b"513 file names: at most 512 are allowed"),
        ):
            reply = self.send(line + b"\n")
            self.assertTrue(reply.startswith(b"ERR 400 "), reply)
            if b"\xff" not in line:
                self.assertEqual(reply, b"ERR 400 " + message + b"\n")
        self.assertEqual(self.thread.calls, 0)

    def test_as_many_names_as_are_allowed(self) -> None:
        reply = self.send_and_run(b"PACK" + b" a" * MAX_NAMES + b"\n")
        self.assertEqual(reply, reply_of(self.record("a") * MAX_NAMES))

    def test_client_sends_the_rest_again(self) -> None:
        (self.files / "fits").write_bytes(bytes(MAX_PACKED))
        names = [b"a", *[b"fits"] * 40, b"absent"]
        rest, replies = names, []
        while rest:
            reply = self.send_and_run(format_request(b"PACK", Arguments(names=tuple(rest))))
            _, _, body = reply.partition(b"\n")
            self.assertLess(len(body), PACK_SIZE + MAX_PACKED + 200)
            replies.append(parse_pack(body, rest))
            rest = rest[len(replies[-1]) :]
        self.assertEqual([len(records) for records in replies], [17, 16, 9])
        self.assertEqual([record.name for records in replies for record in records], names)

    def test_failure_of_the_disk_is_logged(self) -> None:
        def failing(*_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(os, "read", failing)
        self.assertEqual(
            self.send_and_run(b"PACK a absent\n"), reply_of(b"error=503 a\nerror=404 absent\n")
        )
        self.assertIn(
            "cannot open a file of a pack: [Errno 5] Input/output error",
            "\n".join(self.journal.lines()),
        )

    def test_served_directory_that_cannot_be_opened(self) -> None:
        os.rename(self.files, self.outside / "elsewhere")
        self.assertEqual(self.send_and_run(b"PACK a b\n"), reply_of(b"error=404 a\nerror=404 b\n"))
        os.rename(self.outside / "elsewhere", self.files)

        def failing(*_: object, **__: object) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patched = self.patch(os, "open", failing)
        reply = self.send_and_run(b"PACK a b\n")
        patched.restore()
        self.assertEqual(reply, b"ERR 503 the server cannot open files at present\n")
        self.assertEqual(self.send_and_run(b"PACK a\n"), reply_of(self.record("a")))


class QueueTests(Version2Case):
    def clients(self, count: int, command: bytes) -> list[tuple[Any, Any]]:
        clients = [self.new_client(50_000 + number) for number in range(count)]
        for protocol, _ in clients:
            protocol.dataReceived(command)
        return clients

    def test_some_at_a_time_and_more_in_the_queue(self) -> None:
        clients = self.clients(CONCURRENT_PACKS_OF_TREE + QUEUED_PACKS, b"PACK a\n")
        self.assertEqual(self.thread.calls, CONCURRENT_PACKS_OF_TREE)
        self.assertEqual(self.send(b"PACK a\n"), b"ERR 429 too many packs at once\n")
        self.assertTrue(self.wire.open)
        for _, client in clients:
            self.thread.run()
            self.assertTrue(client.taken().startswith(b"OK "))

    def test_client_with_many_packs_does_not_delay_another(self) -> None:
        hosts = ["10.0.0.1"] * (CONCURRENT_PACKS_OF_TREE + 5) + ["10.0.0.2"]
        clients = []
        for number, host in enumerate(hosts):
            wire = Wire(9001, 50_000 + number)
            wire.peerAddr = IPv4Address("TCP", host, 50_000 + number)
            protocol = self.factory.buildProtocol(wire.getPeer())
            protocol.makeConnection(wire)
            protocol.dataReceived(b"PACK a\n")
            clients.append(wire)
        for _ in range(CONCURRENT_PACKS_OF_TREE + 2):
            self.thread.run()
        self.assertTrue(clients[-1].taken().startswith(b"OK "))
        self.assertEqual(clients[-2].taken(), b"")

    def test_reads_that_hang_leave_other_trees_to_be_packed(self) -> None:
        for number in range(2 * CONCURRENT_PACKS_OF_TREE):
            protocol, _ = self.new_client(50_000 + number)
            protocol.dataReceived(b"PACK slow/a slow/b\n" if number % 2 else b"PACK slow/a a\n")
        self.assertEqual(len(self.thread.asked), 2 * CONCURRENT_PACKS_OF_TREE)
        self.thread.asked.clear()
        self.clock.advance(WORK_TIMEOUT)
        refused = b"ERR 503 the storage does not respond\n"
        self.assertEqual(self.send(b"PACK slow/c\n"), refused)
        self.assertEqual(self.send(b"PACK a\n"), refused)
        self.assertTrue(self.send_and_run(b"PACK sub/a\n").startswith(b"OK "))
        # Listings have threads of their own.
        self.assertTrue(self.send_and_run(b"LS\n").startswith(b"OK "))

    def test_there_is_a_thread_for_each_pack_that_is_made_beside_the_listings(self) -> None:
        kinds = ("listings", "pages", "packs")
        running = [self.factory.executors[kind].limits.running for kind in kinds]
        self.assertEqual(sum(running), LISTING_THREADS)

    def test_tree_of_its_own_has_a_thread(self) -> None:
        for number in range(CONCURRENT_PACKS_OF_TREE):
            protocol, _ = self.new_client(50_000 + number)
            protocol.dataReceived(b"PACK slow/a\n")
        self.thread.asked.clear()
        self.assertTrue(self.send_and_run(b"PACK sub/a\n").startswith(b"OK "))

    def test_pack_of_a_client_that_is_gone_is_cancelled(self) -> None:
        failures: list[BaseException] = []

        def noting(*arguments: Any) -> Any:
            try:
                return make_pack(*arguments)
            except BaseException as error:
                failures.append(error)
                raise

        self.patch(packs, "make_pack", noting)
        self.send(b"PACK a\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.thread.run()
        self.assertIsInstance(failures[0], WorkCancelled)
        self.assertEqual(self.journal.ends, ["client-gone"])


class MemoryTests(Version2Case, LoggedErrorsCase):
    def setUp(self) -> None:
        super().setUp()
        (self.files / "fits").write_bytes(bytes(MAX_PACKED))
        self.packs = self.factory.services.packs
        self.command = b"PACK" + b" fits" * 40 + b"\n"

    def stalled_client(self, port: int) -> tuple[Any, Any, int]:
        """Let a client not read its pack; return how many bytes are held for it."""
        before = self.packs.held
        protocol, wire = self.new_client(port)
        wire.fill_when_written_to()
        protocol.dataReceived(self.command)
        self.thread.run()
        return protocol, wire, self.packs.held - before

    def test_packs_become_smaller_while_clients_do_not_read(self) -> None:
        clients = [self.stalled_client(50_000 + number) for number in range(120)]
        held = [size for _, _, size in clients]
        self.assertGreater(held[0], PACK_SIZE)
        self.assertEqual(held, sorted(held, reverse=True))
        self.assertLess(self.packs.held, MEMORY)
        # One file at least, which no relay has to hold.
        _, wire, size = clients[-1]
        self.assertEqual(size, 0)
        self.assertGreater(len(wire.taken()), MAX_PACKED)
        self.assertTrue(self.send_and_run(b"PACK a\n").startswith(b"OK "))

    def test_memory_is_released_with_the_last_byte_or_the_connection(self) -> None:
        protocol, wire, held = self.stalled_client(50_000)
        other, lost, _ = self.stalled_client(50_001)
        self.assertEqual(self.packs.held, 2 * held)
        lost.lose(other, ConnectionLost())
        self.assertEqual(self.packs.held, held)
        received = b""
        while self.packs.held:
            received += wire.taken()
            wire.empty()
            self.clock.advance(0)
        received += wire.taken()
        self.assertEqual(len(received), held)
        wire.empty()
        protocol.dataReceived(b"STAT a\n")
        self.assertTrue(wire.taken().startswith(b"OK type=file"))
        self.assertEqual(self.packs.held, 0)

    def test_memory_is_released_when_there_can_be_no_relay(self) -> None:
        def failing(*_: object) -> None:
            raise ZeroDivisionError

        self.patch(self.factory.services.relays, "send_bytes", failing)
        self.send(self.command)
        self.thread.run()
        self.assertTrue(self.wire.aborted)
        self.assertEqual((self.packs.held, self.flush(ZeroDivisionError)), (0, 1))

    def test_short_pack_needs_no_relay(self) -> None:
        reply = self.send_and_run(b"PACK a\n")
        self.assertLess(len(reply), DIRECT)
        self.assertEqual(self.packs.held, 0)
