"""`Journal`: the search in a directory of segments, without a daemon and without Twisted."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from natproxy.journal.contents import Directory
from natproxy.journal.reader import Summary
from natproxy.journal.whois import whois
from natproxy.records.whois import Answer, Question


class Journal:
    """The segments in a directory, for one thread at a time.

    A daemon may be writing them. All methods raise `JournalError` if the directory cannot be read.

    :param directory: its path.
    """

    def __init__(self, directory: str) -> None:
        self._directory = Directory(directory)

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

    def whois(self, question: Question) -> Answer:
        """Return the client that was behind a port; see `natproxy.journal.whois`."""
        return self.whois_all([question])[0]

    def whois_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Return an `Answer` for each `Question`, in their order; each segment is opened once."""
        return whois(self._directory, questions)

    def segments(self) -> tuple[Summary, ...]:
        """Return what each segment contains, oldest first."""
        return self._directory.contents().segments
