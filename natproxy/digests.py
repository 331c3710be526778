"""SHA-256 of files and of parts of them: computed in threads, once for all who ask.

A digest of a large file takes longer than a client, or a proxy, waits for a reply. So it
is computed to its end even if nobody waits any more: the next who asks finds it done.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from natproxy import wire
from natproxy.storage import Served, status_of
from natproxy.threads import InThread, Turns

AT_ONCE = 2
"""Digests that are computed at a time: each keeps a processor busy."""

IN_LINE = 64
"""Digests that wait for their turn, each with its file open."""

REMEMBERED = 10_000
"""Digests that are kept when they have been computed."""

CHUNK = 1 << 20
"""Bytes read at once; after each, a thread looks whether it is to stop."""

SETTLED = 2.0
"""Seconds after a change until the next one is sure to be seen in the ``etag``."""


class Part(NamedTuple):
    """Bytes that have but one digest.

    :ivar etag: of the whole file.
    :ivar offset: of the first byte.
    :ivar length: how many there are.
    """

    etag: str
    offset: int
    length: int


class Computed(NamedTuple):
    """A digest, fresh from its thread.

    :ivar sha256: in hexadecimal.
    :ivar lasting: whether the file will have another ``etag`` when it has another digest.
    """

    sha256: str
    lasting: bool


class Stopped(Exception):
    """Nobody wants it any more."""


class Computation:
    """One digest on its way.

    :param part: none of it beyond the file's end.
    :param served: the file; it is closed at the end of `run`, or by `give_up`.
    :param wall_clock: seconds since the epoch.
    :ivar askers: are to be told; a crowd of them may leave at once.
    :ivar turn: fires when the thread has returned.
    """

    turn: Deferred[Any]

    def __init__(self, part: Part, served: Served, wall_clock: Callable[[], float]) -> None:
        self.part = part
        self.askers: dict[Deferred[str], None] = {}
        self._served = served
        self._wall_clock = wall_clock
        # Written by the reactor's thread and read by the other: it only ever becomes true.
        self._stopped = False

    def stop(self) -> None:
        """Let the thread return, as soon as it has read what it is reading."""
        self._stopped = True

    def give_up(self) -> None:
        """Close the file: it won't be read."""
        self._served.file.close()

    def tell(self, result: str | Failure) -> None:
        """Answer those who ask."""
        while self.askers:
            asker, _ = self.askers.popitem()
            asker.callback(result)

    def run(self) -> Computed:
        """Read the file, in a thread.

        :raises Refusal: with code 503, if it has been changed since it was opened.
        :raises Stopped: if it was told to.
        :raises OSError: if it cannot be read.
        """
        with self._served.file as file:
            begun = self._wall_clock()
            sha256 = hashlib.sha256()
            buffer = memoryview(bytearray(min(CHUNK, self.part.length)))
            remaining = self.part.length
            file.seek(self.part.offset)
            while remaining:
                if self._stopped:
                    raise Stopped
                size = file.readinto(buffer[:remaining])
                if not size:
                    break
                sha256.update(buffer[:size])
                remaining -= size
            now = os.fstat(file.fileno())
        if remaining or status_of(now) != self._served.status:
            raise wire.Refusal(503, "the file is changing")
        # A change within the same tick of the file system's clock leaves the etag as it
        # was. What git calls "racily clean": soon after a change, nothing is certain.
        return Computed(sha256.hexdigest(), begun - now.st_ctime >= SETTLED)


class Digests:
    """Computes digests, and remembers those that were asked for last.

    :param in_thread: where files are read.
    :param wall_clock: seconds since the epoch, by the clock that marks files.
    """

    def __init__(self, in_thread: InThread, wall_clock: Callable[[], float]) -> None:
        self._turns = Turns(in_thread, AT_ONCE, IN_LINE, "digests")
        self._wall_clock = wall_clock
        self._known: OrderedDict[Part, str] = OrderedDict()
        self._under_way: dict[Part, Computation] = {}

    def digest(self, served: Served, offset: int, length: int) -> Deferred[str]:
        """Give the SHA-256 of a part of a file, in hexadecimal.

        :param served: the file; it is closed when it is not needed any more.
        :param length: bytes from the offset on, none of them beyond the file's end.
        :return: fires with `Refusal` (503) if the file has changed meanwhile, or with
            `OSError`. Who cancels it is told nothing more.
        :raises Refusal: with code 429, if too many digests are waiting.
        """
        part = Part(served.status.etag, offset, length)
        known = self._known.get(part)
        if known is not None:
            served.file.close()
            self._known.move_to_end(part)
            return succeed(known)
        computation = self._under_way.get(part)
        if computation is not None:
            served.file.close()
            return self._asker(computation)
        computation = Computation(part, served, self._wall_clock)
        asker = self._asker(computation)
        self._begin(computation)
        return asker

    def stop(self) -> None:
        """Compute nothing more of what has been asked for so far."""
        for computation in list(self._under_way.values()):
            self._drop(computation)
            computation.tell(Failure(wire.Refusal(503, "the server is stopping")))

    def _asker(self, computation: Computation) -> Deferred[str]:
        asker: Deferred[str] = Deferred(partial(self._withdrawn, computation))
        computation.askers[asker] = None
        return asker

    def _withdrawn(self, computation: Computation, asker: Deferred[str]) -> None:
        del computation.askers[asker]
        if not computation.askers and self._turns.in_line(computation.turn):
            self._drop(computation)

    def _begin(self, computation: Computation) -> None:
        try:
            computation.turn = self._turns.take(computation.run)
        except wire.Refusal:
            computation.give_up()
            raise
        self._under_way[computation.part] = computation
        computation.turn.addCallback(self._computed, computation)
        computation.turn.addErrback(self._failed, computation)

    def _drop(self, computation: Computation) -> None:
        del self._under_way[computation.part]
        computation.stop()
        if self._turns.in_line(computation.turn):
            computation.turn.cancel()
            computation.give_up()

    def _computed(self, computed: Computed, computation: Computation) -> None:
        if computed.lasting:
            self._known[computation.part] = computed.sha256
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._finished(computation, computed.sha256)

    def _failed(self, failure: Failure, computation: Computation) -> None:
        # What has been dropped tells nobody: whoever dropped it knows.
        if not failure.check(CancelledError, Stopped):
            self._finished(computation, failure)

    def _finished(self, computation: Computation, result: str | Failure) -> None:
        if self._under_way.get(computation.part) is computation:
            del self._under_way[computation.part]
        computation.tell(result)
