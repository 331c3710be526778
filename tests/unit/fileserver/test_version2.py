"""The verbs of version 2, over a real directory and a played thread."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver import protocol as fileserver
from natproxy.fileserver.protocol import (
    LONGEST_PAGE,
    LOOK_AFTER,
    PAGE,
    PAGES_OF_ONE,
    FileServerProtocol,
)
from natproxy.protocol import (
    VERBS,
    Arguments,
    Entry,
    Metadata,
    Page,
    format_entry,
    format_metadata,
    format_request,
    parse_metadata,
)
from natproxy.server.threads import PATIENCE, Abandoned
from natproxy.storage import Directory, Paged, metadata_of
from natproxy.storage.local import directory, tree
from tests.support.doubles import Wire
from tests.unit.fileserver.test_fileserver import FileServerCase

NOT_FOUND = b"ERR 404 file not found\n"
UNAVAILABLE = b"ERR 503 the server cannot open files at present\n"


def no_descriptor(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Version2Case(FileServerCase):
    """Has a file ``a`` and a folder ``folder`` with a file in it."""

    def setUp(self) -> None:
        super().setUp()
        (self.files / "a").write_bytes(b"content of a")
        (self.files / "folder").mkdir()
        (self.files / "folder" / "b=c d").write_bytes(b"inside")
        self.settled = 60.0

    def metadata(self, name: str) -> Metadata:
        return metadata_of(os.stat(self.files / name))

    def ask_thread(self, command: bytes) -> bytes:
        """Send a command that is answered from a thread, and let that return."""
        self.assertEqual(self.ask(command), b"")
        self.thread.run()
        return self.wire.taken()

    def assert_logged(self, verb: str, sent: int) -> None:
        """Assert how the last command's end was logged."""
        event = self.journal.outcomes[-1]
        logged = (event["verb"], event["outcome"], event["bytes"])
        self.assertEqual(logged, (verb, "completed", sent))


class EveryVerbTests(Version2Case):
    def test_each_row_of_the_table_is_answered_and_nothing_else(self) -> None:
        answered = {name for name in dir(FileServerProtocol) if name.startswith("answer_")}
        self.assertEqual(answered, {f"answer_{word.decode()}" for word in VERBS})

    def test_malformed_commands(self) -> None:
        for command, message in (
            (b"STAT", b"no file name given"),
            (b"GET \t", b"no file name given"),
            (b"HASH", b"no file name given"),
            (b"STAT a b", b"unknown argument 'b'"),
            (b"STAT %zz", b"malformed name '%zz'"),
            (b"GET a offset=-1", b"malformed argument 'offset=-1'"),
            (b"GET a offset=1 offset=1", b"unknown argument 'offset=1'"),
            (b"GET a alg=sha256", b"unknown argument 'alg=sha256'"),
            (b"LS limit=0", b"malformed argument 'limit=0'"),
            (b"LS depth=x", b"malformed argument 'depth=x'"),
            (b"FEAT now", b"unknown argument 'now'"),
            (b"HASH a alg=md5", b"unsupported alg 'md5': only sha256"),
        ):
            reply = b"ERR 400 " + message + b"\n"
            self.assertEqual(self.ask(command + b"\n"), reply, command)
            self.assert_logged(command.split()[0].decode(), len(reply))
        self.assertTrue(self.wire.open)
        self.assertEqual(self.thread.calls, 0)

    def test_failure_of_version_1_has_no_code(self) -> None:
        self.assertEqual(self.ask(b"DOWNLOAD b\n"), b"ERR file not found\n")
        self.assertEqual(self.ask(b"FEATURES\n"), b"ERR unknown command\n")
        self.assertEqual(self.ask(b"DOWNLOAD a offset=1\n"), b"ERR file not found\n")

    def test_what_the_server_lacks_is_not_the_files_absence(self) -> None:
        self.factory.directory = Directory(os.fspath(self.files), no_descriptor)
        for command in (b"STAT a\n", b"GET a\n", b"HASH a\n"):
            self.assertEqual(self.ask(command), UNAVAILABLE)
        self.assertEqual(self.ask_thread(b"LS folder\n"), UNAVAILABLE)
        lines = [line for line in self.journal.lines() if "cannot open" in line]
        self.assertEqual(len(lines), 4)
        self.assertIn("cannot open a: [Errno 24]", lines[0])


class UnexpectedErrorTests(Version2Case):
    logged_errors = None

    @pytest.fixture(autouse=True)
    def _logged(self, logged_errors: object) -> None:
        self.logged_errors = logged_errors

    def test_error_that_nobody_has_thought_of(self) -> None:
        def fail(*_: object) -> bytes:
            raise ZeroDivisionError

        self.patch(self.factory.directory, "page", fail)
        self.assertEqual(self.ask_thread(b"LS\n"), b"ERR 500 internal error\n")
        self.assert_logged_error("cannot answer for the served directory")
        self.assertTrue(self.wire.open)

    def test_error_when_the_thread_has_returned_does_not_leave_the_client_waiting(self) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        self.patch(self.factory.relays, "send_bytes", fail)
        self.assertEqual(self.ask_thread(b"LS\n"), b"")
        self.assertTrue(self.wire.aborted)
        self.assert_logged_error("cannot answer 127.0.0.1:43210")
        self.assertEqual(self.journal.outcomes[-1]["outcome"], "error")

    def assert_logged_error(self, line: str) -> None:
        self.journal.line_with(line)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        if self.logged_errors is not None:
            self.logged_errors.flush(ZeroDivisionError)


class FeatTests(Version2Case):
    def test_abilities(self) -> None:
        reply = (
            b"OK\n"
            b"NATPROXY 2\n"
            b"STAT\n"
            b"GET offset length if-match\n"
            b"LS depth after limit\n"
            b"HASH offset length alg\n"
            b"END\n"
        )
        self.assertEqual(self.ask(b"feat\r\n"), reply)
        self.assert_logged("FEAT", len(reply))


class StatTests(Version2Case):
    def test_file_and_folders(self) -> None:
        for name, path in ((b"a", "a"), (b"folder", "folder"), (b".", "."), (b"%2E", ".")):
            reply = b"OK " + format_metadata(self.metadata(path)) + b"\n"
            self.assertEqual(self.ask(b"STAT " + name + b"\n"), reply)
            self.assert_logged("STAT", len(reply))
        self.assertIn(b"type=file size=12 mtime=", self.ask(b"STAT a\n"))
        self.assertIn(b"type=file size=6 mtime=", self.ask(b"STAT folder/b=c%20d\n"))
        self.assertIn(b"type=dir size=0 mtime=", self.ask(b"STAT .\n"))

    def test_any_name_can_be_written(self) -> None:
        for name in (b"two\nlines", b"%41", b"\xff\x00\x01".replace(b"\0", b""), b" ", b"END"):
            path = os.path.join(os.fsencode(self.files), name)
            with open(path, "wb") as file:
                file.write(b"x")
            reply = self.ask(format_request(b"STAT", Arguments(name)))
            self.assertEqual(parse_metadata(reply[3:]), metadata_of(os.stat(path)))

    def test_what_is_not_served(self) -> None:
        os.mkfifo(self.files / "fifo")
        (self.outside / "secret").touch()
        (self.files / "link").symlink_to("../secret")
        for name in (b"b", b"..", b"../secret", b"link", b"fifo", b"folder/", b"a%00", b"/"):
            reply = self.ask(b"STAT " + name + b"\n")
            self.assertEqual(reply, NOT_FOUND, name)
            self.assert_logged("STAT", len(reply))


class LsTests(Version2Case):
    def page(self, *names: str, more: bool = False) -> bytes:
        """Say what the reply with these entries is."""
        body = b"".join(
            format_entry(Entry(os.fsencode(name), self.metadata(name))) for name in names
        )
        body += b"more\n" * more
        return b"OK %d\n" % len(body) + body

    def test_folder_and_tree_and_file(self) -> None:
        for arguments, names in (
            (b"", ["a", "folder"]),
            (b" .", ["a", "folder"]),
            (b" depth=2", ["a", "folder", "folder/b=c d"]),
            (b" depth=inf after=a", ["folder", "folder/b=c d"]),
            (b" folder", ["folder/b=c d"]),
            (b" a", ["a"]),
            (b" folder/b%3Dc%20d", ["folder/b=c d"]),
            (b" after=folder", []),
        ):
            reply = self.page(*names)
            self.assertEqual(self.ask_thread(b"LS" + arguments + b"\n"), reply, arguments)
            self.assert_logged("LS", len(reply))

    def test_page_that_is_cut_says_so(self) -> None:
        self.assertEqual(self.ask_thread(b"LS limit=1\n"), self.page("a", more=True))
        self.assertEqual(self.ask_thread(b"LS limit=1 after=a\n"), self.page("folder"))

    def test_size_of_a_page(self) -> None:
        limits: list[int] = []

        def page(
            name: bytes, depth: float, after: bytes, limit: int, check: Callable[[], None]
        ) -> Paged:
            limits.append(limit)
            return Paged(b"", Page())

        self.patch(self.factory.directory, "page", page)
        for arguments in (b"", b" limit=7", b" limit=10000", b" limit=9223372036854775807"):
            self.assertEqual(self.ask_thread(b"LS" + arguments + b"\n"), b"OK 0\n")
        self.assertEqual(limits, [PAGE, 7, LONGEST_PAGE, LONGEST_PAGE])

    def test_folder_that_is_not_there(self) -> None:
        for name in (b"b", b"..", b"folder/..", b"a/"):
            self.assertEqual(self.ask_thread(b"LS " + name + b"\n"), NOT_FOUND, name)

    def test_three_at_a_time_and_64_in_line(self) -> None:
        clients = [self.new_client(port) for port in range(50_000, 50_067)]
        for protocol, _ in clients:
            protocol.dataReceived(b"LS\n")
        self.assertEqual(self.thread.calls, 3)
        reply = b"ERR 429 too many listings at once\n"
        self.assertEqual(self.ask(b"LS\n"), reply)
        self.assert_logged("LS", len(reply))
        self.assertTrue(self.wire.open)
        for _, client in clients:
            self.thread.run()
            self.assertEqual(client.taken(), self.page("a", "folder"))
        self.assertEqual(self.ask_thread(b"LS\n"), self.page("a", "folder"))

    def test_walks_that_hang_leave_other_trees_to_be_listed(self) -> None:
        (self.files / "quick").mkdir()
        (self.files / "quick" / "a").touch()
        clients = [self.new_client(50_000 + number) for number in range(2 * PAGES_OF_ONE)]
        for number, (protocol, _) in enumerate(clients):
            protocol.dataReceived(b"LS\n" if number % 2 else b"LS slow/%d\n" % number)
        hanging = list(self.thread.asked)
        self.assertEqual(len(hanging), 2 * PAGES_OF_ONE)
        self.thread.asked.clear()
        self.clock.advance(PATIENCE)
        refused = b"ERR 503 the storage does not respond\n"
        self.assertEqual({client.taken() for _, client in clients}, {refused})
        self.assertEqual(self.ask(b"LS slow/other\n"), refused)
        self.assertEqual(self.ask(b"LS\n"), refused)
        self.assertEqual(self.ask_thread(b"LS quick\n"), self.page("quick/a"))

    def test_client_that_goes_leaves_the_line(self) -> None:
        clients = [self.new_client(port) for port in range(50_000, 50_005)]
        for protocol, _ in clients:
            protocol.dataReceived(b"LS\n")
        for protocol, client in clients[2:4]:
            client.lose(protocol, ConnectionLost())
        for _ in range(4):
            self.thread.run()
        self.assertEqual((self.thread.calls, self.thread.asked), (4, []))
        taken = [bool(client.taken()) for _, client in clients]
        self.assertEqual(taken, [True] * 2 + [False] * 2 + [True])
        self.assertEqual(self.journal.ends, ["client-gone"] * 2 + ["completed"] * 3)

    def test_page_that_nobody_waits_for_is_given_up(self) -> None:
        failures: list[BaseException] = []
        page = self.factory.directory.page

        def noting(*arguments: Any) -> Paged:
            try:
                return page(*arguments)
            except BaseException as error:
                failures.append(error)
                raise

        self.patch(self.factory.directory, "page", noting)
        self.ask(b"LS\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.thread.run()
        self.assertIsInstance(failures[0], Abandoned)

    def test_entries_that_cannot_be_read_are_counted_in_the_header(self) -> None:
        look = os.stat

        def failing(path: Any, **named: Any) -> os.stat_result:
            if path == b"a":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return look(path, **named)

        folder = self.page("folder").partition(b"\n")[2]
        self.patch(os, "stat", failing)
        body = b"type=unread size=0 mtime=0.0 etag=- a\n" + folder
        self.assertEqual(self.ask_thread(b"LS\n"), b"OK %d unread=1\n%b" % (len(body), body))

    def test_page_that_ends_among_what_is_not_listed_says_where_to_go_on(self) -> None:
        for number in range(5):
            (self.files / f"m{number}").symlink_to("..")
        page_of = tree.page_of
        self.patch(directory, "page_of", partial(page_of, looks=4))
        reply = self.ask_thread(b"LS\n")
        self.assertTrue(reply.startswith(b"OK "), reply)
        self.assertIn(b" after=m1\n", reply)
        self.assertTrue(reply.endswith(b"\nmore\n"))
        self.assertEqual(self.ask_thread(b"LS after=m1\n"), b"OK 0\n")

    def test_client_whose_connection_was_reset_unseen_is_given_up(self) -> None:
        self.ask(b"LS\n")
        self.clock.advance(LOOK_AFTER)
        self.assertTrue(self.wire.open)
        self.patch(fileserver, "is_reset", lambda transport: transport is self.wire)
        self.clock.advance(LOOK_AFTER)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.journal.ends, ["client-gone"])
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.thread.run()


class ResetTests(SynchronousTestCase):
    """What the kernel says of a socket that nobody reads from."""

    def test_half_closed_is_not_reset_and_reset_is(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
        transport = SimpleNamespace(getHandle=lambda: server)
        with listening, client, server:
            self.assertFalse(fileserver.is_reset(transport))
            client.shutdown(socket.SHUT_WR)
            self.assertFalse(fileserver.is_reset(transport))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            self.assertTrue(fileserver.is_reset(transport))
        self.assertFalse(fileserver.is_reset(transport))
        self.assertFalse(fileserver.is_reset(object()))

    def test_below_tls_and_the_proxy_header(self) -> None:
        class TLS(ProtocolWrapper):
            def getHandle(self) -> object:
                # OpenSSL's connection: it has no descriptor.
                return object()

        client, server = socket.socketpair()
        inner = TLS(WrappingFactory(Factory()), Protocol())
        inner.transport = SimpleNamespace(getHandle=lambda: server)
        outer = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        outer.transport = inner
        with client, server:
            for transport in (inner, outer):
                self.assertFalse(fileserver.is_reset(transport))
            client.close()
            for transport in (inner, outer):
                self.assertTrue(fileserver.is_reset(transport))
        inner.transport = SimpleNamespace(getHandle=object)
        self.assertFalse(fileserver.is_reset(outer))


class HashTests(Version2Case):
    def digest(self, content: bytes) -> bytes:
        """Say what the reply is, if this is what is asked for of ``a``."""
        size, etag = self.metadata("a").size, self.metadata("a").etag
        sha256 = hashlib.sha256(content).hexdigest()
        return f"OK sha256={sha256} size={size} etag={etag}\n".encode()

    def test_whole_and_parts(self) -> None:
        for arguments, content in (
            (b"", b"content of a"),
            (b" alg=sha256 offset=8", b"of a"),
            (b" length=7", b"content"),
            (b" offset=8 length=2", b"of"),
            (b" offset=11 length=9223372036854775807", b"a"),
            (b" offset=12", b""),
            (b" length=0", b""),
        ):
            first = b"HASH a" + arguments + b"\n"
            calls = self.thread.calls
            reply = self.ask(first)
            if self.thread.calls > calls:
                self.thread.run()
                reply = self.wire.taken()
            self.assertEqual(reply, self.digest(content), arguments)
            self.assert_logged("HASH", len(reply))

    def test_beyond_the_end(self) -> None:
        self.assertEqual(self.ask(b"HASH a offset=13\n"), b"ERR 416 range size=12\n")

    def test_what_is_not_served(self) -> None:
        for name in (b"b", b"folder", b".", b".."):
            self.assertEqual(self.ask(b"HASH " + name + b"\n"), NOT_FOUND, name)

    def test_second_question_is_answered_at_once(self) -> None:
        self.ask_thread(b"HASH a\n")
        self.assertEqual(self.ask(b"HASH a\nHASH a\n"), self.digest(b"content of a") * 2)

    def test_changing_file(self) -> None:
        self.assertEqual(self.ask(b"HASH a\n"), b"")
        os.truncate(self.files / "a", 3)
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"ERR 503 the file is changing\n")
        self.assertTrue(self.wire.open)

    def test_too_many_at_once(self) -> None:
        clients = [self.new_client(port) for port in range(50_000, 50_066)]
        for number, (protocol, _) in enumerate(clients):
            (self.files / str(number)).write_bytes(b"%d" % number)
            protocol.dataReceived(b"HASH %d\n" % number)
        self.assertEqual(self.ask(b"HASH a\n"), b"ERR 429 too many digests at once\n")
        for _, client in clients:
            self.thread.run()
            self.assertTrue(client.taken().startswith(b"OK sha256="))

    def test_proxy_that_has_not_waited_for_it_may_ask_again(self) -> None:
        self.ask(b"HASH a\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.thread.run()
        self.protocol, self.wire = self.new_client(43_211)
        self.assertEqual(self.ask_thread(b"HASH a\n"), self.digest(b"content of a"))
        self.assertEqual(self.journal.ends, ["client-gone", "completed"])

    def test_drained_client_gets_its_digest(self) -> None:
        self.ask(b"HASH a\n")
        drained = self.factory.drain()
        self.thread.run()
        self.assertEqual(self.wire.taken(), self.digest(b"content of a"))
        self.assertTrue(self.wire.disconnecting)
        self.wire.lose(self.protocol)
        self.successResultOf(drained)

    def test_digest_that_nobody_waits_for_stops_when_all_are_drained(self) -> None:
        self.ask(b"HASH a\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.successResultOf(self.factory.drain())
        self.thread.run()
        self.protocol, self.wire = self.new_client(43_211)
        # It was stopped: nothing is known of it.
        self.assertEqual(self.ask_thread(b"HASH a\n"), self.digest(b"content of a"))
        self.assertEqual(self.thread.calls, 2)

    def test_digests_stop_when_clients_are_cut_off(self) -> None:
        clients: list[tuple[FileServerProtocol, Wire]] = []
        for length in range(4):
            clients.append(self.new_client(50_000 + length))
            clients[-1][0].dataReceived(b"HASH a length=%d\n" % length)
        drained = self.factory.drain()
        self.factory.abort()
        self.assertEqual(self.journal.ends, ["drained"] * 4)
        self.thread.run()
        self.thread.run()
        self.assertEqual((self.thread.calls, self.thread.asked), (2, []))
        self.assertEqual(self.open_descriptors(), self.descriptors)
        for protocol, client in clients:
            self.assertTrue(client.aborted)
            self.assertEqual(client.taken(), b"")
            client.lose(protocol)
        self.wire.lose(self.protocol)
        self.successResultOf(drained)
