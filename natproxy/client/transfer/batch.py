"""Download several files, a few at a time; a failure of one does not affect the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, count, islice
from typing import NamedTuple

from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, Interrupted
from natproxy.client.events import Progress, ignore_event
from natproxy.client.retry import Cancellation, Outage
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.parallel import Workers, run_parallel
from natproxy.client.transfer.request import (
    DownloadOptions,
    DownloadRequest,
    DownloadResult,
    Numbered,
    Report,
)
from natproxy.protocol import MAX_PACKED


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
    """Divides requests, as they are taken, into small files and others.

    Requests may be those of a listing that is not complete: none is taken before it is needed.

    :param large: called with each request for a file that is not small, when it is found.
    :ivar error: the exception that has ended the requests. Those before it are carried out.
    """

    def __init__(
        self, requests: Iterable[DownloadRequest], large: Callable[[Numbered], object]
    ) -> None:
        self.error: Exception | None = None
        self._source = map(Numbered, count(), requests)
        self._large = large

    def small(self) -> Iterator[Numbered]:
        """Yield requests for files that may be small."""
        for numbered in self.remaining():
            if _may_be_small(numbered.request):
                yield numbered
            else:
                self._large(numbered)

    def remaining(self) -> Iterator[Numbered]:
        """Yield all requests that have not been taken."""
        try:
            yield from self._source
        except Exception as error:
            # It is no failure of the download before which it is raised.
            self.error = error


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

    :param requests: those for small files are taken by the calling thread alone.
    :param report: called with each result, in any order and in any thread.
    :raises Exception: what ``requests`` raises, after the downloads before it.
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

    with Workers(jobs, cancellation, session.interrupt) as workers:
        sorter = _Sorter(requests, lambda numbered: workers.add(partial(download, numbered)))
        small = sorter.small()
        first = [*islice(small, 2)]
        # One file, as most commands have, does not need it.
        together = len(first) > 1
        unsent = iter(first)
        left: list[Numbered] = []
        if together:
            from natproxy.client.transfer.small_files import SmallFiles

            files = SmallFiles(session, options, report, progress, cancellation, outage)
            left = files.run(chain(unsent, small))
        workers.finish()
    rest: Iterable[Numbered] = chain(left, unsent, sorter.remaining())
    if together:
        # They cannot be downloaded together: the server, or a file, may be gone.
        rest = map(Numbered.unlisted, rest)
    steps = (partial(download, each) for each in rest)
    run_parallel(steps, jobs, cancellation, session.interrupt)
    if sorter.error is not None:
        raise sorter.error
