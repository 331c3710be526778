"""The command line with servers of version 1 that somebody else wrote."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from tests.support import version1
from tests.support.commands import CommandCase
from tests.support.served_files import ServedFiles

FILES = {b"a b.txt": b"two words", b"big": bytes(range(256)) * 4096, b"empty": b"", b"\xe9": b"e"}
NAMES = b"".join(name + b"\n" for name in sorted(FILES))

# In which everything has to work, finding out the version included.
PATIENCE = 3.0


class Mute(version1.Server):
    """Has never heard of ``FEAT``, and says nothing to it until it is released."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.released = threading.Event()

    def reply(self, line: bytes) -> bytes:
        if line == b"FEAT":
            self.released.wait(20)
            return b""
        return super().reply(line)


class Version1Tests(CommandCase):
    def setUp(self) -> None:
        self.top = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.top, "served"))
        os.makedirs(os.path.join(self.top, "here"))
        for name, content in FILES.items():
            with open(os.path.join(os.fsencode(self.top), b"served", name), "wb") as file:
                file.write(content)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(os.path.join(self.top, "here"))

    @contextlib.contextmanager
    def each_way(self) -> Iterator[list[str]]:
        """Give the addresses of their server, and of their proxy in front of it."""
        with (
            version1.Server(os.path.join(self.top, "served")) as server,
            version1.Proxy(server.port) as proxy,
        ):
            yield [f"127.0.0.1:{server.port}", f"127.0.0.1:{proxy.port}"]

    def here(self, name: bytes) -> bytes:
        with open(name, "rb") as file:
            return file.read()

    def in_time(self, address: str, *arguments: str) -> tuple[int, bytes]:
        """Give exit status and output of a command line that must not take long."""
        began = time.monotonic()
        status, out, err = self.main(*arguments, "--server", address)
        self.assertLess(time.monotonic() - began, PATIENCE)
        self.assertNotIn("Traceback", err)
        return status, out

    def check_all(self, address: str) -> None:
        for command in ("list", "ls"):
            self.assertEqual(self.in_time(address, command), (0, NAMES))
        both = FILES[b"big"] + FILES[b"a b.txt"]
        self.assertEqual(self.in_time(address, "cat", "big", "a b.txt"), (0, both))
        for name, content in FILES.items():
            for command in ("download", "get"):
                self.assertEqual(self.in_time(address, command, os.fsdecode(name))[0], 0)
                self.assertEqual(self.here(name), content)
                os.unlink(name)

    def test_everything_that_version_1_can_do_works_at_once(self) -> None:
        with self.each_way() as addresses:
            for address in addresses:
                self.check_all(address)

    def test_silence_is_not_taken_for_version_1(self) -> None:
        server = Mute(os.path.join(self.top, "served"))
        with server:
            address = f"127.0.0.1:{server.port}"
            status, out, err = self.main("ls", "--server", address, "--timeout", "0.2")
            self.assertEqual((status, out), (5, b""))
            self.assertIn("did not reply in time", err)
            # These need no version.
            self.assertEqual(self.in_time(address, "list"), (0, NAMES))
            self.assertEqual(self.in_time(address, "download", "big")[0], 0)
            server.released.set()

    def test_files_of_version_2_come_through_a_proxy_of_version_1(self) -> None:
        server = ServedFiles()
        self.addCleanup(server.close)
        server.put(b"a b.txt", FILES[b"a b.txt"])
        with version1.Proxy(server.address.port) as proxy:
            address = f"127.0.0.1:{proxy.port}"
            for command in ("get", "download"):
                self.assertEqual(self.in_time(address, command, "a b.txt")[0], 0)
                self.assertEqual(self.here(b"a b.txt"), FILES[b"a b.txt"])
                os.unlink("a b.txt")
            self.assertEqual(self.in_time(address, "cat", "a b.txt"), (0, FILES[b"a b.txt"]))

    def test_empty_directory_is_listed_as_empty(self) -> None:
        for name in FILES:
            os.unlink(os.path.join(os.fsencode(self.top), b"served", name))
        with self.each_way() as addresses:
            for address in addresses:
                for command in ("list", "ls"):
                    self.assertEqual(self.in_time(address, command), (0, b""))

    def test_what_it_cannot_do_is_said_in_one_line(self) -> None:
        with self.each_way() as addresses:
            for address in addresses:
                for reason, command in (
                    ("cannot list more than the served directory's files", ["ls", "-l"]),
                    ("cannot list more than the served directory's files", ["ls", "-R"]),
                    ("cannot list more than the served directory's files", ["ls", "--json"]),
                    ("cannot list more than the served directory's files", ["ls", "big"]),
                    ("cannot report a file's size and time", ["stat", "big"]),
                    ("cannot compute digests", ["hash", "big"]),
                    ("cannot compute digests", ["get", "--verify", "big"]),
                ):
                    arguments = (*command, "--server", address)
                    status, out, err = self.main(*arguments)
                    self.assertEqual((status, out), (1, b""), arguments)
                    self.assertIn("speaks version 1", err)
                    self.assertIn(reason, err)
        self.assertEqual(os.listdir(), [])

    def test_file_that_is_not_there_is_3(self) -> None:
        with self.each_way() as addresses:
            for address in addresses:
                for command in ("download", "get", "cat"):
                    status, out = self.in_time(address, command, "none")
                    self.assertEqual((status, out), (3, b""))
        self.assertEqual(os.listdir(), [])
