"""Download several files, a few at a time; a failure of one does not affect the others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, count, islice
from typing import NamedTuple

from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, Interrupted
from natproxy.client.events import Progress, ignore_event
from natproxy.client.retry import Cancellation, Outage
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.parallel import run_parallel
from natproxy.client.transfer.request import (
    DownloadOptions,
    DownloadRequest,
    DownloadResult,
    Numbered,
    Report,
)
from natproxy.protocol import MAX_PACKED

# Requests for small files that are taken at once: the lock costs as much as sorting one.
_TAKEN = 64


class Failure(NamedTuple):
    """A download that failed.

    :ivar request: what was to be downloaded.
    :ivar error: why it failed.
    """

    request: DownloadRequest
    error: ClientError


class Totals:
    """A summary of many downloads.

    :ivar downloaded: files that have been downloaded.
    :ivar unchanged: files that stay as they are here.
    :ivar received: bytes received for them over the network.
    :ivar failures: the other files, in their order.
    """

    # Not a dataclass: importing that takes a tenth of the start of a command.
    def __init__(self) -> None:
        self.downloaded = 0
        self.unchanged = 0
        self.received = 0
        self.failures: list[Failure] = []


def download_all(
    session: Session,
    requests: Iterable[DownloadRequest],
    options: DownloadOptions,
    jobs: int = 1,
    progress: Progress = ignore_event,
) -> list[DownloadResult | ClientError]:
    """Download files.

    :param jobs: files that are downloaded at the same time.
    :return: a result or an error for each request, in order.
    :raises KeyboardInterrupt: if one is raised meanwhile; the received bytes are kept.
    """
    results: dict[int, DownloadResult | ClientError] = {}

    def keep(numbered: Numbered, result: DownloadResult | ClientError) -> None:
        results[numbered.number] = result

    _download(session, requests, options, jobs, progress, keep)
    return [results[number] for number in range(len(results))]


def download_and_count(
    session: Session,
    requests: Iterable[DownloadRequest],
    options: DownloadOptions,
    jobs: int = 1,
    progress: Progress = ignore_event,
) -> Totals:
    """Download files as `download_all` does, but hold no results in memory, only a summary."""
    totals = Totals()
    failures: dict[int, Failure] = {}
    lock = threading.Lock()

    def add(numbered: Numbered, result: DownloadResult | ClientError) -> None:
        if isinstance(result, ClientError):
            failures[numbered.number] = Failure(numbered.request, result)
            return
        with lock:
            if result.unchanged:
                totals.unchanged += 1
            else:
                totals.downloaded += 1
            totals.received += result.received

    _download(session, requests, options, jobs, progress, add)
    totals.failures = [failures[number] for number in sorted(failures)]
    return totals


class _Sorter:
    """Divides requests into small files and others, as they are taken by several threads."""

    def __init__(self, requests: Iterable[DownloadRequest]) -> None:
        self._source = map(Numbered, count(), requests)
        self._small: deque[Numbered] = deque()
        self._large: deque[Numbered] = deque()
        self._lock = threading.Lock()

    def small(self) -> Iterator[Numbered]:
        """Yield requests for files that may be small."""
        while files := self._take(self._small, self._large, True, _TAKEN):
            yield from files

    def large(self) -> Iterator[Numbered]:
        """Yield the other requests."""
        while files := self._take(self._large, self._small, False, 1):
            yield from files

    def _take(
        self, wanted: deque[Numbered], others: deque[Numbered], small: bool, most: int
    ) -> list[Numbered]:
        """Return the next requests of a kind, at most so many; none after the last one."""
        with self._lock:
            taken = [wanted.popleft() for _ in range(min(most, len(wanted)))]
            if taken:
                return taken
            for numbered in self._source:
                if _may_be_small(numbered.request) is not small:
                    others.append(numbered)
                    continue
                taken.append(numbered)
                if len(taken) == most:
                    break
            return taken


def _may_be_small(request: DownloadRequest) -> bool:
    return request.metadata is None or request.metadata.size <= MAX_PACKED


def _download(
    session: Session,
    requests: Iterable[DownloadRequest],
    options: DownloadOptions,
    jobs: int,
    progress: Progress,
    report: Report,
) -> None:
    """Download files, small ones together.

    :param report: called with each result, in any order and in any thread.
    """
    cancellation = Cancellation()
    outage = Outage()

    def download(numbered: Numbered) -> None:
        request = numbered.request
        try:
            result = Download(session, request, options, progress, cancellation, outage).run()
        except Interrupted:
            raise
        except ClientError as error:
            report(numbered, error)
        else:
            report(numbered, result)

    sorter = _Sorter(requests)
    small = sorter.small()
    first = [*islice(small, 2)]
    left: list[Numbered] = first
    steps: Iterable[Callable[[], object]] = (partial(download, each) for each in sorter.large())
    if len(first) > 1:
        # One file, as most commands have, does not need it.
        from natproxy.client.transfer.small_files import SmallFiles

        files = SmallFiles(session, options, report, progress, cancellation, outage)
        left = []
        steps = chain([lambda: left.extend(files.run(chain(first, small)))], steps)
    run_parallel(steps, jobs, cancellation, session.interrupt)
    # One small file, and those that cannot be downloaded together.
    steps = (partial(download, each) for each in chain(left, small))
    run_parallel(steps, jobs, cancellation, session.interrupt)
