"""Small files are received together; each is one state of one file, whatever the server does."""

from __future__ import annotations

import errno
import os
import signal
import threading
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.client import ConnectionBroken, LocalError, NotFound, Phase, UsageError
from natproxy.client.rate import RateLimit
from natproxy.client.retry import RetryPolicy
from natproxy.client.transfer import publication, small_files, staging
from natproxy.client.transfer.batch import Totals, download_all, download_and_count
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.mirror import compare
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from natproxy.client.transfer.run_directory import is_run_directory
from natproxy.protocol import (
    FILE,
    MAX_PACKED,
    Entry,
    Metadata,
    format_packed,
    format_refused,
)
from tests.support.mirrors import MirrorCase
from tests.support.packs import pack_body
from tests.support.served_files import MTIME, Fault

NAMES = [b"%d/f%02d" % (number // 4, number) for number in range(12)]


class SmallFilesCase(MirrorCase):
    def setUp(self) -> None:
        super().setUp()
        for name in NAMES:
            self.server.put(name, b"content of " + name)

    def sync(
        self, options: DownloadOptions | None = None, jobs: int = 4, name: bytes = b""
    ) -> Totals:
        tree = self.tree()
        plan = compare(self.session, name, tree)
        plan.check_directories()
        self.server.commands.clear()
        options = options or DownloadOptions(Existing.UPDATE)
        totals = download_and_count(self.session, plan.requests, options, jobs, self.note)
        plan.create_directories()
        return totals

    def verbs(self) -> list[bytes]:
        return [command.partition(b" ")[0] for command in self.server.commands]

    def content(self) -> dict[bytes, bytes]:
        found = {}
        for above, _, files in os.walk(self.directory):
            for name in files:
                path = os.path.join(above, name)
                with open(path, "rb") as file:
                    found[os.path.relpath(path, self.directory)] = file.read()
        return found

    def assert_whole(self, *without: bytes) -> None:
        """Check that the files of the server are there, and nothing else."""
        self.assertEqual(
            self.content(),
            {name: b"content of " + name for name in NAMES if name not in without},
        )
        self.assertEqual(sorted(os.listdir(self.directory)), [b"0", b"1", b"2"])

    def pack(self, *names: bytes) -> bytes:
        """Return the server's pack of files, without a header."""
        return pack_body(names, self.server._files.get)

    def reply(self, body: bytes) -> Fault:
        return Fault(reply=b"OK %d\n" % len(body) + body)


class PackTests(SmallFilesCase):
    def test_one_command_for_all_files(self) -> None:
        for jobs in (1, 4):
            totals = self.sync(jobs=jobs)
            self.assertEqual((totals.downloaded, totals.failures), (12, []))
            self.assertEqual(totals.received, sum(len(b"content of " + name) for name in NAMES))
            self.assertEqual(self.verbs(), [b"PACK"])
            self.assert_whole()
            found = os.stat(self.path(b"0/f00"))
            self.assertEqual(found.st_mtime_ns, MTIME)
            self.assertEqual(self.sync().downloaded, 0)
            for name in NAMES:
                os.unlink(self.path(name))

    def test_rest_of_a_pack_is_requested_again(self) -> None:
        self.server.pack_size = 100
        self.assertEqual(self.sync().downloaded, 12)
        self.assertGreater(len(self.verbs()), 3)
        self.assert_whole()

    def test_file_that_cannot_be_written_does_not_hide_the_group_before(self) -> None:
        write = staging.Staging.write

        def fail_for_one(self: staging.Staging, file: Any, *rest: Any) -> None:
            if file.last == b"f08":
                raise LocalError(file.request.path, OSError(errno.ENOSPC, "full"))
            write(self, file, *rest)

        with (
            mock.patch.object(staging, "GROUP_FILES", 4),
            mock.patch.object(staging.Staging, "write", fail_for_one),
        ):
            totals = self.sync()
        self.assertEqual((totals.downloaded, len(totals.failures)), (11, 1))
        self.assert_whole(b"2/f08")

    def test_commands_are_not_longer_than_a_line_or_a_pack(self) -> None:
        with mock.patch.object(small_files, "MAX_NAMES", 5):
            self.sync()
        self.assertEqual(self.verbs(), [b"PACK"] * 3)
        for name in NAMES:
            os.unlink(self.path(name))
        with mock.patch.object(small_files, "MAX_LINE", 30):
            self.sync()
        self.assertTrue(all(len(command) <= 30 for command in self.server.commands))
        self.assert_whole()

    def test_large_files_are_downloaded_one_by_one(self) -> None:
        large = b"x" * (MAX_PACKED + 1)
        self.server.put(b"0/large", large)
        self.assertEqual(self.sync().downloaded, 13)
        self.assertEqual(sorted(set(self.verbs())), [b"GET", b"PACK", b"STAT"])
        self.assertEqual(self.read(b"0", b"large"), large)

    def test_empty_files_and_names_of_every_kind(self) -> None:
        names = [b"e/ \xff%\n", b"e/ empty", "e/\u00e9".encode(), b"e/" + b"n" * 255]
        for name in names:
            self.server.put(name, b"" if b"empty" in name else name)
        for lacking in (set(), {b"PACK"}):
            self.server.lacking = lacking
            self.session.close()
            self.assertEqual(self.sync(name=b"e").failures, [])
            self.assertEqual(
                self.content(),
                {name[2:]: b"" if b"empty" in name else name for name in names},
            )
            for name in names:
                os.unlink(self.path(name[2:]))

    def test_files_without_metadata_are_requested_without_a_question(self) -> None:
        requests = [DownloadRequest(name, self.path(name.replace(b"/", b"-"))) for name in NAMES]
        results = download_all(self.session, requests, DownloadOptions(), 4, self.note)
        self.assertEqual(self.verbs(), [b"FEAT", b"PACK"])
        self.assertEqual(
            results,
            [
                DownloadResult(each.path, 11 + len(each.name), 11 + len(each.name), False)
                for each in requests
            ],
        )
        self.write(b"0-f00", b"mine")
        again = download_all(self.session, requests[:2], DownloadOptions(), 4)
        self.assertIsInstance(again[0], LocalError)
        self.assertEqual(
            (again[1], self.read(b"0-f00")),
            (results[1]._replace(received=0, unchanged=True), b"mine"),
        )

    def test_partial_download_is_continued(self) -> None:
        for tree in (None, self.tree()):
            names = [b"0/f00", b"0/f01", b"0/f02", b"0/f03"]
            below = [b"%d/%b" % (tree is None, name) for name in names]
            paths = [self.path(each) for each in below]
            first = DownloadRequest(names[0], paths[0], None, tree, below[0])
            # The connection is lost inside of the reply, and nothing is retried.
            self.server.fail(b"GET", Fault(cut=5))
            failed = DownloadOptions(retry_policy=RetryPolicy(0))
            self.assertRaises(ConnectionBroken, Download(self.session, first, failed).run)
            self.assertEqual(len(os.listdir(os.path.dirname(paths[0]))), 2)
            requests = [
                DownloadRequest(name, path, None, tree, each)
                for name, path, each in zip(names, paths, below, strict=True)
            ]
            results = download_all(self.session, requests, DownloadOptions())
            self.assertEqual([type(each) for each in results], [DownloadResult] * 4)
            # The rest of the first one only.
            self.assertEqual(results[0].received, len(b"content of " + names[0]) - 5)
            self.assertEqual(
                sorted(os.listdir(os.path.dirname(paths[0]))), [b"f00", b"f01", b"f02", b"f03"]
            )

    def test_one_file_is_downloaded_alone(self) -> None:
        request = DownloadRequest(b"0/f00", self.path(b"x"))
        download_all(self.session, [request], DownloadOptions(), 4)
        self.assertNotIn(b"PACK", self.verbs())

    def test_server_without_packs(self) -> None:
        self.server.lacking.add(b"PACK")
        self.assertEqual(self.sync().downloaded, 12)
        self.assertEqual(self.verbs(), [b"GET", b"STAT"] * 12)
        self.assert_whole()

    def test_server_without_packs_describes_files_first(self) -> None:
        self.server.lacking.add(b"PACK")
        self.server.put(b"large", bytes(MAX_PACKED + 1))
        names = [*NAMES, b"nothing", b"0", b"large"]
        requests = [DownloadRequest(name, self.path(name.replace(b"/", b"-"))) for name in names]
        results = download_all(self.session, requests, DownloadOptions(), 4)
        pipelined = [b"FEAT"] + [b"STAT"] * len(names) + [b"GET", b"STAT"] * len(NAMES)
        self.assertEqual(self.verbs()[: len(pipelined)], pipelined)
        kinds = [DownloadResult] * len(NAMES) + [NotFound, UsageError, DownloadResult]
        self.assertEqual([type(each) for each in results], kinds)
        self.assertEqual(len(self.content()), len(NAMES) + 1)

    def test_server_without_packs_that_is_lost_describes_the_rest_one_by_one(self) -> None:
        self.server.lacking.add(b"PACK")
        self.server.fail(b"STAT", *[Fault()] * 3, Fault(cut=-1))
        requests = [DownloadRequest(name, self.path(name.replace(b"/", b"-"))) for name in NAMES]
        results = download_all(self.session, requests, DownloadOptions(), 4)
        self.assertEqual([type(each) for each in results], [DownloadResult] * len(NAMES))
        self.assertEqual(len(self.content()), len(NAMES))

    def test_rate_limit_holds(self) -> None:
        self.sync(DownloadOptions(Existing.UPDATE, limit=RateLimit(20.0)))
        self.assertGreater(sum(self.slept), 5)
        self.assert_whole()

    def test_events_add_up(self) -> None:
        self.sync()
        ended = [event.name for event in self.events if event.phase is Phase.COMPLETE]
        self.assertEqual(ended, NAMES)
        together = [event for event in self.events if not event.name]
        size = sum(len(b"content of " + n) for n in NAMES)
        self.assertEqual(sum(event.done for event in together), size)
        self.assertEqual(sum(event.files for event in together), len(NAMES))


class ChangeTests(SmallFilesCase):
    """Files that change between the listing and the pack."""

    def changing(self, *changes: Any) -> Totals:
        def change() -> None:
            for each in changes:
                each()

        self.server.fail(b"PACK", Fault(act=change))
        return self.sync()

    def test_file_that_vanishes_fails_alone(self) -> None:
        totals = self.changing(lambda: self.server.remove(b"1/f05"))
        (failure,) = totals.failures
        self.assertIsInstance(failure.error, NotFound)
        self.assertEqual(failure.request.name, b"1/f05")
        self.assert_whole(b"1/f05")

    def test_file_that_changes_is_taken_as_it_is(self) -> None:
        totals = self.changing(lambda: self.server.put(b"1/f05", b"another", MTIME + 10**9))
        self.assertEqual(totals.downloaded, 12)
        self.assertEqual(self.read(b"1", b"f05"), b"another")
        self.assertEqual(os.stat(self.path(b"1/f05")).st_mtime_ns, MTIME + 10**9)

    def test_file_that_grows_is_downloaded_alone(self) -> None:
        large = b"x" * (MAX_PACKED + 1)
        totals = self.changing(lambda: self.server.put(b"1/f05", large))
        self.assertEqual((totals.downloaded, self.read(b"1", b"f05")), (12, large))

    def test_file_that_changes_without_packs_is_downloaded_alone(self) -> None:
        self.server.lacking.add(b"PACK")
        self.server.fail(b"STAT", Fault(act=lambda: self.server.put(b"0/f00", b"new")))
        totals = self.sync()
        self.assertEqual((totals.downloaded, self.read(b"0", b"f00")), (12, b"new"))

    def test_file_that_cannot_be_read_in_one_state_is_requested_again(self) -> None:
        busy = format_refused(503, NAMES[0])
        for times in (1, 2, 3):
            self.server.fail(b"PACK", self.reply(busy + self.pack(*NAMES[1:])))
            self.server.fail(b"PACK", *[self.reply(busy)] * (times - 1))
            self.assertEqual(self.sync().downloaded, 12)
            self.assertEqual(self.verbs().count(b"PACK"), min(3, times + 1))
            self.assertEqual(b"GET" in self.verbs(), times == 3)
            self.assert_whole()
            for name in NAMES:
                os.unlink(self.path(name))


class FailureTests(SmallFilesCase):
    def test_lost_connection_is_retried_and_nothing_is_mixed(self) -> None:
        self.server.pack_size = 150
        self.server.fail(b"PACK", Fault(), Fault(cut=70), Fault(cut=-1))
        totals = self.sync()
        self.assertEqual((totals.downloaded, totals.failures), (12, []))
        self.assertEqual(len([s for s in self.slept if s]), 2)
        self.assert_whole()

    def test_lost_connection_without_packs(self) -> None:
        self.server.lacking.add(b"PACK")
        self.server.fail(b"GET", Fault(), Fault(cut=3), Fault(), Fault(cut=-1))
        self.assertEqual(self.sync().downloaded, 12)
        self.assert_whole()

    def test_failure_without_retries_leaves_the_rest_to_single_downloads(self) -> None:
        self.server.fail(b"PACK", *[Fault(cut=10)] * 3)
        once = DownloadOptions(Existing.UPDATE, retry_policy=RetryPolicy())
        self.assertEqual(self.sync(once).failures, [])
        self.assert_whole()

    def test_error_of_a_whole_pack(self) -> None:
        for reply in (b"ERR 400 no\n", b"ERR 503 later\n", b"ERR 404 file not found\n"):
            self.server.fail(b"PACK", Fault(reply=reply))
            self.assertEqual(self.sync().failures, [])
            self.assert_whole()
            for name in NAMES:
                os.unlink(self.path(name))

    def test_server_that_is_gone_fails_every_file(self) -> None:
        self.server.fail(b"PACK", Fault(cut=-1, act=self.server.stop_listening))
        once = DownloadOptions(Existing.UPDATE, retry_policy=RetryPolicy())
        totals = self.sync(once)
        self.assertEqual([each.request.name for each in totals.failures], NAMES)
        self.assertEqual(self.content(), {})

    def test_hostile_packs(self) -> None:
        first, second = NAMES[:2]
        whole = self.pack(*NAMES)
        large = Metadata(FILE, MAX_PACKED + 1, MTIME, "e")
        for body in (
            b"",
            b"\n",
            whole[:-1],
            whole + b"x",
            self.pack(second, first),
            self.pack(b"0/f01"),
            whole + self.pack(first),
            format_packed(Entry(first, large)) + b"x" * (MAX_PACKED + 1),
            format_packed(Entry(b"../outside", large._replace(size=1))) + b"x",
            whole.replace(b"size=16", b"size=99999"),
        ):
            self.server.fail(b"PACK", self.reply(body))
            self.session.close()
            self.session = type(self.session)(self.server.address, 5)
            self.addCleanup(self.session.close)
            self.assertEqual(self.sync().failures, [], body[:80])
            self.assert_whole()
            for name in NAMES:
                os.unlink(self.path(name))
        self.assertNotIn(b"outside", os.listdir(os.path.dirname(self.directory)))

    def test_endless_pack_is_refused_by_its_header(self) -> None:
        self.server.fail(b"PACK", Fault(reply=b"OK 99999999999\n" + b"x" * 1000))
        self.assertEqual(self.sync().failures, [])
        self.assert_whole()

    def test_local_errors_affect_their_files_only(self) -> None:
        tree = self.tree()
        plan = compare(self.session, b"", tree)
        os.mkdir(self.path(b"0"))
        os.mkdir(self.path(b"0", b"f01"))
        self.write(b"1", b"in the way")
        totals = download_and_count(
            self.session, plan.requests, DownloadOptions(Existing.UPDATE), 4
        )
        failed = [each.request.name for each in totals.failures]
        self.assertEqual(failed, [b"0/f01", *NAMES[4:8]])
        self.assertTrue(all(isinstance(each.error, LocalError) for each in totals.failures))
        self.assertEqual(totals.downloaded, 7)

    def test_mount_point_below_takes_files_one_by_one(self) -> None:
        renamed = publication.rename_new

        def fail_in_first(source: int, old: bytes, target: int, new: bytes) -> bool:
            if new == b"0":
                raise OSError(errno.EXDEV, "another file system")
            return renamed(source, old, target, new)

        with mock.patch.object(publication, "rename_new", fail_in_first):
            self.assertEqual(self.sync().failures, [])
        self.assertEqual(self.verbs().count(b"GET"), 4)
        self.assert_whole()

    def test_root_without_a_run_directory_takes_files_one_by_one(self) -> None:
        with mock.patch.object(staging, "RunDirectory", side_effect=PermissionError):
            self.assertEqual(self.sync().failures, [])
        self.assert_whole()

    def test_nothing_has_a_name_if_nothing_is_on_the_disk(self) -> None:
        broken = OSError(errno.EIO, "broken disk")
        with (
            mock.patch.object(publication, "has_syncfs", return_value=True),
            mock.patch.object(publication, "syncfs", side_effect=broken),
        ):
            totals = self.sync()
        self.assertEqual([each.request.name for each in totals.failures], NAMES)
        self.assertIn("broken disk", str(totals.failures[0].error))
        self.assertEqual(self.content(), {})

    def test_interrupt_commits_what_is_whole(self) -> None:
        self.server.pack_size = 150
        main = threading.main_thread().ident
        assert main is not None

        def press() -> None:
            signal.pthread_kill(main, signal.SIGINT)

        for jobs in (1, 4):
            self.server.fail(b"PACK", Fault(), Fault(), Fault(silent=True, act=press))
            tree = self.tree()
            plan = compare(self.session, b"", tree)
            with self.assertRaises(KeyboardInterrupt):
                download_and_count(
                    self.session, plan.requests, DownloadOptions(Existing.UPDATE), jobs
                )
            found = self.content()
            self.assertGreater(len(found), 3)
            for name, content in found.items():
                self.assertEqual(content, b"content of " + name)
            self.assertFalse(any(map(is_run_directory, os.listdir(self.directory))))
            self.server.cut_off()
            self.session.close()
            self.sync()
            self.assert_whole()
            for name in NAMES:
                os.unlink(self.path(name))


class VerifiedTests(SmallFilesCase):
    OPTIONS = DownloadOptions(Existing.UPDATE, verify=True)

    def test_each_digest_is_compared(self) -> None:
        self.assertEqual(self.sync(self.OPTIONS).failures, [])
        self.assertEqual(sorted(self.verbs()), [b"HASH"] * 12 + [b"PACK"])
        self.assert_whole()

    def test_damaged_file_is_downloaded_again(self) -> None:
        damaged = self.pack(*NAMES).replace(b"content of 0/f01", b"damage  of 0/f01")
        self.server.fail(b"PACK", self.reply(damaged))
        self.assertEqual(self.sync(self.OPTIONS).failures, [])
        self.assertEqual(self.verbs().count(b"GET"), 1)
        self.assert_whole()

    def test_failures_and_cut_packs(self) -> None:
        self.server.pack_size = 150
        self.server.fail(b"HASH", Fault(), Fault(reply=b"ERR 404 file not found\n"), Fault(cut=-1))
        self.server.fail(b"PACK", Fault(), Fault(reply=b"ERR 400 no\n"))
        self.assertEqual(self.sync(self.OPTIONS).failures, [])
        self.assert_whole()


class AnyReplyTests(SmallFilesCase):
    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=3)), max_size=3))
    def test_damaged_replies_never_mix_files(self, damages: list[tuple[int, bytes]]) -> None:
        body = bytearray(self.pack(*NAMES))
        for offset, damage in damages:
            body[offset : offset + len(damage)] = damage
        self.server.fail(b"PACK", self.reply(bytes(body)))
        with mock.patch.object(small_files, "MAX_NAMES", 12):
            self.sync(DownloadOptions(Existing.UPDATE, verify=True))
        self.assert_whole()
        for name in NAMES:
            os.unlink(self.path(name))
