"""A client is erased: nowhere in the files, marked, and unknown where it was."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

from natproxy.journal import erase
from natproxy.journal.directory import JournalError
from natproxy.journal.erase import erase_client
from natproxy.journal.rows import ERASED
from natproxy.journal.search import Journal
from natproxy.journal.segment import connect
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.whois import FOUND, UNKNOWN, WhoisQuery
from tests.support.journal_runs import NAT, SECOND, RunsCase

PORT = 50_000
CLIENT = "192.0.2.17"


class EraseTests(RunsCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.start()

    def translation(self, client: str) -> int:
        """Have a translation of a second; return a time in it."""
        serial = self.daemon.register(PORT, client, name="secret-name.iso")
        self.daemon.wait(SECOND)
        self.daemon.remove(serial)
        self.daemon.wait(SECOND)
        return self.daemon.now - 2 * SECOND + 10

    def content(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.directory.iterdir()))

    def test_sealed_and_stopped_segments_have_nothing_of_it_any_more(self) -> None:
        erased = self.translation(CLIENT)
        kept = self.translation("192.0.2.18")
        self.daemon.act("kill", f"client {CLIENT} and verb GET")
        self.daemon.seal()
        later = self.translation(f"::ffff:{CLIENT}")
        self.daemon.stop()
        self.assertIn(CLIENT.encode(), self.content())
        with Journal(str(self.directory)) as journal:
            # One that has the segments open sees the change.
            self.assertEqual(
                journal.whois(WhoisQuery(PORT, since=erased, until=erased)).result, FOUND
            )
            erasures = erase_client(str(self.directory), CLIENT)
            self.assertEqual(
                [(erasure.rows, erasure.failure) for erasure in erasures], 2 * [(1, None)]
            )
            for time in (erased, later):
                answer = journal.whois(WhoisQuery(PORT, since=time, until=time))
                assert answer.gap is not None
                self.assertEqual(
                    (answer.result, answer.gap.cause), (UNKNOWN, "entries were erased")
                )
                (record,) = answer.translations
                self.assertEqual(
                    (record.client, record.client_port, record.name, record.reason),
                    (None, None, "", ERASED),
                )
            self.assertEqual(journal.whois(WhoisQuery(PORT, since=kept, until=kept)).result, FOUND)
            self.assertEqual([check.problems for check in journal.verify()], [(), ()])
        content = self.content()
        self.assertNotIn(CLIENT.encode(), content)
        self.assertEqual(content.count(b"secret-name.iso"), 1)
        self.assertEqual(erase_client(str(self.directory), CLIENT), [])
        self.assertEqual(list(self.directory.glob("*erasing*")), [])

    def test_names_and_reasons_of_others_do_not_mention_it_any_more(self) -> None:
        names = {
            f"logs/{CLIENT}.txt": "logs/erased.txt",
            f"{CLIENT}0/a": f"{CLIENT}0/a",
            "192%2E0.2.17": "",
            f"v6-::ffff:{CLIENT}": "v6-erased",
            "10.0.0.5": "10.0.0.5",
            "a:b": "a:b",
            f"a/{CLIENT} and 3 others, 10.0.0.5 192%2E0.2.17 b:c": "a/erased",
        }
        for name in names:
            self.daemon.remove(self.daemon.register(PORT, "192.0.2.18", name=name))
        self.daemon.seal()
        # There is no entry of the client at all.
        self.daemon.act("kill", f"client {CLIENT} or client 192.0.2.18")
        self.daemon.stop()
        (erasure,) = erase_client(str(self.directory), CLIENT)
        self.assertEqual((erasure.rows, erasure.failure), (4, None))
        self.assertNotIn(CLIENT.encode(), self.content().replace(f"{CLIENT}0/a".encode(), b""))
        with Journal(str(self.directory)) as journal:
            found = [record.name for record in journal.history(HistoryQuery())]
            self.assertEqual(found, list(names.values()))
            (packed,) = journal.history(HistoryQuery("files > 1"))
            self.assertEqual(
                (packed.files, (packed.others or "").split()), (4, ["10.0.0.5", "b:c"])
            )
            self.assertEqual(
                [record.reason for record in journal.events(EventsQuery("event kill"))],
                ["client erased or client 192.0.2.18"],
            )
            self.assertEqual([check.problems for check in journal.verify()], [(), ()])

    def test_what_cannot_be_changed_is_named(self) -> None:
        self.translation(CLIENT)
        self.daemon.stop()
        (path,) = self.directory.glob("*.segment")
        (self.directory / "x.segment.damaged").write_bytes(CLIENT.encode())
        (self.directory / "y.segment").write_bytes(b"")
        # An earlier erasure was interrupted.
        path.with_name(path.name + ".erasing").write_bytes(CLIENT.encode())
        with closing(connect(str(path))) as connection:
            connection.execute("pragma user_version = 99")
        newer, damaged = erase_client(str(self.directory), CLIENT)
        assert newer.failure is not None
        assert damaged.failure is not None
        self.assertIn("use a newer natproxy", newer.failure)
        self.assertIn("delete it", damaged.failure)
        self.assertEqual(list(self.directory.glob("*erasing*")), [])

    def test_copy_is_for_the_owner_alone_at_every_moment(self) -> None:
        self.translation(CLIENT)
        self.daemon.seal()
        self.daemon.stop()
        modes = []

        def copy(source: Path, target: Path) -> None:
            with open(target, "ab"):
                modes.append(stat.S_IMODE(target.stat().st_mode))
            shutil.copyfile(source, target)

        self.addCleanup(os.umask, os.umask(0))
        with patch.object(erase.shutil, "copy", copy):
            erase_client(str(self.directory), CLIENT)
        self.assertTrue(modes)
        self.assertEqual(set(modes), {0o600})

    def test_network_and_host_without_an_address(self) -> None:
        self.translation("192.0.2.1")
        self.translation("198.51.100.1")
        self.translation("unix")
        self.daemon.stop()
        erase_client(str(self.directory), "192.0.2.0/24")
        erase_client(str(self.directory), "unix")
        with Journal(str(self.directory)) as journal:
            clients = [record.client for record in journal.history(HistoryQuery())]
        self.assertEqual(clients, [None, "198.51.100.1", None])
        with self.assertRaisesRegex(JournalError, "192.0.2.0/99"):
            erase_client(str(self.directory), "192.0.2.0/99")
        with self.assertRaisesRegex(JournalError, "'localhost': it is no address"):
            erase_client(str(self.directory), "localhost")

    def test_proxy_with_the_same_address_keeps_it(self) -> None:
        time = self.translation(NAT)
        self.daemon.stop()
        erase_client(str(self.directory), NAT)
        with Journal(str(self.directory)) as journal:
            (record,) = journal.whois(WhoisQuery(PORT, since=time, until=time)).translations
        self.assertEqual((record.client, record.nat), (None, NAT))

    def test_segment_that_is_written_is_named_and_left_alone(self) -> None:
        self.translation(CLIENT)
        self.daemon.seal()
        self.translation(CLIENT)
        self.daemon.flush()
        sealed, live = erase_client(str(self.directory), CLIENT)
        self.assertEqual((sealed.rows, sealed.failure), (1, None))
        assert live.failure is not None
        self.assertIn("stop it", live.failure)
        # The daemon is not disturbed.
        self.translation(CLIENT)
        self.daemon.stop()
        self.assertEqual(
            [erasure.rows for erasure in erase_client(str(self.directory), CLIENT)], [2]
        )

    def test_stopped_daemon_goes_on_afterwards(self) -> None:
        self.translation(CLIENT)
        self.daemon.flush()
        self.daemon.kill()
        self.assertEqual(erase_client(str(self.directory), CLIENT)[0].rows, 1)
        self.daemon.start()
        self.daemon.flush()
        for path in self.directory.glob("*.segment"):
            with closing(connect(str(path))) as connection:
                self.assertEqual(connection.execute("pragma quick_check").fetchone(), ("ok",))
