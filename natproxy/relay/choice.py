"""How a body is moved: chosen once for each job, by what its two ends can do."""

from __future__ import annotations

import enum
import os
import sys
from contextlib import suppress
from typing import TypeVar

from twisted.internet.interfaces import IReactorFDSet, IReactorTime

from natproxy.relay.copy import CopyRelay
from natproxy.relay.files import Bytes, CopyingFileRelay, ThreadedFileRelay
from natproxy.relay.job import Ended, FileJob, Relay, SocketJob, SocketRelay, Tally
from natproxy.relay.low_water import LowWater
from natproxy.relay.outbound import Outbound, SocketOutbound, is_plain_tcp
from natproxy.relay.page_cache import PageCache
from natproxy.relay.pipes import PIPES, PipePool
from natproxy.relay.rotation import Rotation
from natproxy.relay.sendfile import SendfileRelay
from natproxy.relay.splice import Shared, SpliceRelay

SPLICE_FROM = 128 * 1024
"""Size in bytes from which a body is worth two more descriptors."""

SENDFILE_FROM = 64 * 1024 + 1
"""Size in bytes from which a file is not sent in one write with its header."""

KINDS = ("copy", "splice", "sendfile", "read", "thread", "memory")
"""The kinds of relays, for `Relays.tallies`.

From a connection: ``copy`` and ``splice``. From a file: ``sendfile``, ``read`` in the reactor's
thread, and ``thread``. ``memory`` is of bytes in memory, such as a listing.
"""

R = TypeVar("R", bound=Relay)

# Elsewhere there is no splice, and sendfile has other rules.
_LINUX = sys.platform == "linux" and hasattr(os, "splice")


class Method(enum.Enum):
    """How bodies are moved."""

    def __str__(self) -> str:
        return str(self.value)

    AUTO = "auto"
    """By splice and sendfile where they are possible and faster, else by copying."""
    COPY = "copy"
    """By copying, always."""
    KERNEL = "kernel"
    """By splice and sendfile wherever they are possible, even for one byte."""


class Relays:
    """Makes the relays of a daemon; the caller starts them.

    :param reactor: watches sockets for splice and sendfile; without ``IReactorFDSet`` all bodies
        are copied.
    :param method: which methods may be chosen.
    :param page_cache: reports which bytes of a file are cached; ``None`` to read files as if all
        were.
    :param splices: bodies that may be spliced at once; others are copied.
    :param pipes: that may be used at once.
    :ivar pool: the pipes through which bodies are spliced.
    :ivar rotation: where relays wait for their turn.
    :ivar tallies: of the relays, by their kind.
    """

    def __init__(
        self,
        reactor: object = None,
        method: Method = Method.AUTO,
        page_cache: PageCache | None = None,
        splices: int = sys.maxsize,
        pipes: int = PIPES,
    ) -> None:
        self.pool = PipePool(pipes)
        self.tallies = {kind: Tally() for kind in KINDS}
        clock: IReactorTime | None = IReactorTime(reactor, None)
        self.rotation = Rotation(clock)
        self._page_cache = page_cache
        self._splices = splices
        self._kernel: Shared | None = None
        if clock is not None and IReactorFDSet.providedBy(reactor):
            self._kernel = Shared(reactor, self.pool, self.rotation, LowWater(clock))
        self.use(method)

    def use(self, method: Method) -> None:
        """Choose the relays of further bodies by another method."""
        self._shared = None if method is Method.COPY else self._kernel
        forced = method is Method.KERNEL
        self._splice_from = 1 if forced else SPLICE_FROM
        self._sendfile_from = 1 if forced else SENDFILE_FROM

    def relay(self, job: SocketJob) -> SocketRelay:
        """Return the relay of a body that is received from a connection."""
        tally = self.tallies["splice"]
        if (
            self._shared is not None
            and job.size >= self._splice_from
            and _LINUX
            and tally.begun - tally.ended < self._splices
            and isinstance(job.outbound, SocketOutbound)
            and is_plain_tcp(job.transport)
        ):
            # It needs two more descriptors; copying needs none.
            with suppress(OSError):
                return self._counted("splice", SpliceRelay(self._shared, job))
        return self._counted("copy", CopyRelay(job, self.rotation))

    def read_small(self, job: FileJob) -> bytes | None:
        """Return the whole reply, and close the file, if one write and no relay can send it.

        :return: ``None`` if it is too large, if reading may wait, or if it fails: a relay waits
            in a thread, and reports the failure.
        """
        if job.size >= self._sendfile_from:
            return None
        reply = job.header
        if job.size:
            try:
                body = self._read_at_once(job)
                if len(body) != job.size or (job.unchanged is not None and not job.unchanged()):
                    return None
            except OSError:
                return None
            reply += body
        with suppress(OSError):
            job.file.close()
        return reply

    def send(self, job: FileJob) -> Relay:
        """Return the relay of a part of a file."""
        cache = self._page_cache
        descriptor = job.file.fileno()
        if cache is not None and job.size:
            if descriptor is None:
                blocking = job.file.blocking
            else:
                blocking = not cache.known(descriptor, job.device)
            if blocking:
                return self._counted("thread", ThreadedFileRelay(job, cache, self.rotation))
        if (
            self._shared is not None
            and _LINUX
            and descriptor is not None
            and job.size >= self._sendfile_from
            and isinstance(job.outbound, SocketOutbound)
        ):
            # It needs one more descriptor; copying does not.
            with suppress(OSError):
                return self._counted(
                    "sendfile", SendfileRelay(self._shared.reactor, self.rotation, job, cache)
                )
        return self._counted("read", CopyingFileRelay(job, cache, self.rotation))

    def send_bytes(self, data: bytes, outbound: Outbound, ended: Ended) -> Relay:
        """Return the relay of bytes that are in memory."""
        job = FileJob(b"", Bytes(data), len(data), outbound, ended)
        return self._counted("memory", CopyingFileRelay(job, None, self.rotation))

    def _counted(self, kind: str, relay: R) -> R:
        """Return a relay that is counted as one of a kind."""
        relay.tally = tally = self.tallies[kind]
        tally.begun += 1
        return relay

    def _read_at_once(self, job: FileJob) -> bytes:
        """Return what can be read of a file without waiting, up to the job's size."""
        cache = self._page_cache
        if cache is None:
            return job.file.read_at(job.offset, job.size)
        descriptor = job.file.fileno()
        if descriptor is not None:
            return cache.read_cached(descriptor, job.offset, job.size)
        return b"" if job.file.blocking else job.file.read_at(job.offset, job.size)

    def close(self) -> None:
        """Close the pipes that are kept for the next body."""
        self.pool.close()
        if self._kernel is not None:
            self._kernel.low_water.close()
