"""``natproxy up``: endpoints, output and settings, on a reactor in memory."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import fileserver, service, up
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.reload import Reloader
from natproxy.daemon.service import StartupError
from tests.support.certificates import Authority
from tests.support.daemons import DaemonReactor
from tests.support.doubles import Journal


class UpCase(SynchronousTestCase):
    """Runs ``natproxy up`` in a directory of its own."""

    config: str | None = None

    def setUp(self) -> None:
        self.patch(os, "environ", dict(os.environ))
        self.reactor = DaemonReactor()
        self.patch(service, "raise_limit", lambda: None)
        self.patch(up, "_log_to_stderr", lambda: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.addCleanup(os.chdir, os.getcwd())
        directory = self.mktemp()
        os.mkdir(directory)
        os.chdir(directory)

    def output(self, files: str | None = None, *listen: str) -> str:
        """Run it, and return what it writes to standard output."""
        written = io.StringIO()
        self.patch(sys, "stdout", written)
        self.assertEqual(up.run(files, listen, config=self.config, reactor=self.reactor), 0)
        return written.getvalue()

    def occupy(self, taken: int) -> None:
        """Make a port be in use."""
        self.reactor = DaemonReactor()
        listen = self.reactor.listenTCP

        def listen_or_refuse(port: int, *args: Any, **named: Any) -> Any:
            if port == taken:
                raise CannotListenError("", port, OSError(errno.EADDRINUSE, "in use"))
            return listen(port, *args, **named)

        self.patch(self.reactor, "listenTCP", listen_or_refuse)


class ListeningTests(UpCase):
    def test_both_daemons_listen_on_the_loopback_interface(self) -> None:
        self.output()
        listening = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(listening, [(9001, "127.0.0.1"), (9000, "127.0.0.1")])

    def test_signal_during_the_start_stops_both_in_order(self) -> None:
        def start(*arguments: Any) -> Any:
            signal.raise_signal(signal.SIGTERM)
            return started(*arguments)

        started = up._start
        self.patch(up, "_start", start)
        journal = Journal(self)
        self.output()
        self.reactor.advance(0)
        journal.line_with("SIGTERM: stopping")

    def test_proxy_listens_on_the_endpoints_of_its_option(self) -> None:
        self.output(None, "tcp:9020", "tcp:9021")
        listening = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(listening[1:], [(9020, ""), (9021, "")])

    def test_file_and_environment_count_as_well(self) -> None:
        with open("both.toml", "w") as file:
            file.write('[proxy]\nlisten = "tcp:9030"\n[fileserver]\nlisten = "tcp:9031"\n')
        self.config = "both.toml"
        self.output()
        self.assertEqual([server[0] for server in self.reactor.tcpServers], [9031, 9030])
        self.reactor = DaemonReactor()
        os.environ["NATPROXY_PROXY_LISTEN"] = "tcp:9040"
        self.output()
        self.assertEqual([server[0] for server in self.reactor.tcpServers], [9031, 9040])

    def test_options_of_the_file_server_are_passed_to_it(self) -> None:
        opened: list[FileServerConfig] = []
        directory = fileserver.open_directory

        def open_directory(config: FileServerConfig) -> fileserver.ServedDirectory:
            opened.append(config)
            return directory(config)

        self.patch(fileserver, "open_directory", open_directory)
        self.patch(sys, "stdout", io.StringIO())
        up.run(None, reactor=self.reactor, storage={"etag": "content"})
        self.assertEqual([config.etag for config in opened], ["content"])
        with self.assertRaisesRegex(StartupError, "--s3-endpoint .*: only for an object store"):
            up.run(None, reactor=self.reactor, storage={"s3-endpoint": "http://127.0.0.1:1"})

    def test_file_server_has_no_tls(self) -> None:
        cert, key = Authority(Path.cwd()).issue("localhost")
        os.environ["NATPROXY_FILESERVER_LISTEN"] = f"ssl:9001:privateKey={key}:certKey={cert}"
        error = self.assertRaises(StartupError, self.output)
        self.assertIn("connects to its file server without TLS", str(error))
        self.assertEqual(self.reactor.tcpServers, [])

    def test_reload_is_one_of_both_daemons(self) -> None:
        def reload_together(reactor: Any, server: Any, proxy: Any) -> None:
            together(reactor, server, proxy)
            daemons.extend([server, proxy])

        daemons: list[Any] = []
        together = up._reload_together
        self.patch(up, "_reload_together", reload_together)
        self.config = os.path.abspath("up.toml")
        Path(self.config).write_text("")
        self.output()
        server, proxy = daemons
        proxy.reloader = Reloader(self.reactor, maybeDeferred, *proxy.reloader.settings)
        Path(self.config).write_text(
            "[proxy]\ntimeout = 7\nupstream = 'tcp:x:1'\n[fileserver]\ntimeout = 8\n"
        )
        result = self.successResultOf(proxy.reload("x"))
        # The proxy's upstream is its own file server, and nothing needs a restart.
        self.assertEqual(
            ([one.setting for one in result.changed], result.restart, result.errors),
            (["proxy.timeout", "fileserver.timeout"], (), ()),
        )
        self.assertEqual(server.factory.idle.seconds, 8)

    def test_top_is_suggested_with_what_it_needs(self) -> None:
        # The path of a socket must be short.
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = f"{directory}/a b.sock"
        for control, suggested in ((path, [f" top --control '{path}'"]), ("none", [])):
            self.config = os.path.abspath("up.toml")
            Path(self.config).write_text(f"[proxy]\ncontrol = '{control}'\n")
            lines = [line for line in self.output().splitlines() if " top" in line]
            self.assertEqual([line[line.index(" top") :] for line in lines], suggested)

    def test_wrong_setting_is_an_error_before_anything_listens(self) -> None:
        with open("both.toml", "w") as file:
            file.write("[proxy]\ndrain = -1\n")
        self.config = "both.toml"
        error = self.assertRaises(StartupError, self.output)
        self.assertEqual(
            str(error), "natproxy up: both.toml: proxy.drain -1: must be at least 0 seconds"
        )
        self.assertEqual((self.reactor.tcpServers, os.listdir()), ([], ["both.toml"]))

    def test_option_of_the_program_is_named(self) -> None:
        self.occupy(9001)
        error = self.assertRaises(StartupError, self.output)
        self.assertIn("choose another one with --fileserver-listen", str(error))


class DirectoryTests(UpCase):
    def test_default_directory_is_created_and_reported(self) -> None:
        path = os.path.join(os.getcwd(), "files")
        self.assertIn(f"serving      {path} (created, empty)\n", self.output())
        self.assertTrue(os.path.isdir(path))

    def test_missing_directory_that_was_named_is_an_error(self) -> None:
        wrong = self.assertRaises(StartupError, self.output, "typo")
        self.assertIn("natproxy up: --files typo: no such directory", str(wrong))
        self.assertEqual(os.listdir(), [])
        self.assertEqual(self.reactor.tcpServers, [])

    def test_directory_that_was_created_is_removed_when_a_port_is_in_use(self) -> None:
        for taken in (9001, 9000):
            self.occupy(taken)
            self.assertRaises(StartupError, self.output)
            self.assertEqual(os.listdir(), [])

    def test_directory_that_was_there_stays_when_a_port_is_in_use(self) -> None:
        os.mkdir("files")
        self.occupy(9000)
        self.assertRaises(StartupError, self.output)
        self.assertEqual(os.listdir(), ["files"])

    def test_file_with_content_is_suggested(self) -> None:
        os.mkdir("files")
        Path("files", "a").touch()
        Path("files", "b c").write_bytes(b"content")
        output = self.output()
        self.assertIn("files (2 files)\n", output)
        self.assertIn(" get 'b c'", output)

    def test_empty_file_is_suggested_if_there_is_no_other(self) -> None:
        os.mkdir("files")
        Path("files", "a").touch()
        output = self.output()
        self.assertIn("files (1 file)\n", output)
        self.assertIn(" get a", output)
