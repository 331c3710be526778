"""Which server a command line means, and the exit status of each kind of failure."""

from __future__ import annotations

import errno
import os
from unittest import mock

from natproxy.client import config
from tests.support.commands import NAMES, CommandCase


class ServerTests(CommandCase):
    def test_server_option_before_or_after_the_command_or_in_the_environment(self) -> None:
        address = self.serve()
        self.assertEqual(self.written("--server", address, "ls"), NAMES)
        self.assertEqual(self.written("ls", "--server", address), NAMES)
        self.assertEqual(self.written("--server", "h:1", "ls", f"--server={address}"), NAMES)
        with mock.patch.dict(os.environ, NATPROXY_SERVER=address):
            self.assertEqual(self.written("ls"), NAMES)
        with mock.patch.dict(os.environ, NATPROXY_SERVER="h:1"):
            self.assertEqual(self.written("ls", "--server", address), NAMES)

    def test_url_names_the_server_too(self) -> None:
        url = f"natproxy://{self.serve()}"
        with mock.patch.dict(os.environ, NATPROXY_SERVER="not : a server"):
            self.assertEqual(self.written("ls", url), NAMES)
            self.assertEqual(self.written("ls", f"{url}/"), NAMES)
            out = self.written("stat", f"{url}/a.txt", f"{url.upper()}//b c/")
        self.assertEqual(self.server.lines[-2:], [b"STAT a.txt", b"STAT b%20c"])
        self.assertEqual(out.count(b"name: "), 2)
        # One command, one connection.
        self.assertEqual(self.server.connections, 3)

    def test_url_and_path_may_mean_the_same_server(self) -> None:
        address = self.serve()
        out = self.written("stat", f"natproxy://{address}/a.txt", "b c", "--server", address)
        self.assertEqual(out.count(b"name: "), 2)

    def test_paths_of_one_command_are_on_one_server(self) -> None:
        address = self.serve()
        for paths in (("natproxy://h:1/a", "a.txt"), ("a", "natproxy://h:1/a", "natproxy://h:2/a")):
            self.assert_fails(2, "different servers", "stat", *paths, "--server", address)
        self.assertEqual(self.server.lines, [])


class ExitStatusTests(CommandCase):
    def test_wrong_usage_is_2(self) -> None:
        for reason, arguments in (
            ("IPv6", ("list", "--server", "::1")),
            ("HOST:PORT is needed", ("ls", "--server", "h:x")),
            ("natproxy://HOST:PORT/PATH is needed", ("ls", "natproxy://")),
            ("--timeout 0", ("list", "--timeout", "0")),
            ("--timeout nan", ("list", "--timeout", "nan")),
            ("--timeout inf", ("ls", "--timeout", "inf")),
            ("--timeout -1", ("ls", "--timeout", "-1")),
            ("at most 1000000 seconds", ("ls", "--timeout", "1e9")),
            ("line feed", ("download", "a\nb", "--server", "127.0.0.1:1")),
        ):
            self.assert_fails(2, reason, *arguments)
        for wrong in ((), ("frobnicate",), ("stat",), ("ls", "--frob"), ("list", "--timeout", "x")):
            status, out, err = self.main(*wrong)
            self.assertEqual((status, out), (2, b""))
            self.assertIn("usage: natproxy", err)

    def test_words_in_errors_are_printable(self) -> None:
        for arguments, reason in (
            (("events", "--after", "\x1b[31m\u202e"), r"--after: '\x1b[31m\u202e'"),
            (("status", "\x9b31m"), r"arguments: \x9b31m"),
        ):
            status, _, err = self.main(*arguments)
            self.assertEqual(status, 2)
            self.assertIn(reason, err)

    def test_usage_is_that_of_the_command(self) -> None:
        for arguments, command in (
            (("get", "--frob", "a"), "natproxy get"),
            (("get", "a", "--frob", "--server", "h"), "natproxy get"),
            (("ls", "a", "b"), "natproxy ls"),
            (("--server", "ls", "ls", "--frob"), "natproxy ls"),
            (("--frob", "get", "a"), "natproxy"),
        ):
            status, out, err = self.main(*arguments)
            self.assertEqual((status, out), (2, b""))
            self.assertRegex(err, rf"\Ausage: {command} \[(-h|--help)\]")
            self.assertRegex(err, rf"\n{command}: error: unrecognized arguments: [^\n]*\n\Z")

    def test_name_that_begins_with_a_hyphen_is_explained(self) -> None:
        reminder = "(a name that begins with a hyphen is written /-name)"
        for arguments in (("get", "-name"), ("cat", "a", "-name")):
            self.assertIn(reminder, self.main(*arguments)[2])
        for arguments in (
            ("get",),
            ("get", "--frob"),
            ("ls", "-l", "a", "b"),
            ("get", "-j", "x"),
            # There is no name of a file here.
            ("whois", "--at", "-1s"),
        ):
            self.assertNotIn(reminder, self.main(*arguments)[2])

    def test_name_too_long_for_a_line_is_2(self) -> None:
        address = self.serve()
        self.assert_fails(2, "too long", "stat", "é" * 3000, "--server", address)

    def test_error_of_the_server_is_1(self) -> None:
        for answer, reason in (
            (b"ERR 500 internal\n", "a: internal"),
            (b"ERR 503 the file is changing\n", "a: the file is changing"),
            (b"ERR proxy error: refused\n", "a: proxy error: refused"),
            (b"ERR\n", "a: the server sent no reason"),
        ):
            address = self.instead(STAT=answer)
            self.assert_fails(1, reason, "stat", "a", "--server", address)

    def test_file_not_found_is_3(self) -> None:
        address = self.serve()
        for command in ("stat", "hash"):
            self.assert_fails(3, "x: file not found", command, "x", "--server", address)
        address = self.instead(LS=b"ERR 404 file not found\n")
        self.assert_fails(3, "x: file not found", "ls", "x", "--server", address)

    def test_failed_connection_is_4(self) -> None:
        address = self.serve()
        self.server.close()
        for command in (("ls",), ("ls", "-l"), ("list",), ("stat", "a"), ("hash", "a")):
            self.assert_fails(4, "cannot connect", *command, "--server", address)

    def test_error_of_the_default_server_explains_how_to_set_it(self) -> None:
        server = config.SETTINGS[0]._replace(default="127.0.0.1:1")
        hint = "; --server or $NATPROXY_SERVER sets the address of the proxy\n"
        with (
            mock.patch.object(config, "SETTINGS", (server, *config.SETTINGS[1:])),
            mock.patch.object(config, "DEFAULT_SERVER", server.default),
            mock.patch.dict(os.environ, NATPROXY_SERVER=""),
        ):
            self.assertTrue(self.main("ls")[2].endswith(f"Connection refused{hint}"))
            self.assertNotIn(hint, self.main("ls", "--server", "127.0.0.1:2")[2])
            self.assertNotIn(hint, self.main("ls", "natproxy://127.0.0.1:2/")[2])

    def test_directory_is_reported_as_one(self) -> None:
        address = self.serve()
        for path in (".", "", "/"):
            self.assert_fails(2, ".: is a directory", "cat", path, "--server", address)

    def test_lost_and_silent_connections_are_5(self) -> None:
        address = self.instead(STAT=b"", LIST=b"", LS=b"OK 5\nx")
        self.assert_fails(5, "without a reply", "stat", "a", "--server", address)
        silent = ("--timeout", "0.05", "--server", address)
        self.assert_fails(5, "silent for 0.05 s", "ls", *silent)

    def test_malformed_reply_is_6(self) -> None:
        address = self.instead(STAT=b"OK what?\n", LS=b"hello\n", HASH=b"OK\n", LIST=b"x\n")
        for command in (("stat", "a"), ("ls",), ("hash", "a"), ("list",)):
            self.assert_fails(6, "is not understood", *command, "--server", address)

    def test_interrupt_is_130(self) -> None:
        with mock.patch(
            "natproxy.client.blocking.session.Session.list", side_effect=KeyboardInterrupt
        ):
            self.assertEqual(self.main("list"), (130, b"", "natproxy: interrupted\n"))

    def test_local_error_is_9(self) -> None:
        gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "here\n")
        with mock.patch("natproxy.client.blocking.session.Session.list", side_effect=gone):
            self.assert_fails(9, "here\\x0a: No such file or directory", "list")

    def test_results_before_a_failure_are_written(self) -> None:
        address = self.serve()
        status, out, err = self.main("stat", "a.txt", "x", "--server", address)
        self.assertEqual((status, out.count(b"name: ")), (3, 1))
        self.assertEqual(err, "natproxy: x: file not found\n")
