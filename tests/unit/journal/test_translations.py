"""The history of translations: order, selection, and what changes while it is read."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.journal import translations
from natproxy.journal.search import Journal
from natproxy.records.filter import FilterError
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import Record
from tests.support.journal_runs import SECOND, START, RunsCase, Translations
from tests.support.journals import MEMORY

PORT = 50_000


class HistoryTests(RunsCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.start()

    def history(self, query: HistoryQuery | None = None) -> list[Record]:
        with Journal(str(self.directory)) as journal:
            return list(journal.history(query or HistoryQuery()))

    def serials(self, query: HistoryQuery | None = None) -> list[int | None]:
        return [record.serial for record in self.history(query)]

    def several(self) -> None:
        """Have ten translations of a second each, in three segments, beside one that lasts."""
        self.daemon.register(PORT)
        for number in range(10):
            serial = self.daemon.register(PORT + 1, f"10.0.0.{number}", name=f"{number}.iso")
            self.daemon.wait(SECOND)
            self.daemon.remove(serial)
            if number in (3, 7):
                self.daemon.seal()
        self.daemon.flush()

    def test_all_are_told_once_oldest_first_across_segments(self) -> None:
        self.several()
        self.assertEqual(self.serials(), list(range(1, 12)))
        self.assertEqual(
            [record.state for record in self.history()], ["registered"] + 10 * ["removed"]
        )

    def test_files_of_a_pack_are_found_as_far_as_they_are_recorded(self) -> None:
        for name in ("a.txt", "a.txt and 2 others", "b.txt and 2 others, a.txt c%20d", "b.txt"):
            self.daemon.remove(self.daemon.register(PORT, name=name))
        self.daemon.seal()
        self.daemon.flush()
        for text, serials in (
            ("name a.txt", [1, 2, 3]),
            ("name 'c d'", [3]),
            ("name c*", [3]),
            ("name b.txt or files > 1", [2, 3, 4]),
            ("files 3", [2, 3]),
            ("files none", [1, 4]),
            ("name != a.txt", [4]),
            ("not name b.txt", [1, 2]),
        ):
            self.assertEqual(self.serials(HistoryQuery(text)), serials, text)
            self.assertEqual(self.serials(HistoryQuery(text, limit=1)), serials[-1:], text)
        record = self.history()[2]
        self.assertEqual((record.name, record.files, record.others), ("b.txt", 3, "a.txt c%20d"))

    def test_interval_selects_what_was_open_in_it(self) -> None:
        self.several()
        query = HistoryQuery(since=START + 5 * SECOND + 10, until=START + 6 * SECOND)
        self.assertEqual(self.serials(query), [1, 7])
        # The end is not included.
        query = HistoryQuery(since=START, until=START + SECOND)
        self.assertEqual(self.serials(query), [1, 2])

    def test_limit_selects_the_newest_and_keeps_the_order(self) -> None:
        self.several()
        self.assertEqual(self.serials(HistoryQuery(limit=3)), [9, 10, 11])
        self.assertEqual(self.serials(HistoryQuery(limit=0)), [])
        self.assertEqual(self.serials(HistoryQuery(limit=99)), list(range(1, 12)))
        query = HistoryQuery("client 10.0.0.2 or client 10.0.0.5", limit=1)
        self.assertEqual(self.serials(query), [7])

    def test_filter_selects_in_sql_and_without_it(self) -> None:
        self.several()
        self.assertEqual(self.serials(HistoryQuery("client 10.0.0.4")), [6])
        # What depends on the time of the query is compared with each record.
        self.assertEqual(self.serials(HistoryQuery("state registered and age > 1s")), [1])
        with self.assertRaises(FilterError):
            self.history(HistoryQuery("client ("))

    def test_translations_of_a_killed_daemon_are_lost(self) -> None:
        self.daemon.register(PORT)
        self.daemon.flush()
        self.daemon.wait(SECOND)
        self.daemon.kill()
        self.daemon.start()
        (record,) = self.history()
        self.assertEqual((record.state, record.ended), ("lost", None))
        self.assertEqual(self.serials(HistoryQuery(since=START + SECOND)), [])

    def test_failed_commands_are_in_it(self) -> None:
        self.daemon.fail()
        self.daemon.flush()
        (record,) = self.history()
        self.assertEqual((record.state, record.nat_port), ("failed", None))

    def test_seal_while_it_is_read_loses_and_doubles_nothing(self) -> None:
        self.daemon.register(PORT)
        for _ in range(20):
            self.daemon.remove(self.daemon.register(PORT + 1))
        self.daemon.register(PORT + 2)
        self.daemon.flush()
        with mock.patch.object(translations, "PAGE", 5), Journal(str(self.directory)) as journal:
            records = journal.history(HistoryQuery())
            found = [next(records).serial for _ in range(3)]
            self.daemon.seal()
            found += [record.serial for record in records]
        self.assertEqual(sorted(map(int, found)), list(range(1, 23)))  # type: ignore[arg-type]

    def test_live_segment_can_be_sealed_between_pieces(self) -> None:
        self.several()
        with Journal(str(self.directory)) as journal:
            records = journal.history(HistoryQuery())
            next(records)
            # It raises an exception if the segment is locked.
            self.daemon.seal()
            self.assertEqual(len(list(records)), 10)

    def test_segment_deleted_while_it_is_read_is_left_out(self) -> None:
        self.several()
        with Journal(str(self.directory)) as journal:
            records = journal.history(HistoryQuery())
            oldest = min(self.directory.glob("*.segment"))
            oldest.unlink()
            self.assertEqual(len(list(records)), 7)

    def test_check_ends_the_search(self) -> None:
        self.several()

        def check() -> None:
            raise KeyError

        with Journal(str(self.directory)) as journal, self.assertRaises(KeyError):
            next(journal.history(HistoryQuery(), check))

    @settings(max_examples=25, deadline=None)
    @given(
        lengths=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=25),
        page=st.integers(1, 5),
        piece=st.integers(1, 5),
        limit=st.none() | st.integers(0, 30),
        since=st.none() | st.integers(0, 25),
    )
    def test_pages_and_pieces_make_no_difference(
        self,
        lengths: list[tuple[int, bool]],
        page: int,
        piece: int,
        limit: int | None,
        since: int | None,
    ) -> None:
        with TemporaryDirectory(dir=MEMORY) as directory:
            daemon = Translations(directory)
            daemon.start()
            ends: dict[int, list[int]] = {}
            for number, (length, seal) in enumerate(lengths):
                serial = daemon.register(PORT + number)
                ends.setdefault(number + length, []).append(serial)
                daemon.wait(SECOND)
                for ended in ends.pop(number, []):
                    daemon.remove(ended)
                if seal:
                    daemon.seal()
            daemon.flush()
            first = START if since is None else START + since * SECOND
            expected = [
                number + 1
                for number, (length, _) in enumerate(lengths)
                if number + length >= len(lengths)
                or START + (number + length + 1) * SECOND >= first
            ]
            if limit is not None:
                expected = expected[len(expected) - min(limit, len(expected)) :]
            query = HistoryQuery(since=first, limit=limit)
            with (
                mock.patch.multiple(translations, PAGE=page, PIECE=piece),
                Journal(directory) as journal,
            ):
                self.assertEqual([record.serial for record in journal.history(query)], expected)
            daemon.close()
