"""`Journal`: the search in a directory of segments, without a daemon and without Twisted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from natproxy.journal.contents import Directory
from natproxy.journal.coverage import Coverage
from natproxy.journal.files import ALL, Share
from natproxy.journal.ports import LivePorts
from natproxy.journal.reader import OPEN
from natproxy.journal.replay import events
from natproxy.journal.summary import BEGINNING, END, Summary
from natproxy.journal.translations import history
from natproxy.journal.verify import Check, verify
from natproxy.journal.whois import whois
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.record import Record
from natproxy.records.whois import Gap, WhoisQuery, WhoisReply


class Journal:
    """The segments in a directory, for one thread at a time.

    A daemon may be writing them. All methods raise `JournalError` if the directory cannot be read.

    :param directory: its path.
    :param most: number of sealed segments that stay open at most; each has a descriptor.
    :param live: the ports of the segment that this process writes; ``None`` if it does not.
    :param share: whose segments are searched; by default, those of all workers.
    """

    def __init__(
        self,
        directory: str,
        most: int = OPEN,
        live: LivePorts | None = None,
        share: Share = ALL,
    ) -> None:
        self._directory = Directory(directory, most, live, share)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the segments."""
        self._directory.close()

    def whois(self, query: WhoisQuery) -> WhoisReply:
        """Return the client that was behind a port; see `natproxy.journal.whois`."""
        return self.whois_all([query])[0]

    def whois_all(self, queries: Sequence[WhoisQuery]) -> list[WhoisReply]:
        """Return a `WhoisReply` for each `WhoisQuery`, in order; each segment is opened once."""
        return whois(self._directory, queries)

    def history(
        self, query: HistoryQuery, check: Callable[[], object] = lambda: None
    ) -> Iterator[Record]:
        """Return the records of translations, oldest first; see `natproxy.journal.translations`.

        :param check: called every few milliseconds; what it raises ends the search.
        :raises FilterError: if the filter is malformed.
        """
        return history(self._directory, query, check)

    def events(
        self, query: EventsQuery, check: Callable[[], object] = lambda: None
    ) -> Iterator[Record]:
        """Return the records of events by boot, worker and ``seq``; see `natproxy.journal.replay`.

        :param check: called every few milliseconds; what it raises ends the search.
        :raises FilterError: if the filter is malformed.
        """
        return events(self._directory, query, check)

    def gaps(self, since: int | None = None, until: int | None = None) -> list[Gap]:
        """Return the times in an interval at which the journal is not complete, oldest first.

        A time that is inside another one with the same cause is left out.
        """
        coverage = Coverage(self._directory.contents())
        first = BEGINNING if since is None else since
        last = END if until is None else until - 1
        found: list[Gap] = []
        ends: dict[str, int] = {}
        spans = [*coverage.gaps, *coverage.doubled]
        for span in sorted(spans, key=lambda span: (span.first, -span.last)):
            cause = span.gap.cause
            if span.overlaps(first, last) and span.last > ends.get(cause, BEGINNING):
                found.append(span.gap)
                ends[cause] = span.last
        return found

    def segments(self) -> tuple[Summary, ...]:
        """Return what each segment contains, oldest first; those that cannot be read are gaps."""
        return self._directory.contents().segments

    def verify(self, check: Callable[[], object] = lambda: None) -> Iterator[Check]:
        """Check each segment, oldest first; see `natproxy.journal.verify`."""
        return verify(self._directory, check)
