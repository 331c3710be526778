"""Round trips of each command: what a long link costs. The connect is one of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from shutil import rmtree

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli import main
from natproxy.client import Session, Unsupported, UsageError
from natproxy.client.requests import Get
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest
from natproxy.client.transfer.stream import stream
from tests.support.answering_server import Version2
from tests.support.blocking_sessions import FILES
from tests.support.counting_server import CountingServer


class RoundTripsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.fsencode(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.directory)
        self.serve(Version2(dict(FILES)))

    def serve(self, reply: Callable[[bytes], bytes]) -> None:
        self.server = CountingServer(reply)
        self.addCleanup(self.server.close)
        self.session = Session(self.server.address, 10)
        self.addCleanup(self.session.close)

    def assert_round_trips(self, number: int, act: Callable[[], object]) -> None:
        before = self.server.round_trips
        act()
        self.assertEqual(self.server.round_trips - before, number, self.server.lines)

    def download(self, options: DownloadOptions | None = None) -> None:
        request = DownloadRequest(b"a", os.path.join(self.directory, b"a"))
        Download(self.session, request, options).run()


class SessionTests(RoundTripsCase):
    def test_first_command_takes_the_connect_and_one_more(self) -> None:
        for act in (
            lambda session: session.stat("a"),
            lambda session: list(session.ls()),
            lambda session: session.read("a"),
            lambda session: session.hash("a"),
            lambda session: list(session.list()),
            lambda session: list(session.pipeline([Get("a")])),
        ):
            with Session(self.server.address, 10) as session:
                self.assert_round_trips(2, lambda: act(session))  # noqa: B023
                self.assert_round_trips(1, lambda: act(session))  # noqa: B023

    def test_first_pack_takes_the_connect_feat_and_one_more(self) -> None:
        # Over one connection: a verb that the server may lack waits for the reply to FEAT.
        self.assert_round_trips(3, lambda: self.session.pack(["a"]))
        self.assert_round_trips(1, lambda: self.session.pack(["a"]))

    def test_pipeline_takes_one_for_all_that_are_ahead(self) -> None:
        self.session.stat("a")
        requests = [Get("a")] * 8
        self.assert_round_trips(1, lambda: list(self.session.pipeline(requests, 8)))

    def test_opened_file_takes_one_for_its_metadata_and_one_for_its_bytes(self) -> None:
        def read() -> None:
            with self.session.open("a") as file:
                self.assertEqual(file.read(), b"the a")

        self.assert_round_trips(3, read)


class DownloadTests(RoundTripsCase):
    def test_new_file_takes_the_connect_and_one_more(self) -> None:
        self.assert_round_trips(2, self.download)

    def test_each_further_file_takes_one(self) -> None:
        self.session.stat("a")
        self.assert_round_trips(1, self.download)

    def test_file_that_is_the_same_takes_one(self) -> None:
        self.download()
        self.assert_round_trips(1, self.download)

    def test_file_that_differs_takes_one_more(self) -> None:
        self.session.stat("a")
        with open(os.path.join(self.directory, b"a"), "wb") as file:
            file.write(b"other")
        self.assert_round_trips(2, lambda: self.download(DownloadOptions(Existing.UPDATE)))

    def test_file_that_is_verified_takes_one_more(self) -> None:
        self.assert_round_trips(3, lambda: self.download(DownloadOptions(verify=True)))

    def test_file_of_a_listing_takes_one(self) -> None:
        metadata = self.session.stat("a")
        request = DownloadRequest(b"a", os.path.join(self.directory, b"a"), metadata)
        self.assert_round_trips(1, Download(self.session, request).run)

    def test_stream_takes_the_connect_and_one_more(self) -> None:
        received = bytearray()
        self.assert_round_trips(2, lambda: stream(self.session, b"a", received.extend))
        self.assertEqual(received, b"the a")

    def test_directory_takes_one_more(self) -> None:
        version2 = Version2(dict(FILES))

        def reply(line: bytes) -> bytes:
            if line == b"STAT d":
                return b"OK type=dir size=0 mtime=1.0 etag=e\n"
            return version2(line)

        self.serve(reply)
        received = bytearray()
        self.assert_round_trips(
            3, lambda: self.assertRaises(UsageError, stream, self.session, b"d", received.extend)
        )


class Version1Tests(RoundTripsCase):
    def test_server_of_version_1_is_detected_by_the_first_command(self) -> None:
        self.serve(lambda line: b"ERR unknown command\n")
        self.assert_round_trips(2, lambda: self.assertRaises(Unsupported, self.session.stat, "a"))
        self.assertEqual(self.session.version, 1)


class CommandLineTests(RoundTripsCase):
    def run_command(self, *arguments: str) -> None:
        status = main([*arguments, "--server", str(self.server.address)])
        self.assertEqual(status, 0, arguments)

    def test_each_command_takes_the_connect_and_one_more(self) -> None:
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.directory)
        for arguments in (
            ["stat", "a"],
            ["ls"],
            ["ls", "-l"],
            ["list"],
            ["hash", "a"],
            ["get", "-q", "a"],
            ["cat", "a"],
            ["download", "a"],
        ):
            self.assert_round_trips(2, lambda: self.run_command(*arguments))  # noqa: B023

    def test_further_names_take_one_together(self) -> None:
        # 32 commands are sent ahead, and more when half of their replies have been received.
        self.serve(Version2({b"f%d" % number: b"" for number in range(33)}))
        names = [f"f{number}" for number in range(33)]
        list_of_names = os.path.join(os.fsdecode(self.directory), "list")
        with open(list_of_names, "w", encoding="ascii") as file:
            file.write("\n".join(names))
        saved = os.path.join(os.fsdecode(self.directory), "saved")
        for arguments, number in (
            (["stat", *names], 3),
            (["hash", *names], 3),
            # `PACK` follows the reply to `FEAT`.
            (["get", "-q", "-i", list_of_names, "-o", f"{saved}/1/"], 3),
            (["get", "-q", "-r", "-i", list_of_names, "-o", f"{saved}/2/"], 4),
        ):
            self.assert_round_trips(number, lambda: self.run_command(*arguments))  # noqa: B023
        self.assertEqual(len(os.listdir(f"{saved}/1")), 33)
        self.assertEqual(os.listdir(f"{saved}/1"), os.listdir(f"{saved}/2"))
