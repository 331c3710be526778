"""``LS``: pages, and who waits for a thread to make them."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any

from twisted.internet.error import ConnectionLost

from natproxy.fileserver import pages
from natproxy.fileserver.pages import (
    CONCURRENT_PAGES_OF_TREE,
    DEFAULT_LIMIT,
    MAX_LIMIT,
    PageReply,
)
from natproxy.metadata import Entry
from natproxy.protocol import Page, format_entry
from natproxy.server import resets
from natproxy.server.resets import POLL_INTERVAL
from natproxy.server.threads import WORK_TIMEOUT, WorkCancelled
from tests.support.fileserver import Version2Case

NOT_FOUND = b"ERR 404 file not found\n"


class LsTests(Version2Case):
    def page(self, *names: str, more: bool = False) -> bytes:
        """Return the reply with these entries."""
        body = b"".join(
            format_entry(Entry(os.fsencode(name), self.metadata(name))) for name in names
        )
        body += b"more\n" * more
        return b"OK %d\n" % len(body) + body

    def test_directory_and_tree_and_file(self) -> None:
        for arguments, names in (
            (b"", ["a", "sub"]),
            (b" .", ["a", "sub"]),
            (b" depth=2", ["a", "sub", "sub/b=c d"]),
            (b" depth=inf after=a", ["sub", "sub/b=c d"]),
            (b" sub", ["sub/b=c d"]),
            (b" a", ["a"]),
            (b" sub/b%3Dc%20d", ["sub/b=c d"]),
            (b" after=sub", []),
        ):
            reply = self.page(*names)
            self.assertEqual(self.send_and_run(b"LS" + arguments + b"\n"), reply, arguments)
            self.assert_logged("LS", len(reply))

    def test_page_that_is_cut_ends_with_more(self) -> None:
        self.assertEqual(self.send_and_run(b"LS limit=1\n"), self.page("a", more=True))
        self.assertEqual(self.send_and_run(b"LS limit=1 after=a\n"), self.page("sub"))

    def test_size_of_a_page(self) -> None:
        limits: list[int] = []

        def noting(steps: object, limit: int) -> PageReply:
            limits.append(limit)
            return PageReply(Page(), b"")

        self.patch(pages, "make_page", noting)
        for arguments in (b"", b" limit=7", b" limit=10000", b" limit=9223372036854775807"):
            self.assertEqual(self.send_and_run(b"LS" + arguments + b"\n"), b"OK 0\n")
        self.assertEqual(limits, [DEFAULT_LIMIT, 7, MAX_LIMIT, MAX_LIMIT])

    def test_absent_directory(self) -> None:
        for name in (b"b", b"..", b"sub/..", b"a/"):
            self.assertEqual(self.send_and_run(b"LS " + name + b"\n"), NOT_FOUND, name)

    def test_three_pages_at_a_time_and_64_in_the_queue(self) -> None:
        clients = [self.new_client(port) for port in range(50_000, 50_067)]
        for protocol, _ in clients:
            protocol.dataReceived(b"LS\n")
        self.assertEqual(self.thread.calls, 3)
        reply = b"ERR 429 too many listings at once\n"
        self.assertEqual(self.send(b"LS\n"), reply)
        self.assert_logged("LS", len(reply))
        self.assertTrue(self.wire.open)
        for _, client in clients:
            self.thread.run()
            self.assertEqual(client.taken(), self.page("a", "sub"))
        self.assertEqual(self.send_and_run(b"LS\n"), self.page("a", "sub"))

    def test_walks_that_hang_leave_other_trees_to_be_listed(self) -> None:
        (self.files / "quick").mkdir()
        (self.files / "quick" / "a").touch()
        count = 2 * CONCURRENT_PAGES_OF_TREE
        clients = [self.new_client(50_000 + number) for number in range(count)]
        for number, (protocol, _) in enumerate(clients):
            protocol.dataReceived(b"LS\n" if number % 2 else b"LS slow/%d\n" % number)
        hanging = list(self.thread.asked)
        self.assertEqual(len(hanging), count)
        self.thread.asked.clear()
        self.clock.advance(WORK_TIMEOUT)
        refused = b"ERR 503 the storage does not respond\n"
        self.assertEqual({client.taken() for _, client in clients}, {refused})
        self.assertEqual(self.send(b"LS slow/other\n"), refused)
        self.assertEqual(self.send(b"LS\n"), refused)
        self.assertEqual(self.send_and_run(b"LS quick\n"), self.page("quick/a"))

    def test_client_that_disconnects_leaves_the_queue(self) -> None:
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

    def test_page_of_a_client_that_is_gone_is_cancelled(self) -> None:
        failures: list[BaseException] = []
        make_page = pages.make_page

        def noting(*arguments: Any) -> PageReply:
            try:
                return make_page(*arguments)
            except BaseException as error:
                failures.append(error)
                raise

        self.patch(pages, "make_page", noting)
        self.send(b"LS\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.thread.run()
        self.assertIsInstance(failures[0], WorkCancelled)

    def test_entries_that_cannot_be_read_are_counted_in_the_header(self) -> None:
        look = os.stat

        def failing(path: Any, **named: Any) -> os.stat_result:
            if path == b"a":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return look(path, **named)

        sub = self.page("sub").partition(b"\n")[2]
        self.patch(os, "stat", failing)
        body = b"type=unread size=0 mtime=0.0 etag=- a\n" + sub
        self.assertEqual(self.send_and_run(b"LS\n"), b"OK %d unread=1\n%b" % (len(body), body))

    def test_page_that_ends_between_entries_has_after_in_its_header(self) -> None:
        for number in range(5):
            (self.files / f"m{number}").symlink_to("..")
        self.patch(pages, "make_page", partial(pages.make_page, max_steps=4))
        reply = self.send_and_run(b"LS\n")
        self.assertTrue(reply.startswith(b"OK "), reply)
        self.assertIn(b" after=m2\n", reply)
        self.assertTrue(reply.endswith(b"\nmore\n"))
        self.assertEqual(self.send_and_run(b"LS after=m2\n"), self.page("sub"))

    def test_connection_that_was_reset_is_aborted_while_it_waits(self) -> None:
        self.send(b"LS\n")
        self.protocol.readConnectionLost()
        self.clock.advance(POLL_INTERVAL)
        self.assertTrue(self.wire.open)
        self.patch(resets, "is_reset", lambda transport: transport is self.wire)
        self.clock.advance(POLL_INTERVAL)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.journal.ends, ["client-gone"])
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.thread.run()
