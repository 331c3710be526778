"""Download several files, a few at a time; a failure of one does not affect the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, Interrupted
from natproxy.client.events import Progress, ignore_event
from natproxy.client.retry import Cancellation, Outage
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.parallel import run_parallel
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult

_Result = TypeVar("_Result")


class Failure(NamedTuple):
    """A download that failed.

    :ivar request: what was to be downloaded.
    :ivar error: why it failed.
    """

    request: DownloadRequest
    error: ClientError


@dataclass
class Totals:
    """A summary of many downloads.

    :ivar downloaded: files that are complete.
    :ivar received: bytes received for them over the network.
    :ivar failures: the other files, in their order.
    """

    downloaded: int = 0
    received: int = 0
    failures: list[Failure] = field(default_factory=list)


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
    return _download(session, requests, options, jobs, progress, lambda _, result: result)


def download_and_count(
    session: Session,
    requests: Iterable[DownloadRequest],
    options: DownloadOptions,
    jobs: int = 1,
    progress: Progress = ignore_event,
) -> Totals:
    """Download files as `download_all` does, but hold no results in memory, only a summary."""
    totals = Totals()
    lock = threading.Lock()

    def count(request: DownloadRequest, result: DownloadResult | ClientError) -> Failure | None:
        if isinstance(result, ClientError):
            return Failure(request, result)
        with lock:
            totals.downloaded += 1
            totals.received += result.received
        return None

    results = _download(session, requests, options, jobs, progress, count)
    totals.failures = [failure for failure in results if failure is not None]
    return totals


def _download(
    session: Session,
    requests: Iterable[DownloadRequest],
    options: DownloadOptions,
    jobs: int,
    progress: Progress,
    convert: Callable[[DownloadRequest, DownloadResult | ClientError], _Result],
) -> list[_Result]:
    cancellation = Cancellation()
    outage = Outage()

    def download(request: DownloadRequest) -> _Result:
        try:
            result = Download(session, request, options, progress, cancellation, outage).run()
        except Interrupted:
            raise
        except ClientError as error:
            return convert(request, error)
        return convert(request, result)

    steps = (partial(download, request) for request in requests)
    return run_parallel(steps, jobs, cancellation, session.interrupt)
