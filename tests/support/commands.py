"""Cases that run command lines in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli import main
from tests.support.answering_server import AnsweringServer, Version2
from tests.support.served_files import ServedFilesCase

FILES = {
    b"a.txt": b"the a",
    b"b c": b"",
    b"esc\x1b[2J": b"1",
    b"latin\xe9": b"22",
    "üml".encode(): b"333",
}
NAMES = b"".join(name + b"\n" for name in sorted(FILES))


class Terminal(io.TextIOWrapper):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


class CommandCase(SynchronousTestCase):
    """Runs command lines against a server whose replies a function computes."""

    def serve(self, reply: Callable[[bytes], bytes] | None = None) -> str:
        """Start a server that replies as a function does; return its address."""
        self.server = AnsweringServer(reply or Version2(dict(FILES)))
        self.addCleanup(self.server.close)
        return self.server.server_address

    def instead(self, **replies: bytes) -> str:
        """Start a server of version 2 with other replies to some verbs; return its address."""
        version2 = Version2(dict(FILES))

        def reply(line: bytes) -> bytes:
            special = replies.get(line.split()[0].decode())
            return version2(line) if special is None else special

        return self.serve(reply)

    def main(
        self, *arguments: str, output: type[io.TextIOWrapper] = io.TextIOWrapper
    ) -> tuple[int, bytes, str]:
        """Return exit status, standard output and standard error of a command line."""
        with (
            output(io.BytesIO(), encoding="utf-8") as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            try:
                status = main(arguments)
            except SystemExit as ended:
                # argparse exits in this way.
                status = int(ended.code or 0)
            out.flush()
            return status, out.buffer.getvalue(), err.getvalue()  # type: ignore[attr-defined]

    def written(self, *arguments: str) -> bytes:
        """Return what a command line that succeeds writes to standard output."""
        status, out, err = self.main(*arguments)
        self.assertEqual((status, err), (0, ""))
        return out

    def json_of(self, *arguments: str) -> list[dict[str, object]]:
        objects: list[dict[str, object]] = json.loads(self.written(*arguments))
        return objects

    def assert_fails(self, expected: int, reason: str, *arguments: str) -> None:
        """Assert that a command line writes one line, to standard error."""
        status, out, err = self.main(*arguments)
        self.assertEqual((status, out), (expected, b""), (arguments, err))
        self.assertRegex(err, r"\Anatproxy: [^\n]+\n\Z")
        self.assertIn(reason, err)


NEW = bytes(range(256)) * 40


class DownloadCase(ServedFilesCase):
    """Runs command lines in a directory of their own, against a server that has files.

    :ivar out: bytes that the last one wrote to standard output.
    :ivar err: lines that it wrote to standard error.
    """

    def setUp(self) -> None:
        super().setUp()
        self.server.put(b"a", NEW)
        self.server.put(b"d/b", b"the b")
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.directory)

    def run_command(self, *arguments: str) -> int:
        out = io.TextIOWrapper(io.BytesIO(), write_through=True)
        err = io.StringIO()
        with mock.patch("sys.stdout", out), mock.patch("sys.stderr", err):
            status = main([*arguments, "--server", str(self.server.address)])
        self.out = out.buffer.getvalue()
        self.err = err.getvalue().splitlines()
        return status

    def assert_fails(self, status: int, *arguments: str) -> str:
        """Assert that a command line writes one line to standard error, and return it."""
        self.assertEqual(self.run_command(*arguments), status, arguments)
        (line,) = self.err
        self.assertTrue(line.startswith("natproxy: "), line)
        return line
