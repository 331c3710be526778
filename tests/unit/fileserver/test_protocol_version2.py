"""The verbs of version 2 over a local directory, except ``GET`` and ``LS``."""

from __future__ import annotations

import errno
import hashlib
import os

from twisted.internet.error import ConnectionLost

from natproxy.fileserver import pages
from natproxy.fileserver.protocol import FileServerProtocol
from natproxy.protocol import VERBS, Arguments, format_metadata, format_request, parse_metadata
from natproxy.storage import LocalStorage
from natproxy.storage.local.metadata import metadata_of
from tests.support.doubles import Wire
from tests.support.files import open_descriptors
from tests.support.fileserver import Version2Case
from tests.support.logged_errors import LoggedErrorsCase

NOT_FOUND = b"ERR 404 file not found\n"
UNAVAILABLE = b"ERR 503 the server cannot open files at present\n"


def no_descriptor(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class EveryVerbTests(Version2Case):
    def test_each_verb_of_the_table_but_auth_has_a_method_and_no_other(self) -> None:
        methods = {name for name in dir(FileServerProtocol) if name.startswith("command_")}
        methods -= {"command_received", "command_units"}
        self.assertEqual(methods, {f"command_{word.decode()}" for word in VERBS if word != b"AUTH"})

    def test_malformed_commands(self) -> None:
        for command, message in (
            (b"STAT", b"missing file name"),
            (b"GET \t", b"missing file name"),
            (b"HASH", b"missing file name"),
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
            self.assertEqual(self.send(command + b"\n"), reply, command)
            self.assert_logged(command.split()[0].decode(), len(reply))
        self.assertTrue(self.wire.open)
        self.assertEqual(self.thread.calls, 0)

    def test_failure_of_version_1_has_no_code(self) -> None:
        self.assertEqual(self.send(b"DOWNLOAD b\n"), b"ERR file not found\n")
        self.assertEqual(self.send(b"FEATURES\n"), b"ERR unknown command\n")
        self.assertEqual(self.send(b"DOWNLOAD a offset=1\n"), b"ERR file not found\n")

    def test_lack_of_descriptors_is_not_reported_as_not_found(self) -> None:
        self.lose_clients()
        self.serve(LocalStorage(os.fspath(self.files), no_descriptor))
        for verb in (b"STAT", b"GET", b"HASH"):
            self.assertEqual(self.send(verb + b" sub/b=c%20d\n"), UNAVAILABLE)
        self.assertEqual(self.send_and_run(b"LS sub\n"), UNAVAILABLE)
        lines = [line for line in self.journal.lines() if "cannot open" in line]
        self.assertEqual(len(lines), 4)
        self.assertIn("cannot open sub/b=c d: [Errno 24]", lines[0])


class UnexpectedErrorTests(LoggedErrorsCase, Version2Case):
    def test_unexpected_exception_in_a_thread(self) -> None:
        def fail(*_: object) -> bytes:
            raise ZeroDivisionError

        self.patch(pages, "make_page", fail)
        self.assertEqual(self.send_and_run(b"LS\n"), b"ERR 500 internal error\n")
        self.assert_logged_error("cannot reply for the served directory")
        self.assertTrue(self.wire.open)

    def test_unexpected_exception_after_the_thread_has_returned_aborts(self) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        self.patch(self.protocol, "_send_bytes", fail)
        self.assertEqual(self.send_and_run(b"LS\n"), b"")
        self.assertTrue(self.wire.aborted)
        self.assert_logged_error("cannot reply to 127.0.0.1:43210")
        self.assertEqual(self.journal.outcomes[-1]["outcome"], "error")

    def assert_logged_error(self, line: str) -> None:
        self.journal.line_with(line)
        self.assertEqual(self.flush(ZeroDivisionError), 1)


class FeatTests(Version2Case):
    def test_abilities(self) -> None:
        reply = (
            b"OK\n"
            b"NATPROXY 2\n"
            b"STAT\n"
            b"GET offset length if-match\n"
            b"LS depth after limit\n"
            b"PACK\n"
            b"HASH offset length alg\n"
            b"END\n"
        )
        self.assertEqual(self.send(b"feat\r\n"), reply)
        self.assert_logged("FEAT", len(reply))


class StatTests(Version2Case):
    def test_file_and_directories(self) -> None:
        for name, path in ((b"a", "a"), (b"sub", "sub"), (b".", "."), (b"%2E", ".")):
            reply = b"OK " + format_metadata(self.metadata(path)) + b"\n"
            self.assertEqual(self.send(b"STAT " + name + b"\n"), reply)
            self.assert_logged("STAT", len(reply))
        self.assertIn(b"type=file size=12 mtime=", self.send(b"STAT a\n"))
        self.assertIn(b"type=file size=6 mtime=", self.send(b"STAT sub/b=c%20d\n"))
        self.assertIn(b"type=dir size=0 mtime=", self.send(b"STAT .\n"))

    def test_any_name_can_be_written(self) -> None:
        for name in (b"two\nlines", b"%41", b"\xff\x00\x01".replace(b"\0", b""), b" ", b"END"):
            path = os.path.join(os.fsencode(self.files), name)
            with open(path, "wb") as file:
                file.write(b"x")
            reply = self.send(format_request(b"STAT", Arguments(name)))
            self.assertEqual(parse_metadata(reply[3:]), metadata_of(os.stat(path)))

    def test_what_is_not_served(self) -> None:
        os.mkfifo(self.files / "fifo")
        (self.outside / "secret").touch()
        (self.files / "link").symlink_to("../secret")
        for name in (b"b", b"..", b"../secret", b"link", b"fifo", b"sub/", b"a%00", b"/"):
            reply = self.send(b"STAT " + name + b"\n")
            self.assertEqual(reply, NOT_FOUND, name)
            self.assert_logged("STAT", len(reply))


class HashTests(Version2Case):
    def digest(self, content: bytes) -> bytes:
        """Return the reply with the digest of a part of ``a``."""
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
            reply = self.send(first)
            if self.thread.calls > calls:
                self.thread.run()
                reply = self.wire.taken()
            self.assertEqual(reply, self.digest(content), arguments)
            self.assert_logged("HASH", len(reply))

    def test_beyond_the_end(self) -> None:
        self.assertEqual(self.send(b"HASH a offset=13\n"), b"ERR 416 range size=12\n")

    def test_what_is_not_served(self) -> None:
        for name in (b"b", b"sub", b".", b".."):
            self.assertEqual(self.send(b"HASH " + name + b"\n"), NOT_FOUND, name)

    def test_second_command_is_replied_to_at_once(self) -> None:
        self.send_and_run(b"HASH a\n")
        self.assertEqual(self.send(b"HASH a\nHASH a\n"), self.digest(b"content of a") * 2)

    def test_changing_file(self) -> None:
        self.assertEqual(self.send(b"HASH a\n"), b"")
        os.truncate(self.files / "a", 3)
        self.thread.run()
        self.assertEqual(self.wire.taken(), b"ERR 503 the file is changing\n")
        self.assertTrue(self.wire.open)

    def test_too_many_at_once(self) -> None:
        clients = [self.new_client(port) for port in range(50_000, 50_066)]
        for number, (protocol, _) in enumerate(clients):
            (self.files / str(number)).write_bytes(b"%d" % number)
            protocol.dataReceived(b"HASH %d\n" % number)
        self.assertEqual(self.send(b"HASH a\n"), b"ERR 429 too many digests at once\n")
        for _, client in clients:
            self.thread.run()
            self.assertTrue(client.taken().startswith(b"OK sha256="))

    def test_digest_can_be_requested_again_after_the_client_has_gone(self) -> None:
        self.send(b"HASH a\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.thread.run()
        self.protocol, self.wire = self.new_client(43_211)
        self.assertEqual(self.send_and_run(b"HASH a\n"), self.digest(b"content of a"))
        self.assertEqual(self.journal.ends, ["client-gone", "completed"])

    def test_drained_client_gets_its_digest(self) -> None:
        self.send(b"HASH a\n")
        drained = self.factory.drain()
        self.thread.run()
        self.assertEqual(self.wire.taken(), self.digest(b"content of a"))
        self.assertTrue(self.wire.disconnecting)
        self.wire.lose(self.protocol)
        self.successResultOf(drained)

    def test_suspended_digest_is_dropped_when_all_clients_are_drained(self) -> None:
        self.send(b"HASH a\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.successResultOf(self.factory.drain())
        self.thread.run()
        self.protocol, self.wire = self.new_client(43_211)
        # It was stopped: nothing is known of it.
        self.assertEqual(self.send_and_run(b"HASH a\n"), self.digest(b"content of a"))
        self.assertEqual(self.thread.calls, 2)

    def test_digests_are_cancelled_when_clients_are_aborted(self) -> None:
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
        self.assertEqual(open_descriptors(), self.descriptors)
        for protocol, client in clients:
            self.assertTrue(client.aborted)
            self.assertEqual(client.taken(), b"")
            client.lose(protocol)
        self.wire.lose(self.protocol)
        self.successResultOf(drained)
