"""Downloads of one file: resumed, verified, and never of two versions."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from natproxy.client import (
    Changed,
    ConnectionBroken,
    DigestMismatch,
    Event,
    LocalError,
    NotFound,
    NotUnderstood,
    Phase,
    Session,
    Unsupported,
    UsageError,
)
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.download import FRESH_STARTS, REPAIRS, Download
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest
from natproxy.protocol import Digest, format_digest
from tests.support.downloads import NEW, OLD, ONCE, DownloadCase
from tests.support.served_files import MTIME, Fault

PATCHED_BOOT = "natproxy.client.transfer.partial.boot_id"


class CompleteTests(DownloadCase):
    def test_file_has_its_time_and_no_other_file_remains(self) -> None:
        received = self.download()
        self.assertEqual(received, (self.path(b"a"), len(NEW), len(NEW), False))
        self.assert_whole()
        self.assertEqual(os.stat(received.path).st_mtime_ns, MTIME)

    def test_events_are_in_order(self) -> None:
        self.download(DownloadOptions(verify=True))
        self.assertEqual(
            self.phases(), [Phase.RECEIVING, Phase.VERIFYING, Phase.SAVING, Phase.COMPLETE]
        )
        self.assertEqual(self.events[0], Event(b"d/a", Phase.RECEIVING, 0, len(NEW)))
        self.assertEqual(self.events[-1], Event(b"d/a", Phase.COMPLETE, len(NEW), len(NEW)))
        received = [event.done for event in self.events if event.phase is Phase.RECEIVING]
        self.assertEqual((received, received[-1]), (sorted(received), len(NEW)))

    def test_bytes_are_synchronized_in_the_saving_phase(self) -> None:
        for version in (2, 1):
            phases = []

            def sync(file: int, phases: list[Phase] = phases) -> None:
                phases.append(self.phases()[-1])

            self.server.version = version
            self.events.clear()
            with mock.patch("os.fsync", sync):
                self.download(DownloadOptions(Existing.REPLACE))
            self.assertEqual(phases[0], Phase.SAVING)
            saving = Event(b"d/a", Phase.SAVING, len(NEW), len(NEW))
            self.assertEqual(self.events[-2], saving)
            self.session = Session(self.server.address, 5)
            self.addCleanup(self.session.close)

    def test_first_command_requests_the_bytes(self) -> None:
        self.download()
        self.assertEqual(self.server.commands, [b"FEAT", b"GET d/a", b"STAT d/a"])

    def test_bytes_are_requested_with_if_match_if_something_is_here(self) -> None:
        self.write(b"a", b"what was there")
        self.download(DownloadOptions(Existing.UPDATE))
        self.assertEqual(self.server.arguments_of(b"GET"), [b"d/a length=10240 if-match=e1"])
        self.assertEqual(self.server.arguments_of(b"STAT"), [b"d/a", b"d/a"])

    def test_file_to_replace_needs_no_comparison(self) -> None:
        self.write(b"a", b"what was there")
        self.download(DownloadOptions(Existing.REPLACE))
        self.assertEqual(self.server.commands, [b"FEAT", b"GET d/a", b"STAT d/a"])
        self.assert_whole()

    def test_rest_after_a_lost_connection_is_requested_with_if_match(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000))
        self.download()
        self.assertEqual(
            self.server.arguments_of(b"GET"),
            [b"d/a", b"d/a offset=4000 length=6240 if-match=e1"],
        )
        self.assert_whole()

    def test_metadata_after_the_bytes_are_requested_again_if_they_are_lost(self) -> None:
        # The second is sent on a new connection, the third by a retry.
        self.server.fail(b"STAT", *[Fault(cut=-1)] * 2)
        self.download()
        self.assertEqual(len(self.server.arguments_of(b"STAT")), 3)
        self.assertEqual(self.server.sent, len(NEW))
        self.assert_whole()

    def test_metadata_of_the_request_is_used(self) -> None:
        metadata = self.session.stat(b"d/a")
        self.server.commands.clear()
        self.download(metadata=metadata)
        self.assertEqual([line.split()[0] for line in self.server.commands], [b"GET", b"STAT"])

    def test_metadata_of_the_request_may_be_outdated(self) -> None:
        metadata = self.session.stat(b"d/a")
        self.server.put(b"d/a", OLD)
        self.download(metadata=metadata)
        self.assert_whole(OLD)

    def test_empty_file(self) -> None:
        self.server.put(b"empty", b"")
        for options in (
            DownloadOptions(),
            DownloadOptions(existing=Existing.REPLACE, verify=True, segments=4),
        ):
            self.download(options, b"empty")
            self.assert_whole(b"")
        # Its size is not known before.
        self.assertEqual(self.server.arguments_of(b"GET"), [b"empty"])

    def test_directory_is_not_a_file(self) -> None:
        error = self.assertRaises(UsageError, self.download, None, b"d")
        self.assertIn("natproxy get -r", str(error))
        self.assertEqual((self.files(), self.phases()), ([], [Phase.FAILED]))

    def test_missing_file_leaves_no_trace(self) -> None:
        request = DownloadRequest(b"none", self.path(b"x", b"y"))
        self.assertRaises(NotFound, Download(self.session, request).run)
        self.assertEqual(self.files(), [])

    def test_short_reply_is_never_complete(self) -> None:
        lie = b"OK 4 offset=0 size=4 mtime=1.0 etag=e1\nlies"
        self.server.fail(b"GET", Fault(reply=lie))
        error = self.assertRaises(NotUnderstood, self.download)
        self.assertEqual(error.exit_status, 6)
        self.assertNotIn(b"a", self.files())


class ResumingTests(DownloadCase):
    def test_only_missing_bytes_are_requested(self) -> None:
        self.interrupted(4000)
        received = self.download()
        self.assertEqual(
            self.server.arguments_of(b"GET"), [b"d/a offset=4000 length=6240 if-match=e1"]
        )
        self.assertEqual((received.received, self.server.sent), (6240, 6240))
        self.assertEqual(self.events[0], Event(b"d/a", Phase.RECEIVING, 4000, len(NEW)))
        self.assert_whole()

    def test_only_the_last_check_is_missing(self) -> None:
        self.server.fail(b"STAT", *[Fault(cut=-1)] * 3)
        self.assertRaises(ConnectionBroken, self.download, ONCE)
        self.server.commands.clear()
        self.assertEqual(self.download().received, 0)
        self.assertEqual(self.server.arguments_of(b"GET"), [])
        self.assert_whole()

    def test_changed_file_is_downloaded_from_the_first_byte(self) -> None:
        for options in (
            DownloadOptions(),
            DownloadOptions(verify=True),
            DownloadOptions(segments=3),
        ):
            self.server.put(b"d/a", OLD)
            self.interrupted(4000)
            self.server.put(b"d/a", NEW)
            self.assertEqual(self.download(options).received, len(NEW))
            messages = self.messages(Phase.RESTARTING)
            self.assertEqual(messages, ["changed on the server: starting afresh"])
            self.assert_whole()
            os.unlink(self.path(b"a"))

    def test_bytes_of_an_earlier_boot_are_compared_first(self) -> None:
        with mock.patch(PATCHED_BOOT, return_value="before"):
            self.interrupted(4000)
        with mock.patch(PATCHED_BOOT, return_value="now"):
            self.download()
        self.assertEqual(self.server.arguments_of(b"HASH"), [b"d/a length=4000"])
        self.assertEqual((self.server.sent, self.phases()[0]), (6240, Phase.HASHING))
        self.assert_whole()

    def test_bytes_damaged_by_a_power_failure_are_downloaded_again(self) -> None:
        with mock.patch(PATCHED_BOOT, return_value="before"):
            self.interrupted(4000)
        self.write(b".a.part", bytes(4000))
        with mock.patch(PATCHED_BOOT, return_value="now"):
            self.download()
        messages = self.messages(Phase.RESTARTING)
        self.assertEqual(messages, ["the received bytes are damaged: starting afresh"])
        self.assert_whole()

    def test_failed_comparison_does_not_make_bytes_trusted(self) -> None:
        with mock.patch(PATCHED_BOOT, return_value="before"):
            self.interrupted(4000)
        self.write(b".a.part", bytes(4000))
        with mock.patch(PATCHED_BOOT, return_value="now"):
            self.server.fail(b"HASH", Fault(cut=-1), Fault(cut=-1))
            self.assertRaises(ConnectionBroken, self.download, ONCE)
            self.download()
        self.assert_whole()

    def test_download_continues_after_a_full_disk(self) -> None:
        real = os.pwrite

        def pwrite(file: int, data: Any, offset: int) -> int:
            if offset >= 4096:
                raise OSError(28, os.strerror(28))
            return real(file, data[:4096], offset)

        with mock.patch("os.pwrite", pwrite):
            error = self.assertRaises(LocalError, self.download)
        self.assertEqual(str(error), f"{self.path(b'a').decode()}: No space left on device")
        self.assertEqual(self.download().received, len(NEW) - 4096)
        self.assert_whole()

    def test_keyboard_interrupt_leaves_an_exact_record(self) -> None:
        def press(event: Event) -> None:
            if event.done:
                raise KeyboardInterrupt

        transfer = Download(self.session, DownloadRequest(b"d/a", self.path(b"a")), None, press)
        with mock.patch("natproxy.client.transfer.request.CHUNK_SIZE", 1000):
            self.assertRaises(KeyboardInterrupt, transfer.run)
        self.assertEqual(self.download().received, len(NEW) - 1000)
        self.assert_whole()


class ChangingTests(DownloadCase):
    """The file on the server is replaced during the download."""

    def change(self) -> None:
        self.server.put(b"d/a", OLD)

    def test_before_the_remaining_bytes_are_requested(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000), Fault(act=self.change))
        self.download()
        self.assertEqual(len(self.messages(Phase.RESTARTING)), 1)
        self.assert_whole(OLD)

    def test_before_the_last_check(self) -> None:
        for options, verb in (
            (DownloadOptions(), b"STAT"),
            (DownloadOptions(verify=True), b"HASH"),
        ):
            self.server.put(b"d/a", NEW)
            self.server.fail(b"STAT", *[Fault(act=self.change)] * (verb == b"STAT"))
            self.server.fail(b"HASH", *[Fault(act=self.change)] * (verb == b"HASH"))
            self.download(options)
            self.assert_whole(OLD)
            os.unlink(self.path(b"a"))

    def test_removed_before_the_remaining_bytes_are_requested(self) -> None:
        gone = Fault(act=lambda: self.server.remove(b"d/a"))
        self.server.fail(b"GET", Fault(cut=4000), gone)
        self.assertRaises(NotFound, self.download)
        self.assertNotIn(b"a", self.files())

    def test_removed_before_the_last_check(self) -> None:
        for options, verb in (
            (DownloadOptions(), b"STAT"),
            (DownloadOptions(verify=True), b"HASH"),
        ):
            self.server.put(b"d/a", NEW)
            gone = Fault(act=lambda: self.server.remove(b"d/a"))
            self.server.fail(verb, gone)
            self.assertRaises(NotFound, self.download, options)
            self.assertNotIn(b"a", self.files())

    def test_every_time(self) -> None:
        # With received bytes, metadata are requested before each start.
        self.interrupted(4000)
        numbers = iter(range(1000))
        change = Fault(act=lambda: self.server.put(b"d/a", b"%d" % next(numbers)))
        self.server.fail(b"GET", *[change] * 100)
        error = self.assertRaises(Changed, self.download)
        self.assertEqual((error.exit_status, next(numbers)), (8, FRESH_STARTS))
        self.assertIn(f"{FRESH_STARTS} times", str(error))
        self.assertNotIn(b"a", self.files())


class VerifyingTests(DownloadCase):
    def test_digest_that_differs_every_time_keeps_nothing(self) -> None:
        self.write(b"a", b"what was there")
        digest = format_digest(Digest("0" * 64, len(NEW), "e1"))
        self.server.fail(b"HASH", *[Fault(reply=b"OK " + digest + b"\n")] * (REPAIRS + 1))
        options = DownloadOptions(verify=True, existing=Existing.REPLACE)
        error = self.assertRaises(DigestMismatch, self.download, options)
        self.assertEqual(error.exit_status, 7)
        self.assertIn("nothing was kept", str(error))
        self.assertEqual(self.server.sent, len(NEW) * (REPAIRS + 1))
        self.assert_whole(b"what was there")

    def test_kept_bytes_are_hashed(self) -> None:
        self.interrupted(4000)
        self.download(DownloadOptions(verify=True))
        self.assertEqual(self.phases()[:2], [Phase.RECEIVING, Phase.HASHING])
        self.assertEqual(self.server.sent, 6240)
        self.assert_whole()

    def test_damage_to_kept_bytes_is_found(self) -> None:
        self.interrupted(4000)
        self.write(b".a.part", bytes(4000))
        self.download(DownloadOptions(verify=True))
        self.assertEqual(
            self.messages(Phase.RESTARTING),
            ["10240 bytes are not the server's: downloading them again"],
        )
        self.assert_whole()

    def test_version_1_cannot_verify(self) -> None:
        self.server.version = 1
        self.assertRaises(Unsupported, self.download, DownloadOptions(verify=True))
