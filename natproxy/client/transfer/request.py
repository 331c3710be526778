"""What a download is to do, and its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from natproxy.client.rate import MINIMUM_RATE, RateLimit
from natproxy.client.retry import DOWNLOAD_RETRY_POLICY, RetryPolicy
from natproxy.client.transfer.destination import Existing
from natproxy.protocol import Metadata

if TYPE_CHECKING:
    from natproxy.client.errors import ClientError
    from natproxy.client.transfer.tree import LocalTree

CHUNK_SIZE = 1 << 20
"""Bytes that are received and written at once: smaller writes take over twice the time."""


class DownloadOptions(NamedTuple):
    """How files are downloaded.

    :ivar existing: what to do with an existing local file.
    :ivar verify: whether the SHA-256 is compared with the server's.
    :ivar segments: ranges of one file that are downloaded at the same time.
    :ivar limit: limit of the total rate of all downloads; ``None`` for none.
    :ivar retry_policy: how long temporary failures are retried.
    :ivar concurrent: whether a file is downloaded although another process or thread is
        downloading it to the same path: into a private partial file, from the first byte.
        Otherwise that is an error.
    :ivar durable: whether a file is on the disk before it gets its name; without it, a power
        failure may leave files that are empty or damaged.
    """

    existing: Existing = Existing.REFUSE
    verify: bool = False
    segments: int = 1
    limit: RateLimit | None = None
    retry_policy: RetryPolicy = DOWNLOAD_RETRY_POLICY
    concurrent: bool = False
    durable: bool = True

    @property
    def chunk_size(self) -> int:
        """Bytes to receive at once."""
        return self.limit.chunk_size if self.limit else CHUNK_SIZE

    @property
    def minimum_rate(self) -> float:
        """The lowest rate that counts as progress, in bytes per second: less than any limit."""
        return min(MINIMUM_RATE, self.limit.rate / 64) if self.limit else MINIMUM_RATE


class DownloadRequest(NamedTuple):
    """A file to download.

    :ivar name: of the file on the server.
    :ivar path: the local path.
    :ivar metadata: of the file, if the server has sent it already.
    :ivar tree: the tree that the local file must be in; ``None`` to follow links in the path.
    :ivar below: the path below the tree's root, of the same file as ``path``.
    """

    name: bytes
    path: bytes
    metadata: Metadata | None = None
    tree: LocalTree | None = None
    below: bytes = b""


class DownloadResult(NamedTuple):
    """The result of a download.

    :ivar path: of the local file.
    :ivar size: of the file, in bytes.
    :ivar received: bytes received for it over the network by this download.
    :ivar unchanged: true if nothing was written: the local file is already this version.
    """

    path: bytes
    size: int
    received: int
    unchanged: bool


class Numbered(NamedTuple):
    """A request with its number in the batch."""

    number: int
    request: DownloadRequest

    def unlisted(self) -> Numbered:
        """Return it without metadata: `Download` requests them before it creates anything."""
        return Numbered(self.number, self.request._replace(metadata=None))


Report = Callable[[Numbered, "DownloadResult | ClientError"], object]
"""Takes the result of a request of a batch."""
