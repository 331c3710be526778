"""A file in motion by copying: chunk after chunk, and every way that it ends."""

from __future__ import annotations

import errno
from io import BytesIO

from twisted.trial.unittest import SynchronousTestCase

from natproxy.relay import FileJob, Outbound, SourceShort
from natproxy.relay.files import CHUNK, CopyingFileRelay
from natproxy.relay.job import Ended
from tests.support.doubles import BufferedWire, PlayedPageCache
from tests.support.ends import Ends

HEADER = b"OK n\n"


class SpiedFile(BytesIO):
    """A file that counts how often it was read, and can fail."""

    blocking = True
    failing = False

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads: list[int] = []

    def read_at(self, offset: int, size: int) -> bytes:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        self.reads.append(size)
        assert len(self.reads) < 100, "endless reads"
        return self.getvalue()[offset : offset + size]

    def fileno(self) -> int:
        return 77


class CopyingFileRelayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = BufferedWire(9000, 43_210)
        self.outbound = Outbound(self.client, lambda: None)
        self.ends = Ends()

    def relay(
        self,
        source: SpiedFile,
        size: int,
        header: bytes = b"",
        cache: PlayedPageCache | None = None,
        ended: Ended | None = None,
    ) -> CopyingFileRelay:
        job = FileJob(header, source, size, self.outbound, ended or self.ends)
        relay = CopyingFileRelay(job, cache)
        self.addCleanup(lambda: self.assertTrue(source.closed))
        return relay

    def write_counted(self) -> list[bytes]:
        """Note each write from now on."""
        written: list[bytes] = []
        write = self.client.write
        self.patch(self.client, "write", lambda data: (written.append(data), write(data)))
        return written

    def test_small_file_leaves_in_one_write_with_its_header(self) -> None:
        for size in (1, 5, 64 * 1024):
            self.setUp()
            written = self.write_counted()
            source = SpiedFile(b"x" * size)
            relay = self.relay(source, size, HEADER)
            self.assertEqual((source.reads, written), ([], []))
            relay.start()
            self.assertEqual(self.ends, [None])
            self.assertEqual(written, [HEADER + b"x" * size])
            self.assertEqual(relay.sent, len(HEADER) + size)
            self.assertTrue(source.closed)

    def test_header_of_an_empty_file_is_sent_even_to_a_paused_outbound(self) -> None:
        self.outbound.pauseProducing()
        relay = self.relay(SpiedFile(b""), 0, HEADER)
        relay.start()
        self.assertEqual(self.ends, [None])
        self.assertEqual((relay.sent, self.client.value()), (len(HEADER), HEADER))

    def test_header_of_a_file_that_is_empty_by_now_is_sent(self) -> None:
        relay = self.relay(SpiedFile(b""), 5, HEADER)
        relay.start()
        short = self.ends.error(SourceShort)
        self.assertEqual(short.missing, "5 bytes")
        self.assertEqual((relay.sent, self.client.value()), (len(HEADER), HEADER))

    def test_one_chunk_is_read_for_each_time_that_the_transport_is_empty(self) -> None:
        content = bytes(range(256)) * 4096 + b"the rest"
        source = SpiedFile(content)
        relay = self.relay(source, len(content))
        relay.start()
        received, rounds = b"", 0
        while not self.ends:
            rounds += 1
            self.assertEqual(source.reads, [CHUNK] * rounds)
            self.assertEqual(relay.sent, CHUNK * rounds)
            received += self.client.drain()
        self.assertEqual(received + self.client.drain(), content)
        self.assertEqual(source.reads, [CHUNK] * 8 + [8])
        self.assertEqual((rounds, self.client.most), (8, CHUNK))
        self.assertEqual(self.ends, [None])

    def test_paused_outbound_gets_nothing_until_it_is_empty(self) -> None:
        self.outbound.pauseProducing()
        relay = self.relay(SpiedFile(b"hello"), 5)
        relay.start()
        self.assertEqual((relay.sent, self.client.value()), (0, b""))
        self.assertEqual(self.ends, [])
        self.client.producer.resumeProducing()
        self.assertEqual(self.client.value(), b"hello")
        self.assertEqual(self.ends, [None])

    def test_shrunk_file_is_short_and_says_by_how_much(self) -> None:
        relay = self.relay(SpiedFile(b"hel"), 5)
        relay.start()
        short = self.ends.error(SourceShort)
        self.assertEqual(short.missing, "2 bytes")
        self.assertEqual((relay.sent, self.client.value()), (3, b"hel"))

    def test_grown_file_is_sent_up_to_the_promised_size(self) -> None:
        for size in (5, CHUNK, CHUNK + 1):
            self.setUp()
            source = SpiedFile(b"x" * (size + 10))
            relay = self.relay(source, size)
            relay.start()
            sent = self.client.drain() + self.client.drain()
            self.assertEqual((len(sent), relay.sent, sum(source.reads)), (size, size, size))
            self.assertEqual(self.ends, [None])

    def test_failing_read_is_told(self) -> None:
        source = SpiedFile(b"x" * (CHUNK + 5))
        relay = self.relay(source, CHUNK + 5)
        relay.start()
        source.failing = True
        self.client.drain()
        self.assertEqual(self.ends.error(OSError).errno, errno.EIO)

    def test_nothing_is_sent_or_told_after_stop_or_without_a_client(self) -> None:
        for cancel in (CopyingFileRelay.cancel, lambda _: self.client.producer.stopProducing()):
            source = SpiedFile(b"x" * (CHUNK + 5))
            relay = self.relay(source, CHUNK + 5)
            relay.start()
            cancel(relay)
            self.assertTrue(source.closed)
            relay.cancel()
            self.client.drain()
            relay.resumeProducing()
            self.assertEqual((self.client.value(), relay.sent, self.ends), (b"", CHUNK, []))

    def test_stop_in_the_middle_of_the_last_write_is_a_stop(self) -> None:
        relay = self.relay(SpiedFile(b"x"), 1)
        self.patch(self.client, "write", lambda data: relay.cancel())
        relay.start()
        self.assertEqual(self.ends, [])

    def test_relay_that_has_ended_is_not_kept(self) -> None:
        relay = self.relay(SpiedFile(b"x"), 1)
        relay.start()
        self.assertIsNone(self.outbound._relay)

    def test_next_relay_may_start_from_the_end_of_the_last(self) -> None:
        second = self.relay(SpiedFile(b"b" * (CHUNK + 1)), CHUNK + 1)
        first = self.relay(SpiedFile(b"a"), 1, ended=lambda _: second.start())
        first.start()
        self.client.drain()
        self.assertEqual(self.client.drain(), b"b")
        self.assertEqual(self.ends, [None])


class ColdFileTests(CopyingFileRelayTests):
    """The same, with a page cache that has everything; and without."""

    def relay(
        self,
        source: SpiedFile,
        size: int,
        header: bytes = b"",
        cache: PlayedPageCache | None = None,
        ended: Ended | None = None,
    ) -> CopyingFileRelay:
        return super().relay(source, size, header, cache or PlayedPageCache(cold=False), ended)

    def cold(self, size: int, forgetful: bool = False) -> tuple[SpiedFile, CopyingFileRelay]:
        self.cache = PlayedPageCache(forgetful=forgetful)
        source = SpiedFile(b"x" * size)
        relay = self.relay(source, size, HEADER, self.cache)
        relay.start()
        return source, relay

    def test_what_is_about_to_be_read_is_looked_for_first(self) -> None:
        cache = PlayedPageCache(cold=False)
        relay = self.relay(SpiedFile(b"x" * (CHUNK + 5)), CHUNK + 5, HEADER, cache)
        relay.start()
        self.client.drain()
        self.assertEqual(cache.checked, [(77, 0, CHUNK), (77, CHUNK, 5)])
        self.assertEqual(cache.loading, [])

    def test_nothing_is_read_until_it_is_warm(self) -> None:
        source, _ = self.cold(5)
        self.client.drain()
        self.assertEqual((source.reads, self.client.value()), ([], b""))
        self.assertEqual(self.cache.loading, [(77, 0, 5)])
        self.cache.loaded()
        self.assertEqual((self.client.value(), self.ends), (HEADER + b"xxxxx", [None]))

    def test_next_chunk_is_warmed_in_its_turn(self) -> None:
        _, relay = self.cold(CHUNK + 5)
        self.cache.loaded()
        self.assertEqual(relay.sent, len(HEADER) + CHUNK)
        self.assertEqual(self.cache.loading, [])
        self.client.drain()
        # Empty again and again: it is the disk's turn.
        self.client.drain()
        self.assertEqual(self.cache.loading, [(77, CHUNK, 5)])
        self.cache.loaded()
        self.assertEqual((self.client.value(), self.ends), (b"xxxxx", [None]))

    def test_paused_while_it_is_warmed_it_waits_for_both(self) -> None:
        source, _ = self.cold(5)
        self.outbound.pauseProducing()
        self.cache.loaded()
        self.assertEqual(source.reads, [])
        self.outbound.resumeProducing()
        self.assertEqual(self.ends, [None])

    def test_file_is_closed_only_when_the_thread_has_returned(self) -> None:
        for cancel in (CopyingFileRelay.cancel, lambda _: self.client.producer.stopProducing()):
            self.setUp()
            source, relay = self.cold(5)
            cancel(relay)
            relay.cancel()
            self.assertFalse(source.closed)
            self.cache.loaded()
            self.assertTrue(source.closed)
            self.assertEqual((source.reads, self.client.value(), self.ends), ([], b"", []))

    def test_what_cannot_be_warmed_is_read_all_the_same(self) -> None:
        source, relay = self.cold(5, forgetful=True)
        source.failing = True
        self.cache.loaded()
        if self.cache.loading:
            relay.cancel()
            self.cache.loaded()
            self.fail("it is warmed again and again")
        self.assertEqual(self.ends[0].errno, errno.EIO)
