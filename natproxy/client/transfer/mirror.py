"""Compare a directory on the server with a local one, and plan how to make the local one equal.

Nothing outside of the local directory is written or deleted, whatever names the server lists and
whatever links are in it. An obstacle to one file does not affect the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import NamedTuple, TypeVar

from natproxy.client.blocking.session import Session
from natproxy.client.errors import (
    ListingIncomplete,
    NotFound,
    NotUnderstood,
    Unsupported,
    UsageError,
)
from natproxy.client.listing import FIRST_PAGE, LONGEST_PAGE, MOST_ENTRIES, Listing
from natproxy.client.requests import as_name
from natproxy.client.transfer.comparison import Comparison
from natproxy.client.transfer.digests import compare_digests
from natproxy.client.transfer.parallel import Ahead, Retry
from natproxy.client.transfer.plan import MirrorPlan, name_of
from natproxy.client.transfer.selection import Equality, Selection
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import FILE, ROOT, UNREAD, Entry, WireError, printable

_Result = TypeVar("_Result")


def run_once(step: Callable[[], _Result]) -> _Result:
    """Run a step once and return its result."""
    return step()


class MirrorRules(NamedTuple):
    """What belongs to a mirror, and how it is compared.

    :ivar delete: whether `MirrorPlan.extra` is needed.
    :ivar limit: entries that the server may list; ``None`` for any number.
    :ivar selection: of entries, by their paths below the directory. Others are neither
        downloaded nor extra. ``None`` for all.
    :ivar equality: when a local file counts as unchanged.
    """

    delete: bool = True
    limit: int | None = MOST_ENTRIES
    selection: Selection | None = None
    equality: Equality = Equality.SIZE_AND_TIME


ALL = MirrorRules()
"""A mirror of everything."""


def compare(
    session: Session,
    name: bytes,
    tree: LocalTree,
    rules: MirrorRules = ALL,
    retry: Retry = run_once,
) -> MirrorPlan:
    """Compare a directory on the server with a local one; nothing is changed.

    The parameters and exceptions are those of `compare_pages`.
    """
    plan = plan_for(name, tree, rules)
    for _ in compare_pages(session, plan, rules, retry):
        pass
    return plan


def plan_for(name: bytes, tree: LocalTree, rules: MirrorRules) -> MirrorPlan:
    """Return an empty plan.

    :param name: of the directory on the server; empty for the served one.
    :param tree: the local directory, which need not exist.
    """
    name = as_name(name)
    replaces = rules.equality is Equality.CHECKSUM
    return MirrorPlan(tree, b"" if name == ROOT else name, replaces)


def compare_pages(
    session: Session, plan: MirrorPlan, rules: MirrorRules, retry: Retry
) -> Generator[bool, None, None]:
    """Compare a directory on the server with a local one, page by page; nothing is changed.

    What is planned so far may be downloaded while the next page is received. A page after which
    that is not so is not yielded: a file that is downloaded under another name than the local
    traversal will find would be extra.

    :param plan: the plan to fill.
    :param retry: runs each command. After a failure, a listing continues with the missing page.
    :return: yields whether entries may follow. The plan is complete after the last page, and
        ``extra`` is empty before.
    :raises UsageError: if the name is not that of a directory on the server.
    :raises NotUnderstood: if the server lists a name outside of the directory.
    :raises TooManyEntries: if it lists more entries than the limit.
    :raises LocalError: if the local directory cannot be listed.
    """
    name = plan.top
    listing = Listing(name, math.inf, limit=rules.limit, page=LONGEST_PAGE, first=FIRST_PAGE)
    try:
        # `FEAT` travels with the first command.
        first = retry(partial(session.run, listing.begin()))
    except Unsupported:
        session.require_version_2("list what has changed")
        raise
    comparison = Comparison(plan, rules.delete, rules.selection, rules.equality)
    # An entry of the first page, if the listing has several.
    landmark = b""
    try:
        with closing(_pages(session, listing, first, retry)) as pages:
            for page in pages:
                if len(page) == 1 and (page[0].name, page[0].metadata.type) == (name, FILE):
                    # A file lists itself.
                    raise UsageError(
                        f"{printable(name)}: not a directory; 'natproxy get' downloads files"
                    )
                comparison.add_page(page)
                if listing.more and not landmark:
                    readable = (each.name for each in page if each.metadata.type != UNREAD)
                    landmark = next(readable, b"")
                if plan.same_size:
                    compare_digests(session, plan, retry)
                if listing.more and not (rules.delete and comparison.has_aliases):
                    yield True
    except ListingIncomplete as error:
        plan.incomplete = error
    comparison.finish()
    if plan.extra:
        _check_vanished(session, retry, plan, landmark)
        _check_unlisted(session, retry, plan, comparison.without_listed_content())
    yield False


_RawPage = tuple[bytes, bytes]


def _pages(
    session: Session, listing: Listing, page: _RawPage, retry: Retry
) -> Generator[list[Entry], None, None]:
    """Yield the pages of a listing; the next one is received while one is used.

    :param page: the first one.
    :raises ListingIncomplete: after the last page, if content of directories is missing.
    """
    while True:
        try:
            following = listing.following(*page)
        except WireError as error:
            raise _not_understood(session, error) from error
        ahead = None
        if following is not None:
            ahead = Ahead(partial(retry, partial(session.run, following)))
        try:
            yield listing.take(*page)
            if ahead is None:
                break
            page = ahead.wait()
        except Exception as error:
            if ahead is not None:
                # Downloads of earlier pages continue: they must not be interrupted.
                ahead.cancel(_do_nothing)
            if isinstance(error, WireError):
                raise _not_understood(session, error) from error
            raise
        except BaseException:
            if ahead is not None:
                ahead.cancel(session.interrupt)
            raise
    listing.finish()


def _do_nothing() -> None:
    """Let the request for a page come to its end."""


def _not_understood(session: Session, error: WireError) -> NotUnderstood:
    return NotUnderstood(f"{session.server} is not understood: {error}")


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
