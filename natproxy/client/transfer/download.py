"""Download one file: resume it, retry it, verify it, and never mix two versions of it.

All bytes after the first reply are requested with ``if-match``, so they belong to one version of
the file. After the last byte the file is compared with the server's once more: by its digest with
`DownloadOptions.verify`, by its etag otherwise. Only if it is the same does the local file get
its name. If the file has changed, the download starts again from the first byte; if only bytes
differ, the damaged ranges are found and downloaded again.

Each round trip counts on a long link: ``STAT`` for the comparison is sent together with the last
``GET``, and a ``STAT`` before the first one only if there is something here to compare.
"""

from __future__ import annotations

from functools import partial

from natproxy.client.blocking.session import Session
from natproxy.client.errors import (
    Changed,
    ClientError,
    DigestMismatch,
    Interrupted,
    LocalError,
    Unsupported,
    UsageError,
    download_error,
)
from natproxy.client.events import Event, Phase, Progress, ignore_event, strip_name
from natproxy.client.retry import Cancellation, Outage, ProgressRule, Retrier
from natproxy.client.transfer.destination import (
    Existing,
    LocalFile,
    exists_error,
    same_size_and_time,
)
from natproxy.client.transfer.partial import ClaimLost, PartialDownload, has_partial
from natproxy.client.transfer.reception import Reception
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from natproxy.client.transfer.version1 import save_body
from natproxy.protocol import FILE, Metadata, printable

FRESH_STARTS = 3
"""Times that a download is started because the file changes on the server."""

REPAIRS = 3
"""Times that damaged ranges are downloaded again."""


class Download:
    """The download of one file.

    :param progress: called with each event.
    :param cancellation: cancels the download from another thread.
    :param outage: shared with the other downloads of a batch.
    """

    def __init__(
        self,
        session: Session,
        request: DownloadRequest,
        options: DownloadOptions | None = None,
        progress: Progress = ignore_event,
        cancellation: Cancellation | None = None,
        outage: Outage | None = None,
    ) -> None:
        self._session = session
        self._name = request.name
        self._path = request.path
        self._file = LocalFile(request.path, request.tree, request.below)
        self._metadata = request.metadata
        self._options = options or DownloadOptions()
        self._progress = progress
        self._cancellation = cancellation or Cancellation()
        self._size: int | None = None
        self._done = 0
        # Whether another process has claimed the partial download.
        self._claim_lost = False
        # ``None`` until it is opened.
        self._part: PartialDownload | None = None
        self._retry = Retrier(
            session.retry_context,
            self._options.retry_policy,
            self._cancellation,
            lambda reason: self._report(Phase.WAITING, self._done, strip_name(reason, self._name)),
            outage,
            ProgressRule(self._options.minimum_rate, session.timeout),
        )
        self._reception = Reception(
            session, self._name, self._options, self._retry, self._cancellation, self._report
        )
        self._verification = self._reception.verification

    def run(self) -> DownloadResult:
        """Download the file.

        :raises ClientError: if that fails. The received bytes are kept for the next download,
            unless they are unusable.
        """
        try:
            result = self._run()
        except Interrupted:
            # Not a failure: the next download continues it.
            raise
        except ClientError as error:
            kept = 0 if self._part is None else self._part.kept
            named = download_error(error, self._name, kept)
            self._report(Phase.FAILED, 0, str(named))
            if named is error:
                raise
            raise named from error.__cause__ or error
        self._report(Phase.UNCHANGED if result.unchanged else Phase.COMPLETE, result.size)
        return result

    def _run(self) -> DownloadResult:
        starts = 0
        while starts < FRESH_STARTS:
            try:
                return self._attempt()
            except Changed as error:
                reason = str(error)
                starts += 1
            except ClaimLost:
                # A private partial file cannot be claimed.
                if not self._options.concurrent:
                    raise
                self._claim_lost = True
            except Unsupported:
                if self._session.version > 1:
                    raise
                return self._run_version_1()
            finally:
                self._reception.close()
        raise Changed(
            f"{reason}, {FRESH_STARTS} times; 'natproxy download' takes a file as it grows"
        )

    def _attempt(self) -> DownloadResult:
        # Metadata of the request may be outdated: `if-match` detects it, once.
        metadata, self._metadata = self._metadata, None
        if metadata is None and not self._is_comparable():
            metadata = self._reception.open()
        if metadata is None:
            metadata = self._retry(partial(self._session.stat, self._name))
        if metadata.type != FILE:
            raise UsageError(
                f"{printable(self._name)}: is a directory; 'natproxy get -r' downloads directories"
            )
        self._size = metadata.size
        if self._is_unchanged(metadata):
            return self._unchanged(metadata)
        with self._partial(metadata) as part:
            self._part = part
            self._check_kept(part)
            self._require_space(part)
            self._report(Phase.RECEIVING, part.kept)
            if self._options.verify:
                self._receive_and_repair(part)
            else:
                self._reception.receive(part, part.segments)
                self._reception.confirm(metadata)
            # Another process may have saved the file meanwhile.
            if self._is_unchanged(metadata):
                part.discard()
                return self._unchanged(metadata)
            self._report(Phase.SAVING, metadata.size)
            while not part.finish(self._options.existing.replaces):
                # Another process has saved a file with the final name.
                if self._is_unchanged(metadata):
                    part.discard()
                    return self._unchanged(metadata)
        return DownloadResult(self._path, metadata.size, self._reception.received, unchanged=False)

    def _is_comparable(self) -> bool:
        """Return whether the metadata decide which bytes are requested, if any."""
        if self._options.segments > 1 or has_partial(self._file):
            return True
        if self._options.existing is Existing.REPLACE:
            return False
        try:
            return self._file.stat() is not None
        except LocalError:
            return True

    def _partial(self, metadata: Metadata) -> PartialDownload:
        return PartialDownload(
            self._file,
            self._name,
            metadata,
            self._options.segments,
            concurrent=self._options.concurrent,
            private=self._claim_lost,
            durable=self._options.durable,
        )

    def _unchanged(self, metadata: Metadata) -> DownloadResult:
        return DownloadResult(self._path, metadata.size, self._reception.received, unchanged=True)

    def _is_unchanged(self, metadata: Metadata) -> bool:
        """Return whether an existing local file stays.

        :raises LocalError: if it differs and may not be replaced.
        """
        existing = self._options.existing
        found = self._file.stat()
        if found is None or existing is Existing.REPLACE:
            return False
        if existing is Existing.KEEP:
            return True
        if same_size_and_time(found, metadata) and (
            not self._options.verify or self._verification.is_same(self._file, metadata)
        ):
            return True
        if existing is Existing.REFUSE:
            raise exists_error(self._path)
        return False

    def _check_kept(self, part: PartialDownload) -> None:
        """Verify bytes kept by an earlier download that may not have reached the disk."""
        if part.discard_reason:
            self._report(Phase.RESTARTING, 0, f"{part.discard_reason}: starting afresh")
        if part.trusted:
            return
        kept = part.kept
        part.mark_damaged(self._verification.damage_kept(part))
        if part.kept < kept:
            lost = f"{kept - part.kept} of the {kept} bytes that were kept"
            message = f"{lost} are damaged: downloading them again"
            if not part.kept:
                message = "the received bytes are damaged: starting afresh"
            self._report(Phase.RESTARTING, part.kept, message)
        part.trusted = True

    def _require_space(self, part: PartialDownload) -> None:
        try:
            part.require_space()
        except LocalError:
            if not part.kept:
                part.discard()
            raise

    def _receive_and_repair(self, part: PartialDownload) -> None:
        """Receive the missing bytes, and download ranges again that differ from the server's.

        :raises DigestMismatch: if a range still differs after `REPAIRS` repairs; the other bytes
            are kept.
        """
        segments = part.segments
        for repair in range(REPAIRS + 1):
            digests = self._reception.receive(part, segments)
            damage = self._verification.damage_received(
                part, segments, digests, self._options.segments
            )
            if not damage:
                return
            part.mark_damaged(damage)
            segments = part.missing
            size = sum(each.end - each.start for each in segments)
            if repair < REPAIRS:
                message = f"{size} bytes are not the server's: downloading them again"
                self._report(Phase.RESTARTING, part.kept, message)
                self._report(Phase.RECEIVING, part.kept)
        if not part.kept:
            part.discard()
        kept = f"the other {part.kept} bytes are kept" if part.kept else "nothing was kept"
        raise DigestMismatch(
            f"{printable(self._name)}: the SHA-256 of {size} bytes is not the server's,"
            f" after {REPAIRS} repairs; {kept}"
        )

    def _run_version_1(self) -> DownloadResult:
        """Download the whole file by version 1 of the protocol, unverified."""
        if self._options.verify:
            self._session.require_version_2("compute digests to verify with")
        existing = self._existing_by_version_1()
        if existing is not None:
            return existing
        self._report(
            Phase.RECEIVING, 0, f"{self._session.server} speaks version 1 only: no resuming"
        )

        def receive() -> int:
            with self._session.get_v1(self._name) as reply:
                self._size = reply.header.size
                return save_body(
                    reply,
                    self._file,
                    self._reception.count,
                    self._report_saving,
                    self._options.existing.replaces,
                )

        try:
            size = self._retry(receive)
        except FileExistsError as error:
            # Another process has saved the file meanwhile.
            existing = self._existing_by_version_1()
            if existing is None:
                raise LocalError(self._path, error) from error
            return existing
        return DownloadResult(self._path, size, self._reception.received, unchanged=False)

    def _existing_by_version_1(self) -> DownloadResult | None:
        """Return the result for an existing file that stays; ``None`` if it is to be replaced."""
        found = self._file.stat()
        if found is None or self._options.existing.replaces:
            return None
        if self._options.existing is Existing.REFUSE:
            raise exists_error(self._path, "it is there, and may differ")
        return DownloadResult(self._path, found.st_size, self._reception.received, unchanged=True)

    def _report_saving(self, size: int) -> None:
        self._report(Phase.SAVING, size)

    def _report(self, phase: Phase, done: int, message: str = "") -> None:
        self._done = done
        self._progress(Event(self._name, phase, done, self._size, message))
