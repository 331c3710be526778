"""Which way a body goes: chosen once for each, by what its two ends can do."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorFDSet

from natproxy.relay.copy import BodyCounter, CopyRelay, Sink
from natproxy.relay.outbound import Outbound, SocketOutbound, Transport, is_plain_tcp
from natproxy.relay.page_cache import Warmth
from natproxy.relay.pipes import MOST, PipePool
from natproxy.relay.sendfile import (
    CopyingFileRelay,
    FileRelay,
    SendfileRelay,
    Source,
    ThreadedFileRelay,
    Unchanged,
)
from natproxy.relay.splice import SizedBody, SpliceRelay

SPLICE_FROM = 128 * 1024
"""Bytes from which on a body is worth a pipe and two more descriptors."""

SENDFILE_FROM = 64 * 1024 + 1
"""Bytes from which on a file does not leave in one write with its header."""


# Elsewhere there is no splice, and sendfile has other rules.
_LINUX = sys.platform == "linux" and hasattr(os, "splice")


class Way(enum.Enum):
    """How bodies are moved."""

    def __str__(self) -> str:
        return str(self.value)

    AUTO = "auto"
    """Inside the kernel where it can be done and pays, by copying elsewhere."""
    COPY = "copy"
    """By copying, always."""
    KERNEL = "kernel"
    """Inside the kernel wherever it can be done, were it for one byte."""


class Relay(Protocol):
    """A body on its way from a transport; see `natproxy.relay.copy.CopyRelay`."""

    finished: Deferred[None]

    def start(self) -> None:
        """Begin, after what was read along with the header has been delivered."""
        ...

    def deliver(self, data: bytes) -> None:
        """Relay bytes that the source's transport has read."""
        ...

    def source_lost(self) -> None:
        """There will be no more bytes."""
        ...

    def stop(self) -> None:
        """Relay nothing from now on."""
        ...


class Relays:
    """Makes the relays of a daemon.

    :param reactor: watches sockets for the kernel's ways; without `IReactorFDSet` all
        bodies are copied.
    :param way: which ways may be gone.
    :param warmth: knows the page cache; `None` to read files as if all were in it.
    :param splices: bodies that may be spliced at once; others are copied.
    """

    def __init__(
        self,
        reactor: object = None,
        way: Way = Way.AUTO,
        warmth: Warmth | None = None,
        splices: int = MOST,
    ) -> None:
        self._pool = PipePool(splices)
        self._warmth = warmth
        self._reactor: IReactorFDSet | None = None
        if way is not Way.COPY and IReactorFDSet.providedBy(reactor):
            self._reactor = reactor
        forced = way is Way.KERNEL
        self._splice_from = 1 if forced else SPLICE_FROM
        self._sendfile_from = 1 if forced else SENDFILE_FROM

    def between(
        self,
        header: bytes,
        body: BodyCounter,
        size: int,
        source: IPushProducer,
        transport: Transport,
        outbound: Outbound,
        sink: Sink,
        progress: Callable[[], object],
    ) -> Relay:
        """Relay a body that comes in on a connection.

        :param header: to be sent first.
        :param size: what its header has promised, in bytes; 0 for a listing.
        :param source: the protocol that receives it, to be paused and resumed.
        :param transport: the protocol's transport.
        :param progress: called when bytes have come that the protocol did not see.
        """
        if (
            self._reactor is not None
            and size >= self._splice_from
            and _LINUX
            and isinstance(outbound, SocketOutbound)
            and is_plain_tcp(transport)
        ):
            pipe = self._pool.lend()
            if pipe is not None:
                try:
                    return SpliceRelay(
                        self._reactor,
                        self._pool,
                        pipe,
                        header,
                        cast(SizedBody, body),
                        transport,
                        outbound,
                        sink,
                        progress,
                    )
                except OSError:
                    # No descriptors left: copying needs none.
                    self._pool.give_back(pipe, empty=True)
        return CopyRelay(header, body, source, outbound, sink)

    def from_file(
        self,
        header: bytes,
        file: Source,
        size: int,
        outbound: Outbound,
        offset: int = 0,
        unchanged: Unchanged | None = None,
        device: int = 0,
    ) -> FileRelay:
        """Send a header and then a part of a file.

        :param size: bytes promised.
        :param offset: of the first of them.
        :param unchanged: whether the file may still be sent to its end; see `FileRelay`.
        :param device: that the file is on, ``st_dev``.
        """
        if self._warmth is not None and size and not self._warmth.known(file.fileno(), device):
            return ThreadedFileRelay(
                header, file, size, outbound, self._warmth, offset, unchanged, device
            )
        if (
            self._reactor is not None
            and _LINUX
            and size >= self._sendfile_from
            and isinstance(outbound, SocketOutbound)
        ):
            # It wants one more descriptor; copying does not.
            with suppress(OSError):
                return SendfileRelay(
                    self._reactor,
                    header,
                    file,
                    size,
                    outbound,
                    self._warmth,
                    offset,
                    unchanged,
                    device,
                )
        return CopyingFileRelay(
            header, file, size, outbound, self._warmth, offset, unchanged, device
        )

    def from_memory(self, source: Source, size: int, outbound: Outbound) -> FileRelay:
        """Send bytes that are in memory."""
        return CopyingFileRelay(b"", source, size, outbound, None)

    def close(self) -> None:
        """Close the pipes that are kept for the next body."""
        self._pool.close()
