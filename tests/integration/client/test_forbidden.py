"""Names that a rule denies: reported one by one, and the others are received."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from natproxy.address import Address
from natproxy.client import Forbidden, Session
from natproxy.client.blocking.execution import run_steps
from natproxy.client.requests import pack_steps
from natproxy.client.transfer.batch import download_all
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest
from natproxy.client.transfer.small_files import MOST_DENIALS
from natproxy.fs.filesystem import NatproxyFileSystem
from natproxy.protocol import FORBIDDEN, encode_name, parse_command, parse_names
from tests.support.answering_server import AnsweringServer, Version2
from tests.support.commands import CommandCase

FILES = {b"a": b"1", b"b c": b"2", b"d": b"3", b"s/e": b"4", b"s/f": b"5"}


def denying(denied: Callable[[bytes], bool], files: dict[bytes, bytes]) -> Any:
    """Return the replies of a server with a rule for names."""
    allowed = Version2(files)

    def reply(line: bytes) -> bytes:
        command = parse_command(line)
        assert command is not None
        if command.verb == b"PACK":
            for name in parse_names(command):
                if denied(name):
                    return b"ERR 403 forbidden name=%b\n" % encode_name(name)
        elif command.verb not in (b"FEAT", b"LIST", b"LS") and denied(
            command.name.split()[0].replace(b"%20", b" ")
        ):
            return b"ERR 403 forbidden\n"
        return allowed(line)

    return reply


class DenyingCase(CommandCase):
    def serve(self, reply: Any) -> AnsweringServer:
        server = AnsweringServer(reply)
        self.addCleanup(server.close)
        return server

    def session(self, server: AnsweringServer) -> Session:
        session = Session(Address("127.0.0.1", server.port), timeout=10)
        self.addCleanup(session.close)
        return session

    def packs(self, server: AnsweringServer) -> int:
        server.close()
        return sum(line.startswith(b"PACK") for line in server.lines)


class PackTests(DenyingCase):
    def test_denied_names_have_their_code_and_the_others_their_bytes(self) -> None:
        server = self.serve(denying(lambda name: name in (b"b c", b"s/e"), FILES))
        names = [b"b c", b"a", b"s/e", b"none", b"b c", b"s/f"]
        records = self.session(server).pack(names)
        found = [(record.name, bytes(record.data), record.code) for record in records]
        self.assertEqual(
            found,
            [
                (b"b c", b"", FORBIDDEN),
                (b"a", b"1", 0),
                (b"s/e", b"", FORBIDDEN),
                (b"none", b"", 404),
                (b"b c", b"", FORBIDDEN),
                (b"s/f", b"5", 0),
            ],
        )

    def test_all_are_denied(self) -> None:
        server = self.serve(denying(lambda name: True, FILES))
        records = self.session(server).pack([b"a", b"d"])
        self.assertEqual([record.code for record in records], [FORBIDDEN, FORBIDDEN])

    def test_server_that_names_no_name_or_another_one(self) -> None:
        for text in (b"forbidden", b"forbidden name=other", b"forbidden name=%"):
            reply = b"ERR 403 " + text + b"\n"
            version_2 = Version2(FILES)
            server = self.serve(
                lambda line, reply=reply, other=version_2: (
                    reply if line.startswith(b"PACK") else other(line)
                )
            )
            self.assertRaises(Forbidden, self.session(server).pack, [b"a", b"d"])
            self.assertEqual(self.packs(server), 1)

    def test_each_reply_excludes_a_name(self) -> None:
        # A server that names the same name for ever.
        error = Forbidden("forbidden")
        error.denied = b"a"
        sent = []

        def run(request: Any) -> Any:
            sent.append(request.arguments.names)
            raise error

        with self.assertRaises(Forbidden):
            run_steps(pack_steps([b"a", b"b"]), run)
        self.assertEqual(sent, [(b"a", b"b"), (b"b",)])


class GetTests(DenyingCase):
    def test_others_are_saved_and_each_denied_one_is_reported(self) -> None:
        server = self.serve(denying(lambda name: name in (b"b c", b"s/e"), FILES))
        directory = self.mktemp()
        os.makedirs(directory)
        names = [name.decode() for name in FILES]
        status, _, err = self.main(
            "get", "--server", server.server_address, *names, "-o", directory
        )
        self.assertEqual(status, 14, err)
        saved = sorted(
            os.path.relpath(os.path.join(at, name), directory)
            for at, _, found in os.walk(directory)
            for name in found
        )
        self.assertEqual(len(saved), 3, saved)
        self.assertIn("natproxy: b c: forbidden by a rule of the server\n", err)
        self.assertIn("natproxy: s/e: forbidden by a rule of the server\n", err)
        self.assertEqual(err.count("forbidden"), 2)

    def test_server_that_denies_for_ever_is_bounded(self) -> None:
        files = {b"%03d" % number: b"x" for number in range(100)}
        server = self.serve(denying(lambda name: True, files))
        session = self.session(server)
        directory = self.mktemp()
        requests = [
            DownloadRequest(name, os.fsencode(os.path.join(directory, name.decode())))
            for name in files
        ]
        results = download_all(session, requests, DownloadOptions())
        self.assertEqual({type(each) for each in results}, {Forbidden})
        self.assertLessEqual(self.packs(server), MOST_DENIALS + 1)


class FilesystemTests(DenyingCase):
    def test_cat_of_many(self) -> None:
        server = self.serve(denying(lambda name: name == b"d", FILES))
        fs = NatproxyFileSystem("127.0.0.1", server.port, skip_instance_cache=True)
        cat = fs.cat(["/a", "/d", "/s/e"], on_error="return")
        found = {name.lstrip("/"): each for name, each in cat.items()}
        self.assertEqual((found["a"], found["s/e"]), (b"1", b"4"))
        self.assertIsInstance(found["d"], PermissionError)
        with contextlib.suppress(AttributeError):
            fs.close()
