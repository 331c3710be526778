"""The commands of a file system: retried, and failing with the errors of a file system."""

from __future__ import annotations

import builtins
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from natproxy.address import Address
from natproxy.client.authentication import Token
from natproxy.client.blocking.session import Session
from natproxy.client.errors import (
    ClientError,
    NotFound,
    ServerError,
    Unavailable,
    UsageError,
)
from natproxy.client.listing import Listing, Page, require_inside
from natproxy.client.requests import Pack, as_name, name_text
from natproxy.client.retry import Cancellation, Retrier, RetryPolicy
from natproxy.fs.errors import file_changed, os_error
from natproxy.fs.listing import describe
from natproxy.fs.ranges import run_at_once
from natproxy.protocol import (
    RANGE_NOT_SATISFIABLE,
    Entry,
    Metadata,
    PackRecord,
    grouped_names,
)
from natproxy.tls.options import TLSOptions

_EXPECTED_SIZE = 4096
"""Bytes that a file of unknown size is expected to have."""

_Reply = TypeVar("_Reply")


class Commands:
    """Sends commands to one server in a session of this process. Threads may share it.

    All methods raise ``OSError``. Names are paths that begin with a slash.

    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection; see `Session`.
    :param retry_policy: how long temporary failures are retried.
    :param width: commands that `run_at_once` sends at the same time.
    :param tls: how to verify the server; ``None`` for no TLS.
    :param token: for the server; ``None`` if there is none.
    :raises ValueError: if the port is none, a time-out is not more than 0 or too long, or a file
        of ``tls`` cannot be used.
    """

    def __init__(
        self,
        server: Address,
        timeout: float,
        connect_timeout: float | None,
        retry_policy: RetryPolicy,
        width: int,
        tls: TLSOptions | None = None,
        token: Token | None = None,
    ) -> None:
        self._token = token
        self._server = server
        self._tls = tls
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._retry_policy = retry_policy
        self._width = width
        self._begin_session()

    @property
    def session(self) -> Session:
        """The connections of this process."""
        # After a fork, parent and child must not read from the same connection.
        if self._process != os.getpid():
            self._begin_session()
        return self._session

    def metadata(self, name: str) -> Metadata:
        """Return the present metadata of a file or a directory."""
        return self._retried(name, lambda session: session.stat(name))

    def list(self, name: str, depth: float) -> builtins.list[dict[str, Any]]:
        """Return fsspec's descriptions of the entries of a directory; of a file, its own.

        :param depth: levels of directories; ``math.inf`` for all of them.
        """
        found = []

        def entries_of(page: Page, session: Session) -> builtins.list[Entry]:
            entries = session.run(page)
            for entry in entries:
                require_inside(entry.name, as_name(name))
            return entries

        # Each page is retried: a listing that fails is resumed at the page that is missing.
        try:
            for page in Listing(name, depth).pages():
                for entry in self._retried(name, partial(entries_of, page)):
                    found.append(
                        describe(f"/{name_text(entry.name)}", entry.metadata, entry.unread)
                    )
        except ClientError as error:
            raise os_error(error, name) from error
        return found

    def read(self, name: str, start: int, end: int | None, etag: str | None) -> tuple[bytes, str]:
        """Return the bytes of a file from one offset to another, and its etag.

        :param end: the offset after the last; ``None`` for the end of the file.
        :raises FileChanged: if the file's etag is another.
        """
        length = None if end is None else max(0, end - start)

        def get(session: Session) -> tuple[bytes, str]:
            with session.get(name, start, length, etag) as (reply, part):
                return reply.read(), part.metadata.etag

        try:
            return self._retried(name, get)
        except OSError as error:
            cause = error.__cause__
            # As from a local file, nothing is read beyond the end.
            if isinstance(cause, ServerError) and cause.code == RANGE_NOT_SATISFIABLE:
                metadata = self.metadata(name)
                if etag not in (None, metadata.etag):
                    raise file_changed(name) from error
                if metadata.size < start:
                    return b"", metadata.etag
            raise

    def read_several(self, names: Sequence[str]) -> dict[str, bytes | Exception]:
        """Read files that are small, many with one command.

        :return: the bytes of each, or the exception with which that failed. `read` has to be used
            for a file that is not in it: the file is missing or large, or the server lacks the
            verb or refuses the whole command.
        """
        by_name: dict[bytes, str] = {}
        for name in names:
            with suppress(NotFound):
                by_name[as_name(name)] = name
        if len(by_name) < 2:
            return {}
        try:
            if not self._retrying(lambda session: session.offers(Pack.word)):
                return {}
        except ClientError as error:
            return {name: os_error(error, name) for name in names}
        groups = list(grouped_names((name, _EXPECTED_SIZE) for name in by_name))
        found: dict[str, bytes | Exception] = {}
        packs = self.run_at_once([partial(self._pack, group) for group in groups])
        for group, records in zip(groups, packs, strict=True):
            if isinstance(records, ClientError):
                # An error reply to the whole command may not be that to a single file.
                if isinstance(records, Unavailable) or not isinstance(records, ServerError):
                    found.update((by_name[n], os_error(records, by_name[n])) for n in group)
            elif isinstance(records, Exception):
                found.update((by_name[each], records) for each in group)
            else:
                found.update(
                    (by_name[record.name], record.data)
                    for record in records
                    if record.metadata is not None
                )
        return found

    def run_at_once(self, calls: Sequence[Callable[[], Any]]) -> builtins.list[Any]:
        """Call functions at the same time; return the result, or the exception, of each."""
        return run_at_once(calls, self._width, self.session.interrupt)

    def _pack(self, group: Sequence[bytes]) -> builtins.list[PackRecord]:
        """Return the record of each file, in order.

        :raises ClientError: if that fails.
        """
        return self._retrying(lambda session: session.pack(group))

    def _retried(self, name: str, command: Callable[[Session], _Reply]) -> _Reply:
        try:
            return self._retrying(command)
        except ClientError as error:
            raise os_error(error, name) from error

    def _retrying(self, command: Callable[[Session], _Reply]) -> _Reply:
        session = self.session
        retry = Retrier(session.retry_context, self._retry_policy, Cancellation(), lambda _: None)
        return retry(lambda: command(session))

    def _begin_session(self) -> None:
        try:
            self._session = Session(
                self._server, self._timeout, self._connect_timeout, self._tls, self._token
            )
        except UsageError as error:
            raise ValueError(str(error)) from error
        self._process = os.getpid()
        weakref.finalize(self, _end_session, self._session, self._process)


def _end_session(session: Session, process: int) -> None:
    # In a forked child, a thread that the child does not have may hold the session's lock.
    if process == os.getpid():
        session.close()
