"""Bytes that differ from the server's are downloaded again, and no others."""

from __future__ import annotations

import json
from unittest import mock

from natproxy.client import Changed, DigestMismatch, Event, NotUnderstood, Phase
from natproxy.client.transfer.damage import MOST_RANGES
from natproxy.client.transfer.download import REPAIRS
from natproxy.client.transfer.request import DownloadOptions
from natproxy.protocol import FILE, Digest, Metadata, Range, format_digest, format_range
from tests.support.downloads import NEW, OLD, ONCE, DownloadCase
from tests.support.served_files import MTIME, Fault

VERIFIED = DownloadOptions(verify=True)


class RepairCase(DownloadCase):
    """The smallest piece is 320 bytes: a file of 10,240 bytes has 32 pieces."""

    def setUp(self) -> None:
        super().setUp()
        for target, value in (
            ("natproxy.client.transfer.damage.SMALLEST_PIECE", 320),
            ("natproxy.client.transfer.record.SMALLEST_SEGMENT", 1000),
        ):
            small = mock.patch(target, value)
            small.start()
            self.addCleanup(small.stop)

    def flipped(self, *offsets: int, start: int = 0, end: int = len(NEW)) -> Fault:
        """Return a reply to GET in which a bit of some bytes is flipped."""
        content = bytearray(NEW)
        for offset in offsets:
            content[offset] ^= 4
        metadata = Metadata(FILE, len(NEW), MTIME, "e1")
        header = format_range(Range(end - start, start, metadata))
        return Fault(reply=header + content[start:end])

    def ranges(self) -> list[tuple[int, int]]:
        """Return offset and length of each requested range."""
        return [
            (int(words.get(b"offset", 0)), int(words.get(b"length", 10240)))
            for words in (
                dict(word.split(b"=") for word in arguments.split()[1:])
                for arguments in self.server.arguments_of(b"GET")
            )
        ]


class RepairingTests(RepairCase):
    def test_one_flipped_bit_costs_one_piece(self) -> None:
        self.server.fail(b"GET", self.flipped(5000))
        received = self.download(VERIFIED)
        self.assertEqual(self.ranges(), [(0, 10240), (4800, 320)])
        self.assertEqual(received.received, 10240 + 320)
        self.assertEqual(
            self.messages(Phase.RESTARTING),
            ["320 bytes are not the server's: downloading them again"],
        )
        self.assertIn(Event(b"d/a", Phase.RECEIVING, 10240 - 320, 10240), self.events)
        self.assert_whole()

    def test_each_damaged_range_is_found(self) -> None:
        self.server.fail(b"GET", self.flipped(0, 1, 5000, 5300, 10239))
        self.download(VERIFIED)
        self.assertEqual(self.ranges()[1:], [(0, 320), (4800, 640), (9920, 320)])
        # Repaired ranges count as received.
        received = [event for event in self.events if event.phase is Phase.RECEIVING]
        self.assertEqual(received[-1].done, 10240)
        self.assert_whole()

    def test_segments_are_repaired_separately(self) -> None:
        self.server.fail(b"GET", self.flipped(3000, start=0, end=5120))
        # The fault is for the first segment: parallel segments have no fixed order.
        with mock.patch("natproxy.client.transfer.reception.run_parallel", _one_by_one):
            self.download(DownloadOptions(verify=True, segments=2))
        self.assertIn((2880, 320), self.ranges()[2:])
        self.assertLessEqual(len(self.ranges()), 4)
        self.assert_whole()

    def test_damage_on_both_sides_of_a_boundary_between_segments(self) -> None:
        first = self.flipped(5119, start=0, end=5120)
        second = self.flipped(5120, start=5120)
        with mock.patch("natproxy.client.transfer.reception.run_parallel", _one_by_one):
            self.server.fail(b"GET", first, second)
            self.download(DownloadOptions(verify=True, segments=2))
        self.assertEqual(self.ranges()[2:], [(4800, 320), (5120, 320)])
        self.assert_whole()

    def test_damage_in_the_repair_is_repaired(self) -> None:
        again = self.flipped(5000, start=4800, end=5120)
        self.server.fail(b"GET", self.flipped(5000), *[again] * (REPAIRS - 1))
        self.download(VERIFIED)
        self.assertEqual(self.ranges(), [(0, 10240), *[(4800, 320)] * REPAIRS])
        self.assert_whole()

    def test_repairs_are_limited_and_the_other_bytes_are_kept(self) -> None:
        again = self.flipped(5000, start=4800, end=5120)
        self.server.fail(b"GET", self.flipped(5000), *[again] * REPAIRS)
        error = self.assertRaises(DigestMismatch, self.download, VERIFIED)
        self.assertEqual(error.exit_status, 7)
        self.assertIn("320 bytes is not the server's, after 3 repairs", str(error))
        self.assertIn("the other 9920 bytes are kept", str(error))
        self.assertEqual(self.files(), [b".a.part", b".a.part.json"])
        self.server.commands.clear()
        self.assertEqual(self.download(VERIFIED).received, 320)
        self.assertEqual(self.ranges(), [(4800, 320)])
        self.assert_whole()

    def test_file_that_changes_during_the_repair_is_downloaded_again(self) -> None:
        change = Fault(act=lambda: self.server.put(b"d/a", OLD))
        self.server.fail(b"GET", self.flipped(5000), change)
        self.download(VERIFIED)
        self.assert_whole(OLD)

    def test_file_that_changes_during_the_search_for_damage_is_downloaded_again(self) -> None:
        change = Fault(act=lambda: self.server.put(b"d/a", OLD))
        self.server.fail(b"GET", self.flipped(5000))
        self.server.fail(b"HASH", Fault(), Fault(), change)
        self.download(VERIFIED)
        self.assert_whole(OLD)

    def test_many_damaged_ranges_are_joined(self) -> None:
        # The record of the partial download must fit into a page.
        with (
            mock.patch("natproxy.client.transfer.damage.SMALLEST_PIECE", 1),
            mock.patch("natproxy.client.transfer.damage.MOST_PIECES", 10240),
        ):
            self.server.fail(b"GET", self.flipped(*range(0, 10240, 128)))
            self.download(VERIFIED)
        self.assertEqual(len(self.ranges()), 1 + MOST_RANGES)
        self.assert_whole()

    def test_interrupted_repair_is_resumed(self) -> None:
        self.server.fail(b"GET", self.flipped(5000), Fault(reply=b"OK nonsense\n"))
        self.assertRaises(NotUnderstood, self.download, VERIFIED)
        record = json.loads(self.read(b".a.part.json"))
        self.assertEqual(
            record["segments"], [[0, 4800, 4800], [4800, 4800, 5120], [5120, 10240, 10240]]
        )
        self.assertEqual(self.download().received, 320)
        self.assert_whole()

    def test_without_verify_nothing_is_compared(self) -> None:
        self.server.fail(b"GET", self.flipped(5000))
        self.download()
        self.assertEqual(self.server.arguments_of(b"HASH"), [])
        self.assertNotEqual(self.read(b"a"), NEW)


class RestartedSystemTests(RepairCase):
    """Bytes received before a power failure are repaired, too."""

    def keep(self, damaged: bytes) -> None:
        with mock.patch("natproxy.client.transfer.partial.boot_id", return_value="before"):
            self.interrupted(4000)
        self.write(b".a.part", damaged)

    def received(self) -> int:
        with mock.patch("natproxy.client.transfer.partial.boot_id", return_value="now"):
            received = self.download().received
        self.assert_whole()
        return received

    def test_damaged_piece_is_downloaded_again(self) -> None:
        self.keep(NEW[:1000] + bytes(10) + NEW[1010:4000])
        self.assertEqual(self.received(), 10240 - 4000 + 250)
        self.assertEqual(
            self.messages(Phase.RESTARTING),
            ["250 of the 4000 bytes that were kept are damaged: downloading them again"],
        )

    def test_bytes_that_did_not_reach_the_disk_are_downloaded_again(self) -> None:
        self.keep(NEW[:3000])
        self.assertEqual(self.received(), 10240 - 3000)
        self.assertEqual(self.server.arguments_of(b"HASH"), [b"d/a length=3000"])

    def test_truncated_partial_file_is_compared_first(self) -> None:
        self.interrupted(4000, ONCE)
        self.write(b".a.part", bytes(3000))
        self.assertEqual(self.download().received, 10240)
        self.assertEqual(
            self.messages(Phase.RESTARTING), ["the received bytes are damaged: starting afresh"]
        )
        self.assert_whole()

    def test_changed_file_is_not_repaired(self) -> None:
        self.keep(bytes(4000))
        self.server.fail(b"HASH", Fault(act=lambda: self.server.put(b"d/a", OLD)))
        with mock.patch("natproxy.client.transfer.partial.boot_id", return_value="now"):
            self.download()
        self.assert_whole(OLD)


class UnverifiableTests(RepairCase):
    def test_digest_of_another_file_is_rejected(self) -> None:
        digest = format_digest(Digest("0" * 64, len(NEW), "e9"))
        self.server.fail(b"HASH", *[Fault(reply=b"OK " + digest + b"\n")] * 10)
        self.assertRaises(Changed, self.download, VERIFIED)
        self.assertNotIn(b"a", self.files())


def _one_by_one(steps, *_):  # type: ignore[no-untyped-def]
    return [step() for step in steps]
