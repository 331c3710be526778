"""Carries out requests on a reactor: each method returns a Deferred.

For programs::

    from natproxy.client.twisted import connect

    async def show(reactor):
        async with await connect(reactor, "files.example:9000") as session:
            async for entry in session.walk():
                print(entry.name, entry.metadata.size)
            part = await session.get("image.iso", consumer)

The reactor and the clock are parameters. Nothing blocks; `Session.download` uses a thread.
"""

from __future__ import annotations

from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IReactorThreads, IReactorTime, IStreamClientEndpoint

from natproxy.address import Address
from natproxy.client.authentication import Token
from natproxy.client.blocking.route import ATTEMPT_DELAY, connect_seconds
from natproxy.client.blocking.session import Session as BlockingSession
from natproxy.client.errors import UsageError
from natproxy.client.events import Progress, ignore_event
from natproxy.client.retry import RETRY_FOR, RetryPolicy
from natproxy.client.session import download, download_options
from natproxy.client.twisted.commands import CommandSession
from natproxy.client.twisted.connection import interrupted
from natproxy.client.twisted.download import ThreadedDownloads, in_reactor_thread
from natproxy.client.twisted.steps import deferred
from natproxy.client.url import parse_server
from natproxy.tls.options import TLSOptions


class Session(CommandSession):
    """Sends commands to one server and downloads files from it.

    The commands and the parameters are those of
    `natproxy.client.twisted.commands.CommandSession`. `download` needs the reactor as
    ``clock``, and an `Address` as ``server``.
    """

    _downloads: ThreadedDownloads | None = None
    _closed = False

    @deferred
    async def close(self) -> None:
        """Cancel everything that is under way, and close every connection.

        :return: fires when nothing is left on the reactor, and all threads have ended.
        """
        self._closed = True
        await super().close()
        if self._downloads is not None:
            await self._downloads.close()

    @deferred
    async def download(
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
        """Download a file in a thread of the reactor's pool, with connections of its own.

        The parameters are those of `natproxy.client.Session.download`; ``progress`` is called
        in the reactor's thread.

        :return: fires with the path of the file; fails with `UsageError` if the session has no
            reactor, or no address of the server.
        """
        if self._closed:
            raise interrupted()
        reactor = self._clock
        if not isinstance(self.server, Address) or not IReactorThreads.providedBy(reactor):
            raise UsageError("download needs a reactor, and server= as an Address")
        if self._downloads is None:
            self._downloads = ThreadedDownloads(reactor)
        policy = RetryPolicy(retry_for, retries, wait)
        options = download_options(overwrite, verify, segments, policy, limit_rate)
        report = in_reactor_thread(reactor, progress)
        return await self._downloads.start(
            BlockingSession(self.server, self.timeout, self.connect_timeout, self.tls, self._token),
            lambda session, cancellation: download(
                session, name, destination, options, report, cancellation
            ),
        )


@deferred
async def connect(
    reactor: IReactorTime,
    server: str,
    timeout: float = 60.0,
    connect_timeout: float | None = None,
    retry_policy: RetryPolicy | None = None,
    tls: TLSOptions | None = None,
    token: Token | str | None = None,
) -> Session:
    """Return a session with a server, once a connection to it has been made.

    :param reactor: also provides what ``HostnameEndpoint`` needs.
    :param server: ``HOST:PORT``, ``HOST``, ``[IPV6]:PORT``, ``natproxy://HOST:PORT``, or
        ``natproxys://HOST:PORT`` for TLS.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection: see `Session`.
    :param retry_policy: how long temporary failures are retried: see `Session`.
    :param tls: how to verify the server, and what to show it; see `natproxy.client.connect`.
    :param token: to send before the first command of each connection: see `Session`.
    :return: fires with the session; fails with `CannotConnect`, with `TLSError` if a certificate
        is refused.
    """
    address, secure = parse_server(server, tls is not None)
    tls = TLSOptions() if secure and tls is None else tls
    within = connect_seconds(timeout, connect_timeout)
    endpoint: IStreamClientEndpoint
    if "%" in address.host:
        # Resolvers lose the zone of an IPv6 address; this endpoint, despite its name, does not.
        endpoint = TCP4ClientEndpoint(reactor, *address, within)
    else:
        endpoint = HostnameEndpoint(reactor, *address, within, attemptDelay=ATTEMPT_DELAY)
    session = Session(
        endpoint,
        reactor,
        timeout,
        server=address,
        connect_timeout=within,
        retry_policy=retry_policy,
        tls=tls,
        token=token,
    )
    await session.connect()
    return session
