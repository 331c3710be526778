"""Events reconstructed from segments: the same as the ring had, in the same order."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.journal.search import Journal
from natproxy.records.queries import EventsQuery
from natproxy.records.record import Record
from tests.support.journal_runs import SECOND, START, RunsCase, Translations
from tests.support.journals import MEMORY

PORT = 50_000


class EventsTests(RunsCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.start()

    def events(self, query: EventsQuery | None = None) -> list[Record]:
        with Journal(str(self.directory)) as journal:
            return list(journal.events(query or EventsQuery()))

    def told(self, query: EventsQuery | None = None) -> list[tuple[int | None, str | None]]:
        return [(record.seq, record.event) for record in self.events(query)]

    def several(self) -> None:
        """Have eight events: one translation lasts over the seal."""
        lasting = self.daemon.register(PORT)
        other = self.daemon.register(PORT + 1)
        self.daemon.wait(SECOND)
        self.daemon.relay(other)
        self.daemon.remove(other)
        self.daemon.seal()
        self.daemon.act("kill", "client 10.0.0.1")
        self.daemon.wait(SECOND)
        self.daemon.relay(lasting)
        self.daemon.fail()
        self.daemon.remove(lasting)
        self.daemon.flush()

    ALL = (
        (1, "registered"),
        (2, "registered"),
        (3, "relaying"),
        (4, "removed"),
        (5, "kill"),
        (6, "relaying"),
        (7, "failed"),
        (8, "removed"),
    )

    def test_all_events_come_by_their_numbers(self) -> None:
        self.several()
        self.assertEqual(tuple(self.told()), self.ALL)
        records = self.events()
        self.assertEqual(
            [record.state for record in records[:4]],
            ["registered", "registered", "relaying", "removed"],
        )
        self.assertEqual(records[0].time, START)
        self.assertIsNone(records[0].ended)
        self.assertEqual((records[2].promised, records[2].bytes), (1000, 0))
        self.assertEqual((records[3].time, records[3].bytes), (START + SECOND, 1000))
        self.assertEqual((records[4].uid, records[4].reason), (1000, "client 10.0.0.1"))

    def test_numbers_and_times_select(self) -> None:
        self.several()
        self.assertEqual(tuple(self.told(EventsQuery(after=4))), self.ALL[4:])
        self.assertEqual(tuple(self.told(EventsQuery(after=2, before=7))), self.ALL[2:6])
        self.assertEqual(tuple(self.told(EventsQuery(since=START + SECOND))), self.ALL[2:])
        self.assertEqual(tuple(self.told(EventsQuery(until=START + SECOND))), self.ALL[:2])

    def test_filter_selects_events(self) -> None:
        self.several()
        self.assertEqual(self.told(EventsQuery("event removed")), [(4, "removed"), (8, "removed")])
        self.assertEqual(
            self.told(EventsQuery(f"nat-port {PORT + 1}")),
            [(2, "registered"), (3, "relaying"), (4, "removed")],
        )

    def test_lost_events_are_one_record(self) -> None:
        self.daemon.register(PORT)
        self.daemon.flush()
        for _ in range(3):
            self.daemon.remove(self.daemon.register(PORT + 1))
        self.daemon.lose()
        self.daemon.wait(SECOND)
        self.daemon.register(PORT + 2)
        self.daemon.flush()
        for query in (EventsQuery(), EventsQuery("event registered")):
            self.assertEqual(self.told(query), [(1, "registered"), (7, "lost"), (8, "registered")])
        reason = self.events()[1].reason
        self.assertEqual(reason, "events 2 to 7 are not in the journal: the journal was too slow")

    def test_what_the_journal_does_not_have_is_lost(self) -> None:
        self.several()
        min(self.directory.glob("*.segment")).unlink()
        # The translation that lasted is in the second segment.
        self.assertEqual(
            self.told(EventsQuery(after=1, before=7)),
            [(4, "lost"), (5, "kill"), (6, "relaying")],
        )
        self.assertEqual(self.told(EventsQuery(after=7, before=12))[-1], (11, "lost"))

    def test_segment_that_is_sealed_meanwhile_loses_nothing(self) -> None:
        self.several()
        open_ = [self.daemon.register(PORT + number) for number in range(3)]
        self.daemon.remove(open_[1])
        self.daemon.flush()
        whole = self.told()
        self.assertEqual(len(whole), 12)
        for query in (EventsQuery(), EventsQuery(after=3), EventsQuery(f"nat-port {PORT}")):
            for seals in (1, 2):
                expected, left = self.told(query), [seals]

                def check(left: list[int] = left) -> None:
                    while left[0]:
                        left[0] -= 1
                        # Not without an entry that has ended.
                        self.daemon.fail()
                        self.daemon.seal()

                with Journal(str(self.directory)) as journal:
                    records = list(journal.events(query, check))
                told = [(record.seq, record.event) for record in records]
                self.assertEqual(told[: len(expected)], expected)
                self.assertNotIn("lost", [event for _, event in told])

    def test_numbers_are_those_of_the_newest_boot(self) -> None:
        self.several()
        self.daemon.stop()
        self.daemon.wait(SECOND)
        self.daemon.start()
        self.daemon.register(PORT)
        self.daemon.flush()
        self.assertEqual(len(self.told()), 9)
        self.assertEqual(self.told(EventsQuery(after=0, before=2))[-1], (1, "registered"))
        self.assertEqual(self.told(EventsQuery(after=1, before=2)), [])

    @settings(max_examples=25, deadline=None)
    @given(
        actions=st.lists(
            st.sampled_from(["register", "relay", "remove", "fail", "act", "seal", "flush"]),
            max_size=40,
        ),
        choices=st.randoms(use_true_random=False),
        after=st.integers(0, 40),
    )
    def test_every_event_comes_once_in_order(
        self, actions: list[str], choices: object, after: int
    ) -> None:
        with TemporaryDirectory(dir=MEMORY) as directory:
            daemon = Translations(directory)
            daemon.start()
            fresh: list[int] = []
            relaying: list[int] = []
            expected = []
            for action in actions:
                daemon.wait(1)
                if action == "register":
                    fresh.append(daemon.register(PORT))
                elif action == "relay" and fresh:
                    relaying.append(fresh.pop(choices.randrange(len(fresh))))  # type: ignore[attr-defined]
                    daemon.relay(relaying[-1])
                elif action == "remove" and relaying:
                    daemon.remove(relaying.pop(choices.randrange(len(relaying))))  # type: ignore[attr-defined]
                elif action == "fail":
                    daemon.fail()
                elif action == "act":
                    daemon.act("drain")
                elif action in ("seal", "flush"):
                    getattr(daemon, action)()
                    continue
                else:
                    continue
                expected.append(
                    {"register": "registered", "relay": "relaying", "remove": "removed"}.get(
                        action, "failed" if action == "fail" else "drain"
                    )
                )
            daemon.flush()
            with Journal(directory) as journal:
                found = [
                    (record.seq, record.event)
                    for record in journal.events(EventsQuery(after=after))
                ]
            self.assertEqual(found, list(enumerate(expected, 1))[after:])
            daemon.close()
