"""Compare a directory on the server with a local one, and plan how to make the local one equal.

Nothing outside of the local directory is written or deleted, whatever names the server lists and
whatever links are in it. An obstacle to one file does not affect the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from natproxy.client.blocking.session import Session
from natproxy.client.errors import ListingIncomplete, NotFound, UsageError
from natproxy.client.listing import MOST_ENTRIES, Listing
from natproxy.client.requests import as_name
from natproxy.client.transfer.comparison import Comparison
from natproxy.client.transfer.plan import MirrorPlan, name_of
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import DIRECTORY, ROOT, UNREAD, printable

_Result = TypeVar("_Result")


class Retry(Protocol):
    """Runs a step, perhaps more than once, and returns its result: a `Retrier`, for example."""

    def __call__(self, step: Callable[[], _Result], /) -> _Result: ...


def run_once(step: Callable[[], _Result]) -> _Result:
    """Run a step once and return its result."""
    return step()


def compare(
    session: Session,
    name: bytes,
    tree: LocalTree,
    delete: bool = True,
    limit: int | None = MOST_ENTRIES,
    retry: Retry = run_once,
) -> MirrorPlan:
    """Compare a directory on the server with a local one; nothing is changed.

    :param name: of the directory on the server; empty for the served one.
    :param tree: the local directory, which need not exist.
    :param delete: whether `MirrorPlan.extra` is needed.
    :param limit: entries that the server may list; ``None`` for any number.
    :param retry: runs each command. After a failure, a listing continues with the missing page.
    :raises UsageError: if ``name`` is not a directory on the server.
    :raises NotUnderstood: if the server lists a name outside of the directory.
    :raises TooManyEntries: if it lists more entries than the limit.
    :raises LocalError: if the local directory cannot be listed.
    """
    retry(partial(session.require_version_2, "list what has changed"))
    name = as_name(name)
    if name == ROOT:
        name = b""
    if retry(partial(session.stat, name)).type != DIRECTORY:
        raise UsageError(f"{printable(name)}: not a directory; 'natproxy get' downloads files")
    plan = MirrorPlan(tree, top=name)
    with Comparison(plan, delete) as comparison:
        # An entry of the first page, if the listing has several.
        first = b""
        try:
            listing = Listing(name, math.inf, limit=limit)
            for page in listing.pages():
                for entry in retry(partial(session.run, page)):
                    comparison.add(entry)
                    if listing.more and not first and entry.metadata.type != UNREAD:
                        first = entry.name
        except ListingIncomplete as error:
            plan.incomplete = error
        comparison.finish()
    if plan.extra:
        _check_vanished(session, retry, plan, first)
        _check_unlisted(session, retry, plan, comparison.without_listed_content())
    return plan


def _check_vanished(session: Session, retry: Retry, plan: MirrorPlan, first: bytes) -> None:
    """Check that an entry of the first page still exists after the last page.

    A server that is restarted with another directory, or whose storage is unmounted, lists no
    further entries. An entry that it has not listed may exist all the same.
    """
    if first and not retry(partial(_exists, session, first)):
        plan.extra = []
        reason = f"{printable(first)} vanished from the server meanwhile"
        plan.incomplete = ListingIncomplete(0, reason)


def _check_unlisted(
    session: Session, retry: Retry, plan: MirrorPlan, directories: list[bytes]
) -> None:
    """Check that the server can list directories whose whole content would be deleted.

    In a listing of a whole tree, a directory looks empty if the server does not mark what it
    cannot read, or if the directory has become unreadable between two pages.
    """
    for path in directories:
        name = name_of(path, plan.top)
        if not retry(partial(_is_listed, session, name)):
            plan.unread.append(name)
            plan.extra = [each for each in plan.extra if not each.path.startswith(path + b"/")]


def _exists(session: Session, name: bytes) -> bool:
    """Return whether the server has an entry."""
    try:
        session.stat(name)
    except NotFound:
        return False
    return True


def _is_listed(session: Session, name: bytes) -> bool:
    """Return whether the server can list a directory."""
    try:
        next(session.ls(name), None)
    except NotFound:
        return False
    return True
