"""Names on a server as candidates for completion."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.cli.candidates import MOST, ManyNames, RemoteNames
from natproxy.protocol import DIRECTORY, FILE, Entry, Metadata, format_entry
from tests.support.scripted_server import Scene, ScriptedServer

FEAT = (b"FEAT\n", b"OK\nNATPROXY 2\nEND\n")
OLD = (b"FEAT\n", b"ERR unknown command\n")


def page(*names: bytes) -> bytes:
    """Return the reply that lists files, and directories whose names end with a slash."""
    entries = (
        Entry(
            name.rstrip(b"/"),
            Metadata(DIRECTORY if name.endswith(b"/") else FILE, 1, 1, "x"),
        )
        for name in names
    )
    body = b"".join(map(format_entry, entries))
    return b"OK %d\n%b" % (len(body), body)


class RelativeTests(SynchronousTestCase):
    def found(self, typed: str, *listed: bytes, directory: bytes = b"d/e") -> list[bytes]:
        self.server = ScriptedServer([FEAT, (self.command, page(*listed))])
        self.addCleanup(self.server.close)
        names = ManyNames(5.0)
        self.addCleanup(names.close)
        return list(names.starting_with(typed, self.server.server_address, directory=directory))

    def test_names_are_relative_to_a_directory(self) -> None:
        self.command = b"LS d/e\n"
        self.assertEqual(self.found("", b"d/e/a", b"d/e/b/"), [b"a", b"b/"])
        self.assertEqual(self.found("a", b"d/e/a", b"d/e/b/"), [b"a"])
        self.assertEqual(self.found("./", b"d/e/a"), [b"./a"])
        self.assertEqual(self.found("", b"d/e/-a"), [b"./-a"])
        self.assertEqual(self.found("/d/e/", b"d/e/-a"), [b"/d/e/-a"])

    def test_directories_above_are_reached(self) -> None:
        self.command = b"LS d\n"
        self.assertEqual(self.found("../e", b"d/e/", b"d/f"), [b"../e/"])
        self.command = b"LS\n"
        self.assertEqual(self.found("../../x", b"xy"), [b"../../xy"])
        self.assertEqual(self.found("/", b"d/"), [b"/d/"])
        self.assertEqual(self.found("", b"-a", directory=b""), [b"/-a"])


class RemoteNamesTests(SynchronousTestCase):
    def names(self, *scenes: Scene) -> RemoteNames:
        self.server = ScriptedServer(*scenes)
        self.addCleanup(self.server.close)
        self.now = 0.0
        names = RemoteNames(Address("127.0.0.1", self.server.port), 5.0, lambda: self.now)
        self.addCleanup(names.close)
        return names

    def test_directory_is_listed_once_in_a_while(self) -> None:
        first = (b"LS\n", page(b"a", b"b/", b"ba"))
        names = self.names([FEAT, first, (b"LS\n", page(b"b"))])
        self.assertEqual(names.starting_with(b""), [b"a", b"b/", b"ba"])
        self.assertEqual(names.starting_with(b"b"), [b"b/", b"ba"])
        self.now = 6.0
        self.assertEqual(names.starting_with(b"b"), [b"b"])

    def test_directory_below_is_listed_for_what_is_in_it(self) -> None:
        names = self.names([FEAT, (b"LS a/b\n", page(b"a/b/c", b"a/b/d/"))])
        self.assertEqual(names.starting_with(b"a/b/"), [b"a/b/c", b"a/b/d/"])
        self.assertEqual(names.starting_with(b"a/b/d"), [b"a/b/d/"])

    def test_large_directory_is_listed_in_part(self) -> None:
        many = (b"LS\n", page(*(b"a%06d" % number for number in range(MOST + 10))))
        after = (b"LS after=w%FF\n", page(b"x", b"xy/", b"y"))
        names = self.names([FEAT, many], [after])
        self.assertEqual(len(names.starting_with(b"")), MOST)
        self.assertEqual(names.starting_with(b"x"), [b"x", b"xy/"])

    def test_server_of_version_1_has_a_top_directory_only(self) -> None:
        names = self.names([OLD, (b"LIST\n", b"OK\nab\nb\nEND\n")])
        self.assertEqual(names.starting_with(b"a"), [b"ab"])
        self.assertEqual(names.starting_with(b"a/"), [])

    def test_errors_are_neither_reported_nor_retried_at_once(self) -> None:
        names = self.names([FEAT, (b"LS\n", b"ERR 503 busy\n")], [FEAT, (b"LS\n", page(b"a"))])
        self.assertEqual(names.starting_with(b""), [])
        self.assertEqual(names.starting_with(b"a"), [])
        self.now = 6.0
        self.assertEqual(names.starting_with(b""), [b"a"])

    def test_servers_that_cannot_be_reached_have_no_names(self) -> None:
        names = ManyNames(0.5)
        for typed, server in (
            ("a", "127.0.0.1:1"),
            ("a", "::1"),
            ("natproxy://", "127.0.0.1:1"),
            ("natproxy://127.0.0.1:1", "127.0.0.1:1"),
            ("natproxy://127.0.0.1:1/a", "127.0.0.1:2"),
        ):
            self.assertEqual(list(names.starting_with(typed, server)), [])
        names.close()
