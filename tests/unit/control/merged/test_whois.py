"""The reply to a lookup, from those of several workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.control.merged.errors import Missing
from natproxy.control.merged.whois import merge_replies
from natproxy.records.record import Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, Gap, WhoisQuery, WhoisReply

QUERY = WhoisQuery(7, since=100, until=200)
MISSING = Missing(1, "it has not replied")
GAP = Gap(120, 130, "the daemon was killed")


def found(started: int, ended: int | None, worker: int = 0) -> WhoisReply:
    return WhoisReply(FOUND, (Record(worker=worker, started=started, ended=ended),))


class MergeTests(SynchronousTestCase):
    def merge(self, *replies: WhoisReply, missing: tuple[Missing, ...] = ()) -> WhoisReply:
        return merge_replies(QUERY, replies, missing, 1000)

    def test_nearest_to_the_middle_is_first(self) -> None:
        merged = self.merge(found(100, 110), found(140, 160, 1), found(185, None, 2))
        self.assertEqual([each.worker for each in merged.translations], [1, 2, 0])
        self.assertEqual(merged.result, FOUND)

    def test_what_held_the_port_in_the_middle_is_found_without_the_others(self) -> None:
        merged = self.merge(found(140, 160), missing=(MISSING,))
        self.assertEqual(merged.result, FOUND)
        assert merged.gap is not None
        self.assertIn("worker 1", merged.gap.cause)

    def test_another_worker_may_have_held_the_port_in_the_middle(self) -> None:
        for others in ((self.unknown(), ()), (WhoisReply(NOBODY), (MISSING,))):
            merged = self.merge(found(100, 110), others[0], missing=others[1])
            self.assertEqual(merged.result, UNKNOWN)
            self.assertEqual(len(merged.translations), 1)

    def unknown(self) -> WhoisReply:
        return WhoisReply(UNKNOWN, gap=GAP)

    def test_last_translation_before(self) -> None:
        first, second = Record(ended=50, worker=0), Record(ended=70, worker=1)
        merged = self.merge(WhoisReply(NOBODY, last=first), WhoisReply(NOBODY, last=second))
        self.assertEqual((merged.result, merged.last), (NOBODY, second))

    @given(
        st.lists(st.sampled_from((NOBODY, UNKNOWN, FOUND)), max_size=4),
        st.lists(st.just(MISSING), max_size=2),
    )
    def test_never_without_a_holder_while_something_is_missing(
        self, results: list[str], missing: list[Missing]
    ) -> None:
        replies = [found(90, 300) if each == FOUND else WhoisReply(each) for each in results]
        merged = merge_replies(QUERY, replies, missing, 1000)
        if FOUND in results:
            self.assertEqual(merged.result, FOUND)
        elif missing or UNKNOWN in results:
            self.assertEqual(merged.result, UNKNOWN)
        else:
            self.assertEqual(merged.result, NOBODY)
