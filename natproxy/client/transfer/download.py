"""Download one file: resume it, retry it, verify it, and never mix two versions of it.

All bytes are requested with ``if-match``, so they belong to one version of the file. After the
last byte the file is compared with the server's once more: by its digest with
`DownloadOptions.verify`, by its etag otherwise. Only if it is the same does the download get its
name. If the file has changed, the download starts again from the first byte; if only bytes
differ, the damaged ranges are found and downloaded again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from natproxy.client.blocking.session import Session
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
    interrupted_by,
)
from natproxy.client.events import Event, Phase, Progress, ignore_event, strip_name
from natproxy.client.rate import MINIMUM_RATE, RateLimit
from natproxy.client.retry import DOWNLOAD_RETRY_POLICY, Cancellation, Outage, Retrier, RetryPolicy
from natproxy.client.transfer import destination
from natproxy.client.transfer.destination import Existing, LocalFile
from natproxy.client.transfer.parallel import run_parallel
from natproxy.client.transfer.partial import ClaimLost, PartialDownload
from natproxy.client.transfer.record import Segment
from natproxy.client.transfer.verification import Verification, changed
from natproxy.client.transfer.version1 import save_body
from natproxy.protocol import FILE, Metadata, printable

if TYPE_CHECKING:
    from natproxy.client.transfer.tree import LocalTree

PIECE = 1 << 20
"""Bytes that are received at once: fewer, larger writes cost less than half the time."""

FRESH_STARTS = 3
"""Times that a file may change while it is fetched before it is given up."""

REPAIRS = 3
"""Times that what differs from the server's bytes is downloaded again before it is given up."""


@dataclass(frozen=True)
class DownloadOptions:
    """In which way files are fetched.

    :ivar existing: what becomes of a file that is there already.
    :ivar verify: whether the SHA-256 is compared with the server's.
    :ivar segments: pieces of one file that are fetched at the same time.
    :ivar limit: of the rate of all transfers together; `None` for none.
    :ivar retry_policy: how long temporary failures are retried.
    :ivar concurrent: whether a file is downloaded although another process, or thread, is
        downloading it to the same path: into a partial file of its own, from the first byte.
        Otherwise that is an error.
    """

    existing: Existing = Existing.REFUSE
    verify: bool = False
    segments: int = 1
    limit: RateLimit | None = None
    retry_policy: RetryPolicy = DOWNLOAD_RETRY_POLICY
    concurrent: bool = False

    @property
    def piece(self) -> int:
        """Bytes to receive at once."""
        return self.limit.chunk_size if self.limit else PIECE

    @property
    def minimum_rate(self) -> float:
        """Bytes a second that are progress; far less than a limit allows."""
        return min(MINIMUM_RATE, self.limit.rate / 64) if self.limit else MINIMUM_RATE


class DownloadRequest(NamedTuple):
    """A file to fetch.

    :ivar name: on the server.
    :ivar path: that it is to have here.
    :ivar status: of the file, if the server has told already.
    :ivar tree: that is not to be left; `None` to follow the links in the path.
    :ivar below: with a tree, the path below its root: the same file as ``path``.
    """

    name: bytes
    path: bytes
    metadata: Metadata | None = None
    tree: LocalTree | None = None
    below: bytes = b""


class DownloadResult(NamedTuple):
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


class Download:
    """One file on its way from the server to a path.

    :param progress: is told of each step.
    :param stop: ends it from another thread.
    :param outage: shared with the other transfers of a batch.
    """

    def __init__(
        self,
        session: Session,
        wanted: DownloadRequest,
        how: DownloadOptions | None = None,
        progress: Progress = ignore_event,
        stop: Cancellation | None = None,
        outage: Outage | None = None,
    ) -> None:
        self._session = session
        self._name = wanted.name
        self._path = wanted.path
        self._file = LocalFile(wanted.path, wanted.tree, wanted.below)
        self._metadata = wanted.metadata
        self._how = how or DownloadOptions()
        self._progress = progress
        self._stop = stop or Cancellation()
        self._size: int | None = None
        self._done = 0
        # Segments are counted by several threads.
        self._lock = threading.Lock()
        self._received = 0
        # Whether another process has taken over what was received.
        self._overtaken = False
        # The incomplete download, once there is one.
        self._part: PartialDownload | None = None
        self._retry = Retrier(
            session.retry_context,
            self._how.retry_policy,
            self._stop,
            lambda why: self._tell(Phase.WAITING, self._done, strip_name(why, self._name)),
            outage,
            self._how.minimum_rate,
            timeout=session.timeout,
        )
        self._verification = Verification(session, self._name, self._retry, self._stop, self._tell)

    def run(self) -> DownloadResult:
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
            kept = 0 if self._part is None else self._part.kept
            named = interrupted_by(error, self._name, kept)
            self._tell(Phase.FAILED, 0, str(named))
            if named is error:
                raise
            raise named from error.__cause__ or error
        self._tell(Phase.UNCHANGED if fetched.unchanged else Phase.COMPLETE, fetched.size)
        return fetched

    def _run(self) -> DownloadResult:
        if self._retry(lambda: self._session.version) < 2:
            return self._run_version_1()
        starts = 0
        while starts < FRESH_STARTS:
            try:
                return self._attempt()
            except Changed as error:
                reason = str(error)
                starts += 1
            except ClaimLost:
                # It cannot happen to a private partial file.
                if not self._how.concurrent:
                    raise
                self._overtaken = True
            except Unsupported:
                # It turned out not to speak version 2 after all.
                if self._session.version > 1:
                    raise
                return self._run_version_1()
        raise Changed(
            f"{reason}, {FRESH_STARTS} times; 'natproxy download' takes a file as it grows"
        )

    def _attempt(self) -> DownloadResult:
        # What was known beforehand is good for one attempt: `if-match` will tell.
        metadata, self._metadata = self._metadata, None
        if metadata is None:
            metadata = self._retry(partial(self._session.stat, self._name))
        if metadata.type != FILE:
            raise UsageError(
                f"{printable(self._name)}: is a directory; 'natproxy sync' fetches directories"
            )
        self._size = metadata.size
        if self._is_here(metadata):
            return self._was_here(metadata)
        with self._partial(metadata) as part:
            self._part = part
            self._look_at_what_is_kept(part)
            self._tell(Phase.RECEIVING, part.kept)
            if self._how.verify:
                self._receive_and_repair(part)
            else:
                self._receive(part, part.segments)
                self._confirm(metadata)
            # Meanwhile, it may have come another way.
            if self._is_here(metadata):
                part.discard()
                return self._was_here(metadata)
            self._tell(Phase.SAVING, metadata.size)
            while not part.finish(self._how.existing.replaces):
                # It has come another way just now.
                if self._is_here(metadata):
                    part.discard()
                    return self._was_here(metadata)
        return DownloadResult(self._path, metadata.size, self._received, unchanged=False)

    def _partial(self, metadata: Metadata) -> PartialDownload:
        return PartialDownload(
            self._file,
            self._name,
            metadata,
            self._how.segments,
            concurrent=self._how.concurrent,
            private=self._overtaken,
        )

    def _was_here(self, metadata: Metadata) -> DownloadResult:
        return DownloadResult(self._path, metadata.size, self._received, unchanged=True)

    def _is_here(self, metadata: Metadata) -> bool:
        existing = self._how.existing
        found = self._file.find()
        if found is None or existing is Existing.REPLACE:
            return False
        if existing is Existing.KEEP:
            return True
        if destination.same_size_and_time(found, metadata) and (
            not self._how.verify or self._verification.is_same(self._file, metadata)
        ):
            return True
        if existing is Existing.REFUSE:
            raise destination.exists_error(self._path)
        return False

    def _look_at_what_is_kept(self, part: PartialDownload) -> None:
        if part.discarded:
            self._tell(Phase.RESTARTING, 0, f"{part.discarded}: starting afresh")
        if part.trusted:
            return
        kept = part.kept
        part.lose(self._verification.damage_kept(part))
        if part.kept < kept:
            lost = f"{kept - part.kept} of the {kept} bytes that were kept"
            message = f"{lost} are damaged: downloading them again"
            if not part.kept:
                message = "what was kept is damaged: starting afresh"
            self._tell(Phase.RESTARTING, part.kept, message)
        part.trusted = True

    def _receive_and_repair(self, part: PartialDownload) -> None:
        """Receive what is missing, and again what differs from the server's bytes.

        :raises DigestMismatch: if some of it still differs after `REPAIRS` repairs; the rest
            is kept.
        """
        segments = part.segments
        for repair in range(REPAIRS + 1):
            digests = self._receive(part, segments)
            damage = self._verification.damage_received(part, segments, digests)
            if not damage:
                return
            part.lose(damage)
            segments = part.missing
            size = sum(lost.end - lost.start for lost in segments)
            if repair < REPAIRS:
                message = f"{size} bytes are not the server's: downloading them again"
                self._tell(Phase.RESTARTING, part.kept, message)
                self._tell(Phase.RECEIVING, part.kept)
        if not part.kept:
            part.discard()
        kept = f"the other {part.kept} bytes are kept" if part.kept else "nothing was kept"
        raise DigestMismatch(
            f"{printable(self._name)}: the SHA-256 of {size} bytes is not the server's,"
            f" after {REPAIRS} repairs; {kept}"
        )

    def _receive(self, part: PartialDownload, segments: Sequence[Segment]) -> list[str]:
        """Fetch what is missing of segments; return their digests, if they are wanted."""
        failed = threading.Event()

        def fetch(segment: Segment) -> str:
            try:
                return self._fetch(part, segment, failed)
            except BaseException:
                failed.set()
                raise

        steps = [partial(fetch, segment) for segment in segments]
        return run_parallel(steps, self._how.segments, self._stop, self._session.interrupt)

    def _fetch(self, part: PartialDownload, segment: Segment, failed: threading.Event) -> str:
        """Fetch what is missing of a segment, unless another one fails; give its digest."""
        digest = None
        if self._how.verify:
            digest = self._verification.digest_of(part, segment.start, segment.done)
        buffer = memoryview(bytearray(min(self._how.piece, segment.end - segment.start)))

        def receive() -> None:
            if segment.done == segment.end or failed.is_set():
                return
            with self._session.get(
                self._name, segment.done, segment.end - segment.done, part.metadata.etag
            ) as (reply, _):
                while not failed.is_set() and (size := reply.receive_into(buffer)):
                    part.write(segment, buffer[:size])
                    if digest is not None:
                        digest.update(buffer[:size])
                    self._retry.received(size)
                    self._count(size, part.kept)
            if segment.done < segment.end and not failed.is_set():
                raise NotUnderstood(f"{self._session.server} sent less than it has")

        self._retry(receive)
        return "" if digest is None else digest.hexdigest()

    def _confirm(self, metadata: Metadata) -> None:
        """See that what was received is what the server has now.

        :raises Changed: if it has another file by now.
        """
        try:
            now = self._retry(partial(self._session.stat, self._name))
        except NotFound as error:
            raise changed(self._name) from error
        if now.etag != metadata.etag:
            raise changed(self._name)

    def _run_version_1(self) -> DownloadResult:
        """Fetch it as version 1 can: whole, from the beginning, unverified."""
        if self._how.verify:
            self._session.needs("compute digests to verify with")
        kept = self._kept_by_version_1()
        if kept is not None:
            return kept
        self._tell(Phase.RECEIVING, 0, f"{self._session.server} speaks version 1 only: no resuming")

        def receive() -> int:
            with self._session.whole(self._name) as reply:
                self._size = reply.header.size
                return save_body(
                    reply,
                    self._file,
                    self._count,
                    self._tell_saving,
                    self._how.existing.replaces,
                )

        try:
            size = self._retry(receive)
        except FileExistsError as error:
            # It has come another way meanwhile.
            kept = self._kept_by_version_1()
            if kept is None:
                raise LocalError(self._path, error) from error
            return kept
        return DownloadResult(self._path, size, self._received, unchanged=False)

    def _kept_by_version_1(self) -> DownloadResult | None:
        """Return how a file is left alone that is there; `None` if it is to be replaced."""
        found = self._file.find()
        if found is None or self._how.existing.replaces:
            return None
        if self._how.existing is Existing.REFUSE:
            raise destination.exists_error(self._path, "it is there, and may differ")
        return DownloadResult(self._path, found.st_size, self._received, unchanged=True)

    def _count(self, size: int, done: int) -> None:
        with self._lock:
            self._received += size
        self._tell(Phase.RECEIVING, done)
        self._stop.check()
        if self._how.limit:
            self._stop.sleep(self._how.limit.take(size))

    def _tell_saving(self, size: int) -> None:
        self._tell(Phase.SAVING, size)

    def _tell(self, phase: Phase, done: int, message: str = "") -> None:
        self._done = done
        self._progress(Event(self._name, phase, done, self._size, message))
