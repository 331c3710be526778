"""Several files, fetched a few at a time; one that fails leaves the others alone."""

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
from natproxy.client.transfer.download import (
    Download,
    DownloadOptions,
    DownloadRequest,
    DownloadResult,
)
from natproxy.client.transfer.parallel import run_parallel

_Result = TypeVar("_Result")


class Failure(NamedTuple):
    """A file that could not be fetched, and why."""

    wanted: DownloadRequest
    error: ClientError


@dataclass
class Totals:
    """What became of very many downloads.

    :ivar downloaded: files that are complete.
    :ivar received: bytes that came over the network for them.
    :ivar failures: the others, in their order.
    """

    downloaded: int = 0
    received: int = 0
    failures: list[Failure] = field(default_factory=list)


def download_all(
    session: Session,
    wanted: Iterable[DownloadRequest],
    how: DownloadOptions,
    jobs: int = 1,
    progress: Progress = ignore_event,
) -> list[DownloadResult | ClientError]:
    """Fetch files.

    :param jobs: files that are fetched at the same time.
    :return: how each of them ended, in order.
    :raises KeyboardInterrupt: when it comes; what has been received is kept.
    """
    return _fetch(session, wanted, how, jobs, progress, lambda _, result: result)


def download_and_count(
    session: Session,
    wanted: Iterable[DownloadRequest],
    how: DownloadOptions,
    jobs: int = 1,
    progress: Progress = ignore_event,
) -> Totals:
    """Fetch files as `download_all` does; nothing is held of those that are fetched."""
    totals = Totals()
    lock = threading.Lock()

    def count(one: DownloadRequest, result: DownloadResult | ClientError) -> Failure | None:
        if isinstance(result, ClientError):
            return Failure(one, result)
        with lock:
            totals.downloaded += 1
            totals.received += result.received
        return None

    results = _fetch(session, wanted, how, jobs, progress, count)
    totals.failures = [failure for failure in results if failure is not None]
    return totals


def _fetch(
    session: Session,
    wanted: Iterable[DownloadRequest],
    how: DownloadOptions,
    jobs: int,
    progress: Progress,
    hold: Callable[[DownloadRequest, DownloadResult | ClientError], _Result],
) -> list[_Result]:
    stop = Cancellation()
    outage = Outage()

    def fetch(one: DownloadRequest) -> _Result:
        try:
            return hold(one, Download(session, one, how, progress, stop, outage).run())
        except Interrupted:
            raise
        except ClientError as error:
            return hold(one, error)

    steps = (partial(fetch, one) for one in wanted)
    return run_parallel(steps, jobs, stop, session.interrupt)
