"""Receive the bytes of one file, all of one version, over one or more connections."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from natproxy.client.blocking.session import Session
from natproxy.client.context import Closing
from natproxy.client.errors import NotFound, NotUnderstood
from natproxy.client.events import Phase
from natproxy.client.retry import Cancellation, Retrier
from natproxy.client.transfer.file_reply import FileReply, require_same
from natproxy.client.transfer.parallel import run_parallel
from natproxy.client.transfer.partial import PartialDownload
from natproxy.client.transfer.record import Segment
from natproxy.client.transfer.request import DownloadOptions
from natproxy.client.transfer.verification import Verification, changed_error
from natproxy.protocol import Metadata


class Reception(Closing):
    """Receives the bytes of one file, and the metadata that it has after the last one.

    :param name: of the file on the server.
    :param retry: retries the commands.
    :param cancellation: cancels it from another thread.
    :param report: called with the phase and the bytes that are kept, or the current offset.
    :ivar received: bytes that have been received, discarded ones included.
    :ivar verification: compares received bytes with the server's.
    """

    def __init__(
        self,
        session: Session,
        name: bytes,
        options: DownloadOptions,
        retry: Retrier,
        cancellation: Cancellation,
        report: Callable[[Phase, int], object],
    ) -> None:
        self.received = 0
        self.verification = Verification(session, name, retry, cancellation, report)
        self._session = session
        self._name = name
        self._options = options
        self._retry = retry
        self._cancellation = cancellation
        self._report = report
        # The threads of several segments count received bytes.
        self._lock = threading.Lock()
        # The reply to a first command, ``GET``, until its body is read.
        self._opened: FileReply | None = None
        # The metadata after the last byte, if they were received with it.
        self._after: Metadata | None = None

    def open(self) -> Metadata | None:
        """Request the whole file; return its metadata, or ``None`` if ``STAT`` is needed first."""
        confirming = not self._options.verify
        try:
            self._opened = self._retry(
                lambda: FileReply(self._session, self._name, confirming=confirming)
            )
        except NotFound:
            # The name may be that of a directory.
            return None
        return self._opened.metadata

    def receive(self, part: PartialDownload, segments: Sequence[Segment]) -> list[str]:
        """Receive the missing bytes of segments; return their digests if they are verified."""
        failed = threading.Event()
        confirming = not self._options.verify and len(part.missing) == 1

        def receive(segment: Segment) -> str:
            try:
                return self._receive_segment(part, segment, failed, confirming)
            except BaseException:
                failed.set()
                raise

        steps = [partial(receive, segment) for segment in segments]
        return run_parallel(
            steps, self._options.segments, self._cancellation, self._session.interrupt
        )

    def _receive_segment(
        self,
        part: PartialDownload,
        segment: Segment,
        failed: threading.Event,
        confirming: bool,
    ) -> str:
        """Receive the missing bytes of a segment, unless another one fails; return its digest.

        :param confirming: whether the file's metadata are requested with them.
        """
        digest = None
        if self._options.verify:
            digest = self.verification.digest_of(part, segment.start, segment.done)
        buffer = memoryview(bytearray(min(self._options.chunk_size, segment.end - segment.start)))

        def receive() -> None:
            if segment.done == segment.end or failed.is_set():
                return
            with self._request(part, segment, confirming) as reply:
                while not failed.is_set() and (size := reply.reply.receive_into(buffer)):
                    part.write(segment, buffer[:size])
                    if digest is not None:
                        digest.update(buffer[:size])
                    self._retry.received(size)
                    self.count(size, part.kept)
                if segment.done == segment.end:
                    self._after = reply.metadata_after()
            if segment.done < segment.end and not failed.is_set():
                raise NotUnderstood(f"{self._session.server} sent less than it has")

        self._retry(receive)
        return "" if digest is None else digest.hexdigest()

    def _request(self, part: PartialDownload, segment: Segment, confirming: bool) -> FileReply:
        """Request the missing bytes of a segment, or return the reply that has them."""
        opened, self._opened = self._opened, None
        if opened is not None:
            if (segment.done, segment.end) == (0, part.metadata.size):
                return opened
            opened.close()
        size = segment.end - segment.done
        return FileReply(
            self._session,
            self._name,
            segment.done,
            size,
            part.metadata.etag,
            confirming=confirming,
        )

    def confirm(self, metadata: Metadata) -> None:
        """Check that the file has not changed on the server.

        :raises Changed: if it has.
        """
        now, self._after = self._after, None
        try:
            if now is None:
                now = self._retry(partial(self._session.stat, self._name))
        except NotFound as error:
            raise changed_error(self._name) from error
        require_same(self._name, metadata, now)

    def count(self, size: int, done: int) -> None:
        """Count a chunk, and wait if the rate is limited.

        :param done: bytes that are kept.
        :raises Interrupted: if the download is cancelled.
        """
        with self._lock:
            self.received += size
        self._report(Phase.RECEIVING, done)
        self._cancellation.check()
        if self._options.limit:
            self._cancellation.sleep(self._options.limit.take(size))

    def close(self) -> None:
        """Abort a reply that has not been read."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
