"""``natproxy up``: what it listens on, what it says, on a reactor in memory."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import service, up
from natproxy.daemon.service import StartupError
from tests.unit.daemon.test_service import SignalledMemoryReactor


class UpReactor(SignalledMemoryReactor):
    """A reactor in memory that has a name for its thread pool."""

    def getThreadPool(self) -> object:
        return self


class UpCase(SynchronousTestCase):
    """Runs ``natproxy up`` in a directory of its own."""

    def setUp(self) -> None:
        self.reactor = UpReactor()
        self.patch(service, "raise_limit", lambda: None)
        self.patch(up, "_log_to_stderr", lambda: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.addCleanup(os.chdir, os.getcwd())
        directory = self.mktemp()
        os.mkdir(directory)
        os.chdir(directory)

    def said(self, files: str | None = None, *listen: str) -> str:
        """Run it, and return what it writes to standard output."""
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        self.assertEqual(up.run(files, listen, "tcp:9001:interface=127.0.0.1", self.reactor), 0)
        return output.getvalue()


class ListeningTests(UpCase):
    def test_both_daemons_listen_on_the_loopback_interface(self) -> None:
        self.said()
        listening = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(listening, [(9001, "127.0.0.1"), (9000, "127.0.0.1")])

    def test_proxy_listens_where_it_is_told(self) -> None:
        self.said(None, "tcp:9020", "tcp:9021")
        listening = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(listening[1:], [(9020, ""), (9021, "")])


class DirectoryTests(UpCase):
    def test_default_directory_is_created_and_that_is_said(self) -> None:
        path = os.path.join(os.getcwd(), "files")
        self.assertIn(f"serving      {path} (created, empty)\n", self.said())
        self.assertTrue(os.path.isdir(path))

    def test_missing_directory_that_was_named_is_an_error(self) -> None:
        wrong = self.assertRaises(StartupError, self.said, "typo")
        self.assertIn("natproxy up: --files typo: no such directory", str(wrong))
        self.assertEqual(os.listdir(), [])
        self.assertEqual(self.reactor.tcpServers, [])

    def refuse(self, taken: int) -> None:
        """Let a port be in use."""
        self.reactor = UpReactor()
        listen = self.reactor.listenTCP

        def listen_or_refuse(port: int, *args: Any, **named: Any) -> Any:
            if port == taken:
                raise CannotListenError("", port, OSError(errno.EADDRINUSE, "in use"))
            return listen(port, *args, **named)

        self.patch(self.reactor, "listenTCP", listen_or_refuse)

    def test_directory_that_was_created_is_removed_when_a_port_is_in_use(self) -> None:
        for taken in (9001, 9000):
            self.refuse(taken)
            self.assertRaises(StartupError, self.said)
            self.assertEqual(os.listdir(), [])

    def test_directory_that_was_there_stays_when_a_port_is_in_use(self) -> None:
        os.mkdir("files")
        self.refuse(9000)
        self.assertRaises(StartupError, self.said)
        self.assertEqual(os.listdir(), ["files"])

    def test_file_with_content_is_suggested(self) -> None:
        os.mkdir("files")
        Path("files", "a").touch()
        Path("files", "b c").write_bytes(b"content")
        said = self.said()
        self.assertIn("files (2 files)\n", said)
        self.assertIn(" get 'b c'", said)

    def test_empty_file_is_suggested_if_there_is_no_other(self) -> None:
        os.mkdir("files")
        Path("files", "a").touch()
        said = self.said()
        self.assertIn("files (1 file)\n", said)
        self.assertIn(" get a", said)
