"""Where the commands read translations: a daemon, or the directory of a journal."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from natproxy.client.control.daemon import Daemon, LostEvents
from natproxy.client.control.finding import Search
from natproxy.records.record import Record
from natproxy.records.whois import Answer, Question

PROXY = "proxy"


class Source(Protocol):
    """Answers questions about the past."""

    def whois_each(self, questions: Iterable[Question]) -> Iterator[Answer]:
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
    ) -> Iterator[Record | LostEvents]:
        """Yield events; see `natproxy.client.control.daemon.Daemon`."""
        ...


def source_of(arguments: Namespace, complain: Callable[[str], object]) -> Source:
    """Return what the options select.

    :param arguments: with ``control`` and ``name``.
    :raises ClientError: see `natproxy.client.control.finding.Search.daemon`.
    """
    return proxy_of(arguments)


def proxy_of(arguments: Namespace) -> Daemon:
    """Return the proxy that the options select, or the only one that runs.

    :raises ClientError: see `natproxy.client.control.finding.Search.daemon`.
    """
    return Search().daemon(arguments.control, arguments.name, PROXY)
