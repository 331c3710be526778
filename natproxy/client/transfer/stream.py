"""Download a file to a stream, such as a pipe, in order.

Bytes that are written cannot be withdrawn, so a file that changes meanwhile fails the stream.
"""

from __future__ import annotations

import hashlib
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
        self._session = session
        self._name = name
        self._write = WholeWriter(write)
        self._options = options
        self._progress = progress
        self._cancellation = cancellation
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
            if self._retry(lambda: self._session.version) < 2:
                self._run_version_1()
            else:
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
            # A later reply has shown that the server speaks version 1 only.
            if self._session.version > 1:
                raise
            self._run_version_1()

    def _run(self) -> None:
        metadata = self._retry(partial(self._session.stat, self._name))
        require_file(self._name, metadata)
        self._size = metadata.size
        self._report(Phase.RECEIVING)
        self._retry(partial(self._receive, metadata))
        self._confirm(metadata.etag)

    def _receive(self, metadata: Metadata) -> None:
        if self._done < metadata.size:
            with self._session.get(self._name, self._done, None, metadata.etag) as (reply, _):
                while size := reply.receive_into(self._buffer):
                    self._forward(size)
        if self._done != metadata.size:
            raise NotUnderstood(f"{self._session.server} did not send what it has")

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

    def _confirm(self, etag: str) -> None:
        try:
            if self._options.verify:
                self._report(Phase.VERIFYING)
                remote = self._retry(partial(self._session.hash, self._name))
                now, same = remote.etag, remote.sha256 == self._digest.hexdigest()
            else:
                now, same = self._retry(partial(self._session.stat, self._name)).etag, True
        except NotFound:
            now, same = "", True
        if now != etag:
            raise changed_error(self._name)
        if not same:
            raise DigestMismatch(f"{printable(self._name)}: the SHA-256 is not the server's")

    def _report(self, phase: Phase, message: str = "") -> None:
        self._progress(Event(self._name, phase, self._done, self._size, message))
