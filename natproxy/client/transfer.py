"""One file, fetched: resumed, retried, verified, and never a mixture of two.

The rules. Bytes are asked for with ``if-match``, so that all of them are of one file.
When the last has come, the server is asked once more what the file is: its digest with
`How.verify`, its etag otherwise. Only if that is still the file which was asked for does
the download get its name. If not, it is fetched afresh.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from natproxy import wire
from natproxy.client import destination
from natproxy.client.destination import Existing
from natproxy.client.errors import (
    Changed,
    ClientError,
    DigestMismatch,
    Interrupted,
    LocalError,
    NotFound,
    NotUnderstood,
    Unsupported,
    UsageError,
)
from natproxy.client.events import Event, Phase, Progress, unobserved
from natproxy.client.partial import Partial, Segment
from natproxy.client.retrying import Limit, Persistence, Stop
from natproxy.client.saving import download_whole
from natproxy.client.session import Session
from natproxy.client.together import run_together

PIECE = 1 << 20
"""Bytes that are received at once: fewer, larger writes cost less than half the time."""

FRESH_STARTS = 3
"""Times that a file may change while it is fetched before it is given up."""


@dataclass(frozen=True)
class How:
    """In which way files are fetched.

    :ivar existing: what becomes of a file that is there already.
    :ivar verify: whether the SHA-256 is compared with the server's.
    :ivar segments: pieces of one file that are fetched at the same time.
    :ivar retries: failures in a row that are put up with.
    :ivar limit: of the rate of all transfers together; `None` for none.
    """

    existing: Existing = Existing.REFUSE
    verify: bool = False
    segments: int = 1
    retries: int = 8
    limit: Limit | None = None

    @property
    def piece(self) -> int:
        """Bytes to receive at once."""
        return self.limit.piece if self.limit else PIECE


class Wanted(NamedTuple):
    """A file to fetch.

    :ivar name: on the server.
    :ivar path: that it is to have here.
    :ivar status: of the file, if the server has told already.
    """

    name: bytes
    path: bytes
    status: wire.Status | None = None


class Fetched(NamedTuple):
    """How a transfer ended.

    :ivar path: of the file here.
    :ivar size: of the file, in bytes.
    :ivar received: bytes that came over the network for it, in this run.
    :ivar unchanged: whether it was here already.
    """

    path: bytes
    size: int
    received: int
    unchanged: bool


class Transfer:
    """One file on its way from the server to a path.

    :param progress: is told of each step.
    :param stop: ends it from another thread.
    """

    def __init__(
        self,
        session: Session,
        wanted: Wanted,
        how: How | None = None,
        progress: Progress = unobserved,
        stop: Stop | None = None,
    ) -> None:
        self._session = session
        self._name = wanted.name
        self._path = wanted.path
        self._status = wanted.status
        self._how = how or How()
        self._progress = progress
        self._stop = stop or Stop()
        self._size: int | None = None
        self._done = 0
        # Segments are counted by several threads.
        self._lock = threading.Lock()
        self._received = 0
        self._persistently = Persistence(
            self._how.retries, self._stop, lambda why: self._tell(Phase.WAITING, self._done, why)
        )

    def run(self) -> Fetched:
        """Fetch the file.

        :raises ClientError: if it can't be had; what has been received is kept, for the
            next time, unless it is no good.
        """
        try:
            fetched = self._run()
        except Interrupted:
            # It hasn't failed: it is to go on another time.
            raise
        except ClientError as error:
            self._tell(Phase.FAILED, 0, str(error))
            raise
        self._tell(Phase.UNCHANGED if fetched.unchanged else Phase.COMPLETE, fetched.size)
        return fetched

    def _run(self) -> Fetched:
        if self._persistently(lambda: self._session.version) < 2:
            return self._run_version_1()
        for _ in range(FRESH_STARTS):
            try:
                return self._attempt()
            except Changed as error:
                reason = str(error)
            except Unsupported:
                # It turned out not to speak version 2 after all.
                if self._session.version > 1:
                    raise
                return self._run_version_1()
        raise Changed(
            f"{reason}, {FRESH_STARTS} times; 'natproxy download' takes a file as it grows"
        )

    def _attempt(self) -> Fetched:
        # What was known beforehand is good for one attempt: `if-match` will tell.
        status, self._status = self._status, None
        if status is None:
            status = self._persistently(partial(self._session.stat, self._name))
        if status.type != wire.FILE:
            raise UsageError(
                f"{wire.printable(self._name)}: is a directory; 'natproxy sync' fetches directories"
            )
        self._size = status.size
        if self._is_here(status):
            return self._was_here(status)
        destination.make_folders(self._path)
        with Partial(self._path, self._name, status, self._how.segments) as part:
            self._look_at_what_is_kept(part)
            self._tell(Phase.RECEIVING, part.kept)
            digests = self._receive(part)
            try:
                self._confirm(part, digests)
            except DigestMismatch:
                part.discard()
                raise
            # Meanwhile, it may have come another way.
            if self._is_here(status):
                part.discard()
                return self._was_here(status)
            self._tell(Phase.SAVING, status.size)
            part.finish()
        return Fetched(self._path, status.size, self._received, unchanged=False)

    def _was_here(self, status: wire.Status) -> Fetched:
        return Fetched(self._path, status.size, self._received, unchanged=True)

    def _is_here(self, status: wire.Status) -> bool:
        existing = self._how.existing
        found = destination.find(self._path)
        if found is None or existing is Existing.REPLACE:
            return False
        if existing is Existing.KEEP:
            return True
        if destination.looks_the_same(found, status) and (
            not self._how.verify or self._same_digest(status)
        ):
            return True
        if existing is Existing.REFUSE:
            raise destination.already_there(self._path)
        return False

    def _same_digest(self, status: wire.Status) -> bool:
        digest = hashlib.sha256()
        done = 0
        try:
            with open(self._path, "rb", buffering=0) as file:
                while piece := file.read(PIECE):
                    self._stop.check()
                    digest.update(piece)
                    done += len(piece)
                    self._tell(Phase.HASHING, done)
        except OSError as error:
            raise LocalError(self._path, error) from error
        return self._theirs(0, status) == digest.hexdigest()

    def _look_at_what_is_kept(self, part: Partial) -> None:
        if part.discarded:
            self._tell(Phase.RESTARTING, 0, f"{part.discarded}: starting afresh")
        if part.trusted:
            return
        for segment in part.segments:
            length = segment.done - segment.start
            if length and self._theirs(segment.start, part.status, length) != (
                self._digest_of(part, segment).hexdigest()
            ):
                self._tell(Phase.RESTARTING, 0, "what was kept is damaged: starting afresh")
                part.begin(self._how.segments)
                return
        part.trusted = True

    def _receive(self, part: Partial) -> list[str]:
        """Fetch what is missing; give each segment's digest, if they are wanted."""
        failed = threading.Event()

        def fetch(segment: Segment) -> str:
            try:
                return self._fetch(part, segment, failed)
            except BaseException:
                failed.set()
                raise

        steps = [partial(fetch, segment) for segment in part.segments]
        return run_together(steps, self._how.segments, self._stop, self._session.interrupt)

    def _fetch(self, part: Partial, segment: Segment, failed: threading.Event) -> str:
        """Fetch what is missing of a segment, unless another one fails; give its digest."""
        digest = self._digest_of(part, segment) if self._how.verify else None
        buffer = memoryview(bytearray(min(self._how.piece, segment.end - segment.start)))

        def receive() -> None:
            if segment.done == segment.end or failed.is_set():
                return
            with self._session.get(
                self._name, segment.done, segment.end - segment.done, part.status.etag
            ) as (reply, _):
                while not failed.is_set() and (size := reply.receive_into(buffer)):
                    part.write(segment, buffer[:size])
                    if digest is not None:
                        digest.update(buffer[:size])
                    self._persistently.received += size
                    self._count(size, part.kept)
            if segment.done < segment.end and not failed.is_set():
                raise NotUnderstood(f"{self._session.server} sent less than it has")

        self._persistently(receive)
        return "" if digest is None else digest.hexdigest()

    def _digest_of(self, part: Partial, segment: Segment) -> hashlib._Hash:
        """Begin a segment's digest with what is kept of it, read back from the disk."""
        digest = hashlib.sha256()
        if segment.done == segment.start:
            return digest
        buffer = memoryview(bytearray(PIECE))
        offset = segment.start
        while offset < segment.done:
            self._stop.check()
            size = part.read(offset, buffer[: segment.done - offset])
            if not size:
                break
            digest.update(buffer[:size])
            offset += size
            self._tell(Phase.HASHING, offset)
        return digest

    def _confirm(self, part: Partial, digests: list[str]) -> None:
        """See that what was received is what the server has now.

        :raises Changed: if it has another file by now.
        :raises DigestMismatch: if the bytes aren't the same.
        """
        status = part.status
        if self._how.verify:
            for segment, digest in zip(part.segments, digests, strict=True):
                self._tell(Phase.VERIFYING, segment.start)
                if self._theirs(segment.start, status, segment.end - segment.start) != digest:
                    raise DigestMismatch(
                        f"{wire.printable(self._name)}: the SHA-256 is not the server's;"
                        " nothing was kept"
                    )
            return
        try:
            now = self._persistently(partial(self._session.stat, self._name))
        except NotFound as error:
            raise self._changed() from error
        if now.etag != status.etag:
            raise self._changed()

    def _theirs(self, offset: int, status: wire.Status, length: int | None = None) -> str:
        digest = self._persistently(
            partial(
                self._session.hash, self._name, offset, status.size if length is None else length
            )
        )
        if digest.etag != status.etag:
            raise self._changed()
        return digest.sha256

    def _run_version_1(self) -> Fetched:
        """Fetch it as version 1 can: whole, from the beginning, unverified."""
        if self._how.verify:
            self._session.needs("compute digests to verify with")
        found = destination.find(self._path)
        if found is not None:
            if self._how.existing is Existing.KEEP:
                return Fetched(self._path, found.st_size, 0, unchanged=True)
            if self._how.existing is Existing.REFUSE:
                raise destination.already_there(self._path, "it is there, and may differ")
        self._tell(Phase.RECEIVING, 0, f"{self._session.server} speaks version 1 only: no resuming")
        destination.make_folders(self._path)

        def receive() -> int:
            with self._session.whole(self._name) as reply:
                self._size = reply.header.size
                return download_whole(reply, self._path, self._count, self._tell_saving)

        size = self._persistently(receive)
        return Fetched(self._path, size, self._received, unchanged=False)

    def _count(self, size: int, done: int) -> None:
        with self._lock:
            self._received += size
        self._tell(Phase.RECEIVING, done)
        self._stop.check()
        if self._how.limit:
            self._stop.sleep(self._how.limit.take(size))

    def _tell_saving(self, size: int) -> None:
        self._tell(Phase.SAVING, size)

    def _changed(self) -> Changed:
        return Changed(f"{wire.printable(self._name)}: changed on the server while it was fetched")

    def _tell(self, phase: Phase, done: int, message: str = "") -> None:
        self._done = done
        self._progress(Event(self._name, phase, done, self._size, message))
