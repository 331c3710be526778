"""Sending a file by copying, in the reactor's thread or in another: chunks, and every end."""

from __future__ import annotations

import errno
import os
from io import BytesIO

from hypothesis import given, settings
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.relay import FileJob, Outbound, PageCache, Relays, SourceChanged, SourceShort
from natproxy.relay.files import BLOCK, CHUNK, CopyingFileRelay, ThreadedFileRelay
from natproxy.relay.job import Ended
from natproxy.relay.outbound import DIRECT
from natproxy.relay.rotation import SLICE, TURN, Rotation
from tests.support.doubles import BufferedWire, PlayedPageCache, TurnClock
from tests.support.relay_cases import HEADER, Ends, FileParts, PlayedMounts, UnknownFileCase, parts


class SpiedFile(BytesIO):
    """A file that records the sizes of its reads, and can fail.

    :ivar failing: whether the next read fails.
    """

    blocking = True
    failing = False

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads: list[int] = []

    def read_at(self, offset: int, size: int) -> bytes:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        self.reads.append(size)
        assert len(self.reads) < 100, "it is read without end"
        return self.getvalue()[offset : offset + size]

    def fileno(self) -> int:
        return 77

    def ready(self, offset: int) -> bool:
        return False

    def interrupt(self) -> None:
        pass


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
        relay = CopyingFileRelay(job, cache, Rotation(None))
        self.addCleanup(lambda: self.assertTrue(source.closed))
        return relay

    def record_writes(self) -> list[bytes]:
        """Record each write from now on."""
        written: list[bytes] = []
        write = self.client.write
        self.patch(self.client, "write", lambda data: (written.append(data), write(data)))
        return written

    def test_small_file_leaves_in_one_write_with_its_header(self) -> None:
        for size in (1, 5, 64 * 1024):
            self.setUp()
            written = self.record_writes()
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

    def test_budget_of_the_outbound_limits_what_is_written_in_one_turn(self) -> None:
        clock = TurnClock()
        self.outbound.budget = DIRECT
        size = 5 * DIRECT + 3
        job = FileJob(b"", SpiedFile(b"x" * size), size, self.outbound, self.ends)
        relay = CopyingFileRelay(job, None, Rotation(clock))
        relay.start()
        turns = 0
        while not self.ends:
            turns += 1
            self.assertEqual(relay.sent, turns * DIRECT)
            # The peer reads everything at once; the next turn comes all the same.
            self.client.drain()
            self.assertEqual(relay.sent, turns * DIRECT)
            clock.turn()
        self.assertEqual((turns, relay.sent, self.ends), (5, size, [None]))
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_relay_cancelled_between_two_turns_does_not_write_again(self) -> None:
        clock = Clock()
        self.outbound.budget = DIRECT
        size = 5 * DIRECT
        job = FileJob(b"", SpiedFile(b"x" * size), size, self.outbound, self.ends)
        relay = CopyingFileRelay(job, None, Rotation(clock))
        relay.start()
        relay.cancel()
        self.assertEqual((relay.sent, clock.getDelayedCalls()), (DIRECT, []))

    def test_relay_waits_in_line_when_the_bytes_of_the_turn_are_used_up(self) -> None:
        clock = TurnClock()
        rotation = Rotation(clock)
        rotation.count(TURN)
        job = FileJob(HEADER, SpiedFile(b"x" * 5), 5, self.outbound, self.ends)
        relay = CopyingFileRelay(job, None, rotation)
        relay.start()
        self.outbound.pauseProducing()
        self.outbound.resumeProducing()
        self.assertEqual((relay.sent, len(rotation)), (0, 1))
        clock.turn()
        self.assertEqual((self.client.value(), self.ends), (HEADER + b"xxxxx", [None]))

    def test_bytes_of_one_relay_are_those_that_the_others_do_not_have(self) -> None:
        clock = TurnClock()
        rotation = Rotation(clock)
        self.patch(self.client, "write", lambda data: None)
        for size, sent in ((TURN, TURN), (5, 0)):
            job = FileJob(b"", SpiedFile(b"x" * size), size, self.outbound, self.ends)
            relay = CopyingFileRelay(job, None, rotation)
            relay.start()
            self.assertEqual(relay.sent, sent)
        clock.turn()
        self.assertEqual((relay.sent, self.ends), (5, [None, None]))

    def test_client_that_reads_everything_at_once_gets_a_slice_in_a_turn(self) -> None:
        clock = TurnClock()
        self.patch(self.client, "write", lambda data: None)
        job = FileJob(b"", SpiedFile(b"x" * 3 * SLICE), 3 * SLICE, self.outbound, self.ends)
        relay = CopyingFileRelay(job, None, Rotation(clock))
        relay.start()
        for turn in range(1, 4):
            self.assertEqual(relay.sent, turn * SLICE)
            clock.turn()
        self.assertEqual((self.ends, clock.getDelayedCalls()), ([None], []))

    def test_paused_outbound_gets_nothing_until_it_is_empty(self) -> None:
        self.outbound.pauseProducing()
        relay = self.relay(SpiedFile(b"hello"), 5)
        relay.start()
        self.assertEqual((relay.sent, self.client.value()), (0, b""))
        self.assertEqual(self.ends, [])
        self.client.producer.resumeProducing()
        self.assertEqual(self.client.value(), b"hello")
        self.assertEqual(self.ends, [None])

    def test_shrunk_file_is_short_and_the_error_states_by_how_much(self) -> None:
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

    def test_failing_read_is_reported(self) -> None:
        source = SpiedFile(b"x" * (CHUNK + 5))
        relay = self.relay(source, CHUNK + 5)
        relay.start()
        source.failing = True
        self.client.drain()
        self.assertEqual(self.ends.error(OSError).errno, errno.EIO)

    def test_nothing_is_sent_or_reported_after_cancel_or_without_a_client(self) -> None:
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

    def test_cancel_during_the_last_write_reports_nothing(self) -> None:
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


class PageCacheTests(CopyingFileRelayTests):
    """The same with a page cache that holds everything, and with one that holds nothing."""

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

    def test_bytes_are_looked_for_before_they_are_read(self) -> None:
        cache = PlayedPageCache(cold=False)
        relay = self.relay(SpiedFile(b"x" * (CHUNK + 5)), CHUNK + 5, HEADER, cache)
        relay.start()
        self.client.drain()
        self.assertEqual(cache.checked, [(77, 0, CHUNK), (77, CHUNK, 5)])
        self.assertEqual(cache.loading, [])

    def test_nothing_is_read_until_it_is_cached(self) -> None:
        source, _ = self.cold(5)
        self.client.drain()
        self.assertEqual((source.reads, self.client.value()), ([], b""))
        self.assertEqual(self.cache.loading, [(77, 0, 5)])
        self.cache.loaded()
        self.assertEqual((self.client.value(), self.ends), (HEADER + b"xxxxx", [None]))

    def test_next_chunk_is_loaded_when_the_client_has_read(self) -> None:
        _, relay = self.cold(CHUNK + 5)
        self.cache.loaded()
        self.assertEqual(relay.sent, len(HEADER) + CHUNK)
        self.assertEqual(self.cache.loading, [])
        self.client.drain()
        # The buffer is empty: the relay waits for the disk, and loads once.
        self.client.drain()
        self.assertEqual(self.cache.loading, [(77, CHUNK, 5)])
        self.cache.loaded()
        self.assertEqual((self.client.value(), self.ends), (b"xxxxx", [None]))

    def test_relay_paused_during_a_load_waits_for_both(self) -> None:
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

    def test_bytes_that_cannot_be_loaded_are_read_all_the_same(self) -> None:
        source, relay = self.cold(5, forgetful=True)
        source.failing = True
        self.cache.loaded()
        if self.cache.loading:
            relay.cancel()
            self.cache.loaded()
            self.fail("it is loaded again and again")
        self.assertEqual(self.ends[0].errno, errno.EIO)


class CopiedPartsTests(FileParts, SynchronousTestCase):
    """Parts of files, copied."""

    @settings(deadline=None, database=None)
    @given(parts())
    def test_any_part(self, part: tuple[bytes, int, int]) -> None:
        self.new_client()
        self.assert_all_arrives(*part)


class ThreadedFileRelayTests(UnknownFileCase):
    def test_small_file_is_one_read_in_a_thread_and_one_write(self) -> None:
        relay = self.relay(b"content")
        self.assertIsInstance(relay, ThreadedFileRelay)
        relay.start()
        self.assertEqual((self.client.value(), relay.begun), (b"", False))
        self.thread.run()
        self.assertEqual(self.client.value(), b"OK n\ncontent")
        self.assertEqual(self.ends, [None])
        self.assertEqual(self.thread.calls, 1)
        self.assertTrue(self.file.closed)

    def test_large_file_is_read_block_by_block_as_the_client_takes_it(self) -> None:
        content = os.urandom(3 * BLOCK + 5)
        relay = self.relay(content)
        relay.start()
        received = b""
        while not self.ends:
            self.assertLessEqual(len(self.thread.asked), 1)
            if self.thread.asked:
                self.thread.run()
            received += self.client.drain()
        self.assertEqual(received + self.client.drain(), b"OK n\n" + content)
        self.assertEqual(self.thread.calls, 4)

    def test_budget_of_the_outbound_limits_what_is_read_for_one_turn(self) -> None:
        self.outbound.budget = DIRECT
        relay = self.relay(bytes(3 * DIRECT))
        relay.start()
        for turn in range(3):
            self.assertEqual(relay.sent, turn * DIRECT + (len(HEADER) if turn else 0))
            self.client.drain()
            self.thread.run()
        self.assertEqual(self.ends, [None])

    def test_file_that_has_shrunk_or_changed_is_not_sent_to_its_end(self) -> None:
        relay = self.relay(b"content")
        os.truncate(self.path, 0)
        relay.start()
        self.thread.run()
        self.ends.error(SourceShort)
        relay = self.relay(b"content", lambda: False)
        relay.start()
        self.thread.run()
        self.ends.error(SourceChanged)
        self.assertTrue(self.file.closed)

    def test_cancelled_relay_leaves_the_file_to_the_thread(self) -> None:
        relay = self.relay(b"content")
        relay.start()
        relay.cancel()
        self.assertFalse(self.file.closed)
        self.thread.run()
        self.assertTrue(self.file.closed)
        self.assertEqual(self.ends, [])

    def test_file_in_memory_is_copied(self) -> None:
        self.relays = Relays(None, page_cache=PageCache(self.read, PlayedMounts(True)))
        relay = self.relay(b"content")
        self.assertIs(type(relay), CopyingFileRelay)
        relay.start()
        self.assertEqual(self.client.value(), b"OK n\ncontent")
        self.assertEqual(self.thread.calls, 0)
