"""The command line as a process of its own: its pipes and its exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import IO, Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.answering_server import AnsweringServer, Version2


def run(
    *arguments: str, environment: dict[str, str] | None = None, output: int | IO[Any] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run this Python."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": "", **(environment or {})},
        stdout=subprocess.PIPE if output is None else output,
        stderr=subprocess.PIPE,
        timeout=30,
    )


class ProcessCase(SynchronousTestCase):
    def serve(self, files: dict[bytes, bytes]) -> str:
        """Start a server with files; return its address."""
        self.server = AnsweringServer(Version2(files))
        self.addCleanup(self.server.close)
        return self.server.server_address


class PipeTests(ProcessCase):
    def test_reader_of_a_pipe_may_close_it_early(self) -> None:
        address = self.serve({b"file %d" % number: b"" for number in range(2500)})
        for command in (["list"], ["ls"], ["ls", "-l"], ["ls", "--json"], ["stat", "file 1"]):
            reader, writer = os.pipe()
            os.close(reader)
            with os.fdopen(writer, "wb") as output:
                ended = run("-m", "natproxy", *command, "--server", address, output=output)
            self.assertEqual((ended.returncode, ended.stderr), (0, b""), command)

    def test_failure_is_reported_even_if_the_pipe_is_closed(self) -> None:
        address = self.serve({b"a": b"x"})
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as output:
            ended = run("-m", "natproxy", "stat", "a", "b", "--server", address, output=output)
        self.assertEqual((ended.returncode, ended.stderr), (3, b"natproxy: b: file not found\n"))

    def test_exit_status_does_not_depend_on_standard_error(self) -> None:
        address = self.serve({b"a": b"x"})
        directory = self.mktemp()
        for status, arguments in (
            (3, ["get", "b", "-o", directory]),
            (3, ["get", "a", "b", "-o", directory + "/"]),
            (0, ["get", "a", "-o", directory + "/"]),
            (0, ["sync", ".", directory]),
            (4, ["ls", "natproxy://127.0.0.1:1"]),
        ):
            reader, writer = os.pipe()
            os.close(reader)
            with os.fdopen(writer, "wb") as broken, open("/dev/full", "wb") as full:
                for errors, unbuffered in ((broken, ""), (full, "1")):
                    environment = {"NATPROXY_SERVER": address, "PYTHONUNBUFFERED": unbuffered}
                    ended = subprocess.run(
                        [sys.executable, "-m", "natproxy", *arguments],
                        env={**os.environ, **environment},
                        stderr=errors,
                        timeout=30,
                    )
                    self.assertEqual(ended.returncode, status, arguments)

    def test_full_disk_is_reported_in_one_line(self) -> None:
        address = self.serve({b"file %d" % number: b"" for number in range(2500)})
        for command in (["list"], ["ls", "-l"], ["ls", "--json"], ["stat", "file 1"]):
            with open("/dev/full", "wb") as output:
                ended = run("-m", "natproxy", *command, "--server", address, output=output)
            self.assertEqual(
                (ended.returncode, ended.stderr),
                (9, b"natproxy: standard output: No space left on device\n"),
                command,
            )

    def test_output_that_cannot_show_a_name_shows_it_escaped(self) -> None:
        address = self.serve({"日本".encode(): b"x"})
        for encoding in ("ascii", "latin-1"):
            ended = run(
                *("-m", "natproxy", "stat", "日本", "--server", address),
                environment={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
            )
            self.assertEqual((ended.returncode, ended.stderr), (0, b""))
            self.assertIn(b"name:     \\u65e5\\u672c\n", ended.stdout)

    def test_names_are_bytes_whatever_the_locale(self) -> None:
        name = b"latin\xe9 " + "ü".encode()
        address = self.serve({name: b"x"})
        for locale in ("C", "C.UTF-8", "POSIX"):
            ended = run(
                *("-m", "natproxy", "hash", os.fsdecode(name), "--server", address),
                environment={"LC_ALL": locale},
            )
            self.assertEqual((ended.returncode, ended.stdout[64:]), (0, b"  " + name + b"\n"))

    def test_closed_streams_that_are_not_needed_are_no_failure(self) -> None:
        address = self.serve({b"a": b"x"})
        for arguments, closed, expected in (
            ("ls", "<&-", b"a\n"),
            ("ls", "2>&-", b"a\n"),
            ("get -q a", ">&-", b""),
            ("get -q a", "<&- >&- 2>&-", b""),
        ):
            command = f'"$0" -m natproxy {arguments} --server {address} {closed}'
            ended = subprocess.run(
                ["sh", "-c", command, sys.executable], capture_output=True, timeout=30
            )
            self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (0, expected, b""))


class EndTests(ProcessCase):
    def test_exit_status_of_each_kind_of_failure(self) -> None:
        address = self.serve({b"a": b"x"})
        for status, arguments in (
            (0, ["stat", "a"]),
            (2, ["stat"]),
            (2, ["ls", "--timeout", "0"]),
            (3, ["stat", "b"]),
            (4, ["ls", "natproxy://127.0.0.1:1"]),
        ):
            ended = run("-m", "natproxy", *arguments, environment={"NATPROXY_SERVER": address})
            self.assertEqual(ended.returncode, status, ended.stderr)
            self.assertNotIn(b"Traceback", ended.stderr)

    def test_ctrl_c_ends_the_wait_for_a_silent_server(self) -> None:
        received = threading.Event()
        released = threading.Event()

        def never(line: bytes) -> bytes:
            received.set()
            released.wait(20)
            return b""

        server = AnsweringServer(never)
        self.addCleanup(server.close)
        self.addCleanup(released.set)
        with subprocess.Popen(
            [sys.executable, "-m", "natproxy", "list", "--server", server.server_address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            self.assertTrue(received.wait(20))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        self.assertEqual((process.returncode, out, err), (130, b"", b"natproxy: interrupted\n"))
