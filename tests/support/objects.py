"""An object store in memory, with faults: what an `ObjectStorage` needs of one."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Callable

from natproxy.storage import NotFound
from natproxy.storage.objects.client import (
    EmptyObject,
    Listed,
    ListedPage,
    ObjectChanged,
    ObjectInfo,
    StoreError,
)

MTIME_NS = 1_500_000_000_000_000_000


class PlayedBody:
    """The body of a reply.

    :ivar closed: whether `close` was called.
    """

    def __init__(self, store: PlayedStore, info: ObjectInfo, data: bytes) -> None:
        self.info = info
        self.closed = False
        self._store = store
        self._data = data

    def read(self, size: int) -> bytes:
        self._store.before_read()
        assert not self.closed
        data, self._data = self._data[:size], self._data[size:]
        self._store.sent += len(data)
        return data

    def close(self) -> None:
        self.closed = True


class PlayedStore:
    """A store; see `natproxy.storage.objects.client.ObjectClient`.

    :ivar objects: content and etag by key.
    :ivar requests: the method and the key, or prefix, of each request.
    :ivar ranges: key, start and stop of each range that was requested.
    :ivar sent: bytes of bodies that were read.
    :ivar error: raised by each request, if it is not `None`.
    :ivar before_read: called before bytes of a body are returned; it may wait, or raise.
    :ivar page_size: keys of a page at most.
    :ivar tree: whether it lists as a file system does.
    """

    def __init__(self, tree: bool = False) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.digests: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[tuple[str, int, int]] = []
        self.sent = 0
        self.error: StoreError | None = None
        self.before_read: Callable[[], object] = lambda: None
        self.page_size = 1000
        self.tree = tree
        self.by_name = tree
        self._lock = threading.Lock()

    def put(self, key: str, content: bytes = b"") -> None:
        """Create or replace an object."""
        etag = hashlib.md5(content + b"%d" % len(self.requests)).hexdigest()
        self.objects[key] = content, etag

    def head(self, key: str, digest: bool = False) -> ObjectInfo:
        self._note("head", key)
        content, etag = self._find(key)
        return ObjectInfo(len(content), MTIME_NS, etag, self.digests.get(key) if digest else None)

    def get(self, key: str, start: int, stop: int, etag: str | None = None) -> PlayedBody:
        self._note("get", key)
        self.ranges.append((key, start, stop))
        try:
            content, now = self._find(key)
        except NotFound:
            if etag is not None:
                raise ObjectChanged from None
            raise
        if etag not in (None, now):
            raise ObjectChanged
        if start >= len(content):
            raise EmptyObject
        return PlayedBody(self, ObjectInfo(len(content), MTIME_NS, now), content[start:stop])

    def page(
        self, prefix: str, delimited: bool, after: str, token: str | None, limit: int
    ) -> ListedPage:
        self._note("page", prefix)
        limit = min(limit, self.page_size)
        found: dict[str, Listed] = {}
        for key, (content, etag) in self.objects.items():
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimited and "/" in rest:
                shared = prefix + rest[: rest.index("/") + 1]
                if after and not self.order(key) > self.order(after):
                    continue
                found[shared] = Listed(shared, None)
            elif not after or self.order(key) > self.order(after):
                found[key] = Listed(key, ObjectInfo(len(content), MTIME_NS, etag))
        listed = sorted(found.values(), key=lambda one: self.order(one.key))
        orders = [self.order(one.key) for one in listed]
        first = 0 if token is None else bisect_right(orders, self.order(token))
        page = listed[first : first + limit]
        more = first + limit < len(listed)
        if delimited:
            page.sort()
        last = listed[first + len(page) - 1].key if page else ""
        return ListedPage(page, last if more else None)

    def order(self, key: str) -> object:
        """Return what keys are sorted by."""
        return [part.encode() for part in key.split("/")] if self.tree else key.encode()

    def _find(self, key: str) -> tuple[bytes, str]:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFound from None

    def _note(self, method: str, key: str) -> None:
        with self._lock:
            self.requests.append((method, key))
        if self.error is not None:
            raise self.error
