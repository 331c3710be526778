"""A file's bytes, in order, to whoever takes them: a pipe, most often.

What is out cannot be taken back: a file that changes on the way ends the stream.
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
    UsageError,
    interrupted_by,
)
from natproxy.client.events import Event, Phase, Progress, ignore_event, strip_name
from natproxy.client.retry import Cancellation, Retrier
from natproxy.client.transfer.download import DownloadOptions
from natproxy.client.transfer.output import WholeWriter, Write
from natproxy.client.transfer.verification import changed
from natproxy.protocol import FILE, ROOT, Metadata, printable


def stream(
    session: Session,
    name: bytes,
    write: Write,
    how: DownloadOptions | None = None,
    progress: Progress = ignore_event,
    stop: Cancellation | None = None,
) -> int:
    """Fetch a file and hand its bytes on; a lost connection is made anew and gone on with.

    :param write: takes each piece: a file object's ``write()``, or a function. It is called again
        with the rest if it returns that it has taken fewer bytes. What it raises is raised.
    :return: the size of the file, in bytes.
    :raises Changed: if the file changes meanwhile: what was written is of the first one.
    :raises DigestMismatch: with `DownloadOptions.verify`, if the SHA-256 of what was written
        is not the server's.
    :raises ClientError: if it can't be had.
    """
    return _Stream(
        session, name, write, how or DownloadOptions(), progress, stop or Cancellation()
    ).run()


class _Stream:
    def __init__(
        self,
        session: Session,
        name: bytes,
        write: Write,
        how: DownloadOptions,
        progress: Progress,
        stop: Cancellation,
    ) -> None:
        self._session = session
        self._name = name
        self._write = WholeWriter(write)
        self._how = how
        self._progress = progress
        self._stop = stop
        self._size: int | None = None
        self._done = 0
        self._digest = hashlib.sha256()
        self._buffer = memoryview(bytearray(how.piece))
        self._retry = Retrier(
            session.retry_context,
            how.retry_policy,
            stop,
            lambda why: self._tell(Phase.WAITING, strip_name(why, name)),
            minimum_rate=how.minimum_rate,
            timeout=session.timeout,
        )

    def run(self) -> int:
        try:
            if self._retry(lambda: self._session.version) < 2:
                self._run_version_1()
            else:
                self._run_version_2()
        except Interrupted:
            # An interrupt is not a failure.
            raise
        except ClientError as error:
            named = interrupted_by(error, self._name, 0)
            self._tell(Phase.FAILED, str(named))
            if named is error:
                raise
            raise named from error.__cause__ or error
        self._tell(Phase.COMPLETE)
        return self._done

    def _run_version_1(self) -> None:
        if self._how.verify:
            self._session.needs("compute digests to verify with")
        # Version 1 cannot go on in the middle: one try, and what it gives.
        with self._session.whole(self._name) as reply:
            self._size = reply.header.size
            while size := reply.receive_into(self._buffer):
                self._take(size)

    def _run_version_2(self) -> None:
        try:
            self._run()
        except Unsupported:
            # It turned out not to speak version 2 after all.
            if self._session.version > 1:
                raise
            self._run_version_1()

    def _run(self) -> None:
        metadata = self._retry(partial(self._session.stat, self._name))
        if metadata.type != FILE:
            raise UsageError(f"{printable(self._name or ROOT)}: is a directory")
        self._size = metadata.size
        self._tell(Phase.RECEIVING)
        self._retry(partial(self._receive, metadata))
        self._confirm(metadata.etag)

    def _receive(self, metadata: Metadata) -> None:
        if self._done < metadata.size:
            with self._session.get(self._name, self._done, None, metadata.etag) as (reply, _):
                while size := reply.receive_into(self._buffer):
                    self._take(size)
        if self._done != metadata.size:
            raise NotUnderstood(f"{self._session.server} did not send what it has")

    def _take(self, size: int) -> None:
        piece = self._buffer[:size]
        self._retry.pause()
        self._write(piece)
        self._retry.resume()
        if self._how.verify:
            self._digest.update(piece)
        self._done += size
        self._retry.received(size)
        self._tell(Phase.RECEIVING)
        self._stop.check()
        if self._how.limit:
            self._stop.sleep(self._how.limit.take(size))

    def _confirm(self, etag: str) -> None:
        try:
            if self._how.verify:
                self._tell(Phase.VERIFYING)
                theirs = self._retry(partial(self._session.hash, self._name))
                now, same = theirs.etag, theirs.sha256 == self._digest.hexdigest()
            else:
                now, same = self._retry(partial(self._session.stat, self._name)).etag, True
        except NotFound:
            now, same = "", True
        if now != etag:
            raise changed(self._name)
        if not same:
            raise DigestMismatch(f"{printable(self._name)}: the SHA-256 is not the server's")

    def _tell(self, phase: Phase, message: str = "") -> None:
        self._progress(Event(self._name, phase, self._done, self._size, message))
