"""Etags of ``content``: file servers of copies agree in them, whichever verb is sent."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.factory import FileServerFactory
from natproxy.kernel.openat2 import choose_opener, open_beneath
from natproxy.protocol import Arguments, format_request, parse_metadata
from natproxy.storage import LocalStorage, RacyTimestamps
from natproxy.storage.local.metadata import replica_metadata_of
from tests.support.doubles import PlayedThread, Wire
from tests.support.storage_suite import NAMES, SETTINGS, TREES, Tree, flatten

MTIMES = st.integers(10**9, 2**32 * 10**9)
"""Times with nanoseconds that every usual file system keeps."""

ETAGS = {
    b"latest": "38f2efff6e8c692d64c73fb9",
    b"current/a": "c89668724be543db69834e10",
}
"""Those of a file of 5 bytes with the mtime 10**18 ns, in all versions of the file server."""


class Server:
    """A file server of a new directory, with one client.

    :ivar top: the path of the directory.
    """

    def __init__(self) -> None:
        self.top = os.fsencode(tempfile.mkdtemp())
        self._thread = PlayedThread()
        racy = RacyTimestamps(Clock().seconds, lambda: 2.0**33, lambda device: True)
        storage = LocalStorage(self.top, racy=racy, describe=replica_metadata_of)
        factory = FileServerFactory(Clock(), storage, self._thread, 600.0)
        self._wire = Wire(9001, 43210)
        self._protocol = factory.buildProtocol(self._wire.getPeer())
        self._protocol.makeConnection(self._wire)

    def close(self) -> None:
        """Lose the client, and remove the directory."""
        self._wire.lose(self._protocol)
        shutil.rmtree(self.top)

    def fill(self, files: Iterable[tuple[bytes, bytes | None]], mtimes: dict[bytes, int]) -> None:
        """Create directories, whose content is ``None``, and files, or write to them in place."""
        for name, content in files:
            path = self.path(name)
            os.makedirs(path if content is None else os.path.dirname(path), exist_ok=True)
            if content is not None:
                with open(path, "wb") as file:
                    file.write(content)
        for name, mtime_ns in mtimes.items():
            os.utime(self.path(name), ns=(0, mtime_ns))

    def path(self, name: bytes) -> bytes:
        """Return the path of a file or a directory."""
        return os.path.join(self.top, name)

    def send(self, command: bytes, meanwhile: Callable[[], None] = lambda: None) -> bytes:
        """Return the whole reply to a command.

        :param meanwhile: called when the command has been received, before a thread runs.
        """
        self._protocol.dataReceived(command)
        meanwhile()
        while self._thread.asked:
            self._thread.run()
        return self._wire.taken()

    def etag(self, name: bytes) -> str:
        return parse_metadata(self.send(request(b"STAT", name))[3:].strip()).etag


def request(verb: bytes, name: bytes, **arguments: Any) -> bytes:
    """Return a command of version 2."""
    return format_request(verb, Arguments(name, **arguments))


def commands(files: list[bytes], directories: list[bytes]) -> list[bytes]:
    """Return commands of every verb about files and directories."""
    names = [*files, *directories]
    verbs = [request(verb, name) for verb in (b"STAT", b"LS") for name in names]
    verbs += [request(verb, name) for verb in (b"GET", b"HASH") for name in files]
    verbs += [request(b"GET", name, offset=0, length=1) for name in files]
    verbs += [b"DOWNLOAD " + name + b"\n" for name in files if name.strip() == name]
    if files:
        verbs.append(format_request(b"PACK", Arguments(names=tuple(files))))
    return [*verbs, b"LS depth=inf\n", b"LIST\n"]


class ReplicaTests(SynchronousTestCase):
    @SETTINGS
    @given(TREES, st.data())
    def test_servers_of_copies_send_equal_replies_to_every_verb(
        self, tree: Tree, data: st.DataObject
    ) -> None:
        found = list(flatten(tree))
        mtimes = {name: data.draw(MTIMES) for name, _ in found}
        files = [name for name, content in found if content is not None]
        directories = [name for name, content in found if content is None]
        with closing(Server()) as first, closing(Server()) as second:
            first.fill(found, mtimes)
            # In another order, so that inodes differ.
            second.fill(found[::-1], mtimes)
            for command in commands(files, directories):
                self.assertEqual(second.send(command), first.send(command), command)
            for name in files:
                command = request(b"GET", name, if_match=first.etag(name))
                self.assertEqual(second.send(command), first.send(command))
                self.assertEqual(first.send(command)[:3], b"OK ")

    @SETTINGS
    @given(
        st.sets(st.sampled_from(("size", "mtime", "name"))), NAMES, st.binary(max_size=3), MTIMES
    )
    def test_it_changes_with_size_mtime_and_name_and_with_nothing_else(
        self, changes: set[str], name: bytes, content: bytes, mtime: int
    ) -> None:
        with closing(Server()) as server:
            server.fill([(name, content)], {name: mtime})
            before = server.etag(name)
            other = content[::-1] + b"+" * ("size" in changes)
            changed = name + b"+" * ("name" in changes)
            server.fill([(changed, other)], {changed: mtime + ("mtime" in changes)})
            after = server.etag(changed)
            self.assertEqual(after != before, bool(changes))
            for command in commands([changed], []):
                # Neither DOWNLOAD nor LIST has etags.
                if command[0] not in b"DL" or command.startswith(b"LS"):
                    self.assertIn(b" etag=%b" % after.encode(), server.send(command), command)
            reply = server.send(request(b"GET", changed, if_match=before))
            refused = b"ERR 412 changed etag=%b\n" % after.encode()
            self.assertEqual(reply == refused, bool(changes))

    @SETTINGS
    @given(st.sets(st.sampled_from(("mtime", "name"))), NAMES, MTIMES)
    def test_that_of_a_directory_changes_with_mtime_and_name(
        self, changes: set[str], name: bytes, mtime: int
    ) -> None:
        with closing(Server()) as first, closing(Server()) as second:
            first.fill([(name, None)], {name: mtime})
            changed = name + b"+" * ("name" in changes)
            # Its size may differ from one file system to another.
            second.fill([(changed + b"/%d" % number, b"") for number in range(40)], {})
            second.fill([], {changed: mtime + ("mtime" in changes)})
            self.assertEqual(second.etag(changed) != first.etag(name), bool(changes))


class LinkTests(SynchronousTestCase):
    """A file is described by the name that the client sends, whatever leads to it."""

    def setUp(self) -> None:
        self.server = Server()
        self.addCleanup(self.server.close)
        self.server.fill([(b"sub/a", b"the a")], {b"sub/a": 10**18})

    def test_two_names_of_a_file_have_two_etags(self) -> None:
        os.link(self.server.path(b"sub/a"), self.server.path(b"b"))
        self.assertNotEqual(self.server.etag(b"b"), self.server.etag(b"sub/a"))

    def test_link_has_one_etag_for_every_verb(self) -> None:
        os.symlink(b"sub/a", self.server.path(b"latest"))
        os.symlink(b"sub", self.server.path(b"current"))
        for name in (b"latest", b"current/a"):
            self.assertEqual(self.server.etag(name), ETAGS[name])
            listing = b"LS current\n" if b"/" in name else b"LS\n"
            pack = format_request(b"PACK", Arguments(names=(name,)))
            word = b" etag=" + ETAGS[name].encode()
            for command in (request(b"GET", name), request(b"HASH", name), listing, pack):
                self.assertIn(word, self.server.send(command), command)

    if choose_opener() is not open_beneath:
        test_link_has_one_etag_for_every_verb.skip = "no openat2 here"  # type: ignore[attr-defined]


class IdentityTests(SynchronousTestCase):
    """What the server itself relies on tells files apart that have one etag."""

    def setUp(self) -> None:
        self.server = Server()
        self.addCleanup(self.server.close)
        self.server.fill([(b"a", b"one")], {b"a": 10**18})
        self.etag = self.server.etag(b"a")

    def test_digest_is_not_that_of_another_file_with_the_etag(self) -> None:
        for content in (b"one", b"two", b"six"):
            self.server.fill([(b"new", content)], {b"new": 10**18})
            os.replace(self.server.path(b"new"), self.server.path(b"a"))
            digest = hashlib.sha256(content).hexdigest().encode()
            expected = b"OK sha256=%b size=3 etag=%b\n" % (digest, self.etag.encode())
            for _ in range(2):
                self.assertEqual(self.server.send(b"HASH a\n"), expected)

    def test_digest_of_a_file_that_is_changed_meanwhile_is_refused(self) -> None:
        path = self.server.path(b"a")
        before = os.stat(path).st_ctime_ns

        def change() -> None:
            # Until the kernel's clock has ticked.
            while os.stat(path).st_ctime_ns == before:
                self.server.fill([(b"a", b"two")], {b"a": 10**18})

        self.assertEqual(self.server.send(b"HASH a\n", change), b"ERR 503 the file is changing\n")
        self.assertEqual(self.server.etag(b"a"), self.etag)
