"""What a storage of objects needs of an object store."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class StoreError(OSError):
    """The object store fails, or refuses. Its text is the reason and, if there is one, the cure.

    It never contains credentials.
    """


class ObjectChanged(StoreError):
    """An object was replaced or removed since its etag was read."""

    def __init__(self) -> None:
        super().__init__("the object was replaced or removed while it was being read")


class EmptyObject(StoreError):
    """A range of an object was requested that has no byte."""

    def __init__(self) -> None:
        super().__init__("the object is empty or shorter than the range that was requested")


class Interrupted(StoreError):
    """What was being read is no longer needed."""

    def __init__(self) -> None:
        super().__init__("the read was interrupted")


class ObjectInfo(NamedTuple):
    """What the store reports about an object.

    :ivar size: in bytes.
    :ivar mtime_ns: time of its last modification, a whole second, in nanoseconds since the epoch.
    :ivar etag: without quotation marks.
    :ivar sha256: of the whole object, in hexadecimal, if the store keeps it, and it was requested.
    """

    size: int
    mtime_ns: int
    etag: str
    sha256: str | None = None


class Listed(NamedTuple):
    """An object in a listing, or a prefix that several keys share.

    :ivar key: the key, or the prefix with its delimiter.
    :ivar info: ``None`` for a prefix.
    """

    key: str
    info: ObjectInfo | None


class ListedPage(NamedTuple):
    """A part of a listing.

    :ivar listed: objects and prefixes, sorted by key.
    :ivar token: continues the listing; ``None`` at its end.
    """

    listed: list[Listed]
    token: str | None


class Body(Protocol):
    """The bytes of an object, or of a range of it, while they are received.

    :ivar info: of the whole object.
    """

    info: ObjectInfo

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end.

        :raises StoreError: if the connection fails, or takes too long.
        """
        ...

    def close(self) -> None:
        """Drop what has not been read."""
        ...


class ObjectClient(Protocol):
    """Sends requests to an object store. Threads may share it.

    Every method raises `StoreError` if the store fails, refuses or does not respond.

    :ivar by_name: whether the store lists keys as a file system does, and not by their bytes:
        ``a/x`` comes before ``a-1`` then. It is not known before the first request.
    """

    by_name: bool

    def head(self, key: str, digest: bool = False) -> ObjectInfo:
        """Return what the store reports about an object.

        :param digest: whether its stored digest is needed.
        :raises NotFound: if there is no such object.
        """
        ...

    def get(self, key: str, start: int, stop: int, etag: str | None = None) -> Body:
        """Begin to receive a range of an object, as far as the object goes.

        :param start: offset of the first byte.
        :param stop: offset of the byte after the last one.
        :param etag: that the object must have.
        :raises EmptyObject: if it is not longer.
        :raises ObjectChanged: if it has another one, or is absent.
        :raises NotFound: if there is no such object, and no ``etag``.
        """
        ...

    def page(
        self, prefix: str, delimited: bool, after: str, token: str | None, limit: int
    ) -> ListedPage:
        """Return a part of a listing.

        :param prefix: of the keys.
        :param delimited: whether keys with a further slash are listed as one prefix.
        :param after: keys that are greater are listed; empty for all.
        :param token: of the part before; ``after`` is ignored then.
        :param limit: objects and prefixes at most.
        """
        ...
