"""Downloads to disk: the blocking download, in threads of the reactor's pool."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from natproxy.client.blocking.session import Session
from natproxy.client.events import ignore_event
from natproxy.client.retry import Cancellation


class ThreadedDownloads:
    """Runs blocking downloads, each in a thread and with a session of its own.

    :param reactor: whose pool the threads are from.
    """

    def __init__(self, reactor: IReactorThreads) -> None:
        self._reactor = reactor
        # What cancels each of them, by a Deferred that fires when its thread has ended.
        self._running: dict[Deferred[None], Callable[[], None]] = {}

    def start(
        self, session: Session, download: Callable[[Session, Cancellation], bytes]
    ) -> Deferred[bytes]:
        """Run a download in a thread; close its session afterwards.

        :param session: not used by anything else.
        :return: fires with what the download returns. To cancel it cancels the download; the
            thread ends soon afterwards.
        """
        cancellation = Cancellation()

        def run() -> bytes:
            with session:
                return download(session, cancellation)

        def cancel() -> None:
            cancellation.cancel()
            session.interrupt()

        def finish(outcome: bytes | Failure) -> None:
            del self._running[ended]
            if not result.called:
                result.callback(outcome)
            ended.callback(None)

        result: Deferred[bytes] = Deferred(lambda _: cancel())
        ended: Deferred[None] = Deferred()
        self._running[ended] = cancel
        thread = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), run)
        thread.addBoth(finish)
        return result

    async def close(self) -> None:
        """Cancel all downloads; return when their threads have ended."""
        running = dict(self._running)
        for cancel in running.values():
            cancel()
        for ended in running:
            await ended


def in_reactor_thread(
    reactor: IReactorFromThreads, function: Callable[..., object]
) -> Callable[..., object]:
    """Return a function that any thread may call; it calls another in the reactor's thread."""
    if function is ignore_event:
        # The reactor need not wake up for each piece that is received.
        return ignore_event

    def call(*arguments: object) -> None:
        reactor.callFromThread(function, *arguments)

    return call
