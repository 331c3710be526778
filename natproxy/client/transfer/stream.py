"""Download a file to a stream, such as a pipe, in order.

Bytes that are written cannot be withdrawn, so a file that changes meanwhile fails the stream.
"""

from __future__ import annotations

from functools import partial

from natproxy.client.blocking.session import Session
from natproxy.client.errors import (
    ClientError,
    DigestMismatch,
    Interrupted,
    NotFound,
    NotUnderstood,
    Unsupported,
    download_error,
)
from natproxy.client.events import Event, Phase, Progress, ignore_event, strip_name
from natproxy.client.requests import require_file
from natproxy.client.retry import Cancellation, ProgressRule, Retrier
from natproxy.client.transfer.file_reply import FileReply, require_same
from natproxy.client.transfer.output import WholeWriter, Write
from natproxy.client.transfer.request import DownloadOptions
from natproxy.client.transfer.verification import changed_error
from natproxy.protocol import Metadata, printable


def stream(
    session: Session,
    name: bytes,
    write: Write,
    options: DownloadOptions | None = None,
    progress: Progress = ignore_event,
    cancellation: Cancellation | None = None,
) -> int:
    """Download a file and write its bytes; after a lost connection, resume.

    :param write: accepts each chunk: a file object's ``write()``, or a function. If it returns
        that it has accepted fewer bytes, it is called again with the rest. Its exceptions are
        passed on.
    :return: the size of the file, in bytes.
    :raises Changed: if the file changes meanwhile; the bytes written belong to the first version.
    :raises DigestMismatch: with `DownloadOptions.verify`, if the SHA-256 of what was written
        is not the server's.
    :raises ClientError: if the download fails.
    """
    return _Stream(
        session, name, write, options or DownloadOptions(), progress, cancellation or Cancellation()
    ).run()


class _Stream:
    def __init__(
        self,
        session: Session,
        name: bytes,
        write: Write,
        options: DownloadOptions,
        progress: Progress,
        cancellation: Cancellation,
    ) -> None:
        # Loading it takes longer than a small file, and no other command needs it.
        import hashlib

        self._session = session
        self._name = name
        self._write = WholeWriter(write)
        self._options = options
        self._progress = progress
        self._cancellation = cancellation
        # Of the version of the file that is received, and of the file after its last byte.
        self._metadata: Metadata | None = None
        self._after: Metadata | None = None
        self._size: int | None = None
        self._done = 0
        self._digest = hashlib.sha256()
        self._buffer = memoryview(bytearray(options.chunk_size))
        self._retry = Retrier(
            session.retry_context,
            options.retry_policy,
            cancellation,
            lambda reason: self._report(Phase.WAITING, strip_name(reason, name)),
            progress=ProgressRule(options.minimum_rate, session.timeout),
        )

    def run(self) -> int:
        try:
            self._run_version_2()
        except Interrupted:
            # Not a failure.
            raise
        except ClientError as error:
            named = download_error(error, self._name, 0)
            self._report(Phase.FAILED, str(named))
            if named is error:
                raise
            raise named from error.__cause__ or error
        self._report(Phase.COMPLETE)
        return self._done

    def _run_version_1(self) -> None:
        if self._options.verify:
            self._session.require_version_2("compute digests to verify with")
        # Version 1 cannot resume: there is one attempt.
        with self._session.get_v1(self._name) as reply:
            self._size = reply.header.size
            while size := reply.receive_into(self._buffer):
                self._forward(size)

    def _run_version_2(self) -> None:
        try:
            self._run()
        except Unsupported:
            if self._session.version > 1:
                raise
            self._run_version_1()

    def _run(self) -> None:
        try:
            metadata = self._retry(self._receive)
        except NotFound:
            if self._metadata is None:
                # The name may be that of a directory.
                require_file(self._name, self._retry(partial(self._session.stat, self._name)))
            raise
        self._confirm(metadata)

    def _receive(self) -> Metadata:
        """Receive the rest of the file, and return the metadata that all its bytes belong to."""
        metadata, self._after = self._metadata, None
        if metadata is not None and self._done == metadata.size:
            return metadata
        etag = None if metadata is None else metadata.etag
        confirming = not self._options.verify
        with FileReply(
            self._session, self._name, self._done, None, etag, confirming=confirming
        ) as file:
            if metadata is None:
                metadata = self._metadata = file.metadata
                self._size = metadata.size
                self._report(Phase.RECEIVING)
            while size := file.reply.receive_into(self._buffer):
                self._forward(size)
            if self._done != metadata.size:
                raise NotUnderstood(f"{self._session.server} did not send what it has")
            self._after = file.metadata_after()
        return metadata

    def _forward(self, size: int) -> None:
        chunk = self._buffer[:size]
        self._retry.pause()
        self._write(chunk)
        self._retry.resume()
        if self._options.verify:
            self._digest.update(chunk)
        self._done += size
        self._retry.received(size)
        self._report(Phase.RECEIVING)
        self._cancellation.check()
        if self._options.limit:
            self._cancellation.sleep(self._options.limit.take(size))

    def _confirm(self, metadata: Metadata) -> None:
        try:
            if not self._options.verify:
                after = self._after or self._retry(partial(self._session.stat, self._name))
                require_same(self._name, metadata, after)
                return
            self._report(Phase.VERIFYING)
            remote = self._retry(partial(self._session.hash, self._name))
        except NotFound as error:
            raise changed_error(self._name) from error
        if remote.etag != metadata.etag:
            raise changed_error(self._name)
        if remote.sha256 != self._digest.hexdigest():
            raise DigestMismatch(f"{printable(self._name)}: the SHA-256 is not the server's")

    def _report(self, phase: Phase, message: str = "") -> None:
        self._progress(Event(self._name, phase, self._done, self._size, message))
