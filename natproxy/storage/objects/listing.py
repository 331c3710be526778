"""Entries of a directory of objects, to any depth, whatever the order of the store is.

Some stores on file systems list ``a/x`` before ``a-1``. Their directories are listed one by one,
with a delimiter: among the entries of one directory there is only one order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from natproxy.storage.objects.keys import (
    HIDDEN,
    INVALID,
    Item,
    Keys,
    OrderedItems,
    is_valid,
    stems,
)


def items_below(keys: Keys, top: str, depth: float, after: str) -> Iterator[Item]:
    """Yield the files and directories below a prefix, in the order of the protocol.

    :param top: the prefix, with a slash at its end, or empty.
    :param depth: levels of directories, 1 or more, or ``math.inf``.
    :param after: what is yielded is greater; below ``top``, empty for all.
    :raises OrderError: if the order of the store turns out to be that of a file system.
    """
    if depth == math.inf and not keys.client.by_name:
        yield from OrderedItems(keys, top, after, delimited=False)
        return
    head, slash, rest = after.partition("/")
    # Directories whose entries are due, each with what they come after. Each name begins with the
    # name before it.
    due: list[tuple[str, str]] = []
    if depth > 1 and head:
        due += [(stem, "") for stem in stems(head) if keys.is_directory(top + stem)]
        if is_valid(head) and keys.is_directory(top + head):
            due.append((head, rest))

    def descend() -> Iterator[Item]:
        name, behind = due.pop()
        for item in items_below(keys, f"{top}{name}/", depth - 1, behind):
            yield Item(f"{name}/{item.name}", item.info)

    for item in items_in(keys, top, head + slash):
        while due and item.name > due[-1][0] + "/":
            yield from descend()
        yield item
        if item.info is None and depth > 1:
            due.append((item.name, ""))
    while due:
        yield from descend()


def items_in(keys: Keys, top: str, after: str) -> Iterator[Item]:
    """Yield the files and directories directly below a prefix; see `items_below`."""
    if keys.client.by_name:
        return _items_by_name(keys, top, after)
    return iter(OrderedItems(keys, top, after, delimited=True))


def _items_by_name(keys: Keys, top: str, after: str) -> Iterator[Item]:
    name_after = after.removesuffix("/")
    start, token, last = top + name_after if name_after else "", None, ""
    while True:
        page = keys.page(top, True, start, token)
        named = [
            (one.key[len(top) :].removesuffix("/"), one.info is None, one)
            for one in page.listed
            if one.key != top
        ]
        # A file comes before a directory of the same name, which it hides.
        for name, is_directory, listed in sorted(named, key=lambda one: one[:2]):
            keys.check()
            if not is_valid(name):
                keys.omit(listed.key, INVALID)
            elif name == last:
                keys.omit(listed.key, HIDDEN)
            else:
                last = name
                if name > after:
                    yield Item(name, None if is_directory else listed.info)
        token = page.token
        if token is None:
            return
