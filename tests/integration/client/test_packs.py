"""Several small files in one reply, requested by a blocking session."""

from __future__ import annotations

from natproxy.client import (
    Address,
    ConnectionBroken,
    NotUnderstood,
    Session,
    Unsupported,
    UsageError,
)
from natproxy.client.requests import Pack
from natproxy.protocol import MAX_PACKED, NOT_FOUND, TOO_LARGE, abilities
from tests.support.answering_server import Version2, metadata_of
from tests.support.blocking_sessions import FILES, SessionCase
from tests.support.scripted_server import Scene, ScriptedServer

FEAT = (b"FEAT\n", b"OK\n" + abilities() + b"END\n")
ONE = b"error=404 a\n"
REPLY = b"OK %d\n%b" % (len(ONE), ONE)
STAT = (b"STAT a\n", b"OK type=file size=3 mtime=1.0 etag=e\n")


class PackTests(SessionCase):
    def play(self, *scenes: Scene, timeout: float = 10) -> Session:
        """Return a session with a server that plays the scenes."""
        self.played = ScriptedServer(*scenes)
        session = Session(Address("127.0.0.1", self.played.port), timeout)
        self.addCleanup(self.played.close)
        self.addCleanup(session.close)
        self.assertTrue(session.offers(b"PACK"))
        return session

    def test_files_and_errors(self) -> None:
        files = {**FILES, b"large": bytes(MAX_PACKED + 1)}
        session = self.serve(Version2(files))
        names = [b"s/\xff\n", b"no", b"large", b"b c", b"a"]
        packed = session.pack(names)
        self.assertEqual([record.name for record in packed], names)
        self.assertEqual([record.code for record in packed], [0, NOT_FOUND, TOO_LARGE, 0, 0])
        for name, metadata, data, code in packed:
            if not code:
                self.assertEqual((metadata, data), (metadata_of(files[name]), files[name]))
        self.assertEqual(session.pack([]), [])

    def test_single_name_is_not_taken_for_several(self) -> None:
        session = self.serve(Version2(FILES))
        for name in ("a", b"a"):
            self.assertRaises(UsageError, session.pack, name)
        self.assertEqual(self.server.lines, [])

    def test_more_files_than_one_reply_holds(self) -> None:
        files = {b"%d" % number: bytes([number]) * 60_000 for number in range(50)}
        session = self.serve(Version2(files))
        packed = session.pack(files)
        self.assertEqual({name: data for name, _, data, _ in packed}, files)
        self.assertEqual([line[:4] for line in self.server.lines], [b"FEAT"] + [b"PACK"] * 3)

    def test_reply_that_is_not_understood_turns_it_off_for_the_session(self) -> None:
        for reply in (b"what?\n", b"OK 0\n", b"OK 12\nerror=404 b\n", b"OK 24\n" + ONE * 2):
            session = self.play([FEAT, (b"PACK a\n", reply)], [STAT])
            error = self.assertRaises(Unsupported, session.run, Pack(["a"]))
            self.assertIsInstance(error.__cause__, NotUnderstood)
            self.assertFalse(session.offers(b"PACK"))
            self.assertRaises(Unsupported, session.pack, ["a"])
            # Over a connection of its own: the rest of the reply is not read.
            self.assertEqual(session.stat("a").size, 3)

    def test_old_proxy_that_relays_feat_and_not_this_is_used_without_it(self) -> None:
        session = self.play([FEAT, (b"PACK a\n", b"ERR unknown command\n"), STAT])
        self.assertRaises(Unsupported, session.pack, ["a"])
        self.assertEqual(session.stat("a").size, 3)
        self.assertFalse(session.offers(b"PACK"))

    def test_first_reply_that_is_cut_off_turns_it_off_and_a_later_one_does_not(self) -> None:
        session = self.play([FEAT, (b"PACK a\n", b"OK 12\nerror")], [STAT])
        self.assertRaises(Unsupported, session.pack, ["a"])
        self.assertEqual(session.stat("a").size, 3)
        self.assertFalse(session.offers(b"PACK"))
        session = self.play(
            [FEAT, STAT, (b"PACK a\n", REPLY), (b"PACK a\n", b"OK 12\nerror")],
            [(b"PACK a\n", REPLY)],
        )
        # A reply of version 2 does not show what else can be framed.
        session.stat("a")
        session.pack(["a"])
        self.assertRaises(ConnectionBroken, session.pack, ["a"])
        self.assertEqual(session.pack(["a"])[0].code, NOT_FOUND)
