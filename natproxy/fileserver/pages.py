"""Pages of ``LS``: parts of a storage's listing, made in threads.

There is no state between two pages: each begins after a name that the client sends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import closing
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from natproxy.metadata import UNREAD
from natproxy.protocol import MORE, Arguments, Page, format_entry, format_page
from natproxy.server.threads import BoundedExecutor, CancellationToken, InThread, Limits, Work
from natproxy.storage import Step, Storage

DEFAULT_LIMIT = 1000
"""Entries on a page, if the client does not specify a limit."""

MAX_LIMIT = 10_000
"""Entries on a page, if the client specifies a higher limit."""

MAX_SIZE = 2**20
"""Bytes of a page's lines."""

MAX_STEPS = 20_000
"""Entries of a listing, and steps without any, for one page."""

MAX_SECONDS = 5.0
"""Seconds after which a page ends with the entries that it has."""

CONCURRENT_PAGES = 7
"""Pages that are made at a time."""

CONCURRENT_PAGES_OF_TREE = 3
"""Such pages of the tree below one entry of the served directory, and of the whole tree.

When a file system hangs, listings of the whole tree hang, and those below the entry at which it
is mounted. The others still have a thread.
"""

QUEUED_PAGES = 64
"""Pages that wait for a thread."""


class PageReply(NamedTuple):
    """The reply to one ``LS``.

    :ivar page: what its header states besides the length.
    :ivar body: a line for each entry.
    """

    page: Page
    body: bytes

    def format(self) -> bytes:
        """Return the whole reply."""
        return format_page(len(self.body), self.page) + self.body


def make_page(
    steps: Iterable[Step],
    limit: int,
    clock: Callable[[], float] = time.monotonic,
    max_steps: int = MAX_STEPS,
) -> PageReply:
    """Return a page of entries, with lines of `MAX_SIZE` bytes at most.

    If the page ends before the listing does, its last line is ``more``.

    :param limit: of entries.
    :param clock: monotonic seconds; the page ends after `MAX_SECONDS`.
    :param max_steps: entries, and steps without any, after which the page ends.
    """
    lines: list[bytes] = []
    size = unread = 0
    last = position = b""
    cut = False
    until = clock() + MAX_SECONDS
    count = 0
    for step in steps:
        count += len(step.entries) or 1
        if step.position is None:
            # The listing cannot continue from here.
            unread += step.unread
            continue
        for entry in step.entries:
            line = format_entry(entry)
            size += len(line)
            cut = len(lines) == limit or size > MAX_SIZE
            if cut:
                break
            lines.append(line)
            unread += entry.unread or entry.metadata.type == UNREAD
            last = position = entry.name
        if cut:
            break
        position = step.position
        cut = count >= max_steps or clock() >= until
        if cut:
            break
    if cut:
        lines.append(MORE + b"\n")
    after = position if cut and position != last else None
    return PageReply(Page(unread, after), b"".join(lines))


class Pages:
    """Makes the pages of one storage.

    :param in_thread: where they are made; of `CONCURRENT_PAGES` threads.
    :param clock: for the longest time that a client waits; ``None`` for no time-out.
    :ivar executor: runs the work.
    """

    def __init__(
        self, storage: Storage, in_thread: InThread, clock: IReactorTime | None = None
    ) -> None:
        self._storage = storage
        limits = Limits(CONCURRENT_PAGES, QUEUED_PAGES, CONCURRENT_PAGES_OF_TREE)
        self.executor = BoundedExecutor(in_thread, "listings", limits, clock)

    def page(self, arguments: Arguments, client: Hashable) -> Deferred[bytes]:
        """Make a page.

        :param arguments: of the ``LS``.
        :param client: its client, for a fair order.
        :return: fires with the whole reply, or fails as `Storage.entries` does, or with
            `WorkRefused`. If it is cancelled, the work ends.
        :raises Overloaded: if too many pages are waiting.
        :raises Unresponsive: if all threads hang.
        """
        limit = min(arguments.limit or DEFAULT_LIMIT, MAX_LIMIT)
        token = CancellationToken()

        def make() -> bytes:
            steps = self._storage.entries(
                arguments.name, arguments.depth, arguments.after, token.check
            )
            with closing(steps):
                return make_page(steps, limit).format()

        top = arguments.name.partition(b"/")[0]
        work = Work(make, client, top, token.cancel, progress=token.progress)
        return self.executor.submit(work)
