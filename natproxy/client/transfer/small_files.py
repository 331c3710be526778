"""Download small files: many with one command, and commit them to the disk in groups.

The files are requested by ``PACK``, or by pipelined ``GET`` from a server without it. A file
that cannot be downloaded in this way is left to `Download`, which reports the reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import Any

from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, Forbidden, Interrupted, Unsupported
from natproxy.client.events import Event, Phase, Progress, strip_name
from natproxy.client.requests import Get, Hash, Pack, Request, Stat
from natproxy.client.retry import Cancellation, Outage, ProgressRule, Retrier
from natproxy.client.transfer.request import (
    DownloadOptions,
    Numbered,
    Report,
)
from natproxy.client.transfer.small_file_store import SmallFileStore, Wanted
from natproxy.protocol import (
    MAX_LINE,
    MAX_NAMES,
    PACK_SIZE,
    UNAVAILABLE,
    Digest,
    Metadata,
    PackRecord,
    encode_name,
)

PACKS_AHEAD = 3
"""``PACK`` commands without a complete reply at most."""

DIGESTS_AHEAD = 64
"""Commands without a complete reply at most if each file is verified by a ``HASH``."""

GETS_AHEAD = 32
"""``GET`` and ``STAT`` commands without a complete reply at most: two for each file."""

TRIES = 3
"""Times that a file is requested in a pack if it changes while the server reads it."""

MOST_DENIALS = 16
"""``PACK`` commands that are repeated in a row without the name because of which one is denied.

After that, each file of such a command is requested alone.
"""

# Bytes of a record besides the name and the file's bytes, approximately.
_RECORD_SIZE = 100

# Bytes that a file of unknown size is expected to have.
_EXPECTED_SIZE = 4096


class SmallFiles:
    """Downloads small files over one connection.

    :param report: called with each result, in any order, but not for the requests that `run`
        returns. It is called in the thread of `run`.
    :param progress: called with an event for each file that has ended, and with an `Event`
        without a name for the bytes that have been received.
    :param cancellation: cancels the downloads from another thread.
    :param outage: shared with the other downloads of a batch.
    """

    def __init__(
        self,
        session: Session,
        options: DownloadOptions,
        report: Report,
        progress: Progress,
        cancellation: Cancellation,
        outage: Outage,
    ) -> None:
        self._session = session
        self._options = options
        self._progress = progress
        self._cancellation = cancellation
        self._retry = Retrier(
            session.retry_context,
            options.retry_policy,
            cancellation,
            self._report_waiting,
            outage,
            ProgressRule(options.minimum_rate, session.timeout),
        )
        self._source: Iterator[Numbered] = iter(())
        self._exhausted = False
        # Files to request before further ones of the source, and after them.
        self._first: deque[Wanted] = deque()
        self._last: deque[Wanted] = deque()
        # Files of each command that has been sent, in order.
        self._sent: deque[list[Wanted]] = deque()
        # Files that have been received, in order, until their digest is; ``None`` for one that has
        # not been.
        self._unverified: deque[tuple[Wanted, PackRecord] | None] = deque()
        self._store = SmallFileStore(options, report, progress)
        self._received = 0
        # Commands in a row that were denied because of one name.
        self._denials = 0

    def run(self, requests: Iterable[Numbered]) -> list[Numbered]:
        """Download files; return the requests that are left to `Download`.

        Files that are whole are committed, whatever ends it.

        :param requests: taken as they are needed. Those that are not taken are left as well, if
            the server can send no files in this way.

        :raises Interrupted: if it is cancelled.
        """
        self._source = iter(requests)
        with self._store:
            self._receive()
        return self._store.left

    def _receive(self) -> None:
        """Request and stage files until none is left, or until two failures in a row."""
        failed_at = -1
        while not self._exhausted or self._first or self._last:
            try:
                self._retry(self._attempt)
            except Interrupted:
                raise
            except ClientError:
                # `Download` tries again, and reports why it fails.
                self._restore()
                unable = failed_at == self._received
                failed_at = self._received
                self._store.leave(self._first)
                self._first.clear()
                if unable:
                    break
        self._store.leave(self._last)

    def _attempt(self) -> None:
        """Request and stage files until none is left.

        :raises ClientError: if that fails; what has been requested is requested again.
        """
        self._restore()
        if self._session.version < 2:
            raise Unsupported("version 1")
        self._first.extend(self._last)
        self._last.clear()
        if self._session.offers(Pack.word):
            self._receive_packs()
        elif self._options.verify:
            raise Unsupported("digests of files one by one")
        else:
            self._source = self._described(self._source)
            self._receive_files()

    def _receive_packs(self) -> None:
        ahead = DIGESTS_AHEAD if self._options.verify else PACKS_AHEAD
        if self._options.limit:
            ahead = 1
        with closing(self._session.pipeline(self._pack_requests(), ahead)) as replies:
            for request, result in replies:
                if isinstance(request, Hash):
                    self._take_digest(result)
                    continue
                if isinstance(result, ClientError):
                    self._take_failure(result)
                    continue
                files = self._sent.popleft()
                self._denials = 0
                size = received = 0
                for wanted, record in zip(files, result, strict=False):
                    size += len(record.data)
                    received += record.metadata is not None
                    self._take_record(wanted, record)
                cut = files[len(result) :]
                self._first.extendleft(reversed(cut))
                self._skip_digests(len(cut))
                self._count(size, received)

    def _pack_requests(self) -> Iterator[Request[Any]]:
        limit = self._options.limit
        most = min(PACK_SIZE, limit.chunk_size) if limit else PACK_SIZE
        while True:
            files: list[Wanted] = []
            line = len(Pack.word)
            size = 0
            while len(files) < MAX_NAMES and (wanted := self._next(packed=True)) is not None:
                request = wanted.file.request
                word = 1 + len(encode_name(request.name))
                metadata = request.metadata
                record = _RECORD_SIZE + word
                record += _EXPECTED_SIZE if metadata is None else metadata.size
                if files and (line + word > MAX_LINE or size + record > most):
                    self._first.appendleft(wanted)
                    break
                files.append(wanted)
                line += word
                size += record
            if not files:
                return
            self._sent.append(files)
            names = [each.file.request.name for each in files]
            yield Pack(names)
            if self._options.verify:
                yield from map(Hash, names)

    def _take_record(self, wanted: Wanted, record: PackRecord) -> None:
        if self._options.verify:
            self._unverified.append((wanted, record))
        if record.metadata is not None:
            if not self._options.verify:
                self._store.write(wanted, record.metadata, record.data)
        elif record.code == UNAVAILABLE and wanted.tries + 1 < TRIES:
            self._last.append(wanted._replace(tries=wanted.tries + 1))
        else:
            self._store.leave([wanted])

    def _skip_digests(self, count: int) -> None:
        """Ignore the next digests: their files have not been received."""
        if self._options.verify:
            self._unverified.extend([None] * count)

    def _take_digest(self, digest: Digest | ClientError) -> None:
        """Compare the next unverified file with the server's digest."""
        unverified = self._unverified.popleft() if self._unverified else None
        if unverified is None or unverified[1].metadata is None:
            return
        import hashlib

        wanted, (_, metadata, data, _) = unverified
        assert metadata is not None
        received = hashlib.sha256(data).hexdigest()
        if isinstance(digest, Digest) and (digest.sha256, digest.etag) == (received, metadata.etag):
            self._store.write(wanted, metadata, data)
        else:
            # It has changed, or bytes are damaged: `Download` finds out.
            self._store.leave([wanted])

    def _receive_files(self) -> None:
        ahead = 2 if self._options.limit else GETS_AHEAD
        data: bytes | None = None
        with closing(self._session.pipeline(self._file_requests(), ahead)) as replies:
            for request, result in replies:
                if isinstance(result, ClientError):
                    data = None
                    if result.passing:
                        raise result
                if isinstance(request, Get):
                    data = result if isinstance(result, bytes) else None
                    continue
                (wanted,) = self._sent.popleft()
                metadata = wanted.file.request.metadata
                # The same etag before and after: all bytes are of one version of the file.
                if (
                    data is None
                    or metadata is None
                    or not isinstance(result, Metadata)
                    or result.etag != metadata.etag
                ):
                    self._store.leave([wanted])
                    continue
                self._store.write(wanted, metadata, data)
                self._count(len(data), 1)

    def _described(self, source: Iterator[Numbered]) -> Iterator[Numbered]:
        """Yield requests with the metadata of the files, as far as these can be received."""
        for numbered in source:
            if numbered.request.metadata is not None:
                yield numbered
                continue
            batch = [numbered, *islice(source, GETS_AHEAD - 1)]
            wanted = [each.request.name for each in batch if each.request.metadata is None]
            found: dict[bytes, Metadata] = {}
            # A file that has none is left to `Download`. An exception would end the generator.
            with (
                suppress(ClientError),
                closing(self._session.pipeline(map(Stat, wanted), GETS_AHEAD)) as replies,
            ):
                for name, (_, result) in zip(wanted, replies, strict=True):
                    if isinstance(result, Metadata):
                        found[name] = result
            for number, request in batch:
                metadata = request.metadata or found.get(request.name)
                yield Numbered(number, request._replace(metadata=metadata))

    def _file_requests(self) -> Iterator[Request[Any]]:
        while (wanted := self._next(packed=False)) is not None:
            name, _, metadata, *_ = wanted.file.request
            assert metadata is not None
            self._sent.append([wanted])
            # Of a file that is empty, one byte more is requested: a length is not 0.
            yield Get(name, 0, metadata.size or 1, metadata.etag)
            yield Stat(name)

    def _take_failure(self, error: ClientError) -> None:
        """Handle an error reply to a whole ``PACK``.

        :raises ClientError: the error, if the command is to be repeated or is not supported.
        """
        if error.passing or isinstance(error, Unsupported):
            raise error
        files = self._sent.popleft()
        self._skip_digests(len(files))
        if isinstance(error, Forbidden) and self._denials < MOST_DENIALS:
            # One name denies the whole command. `Download` reports that of its file.
            denied = [each for each in files if each.file.request.name == error.denied]
            if denied:
                self._denials += 1
                self._first.extendleft(each for each in reversed(files) if each not in denied)
                files = denied
        self._store.leave(files)

    def _next(self, packed: bool) -> Wanted | None:
        """Return the next file to request; ``None`` if there is none."""
        while self._first:
            wanted = self._first.popleft()
            if packed or wanted.file.request.metadata is not None:
                return wanted
            self._store.leave([wanted])
        for numbered in self._source:
            if numbered.request.metadata is None and not packed:
                self._store.left.append(numbered)
            elif (found := self._store.prepare(numbered)) is not None:
                return found
        self._exhausted = True
        return None

    def _count(self, size: int, files: int) -> None:
        """Count received bytes of files, and wait if they are limited."""
        self._retry.succeeded()
        self._received += size
        self._progress(Event(b"", Phase.RECEIVING, size, None, files=files))
        self._cancellation.check()
        if self._options.limit:
            self._cancellation.sleep(self._options.limit.take(size))

    def _restore(self) -> None:
        """Request again what has been requested without a reply."""
        while self._sent:
            self._first.extendleft(reversed(self._sent.pop()))
        while self._unverified:
            unverified = self._unverified.pop()
            if unverified is not None and unverified[1].metadata is not None:
                self._first.appendleft(unverified[0])

    def _report_waiting(self, reason: str) -> None:
        waiting = self._sent[0] if self._sent else self._first
        for wanted in waiting:
            request = wanted.file.request
            message = strip_name(reason, request.name)
            self._progress(Event(request.name, Phase.WAITING, 0, None, message))
            return
