"""What the resources of the control socket and of the web endpoint use of a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred

from natproxy.nat.ring import EventRing
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.record import Origin, Record
from natproxy.records.whois import WhoisQuery, WhoisReply

if TYPE_CHECKING:
    # A daemon without HTTP does not import it: it takes 5 MiB.
    from twisted.web.resource import IResource


class TableSource(Protocol):
    """The translations that exist now: of this process, or merged from several."""

    def __len__(self) -> int: ...

    def records(self) -> Iterator[Record]:
        """Return the entries of this moment, oldest first.

        A record is made when the iterator reaches it, and an entry that has been removed by then
        is left out: the caller may take some in each turn.
        """
        ...

    def holding(self, port: int) -> tuple[Record, ...]:
        """Return the entries with a local port of the proxy, usually none or one."""
        ...

    def waiting(self) -> list[Record]:
        """Return the last translations of the commands that are between two attempts."""
        ...

    def kill(self, records: list[Record], reason: str) -> list[Record]:
        """End the commands of these entries; return the records of those that still existed.

        :param records: of `records` or `holding`.
        """
        ...


class Pages(Protocol):
    """The pages of a search; an empty one is the end. A generator of Deferreds is one."""

    def __iter__(self) -> Iterator[Deferred[list[Record]]]: ...

    def close(self) -> None:
        """End the search; a page that is being read is dropped."""
        ...


class Lookups(Protocol):
    """Who was behind a port."""

    def whois(self, queries: list[WhoisQuery]) -> Deferred[list[WhoisReply]]:
        """Reply to queries about the past and about now; the newest events are included."""
        ...


class History(Lookups, Protocol):
    """The past: searched in threads, so that the reactor is not blocked."""

    def pages(self, query: HistoryQuery) -> Pages:
        """Return the records of the translations, oldest first, in pages of at most 500.

        The next page is requested when the last one has been sent.
        """
        ...

    def events(self, query: EventsQuery) -> Pages:
        """Return the records of events in the same manner, by worker and ``seq``."""
        ...


@dataclass
class Observed:
    """A daemon, as the resources show it.

    :ivar kind: ``proxy`` or ``fileserver``.
    :ivar origin: its name, worker and boot.
    :ivar status: returns the members of ``/v1/status``.
    :ivar ready: returns why the daemon is not ready, or ``None``.
    :ivar drain: begins to drain and then ends the process, as SIGTERM does.
    :ivar table: ``None`` for a file server.
    :ivar ring: likewise.
    :ivar history: likewise.
    :ivar metrics: the resource of ``/metrics``; ``None`` if prometheus_client is not installed.
    :ivar reconcile: compares the table with the process's sockets; returns the members of
        ``/v1/reconcile``, or a Deferred that fires with them.
    :ivar note: records an administrator's action, of a uid and a pid, in the events of all workers;
        ``None`` if the ring does so, or there are no events.
    :ivar flush: writes the journal of a worker, for its master; fires with the time until which it
        is complete, in microseconds since the epoch. ``None`` for a daemon without workers.
    :ivar counted: returns what a worker has counted, for its master; likewise.
    :ivar reload: reads the settings again, for a cause that is logged, or only returns what that
        would change; fires with the members of the reply to ``/v1/reload``.
    """

    kind: str
    origin: Origin
    status: Callable[[], dict[str, Any]]
    ready: Callable[[], str | None]
    drain: Callable[[], object]
    table: TableSource | None = None
    ring: EventRing | None = None
    history: History | None = None
    metrics: IResource | None = None
    reconcile: Callable[[], dict[str, Any] | Deferred[dict[str, Any]]] | None = None
    reload: Callable[[str, bool], Deferred[dict[str, Any]]] | None = None
    note: Callable[[str, int | None, int | None], object] | None = None
    flush: Callable[[], Deferred[int]] | None = None
    counted: Callable[[], Deferred[dict[str, Any]]] | None = None
