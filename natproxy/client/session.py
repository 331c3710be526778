"""The blocking client for programs: a session that also downloads files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from natproxy.client.blocking.session import Session as CommandSession
from natproxy.client.events import Progress, ignore_event
from natproxy.client.requests import as_name
from natproxy.client.retry import RETRY_FOR, Cancellation, RetryPolicy
from natproxy.client.url import parse_server
from natproxy.tls.options import TLSOptions

if TYPE_CHECKING:
    from natproxy.client.authentication import Token
    from natproxy.client.transfer.request import DownloadOptions


class Session(CommandSession):
    """Sends commands to one server and downloads files from it. Several threads may share it.

    The commands and the parameters are those of
    `natproxy.client.blocking.session.Session`.
    """

    def download(
        self,
        name: str | bytes,
        destination: str | bytes | None = None,
        *,
        overwrite: bool = False,
        verify: bool = False,
        segments: int = 1,
        retry_for: float = RETRY_FOR,
        retries: int | None = None,
        wait: bool = False,
        limit_rate: float | None = None,
        progress: Progress = ignore_event,
    ) -> bytes:
        """Download a file. An earlier partial download of it is resumed.

        The file gets its name only when it is complete.

        :param destination: a file, or a directory that exists or ends with a slash; missing
            directories are created. If ``None``, the working directory.
        :param overwrite: replace an existing file; otherwise, one of the same size and time is
            left as it is, and any other is an error.
        :param verify: compare the SHA-256 with the server's.
        :param segments: parts of the file that are downloaded at the same time.
        :param retry_for: seconds without progress before giving up on temporary failures: 0 for
            no retry, ``math.inf`` for no limit.
        :param retries: consecutive failures before giving up, if that comes sooner.
        :param wait: whether a first connection that fails is retried as well.
        :param limit_rate: bytes a second.
        :param progress: called with each step.
        :return: the path of the file.
        :raises ClientError: if it can't be downloaded; what has been received is kept.
        """
        options = download_options(
            overwrite, verify, segments, RetryPolicy(retry_for, retries, wait), limit_rate
        )
        return download(self, name, destination, options, progress)


def download_options(
    overwrite: bool,
    verify: bool,
    segments: int,
    policy: RetryPolicy,
    limit_rate: float | None,
) -> DownloadOptions:
    """Return the options of a download from the arguments of `Session.download`."""
    # Programs that download nothing need not load this.
    from natproxy.client.rate import RateLimit
    from natproxy.client.transfer.destination import Existing
    from natproxy.client.transfer.request import DownloadOptions

    existing = Existing.REPLACE if overwrite else Existing.REFUSE
    limit = None if limit_rate is None else RateLimit(limit_rate)
    return DownloadOptions(existing, verify, segments, limit, policy, concurrent=True)


def download(
    session: CommandSession,
    name: str | bytes,
    destination: str | bytes | None,
    options: DownloadOptions,
    progress: Progress,
    cancellation: Cancellation | None = None,
) -> bytes:
    """Download a file and return its path; see `Session.download`.

    :param cancellation: cancels it from another thread.
    """
    from natproxy.client.transfer.destination import destination_path
    from natproxy.client.transfer.download import Download
    from natproxy.client.transfer.request import DownloadRequest

    request = DownloadRequest(as_name(name), destination_path(as_name(name), destination))
    return Download(session, request, options, progress, cancellation).run().path


def connect(
    server: str,
    timeout: float = 60.0,
    connect_timeout: float | None = None,
    tls: TLSOptions | None = None,
    token: Token | str | None = None,
) -> Session:
    """Return a session with a server, once a connection to it has been made.

    :param server: ``HOST:PORT``, ``HOST``, ``[IPV6]:PORT``, ``natproxy://HOST:PORT``, or
        ``natproxys://HOST:PORT`` for TLS.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection: see `Session`.
    :param tls: how to verify the server, and what to show it: `TLSOptions()` is TLS with the
        system's authorities, as ``natproxys`` alone is.
    :param token: to send before the first command of each connection: see `Session`.
    :raises CannotConnect: if there is no connection; `TLSError` if a certificate is refused.
    """
    address, secure = parse_server(server, tls is not None)
    tls = TLSOptions() if secure and tls is None else tls
    session = Session(address, timeout, connect_timeout, tls, token)
    session.connect()
    return session
