"""The command line's questions: what is written, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import time
from collections.abc import Callable
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy import cli
from natproxy.protocol import Entry, Metadata, format_entry
from tests.support.answering_server import AnsweringServer, Version2

FILES = {
    b"a.txt": b"the a",
    b"b c": b"",
    b"esc\x1b[2J": b"1",
    b"latin\xe9": b"22",
    "üml".encode(): b"333",
}
NAMES = b"".join(name + b"\n" for name in sorted(FILES))


class Terminal(io.TextIOWrapper):
    """Standard output that somebody looks at."""

    def isatty(self) -> bool:
        return True


class CommandCase(SynchronousTestCase):
    def serve(self, answer: Callable[[bytes], bytes] | None = None) -> str:
        """Start a server that answers as a function says; give its address."""
        self.server = AnsweringServer(answer or Version2(dict(FILES)))
        self.addCleanup(self.server.close)
        return self.server.server_address

    def instead(self, **answers: bytes) -> str:
        """Start a server of version 2 that answers some verbs otherwise; give its address."""
        version2 = Version2(dict(FILES))

        def answer(line: bytes) -> bytes:
            given = answers.get(line.split()[0].decode())
            return version2(line) if given is None else given

        return self.serve(answer)

    def main(
        self, *arguments: str, output: type[io.TextIOWrapper] = io.TextIOWrapper
    ) -> tuple[int, bytes, str]:
        """Give exit status, standard output and standard error of a command line."""
        with (
            output(io.BytesIO(), encoding="utf-8") as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            try:
                status = cli.main(arguments)
            except SystemExit as ended:
                # That is how argparse ends.
                status = int(ended.code or 0)
            out.flush()
            return status, out.buffer.getvalue(), err.getvalue()  # type: ignore[attr-defined]

    def written(self, *arguments: str) -> bytes:
        """Give what a command line that succeeds writes."""
        status, out, err = self.main(*arguments)
        self.assertEqual((status, err), (0, ""))
        return out

    def json_of(self, *arguments: str) -> list[dict[str, object]]:
        objects: list[dict[str, object]] = json.loads(self.written(*arguments))
        return objects

    def assert_fails(self, expected: int, reason: str, *arguments: str) -> None:
        """See that a command line writes nothing but one line on standard error."""
        status, out, err = self.main(*arguments)
        self.assertEqual((status, out), (expected, b""), (arguments, err))
        self.assertRegex(err, r"\Anatproxy: [^\n]+\n\Z")
        self.assertIn(reason, err)


class ListingTests(CommandCase):
    def test_names_are_written_as_they_are_when_nobody_is_looking(self) -> None:
        address = self.serve()
        for command in ("ls", "list"):
            self.assertEqual(self.written(command, "--server", address), NAMES)

    def test_names_cannot_drive_a_terminal(self) -> None:
        address = self.serve()
        for command in ("ls", "list"):
            _, out, _ = self.main(command, "--server", address, output=Terminal)
            self.assertEqual(
                out.decode().splitlines(), ["a.txt", "b c", "esc\\x1b[2J", "latin\\xe9", "üml"]
            )

    def test_directories_end_with_a_slash(self) -> None:
        entries = [
            Entry(b"d", Metadata("dir", 0, 10**9, "e")),
            Entry(b"d/f", Metadata("file", 12345, 2 * 10**9, "f")),
        ]
        page = b"".join(format_entry(entry) for entry in entries)
        address = self.instead(LS=b"OK %d\n%b" % (len(page), page))
        self.assertEqual(self.written("ls", "-R", "--server", address), b"d/\nd/f\n")
        self.assertEqual(self.server.lines[-1], b"LS depth=inf")
        with mock.patch.dict(os.environ, TZ="UTC"):
            time.tzset()
            out = self.written("ls", "-lR", "/x/", "--server", address)
        self.addCleanup(time.tzset)
        self.assertEqual(
            out.decode().splitlines(),
            [
                "           -  1970-01-01 00:00:01  d/",
                "       12345  1970-01-01 00:00:02  d/f",
            ],
        )
        self.assertEqual(self.server.lines[-1], b"LS x depth=inf")

    def test_json_has_every_name_and_all_that_is_known_of_it(self) -> None:
        address = self.serve()
        objects = self.json_of("ls", "--json", "--server", address)
        self.assertEqual([os.fsencode(str(each["name"])) for each in objects], sorted(FILES))
        self.assertEqual(
            {key: objects[0][key] for key in ("type", "size", "mtime", "mtime_ns")},
            {"type": "file", "size": 5, "mtime": 1.0, "mtime_ns": 10**9},
        )
        self.assertTrue(objects[0]["etag"])
        self.assertEqual(self.json_of("stat", "a.txt", "--json", "--server", address), objects[:1])

    def test_json_of_an_empty_directory_is_an_empty_array(self) -> None:
        self.assertEqual(self.json_of("ls", "--json", "--server", self.serve(Version2({}))), [])

    def test_status_of_files_is_told(self) -> None:
        address = self.serve()
        with mock.patch.dict(os.environ, TZ="UTC"):
            time.tzset()
            out = self.written("stat", "a.txt", ".", "--server", address).decode().splitlines()
        self.addCleanup(time.tzset)
        self.assertEqual(
            out[:4],
            ["name:     a.txt", "type:     file", "size:     5", "modified: 1970-01-01 00:00:01"],
        )
        self.assertEqual(out[5:7], ["name:     .", "type:     dir"])

    def test_digests_are_written_as_sha256sum_does(self) -> None:
        files = {b"a": b"x", b"b\\\n": b"x"}
        address = self.serve(Version2(files))
        digest = b"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
        self.assertEqual(
            self.written("hash", "a", "b\\\n", "--server", address),
            digest + b"  a\n\\" + digest + b"  b\\\\\\n\n",
        )
        (each,) = self.json_of("hash", "--json", "a", "--server", address)
        self.assertEqual((each["name"], each["sha256"]), ("a", digest.decode()))
        self.assertEqual(each["size"], 1)

    def test_times_that_no_calendar_has_are_written_as_numbers(self) -> None:
        from natproxy.cli.listing import time_text

        self.assertEqual(time_text(10**18 * 9 * 10**9), f"@{9 * 10**18}")

    def test_file_of_a_name_that_is_not_utf_8_is_found(self) -> None:
        address = self.serve()
        out = self.written("stat", os.fsdecode(b"latin\xe9"), "--server", address)
        self.assertIn(b"name:     latin\\xe9\n", out)


class SeveralTests(CommandCase):
    def test_one_that_is_not_there_leaves_the_others_alone(self) -> None:
        address = self.serve()
        for command, shown in (("stat", b"etag:"), ("hash", b"  a.txt")):
            paths = ["nothing", "a.txt", "nor this"]
            status, out, err = self.main(command, *paths, "--server", address)
            self.assertEqual(status, 3)
            self.assertIn(shown, out)
            self.assertEqual(
                err, "natproxy: nothing: file not found\nnatproxy: nor this: file not found\n"
            )

    def test_one_that_the_server_refuses_leaves_the_others_alone(self) -> None:
        version2 = Version2(dict(FILES))

        def reply(line: bytes) -> bytes:
            return b"ERR 400 is a directory\n" if line.endswith(b" d") else version2(line)

        address = self.serve(reply)
        for command in ("stat", "hash"):
            status, out, err = self.main(command, "d", "a.txt", "--server", address)
            self.assertEqual((status, err), (1, "natproxy: d: is a directory\n"))
            self.assertIn(b"a.txt", out)

    def test_json_is_whole_whatever_happens(self) -> None:
        address = self.serve()
        for command in ("stat", "hash"):
            paths = ["a.txt", "nothing"]
            status, out, _ = self.main(command, *paths, "--json", "--server", address)
            self.assertEqual((status, len(json.loads(out))), (3, 1))


class ServerTests(CommandCase):
    def test_server_may_be_said_first_or_last_or_by_the_environment(self) -> None:
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

    def test_one_command_asks_one_server(self) -> None:
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
            self.assertRegex(err, rf"\Ausage: {command} \[-h\]")
            self.assertRegex(err, rf"\n{command}: error: unrecognized arguments: [^\n]*\n\Z")

    def test_name_that_begins_with_a_hyphen_is_explained(self) -> None:
        reminder = "(a name that begins with a hyphen is written /-name)"
        for arguments in (("get", "-name"), ("cat", "a", "-name")):
            self.assertIn(reminder, self.main(*arguments)[2])
        for arguments in (("get",), ("get", "--frob"), ("ls", "-l", "a", "b"), ("get", "-j", "x")):
            self.assertNotIn(reminder, self.main(*arguments)[2])

    def test_name_too_long_for_a_line_is_2(self) -> None:
        address = self.serve()
        self.assert_fails(2, "too long", "stat", "é" * 3000, "--server", address)

    def test_no_from_the_server_is_1(self) -> None:
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

    def test_no_connection_is_4(self) -> None:
        address = self.serve()
        self.server.close()
        for command in (("ls",), ("ls", "-l"), ("list",), ("stat", "a"), ("hash", "a")):
            self.assert_fails(4, "cannot connect", *command, "--server", address)

    def test_server_that_nobody_named_is_explained(self) -> None:
        hint = "; --server or $NATPROXY_SERVER says where the proxy is\n"
        with (
            mock.patch("natproxy.cli.options.DEFAULT_SERVER", "127.0.0.1:1"),
            mock.patch.dict(os.environ, NATPROXY_SERVER=""),
        ):
            self.assertTrue(self.main("ls")[2].endswith(f"Connection refused{hint}"))
            self.assertNotIn(hint, self.main("ls", "--server", "127.0.0.1:2")[2])
            self.assertNotIn(hint, self.main("ls", "natproxy://127.0.0.1:2/")[2])

    def test_directory_is_said_to_be_one(self) -> None:
        address = self.serve()
        for path in (".", "", "/"):
            self.assert_fails(2, ".: is a directory", "cat", path, "--server", address)

    def test_lost_and_silent_connections_are_5(self) -> None:
        address = self.instead(STAT=b"", LIST=b"", LS=b"OK 5\nx")
        self.assert_fails(5, "without a reply", "stat", "a", "--server", address)
        silent = ("--timeout", "0.05", "--server", address)
        self.assert_fails(5, "silent for 0.05 s", "ls", *silent)

    def test_what_is_not_understood_is_6(self) -> None:
        address = self.instead(STAT=b"OK what?\n", LS=b"hello\n", HASH=b"OK\n", LIST=b"x\n")
        for command in (("stat", "a"), ("ls",), ("hash", "a"), ("list",)):
            self.assert_fails(6, "is not understood", *command, "--server", address)

    def test_interrupt_is_130(self) -> None:
        with mock.patch(
            "natproxy.client.blocking.session.Session.list", side_effect=KeyboardInterrupt
        ):
            self.assertEqual(self.main("list"), (130, b"", "natproxy: interrupted\n"))

    def test_file_here_that_cannot_be_had_is_9(self) -> None:
        gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "here\n")
        with mock.patch("natproxy.client.blocking.session.Session.list", side_effect=gone):
            self.assert_fails(9, "here\\x0a: No such file or directory", "list")

    def test_what_was_found_before_the_failure_is_written(self) -> None:
        address = self.serve()
        status, out, err = self.main("stat", "a.txt", "x", "--server", address)
        self.assertEqual((status, out.count(b"name: ")), (3, 1))
        self.assertEqual(err, "natproxy: x: file not found\n")
