"""Downloads of directories that are still being listed: totals and space, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

from natproxy.client.transfer.plan import MirrorPlan
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.volumes import SpaceCheck


class Expect(Protocol):
    """Takes the totals of all downloads that are known: `Display.expect`, for example."""

    def __call__(self, files: int, size: int | None, more: bool = False) -> object: ...


class ListedDownloads:
    """The downloads of one or more directories, as far as the server has listed them.

    :param place: the local directory that the files are saved in, or below.
    :param expect: called with the totals after each page.
    :param others: downloads besides those of directories.
    """

    def __init__(
        self, place: bytes, expect: Expect, others: Sequence[DownloadRequest] = ()
    ) -> None:
        self._space = SpaceCheck(place)
        self._expect = expect
        self._others = others
        self._plans: list[MirrorPlan] = []
        self._size = sum(each.metadata.size for each in others if each.metadata is not None)

    def add(
        self, plan: MirrorPlan, pages: Iterable[bool], more: bool = False
    ) -> Iterator[DownloadRequest]:
        """Yield the requests of a plan while its directory is listed.

        Nothing is created here before there is space for what is listed.

        :param pages: of `compare_pages`, for the plan.
        :param more: whether another directory follows.
        :raises LocalError: if there is not enough space for what is listed; its ``errno`` is
            ENOSPC.
        """
        self._plans.append(plan)
        for page_follows in pages:
            self._space.require(self._requests(), self._size + plan.new_size)
            plan.check_directories()
            self._size += plan.new_size
            requests = plan.take()
            self.show(more or page_follows)
            yield from requests

    def show(self, more: bool = False) -> None:
        """Show the totals.

        :param more: whether they may grow.
        """
        files = sum(len(plan.downloads) + plan.missing for plan in self._plans)
        self._expect(files + len(self._others), self._size, more)

    def require_space(self) -> None:
        """Check the space for the downloads that are known.

        :raises LocalError: as `add` does.
        """
        self._space.require(self._requests(), self._size)

    def _requests(self) -> Iterator[DownloadRequest]:
        return chain(self._others, *(plan.requests for plan in self._plans))
