"""Files and directories from the keys of an object store, which lists them in order.

Directories are the prefixes of keys. The protocol lists a directory before everything that begins
with its name, ``a``, ``a-1``, ``a.txt``, ``a/x``; the store lists ``a-1``, ``a.txt``, ``a/x``, or
with a delimiter ``a-1``, ``a.txt``, ``a/``. So for each key, every *stem* of it is looked for:
``a`` of ``a-1``, as the character after it is less than a slash. Usually the page of keys continues
beyond ``a/`` and shows whether there is one; else a request finds out, and the page remembers it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from natproxy.storage.interface import Check, NotFound
from natproxy.storage.objects.client import (
    Listed,
    ListedPage,
    ObjectClient,
    ObjectInfo,
    StoreError,
)

PAGE = 1000
"""Keys that a store lists in one reply."""

LAST = "\U0010ffff"
"""The character that is greater than every other one."""

HIDDEN = "an object has the name of its directory"
"""The reason for which keys below an object are left out."""

INVALID = "no name can have empty components, '.', '..' or a NUL"
"""The reason for which keys are left out that are no names."""

Omit = Callable[[str, str], object]
"""Called with a key that is left out, and the reason."""

_STEM = re.compile("[\0-/]")
# A component that is empty, ``.`` or ``..``; or a NUL.
_INVALID = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|\0")


class Item(NamedTuple):
    """An entry of a directory.

    :ivar name: below the directory, without a slash at its end.
    :ivar info: ``None`` for a directory.
    """

    name: str
    info: ObjectInfo | None


class OrderError(StoreError):
    """The store does not list keys in the order of their bytes; `ObjectClient.by_name` is set."""

    def __init__(self) -> None:
        super().__init__("the object store lists keys in the order of a file system")


def is_valid(name: str) -> bool:
    """Return whether a key can be the name of a file or a directory."""
    return not _INVALID.search(name)


def stems(name: str) -> list[str]:
    """Return the names that are less than a name, and whose entries are greater, in order.

    :param name: of one component.
    """
    found = (name[: one.start()] for one in _STEM.finditer(name, 1))
    return [stem for stem in found if is_valid(stem)]


class Keys:
    """The keys of a store, for one listing.

    :param client: of the store.
    :param check: called for each key and request; an exception that it raises ends the work.
    :param omit: called with what is left out.
    """

    def __init__(self, client: ObjectClient, check: Check, omit: Omit) -> None:
        self.client = client
        self.check = check
        self.omit = omit

    def page(self, top: str, delimited: bool, after: str, token: str | None) -> ListedPage:
        """Return the next part of the store's listing; see `ObjectClient.page`."""
        self.check()
        return self.client.page(top, delimited, after, token, PAGE)

    def is_directory(self, key: str) -> bool:
        """Return whether keys begin with a prefix, and no object has its name."""
        return self.has_prefix(f"{key}/") and not self.is_object(key)

    def is_object(self, key: str) -> bool:
        """Return whether there is an object with a key."""
        try:
            self.client.head(key)
        except NotFound:
            return False
        return True

    def has_prefix(self, prefix: str) -> bool:
        """Return whether a key begins with a prefix."""
        self.check()
        return bool(self.client.page(prefix, False, "", None, 1).listed)


class _Kind(Enum):
    """What is known about a name that the current key begins with."""

    FILE = "file"
    DIRECTORY = "directory"
    ABSENT = "absent"


class OrderedItems:
    """Files and directories below a prefix, in the order of the protocol.

    :param keys: of a store that lists them in the order of their bytes.
    :param top: the prefix, with a slash at its end, or empty.
    :param after: what is yielded is greater; below ``top``, empty for all.
    :param delimited: whether only the entries directly below the prefix are yielded.
    """

    def __init__(self, keys: Keys, top: str, after: str, delimited: bool) -> None:
        self._keys = keys
        self._top = top
        self._after = after
        self._delimited = delimited
        # Names with which the current key begins, each one a prefix of the next.
        self._known: list[tuple[str, _Kind]] = []

    def __iter__(self) -> Iterator[Item]:
        """Yield the items.

        :raises OrderError: if the store lists them in another order.
        """
        keys, top = self._keys, self._top
        token, start = None, top + self._after if self._after else ""
        # Keys that begin with this are left out.
        skipped = "\0"
        before = start
        while True:
            page = keys.page(top, self._delimited, start, token)
            page_keys = [one.key for one in page.listed]
            for listed in page.listed:
                keys.check()
                if listed.key < before:
                    keys.client.by_name = True
                if keys.client.by_name:
                    raise OrderError
                before = listed.key
                name = listed.key[len(top) :]
                if name and not name.startswith(skipped):
                    skipped = yield from self._items_of(listed, page_keys, page.token is None)
            token = page.token
            if token is None:
                return
            if before[len(top) :].startswith(skipped):
                # The rest of what is left out need not be listed.
                token, start = None, top + skipped + LAST

    def _items_of(
        self, listed: Listed, page: Sequence[str], complete: bool
    ) -> Generator[Item, None, str]:
        """Yield what is to be listed before a key or for it.

        :param page: the keys of the page that it is on.
        :param complete: whether no page follows.
        :return: a prefix of keys that are left out; a NUL if there is none.
        """
        name, known = listed.key[len(self._top) :], self._known
        while known and not name.startswith(known[-1][0]):
            known.pop()
        bare = name.removesuffix("/")
        invalid = _INVALID.search(bare)
        end = len(name) if invalid is None else invalid.start() + 1
        for found in _STEM.finditer(name, 1, end):
            stem, is_parent = name[: found.start()], found[0] == "/"
            if not is_parent and not is_valid(stem):
                # ``a/`` of ``a/-``, or ``.`` of ``.-``.
                continue
            kind = next((kind for other, kind in known if other == stem), None)
            if kind is None:
                if not is_parent and stem <= self._after:
                    continue
                kind = self._kind_of(stem, is_parent, page, complete)
                known.append((stem, kind))
                if kind is _Kind.DIRECTORY and stem > self._after:
                    yield Item(stem, None)
            if is_parent and kind is not _Kind.DIRECTORY:
                # Else it has just been created, and is listed the next time.
                if kind is _Kind.FILE:
                    self._keys.omit(listed.key, HIDDEN)
                return f"{stem}/"
        if invalid is not None:
            self._keys.omit(listed.key, INVALID)
            if invalid.end() < len(bare):
                return bare[: invalid.end()] if bare[invalid.end() - 1] == "/" else "\0"
            return name if name != bare else "\0"
        if listed.info is not None and name == bare:
            known.append((name, _Kind.FILE))
            if name > self._after:
                yield Item(name, listed.info)
        return "\0"

    def _kind_of(self, stem: str, is_parent: bool, page: Sequence[str], complete: bool) -> _Kind:
        """Return what a name is that the current key begins with, and that was not listed.

        :param is_parent: whether the key is below it.
        """
        if is_parent:
            # A file of that name would have been listed before, unless the listing began later.
            unlisted = stem <= self._after and not self._delimited
            is_file = unlisted and self._keys.is_object(self._top + stem)
            return _Kind.FILE if is_file else _Kind.DIRECTORY
        prefix = f"{self._top}{stem}/"
        if complete or page[-1] >= prefix:
            place = bisect_left(page, prefix)
            exists = place < len(page) and page[place].startswith(prefix)
        else:
            exists = self._keys.has_prefix(prefix)
        return _Kind.DIRECTORY if exists else _Kind.ABSENT
