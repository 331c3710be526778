"""Replies to ``PACK``: small files of a storage, read in threads.

There is no state between two packs: a client sends the names again that a pack did not reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from natproxy.metadata import Entry
from natproxy.protocol import (
    MAX_PACKED,
    NOT_FOUND,
    PACK_SIZE,
    TOO_LARGE,
    UNAVAILABLE,
    format_packed,
    format_refused,
)
from natproxy.server.threads import BoundedExecutor, CancellationToken, InThread, Limits, Work
from natproxy.storage import NotFound, Snapshot, Snapshots, Storage, TooLarge

MAX_SECONDS = 5.0
"""Seconds after which a pack ends with the files that it has."""

CONCURRENT_PACKS = 5
"""Packs that are made at a time."""

CONCURRENT_PACKS_OF_TREE = 2
"""Packs that are made at a time of files below one entry of the served directory.

As many are made of files below several entries. When a file system hangs, both kinds can hang at
the entry at which it is mounted. The others still have a thread.
"""

QUEUED_PACKS = 64
"""Packs that wait for a thread."""

MEMORY = 64 << 20
"""Bytes of packs that are held in memory.

A new one has an eighth of what is left of them, and one file at least: so clients that read
slowly make packs smaller, and none is refused.
"""


class Pack(NamedTuple):
    """A pack.

    :ivar reply: the whole reply.
    :ivar error: the first failure of the storage; ``None`` if there was none.
    """

    reply: bytes
    error: OSError | None = None


def make_pack(
    names: Sequence[bytes],
    snapshots: Snapshots,
    size: int = PACK_SIZE,
    clock: Callable[[], float] = time.monotonic,
) -> Pack:
    """Return a pack of files.

    It ends with the first record that makes it ``size`` bytes or more.

    :param snapshots: of the names, in order.
    :param clock: monotonic seconds; the pack ends after `MAX_SECONDS`.
    """
    # The first piece will be the header.
    pieces = [b""]
    length = 0
    failed: OSError | None = None
    until = clock() + MAX_SECONDS
    for name, found in zip(names, snapshots, strict=False):
        if isinstance(found, Snapshot):
            line = format_packed(Entry(name, found.metadata))
            pieces += (line, found.data)
            length += len(line) + len(found.data)
        else:
            line = format_refused(_code_of(found), name)
            pieces.append(line)
            length += len(line)
            if failed is None and isinstance(found, OSError):
                failed = found
        if length >= size or clock() >= until:
            break
    pieces[0] = b"OK %d\n" % length
    return Pack(b"".join(pieces), failed)


def _code_of(error: Exception) -> int:
    if isinstance(error, NotFound):
        return NOT_FOUND
    return TOO_LARGE if isinstance(error, TooLarge) else UNAVAILABLE


class Packs:
    """Makes the packs of one storage.

    :param in_thread: where they are made; of `CONCURRENT_PACKS` threads.
    :param clock: for the longest time that a client waits; ``None`` for no time-out.
    :ivar executor: runs the work.
    :ivar held: bytes of replies that are being sent, as counted by the connections that send them.
    """

    log = Logger()

    def __init__(
        self, storage: Storage, in_thread: InThread, clock: IReactorTime | None = None
    ) -> None:
        self._storage = storage
        limits = Limits(CONCURRENT_PACKS, QUEUED_PACKS, CONCURRENT_PACKS_OF_TREE)
        self.executor = BoundedExecutor(in_thread, "packs", limits, clock)
        self.held = 0

    def pack(self, names: Sequence[bytes], client: Hashable) -> Deferred[bytes]:
        """Make a pack of the first names.

        :param client: its client, for a fair order.
        :return: fires with the whole reply, or fails as `Storage.snapshots` does, or with
            `WorkRefused`. If it is cancelled, the work ends.
        :raises Overloaded: if too many packs are waiting.
        :raises Unresponsive: if all threads hang.
        """
        token = CancellationToken()

        def make() -> Pack:
            size = min(PACK_SIZE, max(0, MEMORY - self.held) // 8)
            snapshots = self._storage.snapshots(names, MAX_PACKED, token.check)
            with closing(snapshots):
                return make_pack(names, snapshots, size)

        work = Work(make, client, _source_of(names), token.cancel)
        return self.executor.submit(work).addCallback(self._made)

    def _made(self, pack: Pack) -> bytes:
        if pack.error is not None:
            self.log.error("cannot open a file of a pack: {reason}", reason=pack.error)
        return pack.reply


def _source_of(names: Sequence[bytes]) -> bytes:
    """Return the entry of the served directory that is above all files; empty if there is none."""
    top = names[0].partition(b"/")[0]
    inside = top + b"/"
    return top if all(name.startswith(inside) for name in names) else b""
