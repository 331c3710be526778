"""An object store as a storage."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from itertools import islice

from natproxy.counts import counted
from natproxy.metadata import DIRECTORY, FILE, Entry, Metadata
from natproxy.storage.cache import DiskCache
from natproxy.storage.interface import (
    Check,
    NotFound,
    Snapshot,
    Snapshots,
    Step,
    TooLarge,
    TopFiles,
    unchecked,
)
from natproxy.storage.objects.client import (
    EmptyObject,
    ObjectChanged,
    ObjectClient,
    ObjectInfo,
    StoreError,
)
from natproxy.storage.objects.keys import Item, Keys, OrderError, is_valid
from natproxy.storage.objects.listing import items_below, items_in
from natproxy.storage.objects.location import Location
from natproxy.storage.objects.pieces import CachedPieces, ObjectPieces, pieces_of
from natproxy.storage.objects.ranges import FetchThreads, Memory, Pieces, Reader

FIRST = 64 * 1024
"""Bytes that are received together with the metadata when an object is opened."""

LONGEST_KEY = 1024
"""Bytes of a key at most."""

BATCH = 64
"""Entries in one step of a listing."""

SNAPSHOTS_AHEAD = 8
"""Objects of a pack that are received at a time."""

REPORT_EVERY = 60.0
"""Seconds between two reports of keys that are left out."""

_DIRECTORY = Metadata(DIRECTORY, 0, 0, "prefix")

Hides = Callable[[bytes], bool]
Report = Callable[[str], object]
"""Called with a line for the log, in any thread."""


class ObjectFile:
    """An object that is open for reading; see `natproxy.storage.interface.OpenFile`.

    Every range of it is requested on the condition that the object still has its etag.
    """

    blocking = True
    device = 0

    def __init__(self, info: ObjectInfo, reader: Reader, digest: Callable[[], str | None]) -> None:
        self.size = info.size
        self.metadata = _metadata_of(info)
        self._reader = reader
        self._digest = digest

    def fileno(self) -> None:
        """Return ``None``: there is no descriptor."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an offset on.

        :raises StoreError: if the store fails, or the object was replaced or removed.
        """
        return self._reader.read(offset, size)

    def ready(self, offset: int) -> bool:
        """Return whether bytes from an offset on have been received."""
        return self._reader.ready(offset)

    def interrupt(self) -> None:
        """Let a read that waits in a thread fail."""
        self._reader.interrupt()

    def stored_sha256(self) -> str | None:
        """Return the SHA-256 that the store keeps of the whole object, if it does."""
        return self._digest()

    def unchanged(self) -> bool:
        """Return true: no byte of another object is ever read."""
        return True

    @property
    def identity(self) -> str:
        """The etag, which changes with the content."""
        return self.metadata.etag

    def current_identity(self) -> str:
        """Return the etag of the object that was read."""
        return self.metadata.etag

    def is_racy(self) -> bool:
        """Return false: the etag changes with the content."""
        return False

    def close(self) -> None:
        """Drop what has been received."""
        self._reader.close()


class ObjectStorage:
    """The objects below a prefix of a bucket; see `natproxy.storage.interface.Storage`.

    Keys that begin with a name and a slash are a directory. An object hides the directory of its
    name in listings.

    :param location: what is served.
    :param client: of the store.
    :param cache: of blocks of objects, on a local disk.
    :param clock: monotonic seconds.
    :param threads: in which objects are received.
    :param memory: that received bytes may hold.
    :ivar report: called with what listings leave out, and why.
    """

    blocking = True

    def __init__(
        self,
        location: Location,
        client: ObjectClient,
        cache: DiskCache | None = None,
        clock: Callable[[], float] = time.monotonic,
        threads: FetchThreads | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.location = location
        self.memory = memory or Memory()
        self.cache = cache
        self.report: Report = lambda line: None
        self.client = client
        self._threads = threads or FetchThreads()
        self._omissions = Omissions(location, lambda line: self.report(line), clock)
        self._hides: Hides | None = None

    def hide(self, hides: Hides | None) -> None:
        """Neither list nor open the names for which a function returns true.

        :param hides: called in any thread; ``None`` to hide nothing.
        """
        self._hides = hides

    def check(self) -> None:
        """Check that the bucket can be listed, and has objects below a prefix.

        :raises StoreError: if it cannot, or has none: if a misspelt prefix were served, mirrors of
            the empty directory would be emptied.
        """
        prefix = self.location.prefix
        if not self.client.page(prefix, False, "", None, 1).listed and prefix:
            raise StoreError("there is no object below this prefix; check its spelling")

    def metadata(self, name: bytes) -> Metadata:
        """Return the metadata of an object or a prefix.

        :raises NotFound: if there is neither.
        :raises StoreError: if the store fails.
        """
        if not name:
            return _DIRECTORY
        key = self._key_of(name)
        try:
            return _metadata_of(self.client.head(key))
        except NotFound:
            if self.client.page(f"{key}/", False, "", None, 1).listed:
                return _DIRECTORY
            raise

    def open(self, name: bytes) -> ObjectFile:
        """Open an object.

        :raises NotFound: if there is none.
        :raises StoreError: if the store fails.
        """
        key = self._key_of(name)
        client, cache = self.client, self.cache
        if cache is None:
            info, first = self._begin(key, FIRST)
        else:
            info, first = client.head(key), b""
        received = ObjectPieces(client, key, info.etag)
        pieces: Pieces = received
        if cache is not None:
            place = (self.location.endpoint or "", self.location.bucket, key, info.etag)
            pieces = CachedPieces(received, info.size, cache, "\0".join(place))
        reader = Reader(pieces, info.size, self._threads, self.memory)
        reader.preload(first)

        def digest() -> str | None:
            try:
                now = client.head(key, digest=True)
            except NotFound:
                raise ObjectChanged from None
            return now.sha256 if now.etag == info.etag else None

        return ObjectFile(info, reader, digest)

    def entries(
        self, name: bytes, depth: float, after: bytes, check: Check = unchecked
    ) -> Generator[Step, None, None]:
        """List the tree below a prefix, or an object; see `Storage.entries`."""
        if name:
            metadata = self.metadata(name)
            if metadata.type == FILE:
                if name > after:
                    yield Step(name, [Entry(name, metadata)])
                return
        top = name + b"/" if name else b""
        if after > top and not after.startswith(top):
            return
        behind = after[len(top) :] if after.startswith(top) else b""
        found = self._items(top.decode(), depth, _text_before(behind), check)
        entries = (
            Entry(path, _DIRECTORY if item.info is None else _metadata_of(item.info))
            for item in found
            if (path := top + item.name.encode()) > after and not self._is_hidden(path)
        )
        while batch := list(islice(entries, BATCH)):
            yield Step(batch[-1].name, batch)

    def snapshots(
        self, names: Sequence[bytes], largest: int, check: Check = unchecked
    ) -> Snapshots:
        """Receive small objects, several at a time; see `Storage.snapshots`."""
        waiting: deque[Future[Snapshot]] = deque()
        following = iter(names)
        try:
            while True:
                for name in islice(following, SNAPSHOTS_AHEAD - len(waiting)):
                    waiting.append(self._threads.submit(partial(self._snapshot, name, largest)))
                if not waiting:
                    return
                check()
                try:
                    yield waiting.popleft().result()
                except (NotFound, TooLarge, OSError) as error:
                    yield error
        finally:
            for future in waiting:
                future.cancel()

    def top_files(self, check: Check = unchecked) -> TopFiles:
        """Return the names of the objects directly below the prefix."""
        keys = Keys(self.client, check, self._omissions.add)
        check()

        def names() -> Iterator[bytes]:
            for item in self._retried(lambda: items_in(keys, self.location.prefix, "")):
                name = item.name.encode()
                if item.info is not None and not self._is_hidden(name):
                    yield name

        return TopFiles(names(), ())

    def _items(self, top: str, depth: float, after: str, check: Check) -> Iterator[Item]:
        keys = Keys(self.client, check, self._omissions.add)
        prefix = self.location.prefix + top
        return self._retried(lambda: items_below(keys, prefix, depth, after))

    def _retried(self, items: Callable[[], Iterator[Item]]) -> Iterator[Item]:
        """Yield items; begin anew if the order of the store turns out before the first one."""
        begun = False
        try:
            for item in items():
                begun = True
                yield item
        except OrderError:
            if begun:
                raise
            yield from items()

    def _begin(self, key: str, most: int) -> tuple[ObjectInfo, bytes]:
        """Return what the store reports about an object, and its first bytes."""
        try:
            body = self.client.get(key, 0, most)
        except EmptyObject:
            # It has no range.
            return self.client.head(key), b""
        with closing(body):
            return body.info, b"".join(pieces_of(body, min(most, body.info.size)))

    def _snapshot(self, name: bytes, largest: int) -> Snapshot:
        info, data = self._begin(self._key_of(name), largest)
        if info.size > largest:
            raise TooLarge
        return Snapshot(_metadata_of(info), data)

    def _key_of(self, name: bytes) -> str:
        """Return the key of a file.

        :raises NotFound: if it can have none.
        """
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise NotFound from None
        prefix = self.location.prefix
        if not is_valid(text) or len(prefix.encode()) + len(name) > LONGEST_KEY:
            raise NotFound
        if self._is_hidden(name):
            raise NotFound
        return prefix + text

    def _is_hidden(self, name: bytes) -> bool:
        return self._hides is not None and self._hides(name)


class Omissions:
    """Reports which keys are left out of listings: each reason now and then, not each time.

    :param clock: monotonic seconds.
    """

    def __init__(self, location: Location, report: Report, clock: Callable[[], float]) -> None:
        self._location = location
        self._report = report
        self._clock = clock
        # By the reason: when it was reported, and keys since then.
        self._reported: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, key: str, reason: str) -> None:
        """Count a key that is left out, and report it if it is time to."""
        now = self._clock()
        self._counts[reason] = self._counts.get(reason, 0) + 1
        last = self._reported.get(reason)
        if last is not None and now - last < REPORT_EVERY:
            return
        self._reported[reason] = now
        count, self._counts[reason] = self._counts[reason], 0
        others = f", and {counted(count - 1, 'time')} others," if count > 1 else ""
        shown = key.encode("unicode_escape").decode()[:200]
        self._report(
            f"s3://{self._location.bucket}: the key '{shown}'{others} is left out of listings:"
            f" {reason}"
        )


def _metadata_of(info: ObjectInfo) -> Metadata:
    return Metadata(FILE, info.size, info.mtime_ns, info.etag)


def _text_before(name: bytes) -> str:
    """Return a text whose bytes are not greater than a name, and as many of its own as possible."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        return name[: error.start].decode()
