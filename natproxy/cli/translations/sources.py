"""Where the commands read translations: a daemon, the directory of a journal, or a database."""

from __future__ import annotations

import os
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from natproxy.client.control.daemon import Daemon, Event
from natproxy.client.control.finding import Search
from natproxy.client.errors import ClientError, LocalError, NoDaemon, UsageError
from natproxy.protocol import printable
from natproxy.records.places import journals_in
from natproxy.records.record import Record
from natproxy.records.whois import Gap, WhoisQuery, WhoisReply

if TYPE_CHECKING:
    from natproxy.journal.postgres.search import FleetJournal
    from natproxy.journal.search import Journal

PROXY = "proxy"

DATABASE_SCHEMES = ("postgresql://", "postgres://")

FUTURE = 86400 * 1_000_000
"""Microseconds by which the clock may have been set back since the last event."""


class Source(Protocol):
    """Where translations of the past are read."""

    def whois_each(self, queries: Iterable[WhoisQuery]) -> Iterator[WhoisReply]:
        """Yield who held each of several ports, in their order."""
        ...

    def history(
        self,
        filter: str = "",  # noqa: A002
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Record]:
        """Yield translations, oldest first; see `natproxy.client.control.daemon.Daemon`."""
        ...

    def events(
        self,
        filter: str = "",  # noqa: A002
        since: int | None = None,
        until: int | None = None,
        after: str | None = None,
        last: int | None = None,
        follow: bool = False,
    ) -> Iterator[Event]:
        """Yield events; see `natproxy.client.control.daemon.Daemon`."""
        ...


class JournalFailure(ClientError):
    """A journal cannot be read."""

    exit_status = LocalError.exit_status


class SearchedJournal:
    """A journal that is searched without a daemon: in a directory, or in a database.

    All methods raise `JournalFailure` if it cannot be read.
    """

    _journal: Journal | FleetJournal

    def whois_each(self, queries: Iterable[WhoisQuery]) -> Iterator[WhoisReply]:
        """Yield who held each of several ports; see `Source`."""
        with self._failures():
            yield from self._journal.whois_all(list(queries))

    def history(
        self,
        filter: str = "",  # noqa: A002
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Record]:
        """Yield translations; see `Source`."""
        from natproxy.records.queries import HistoryQuery

        with self._failures():
            yield from self._journal.history(HistoryQuery(filter, since, until, limit))

    def gaps(self, since: int | None, until: int | None) -> list[Gap]:
        """Return the times of an interval of which the journal is not complete."""
        with self._failures():
            return self._journal.gaps(since, until)

    def _failures(self) -> AbstractContextManager[None]:
        """Return what raises `JournalFailure` for what the journal raises."""
        raise NotImplementedError


class JournalSource(SearchedJournal):
    """The journal in a directory.

    :raises UsageError: if there is no such directory, or it has journals in place of segments.
    """

    _journal: Journal

    def __init__(self, directory: str) -> None:
        self._name = printable(os.fsencode(directory))
        check_directory(directory)
        import sqlite3

        from natproxy.journal.salvage import read_spools
        from natproxy.journal.search import Journal

        with self._failures():
            with suppress(OSError, sqlite3.Error):
                read_spools(directory)
            self._journal = Journal(directory)

    @property
    def several_workers(self) -> bool:
        """Whether workers have written it."""
        with self._failures():
            return any(segment.worker for segment in self._journal.segments())

    def events(
        self,
        filter: str = "",  # noqa: A002
        since: int | None = None,
        until: int | None = None,
        after: str | None = None,
        last: int | None = None,
        follow: bool = False,
    ) -> Iterator[Event]:
        """Yield events; see `Source`.

        :param follow: must be false: a journal alone has no new events.
        """
        from natproxy.cli.translations.query import now
        from natproxy.records.queries import EventsQuery, windows

        assert not follow
        seq = run = None
        if after is not None:
            from natproxy.client.control.position import Position

            position = Position(after)
            if len(position.last) > 1:
                raise UsageError("--after: of a journal, the events of one worker")
            ((worker, (seq, boot)),) = position.last.items()
            newest = [each.boot for each in self._journal.segments() if each.worker == worker]
            if not newest or boot not in (None, newest[-1]):
                raise UsageError(
                    f"--after: {boot or f'worker {worker}'} is not the newest run in {self._name}"
                )
            run = newest[-1]
        with self._failures():
            if last is None:
                yield from self._journal.events(EventsQuery(filter, since, until, seq, boot=run))
                return
            found: deque[Record] = deque()
            latest = now() + FUTURE if until is None else until
            for begin, end in windows(since, latest):
                part = self._journal.events(EventsQuery(filter, begin, end, seq, boot=run))
                found.extendleft(reversed(deque(part, last - len(found))))
                if len(found) == last:
                    break
            yield from found

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise `JournalFailure` for what the journal raises."""
        from natproxy.journal.directory import JournalError

        try:
            yield
        except JournalError as error:
            raise JournalFailure(f"{self._name}: {error}") from error


class FleetSource(SearchedJournal):
    """The journal of a fleet in PostgreSQL.

    :param url: of the database.
    """

    def __init__(self, url: str) -> None:
        with self._failures():
            from natproxy.journal.postgres.search import FleetJournal

            self._journal = FleetJournal(url)

    def events(
        self,
        filter: str = "",  # noqa: A002
        since: int | None = None,
        until: int | None = None,
        after: str | None = None,
        last: int | None = None,
        follow: bool = False,
    ) -> Iterator[Event]:
        """Refuse: a database has translations, and not their events.

        :raises UsageError: always.
        """
        raise UsageError(
            "a journal in PostgreSQL has no events; natproxy history shows its translations, and"
            " each proxy has the events of its own"
        )

    def _failures(self) -> AbstractContextManager[None]:
        return database_failures()


@contextmanager
def database_failures() -> Iterator[None]:
    """Raise `JournalFailure` for what a database raises."""
    from natproxy.journal.directory import JournalError

    try:
        yield
    except JournalError as error:
        raise JournalFailure(str(error)) from None


def names_database(journal: str) -> bool:
    """Return whether the value of ``--journal`` is the URL of a database."""
    return journal.startswith(DATABASE_SCHEMES)


def check_directory(directory: str) -> None:
    """Refuse the directory that an option names if it cannot be a journal.

    :raises UsageError: if there is no such directory, or it has journals in place of segments.
    """
    from natproxy.journal.files import segment_files

    name = printable(os.fsencode(directory))
    if not os.path.isdir(directory):
        raise UsageError(f"--journal {name}: no such directory")
    try:
        if segment_files(directory):
            return
        inner = [path for _, path in journals_in(directory) if segment_files(path)]
    except OSError:
        # The journal's own error has the reason.
        return
    if inner:
        listed = ", ".join(printable(os.fsencode(each)) for each in inner[:5])
        raise UsageError(f"--journal {name}: no journal, but the directory of {listed}")


def source_of(arguments: Namespace, complain: Callable[[str], object]) -> Source:
    """Return what the options select: a journal, a daemon, or the only one of them that there is.

    If no proxy runs, and the usual places have one journal, it is that.

    :param arguments: with ``control``, ``name`` and ``journal``.
    :param complain: called with a message if a journal is read in place of a daemon.
    :raises UsageError: if the options contradict each other, or several daemons run.
    :raises NoDaemon: if there is neither a proxy nor one journal.
    """
    if arguments.journal is not None:
        if arguments.control is not None or arguments.name is not None:
            raise UsageError("--journal excludes --control and --name: it needs no daemon")
        if names_database(arguments.journal):
            return FleetSource(arguments.journal)
        return JournalSource(arguments.journal)
    search = Search()
    try:
        return search.daemon(arguments.control, arguments.name, PROXY)
    except NoDaemon as error:
        journals = search.journals(arguments.name)
        if not journals:
            raise
        if len(journals) > 1:
            listed = ", ".join(each.path for each in journals)
            raise NoDaemon(f"{error}; --journal reads one of these: {listed}") from None
        (place,) = journals
        complain(f"no proxy runs: reading the journal {printable(os.fsencode(place.path))}")
        return JournalSource(place.path)


def report_missing(source: object, complain: Callable[[str], object]) -> None:
    """Report which workers have not replied, of a daemon whose reply has been read.

    :param complain: called with a message for each of them.
    """
    for each in source.missing if isinstance(source, Daemon) else ():
        complain(f"this may be incomplete: {each}")


def several_workers(source: object) -> bool:
    """Return whether what is read comes from several workers, each with numbers of its own.

    :raises ClientError: if a daemon does not reply, or a journal cannot be read.
    """
    if isinstance(source, Daemon):
        return has_workers(source.status())
    return isinstance(source, JournalSource) and source.several_workers


def has_workers(status: Mapping[str, Any]) -> bool:
    """Return whether the daemon of a status has several workers."""
    return bool(status.get("workers"))


def proxy_of(arguments: Namespace) -> Daemon:
    """Return the proxy that the options select, or the only one that runs.

    :raises ClientError: see `natproxy.client.control.finding.Search.daemon`.
    """
    return Search().daemon(arguments.control, arguments.name, PROXY)
