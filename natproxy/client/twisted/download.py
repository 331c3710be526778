"""Downloads to disk: the blocking download, in threads of the reactor's pool."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads, IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from natproxy.client.blocking.session import Session
from natproxy.client.events import ignore_event
from natproxy.client.retry import Cancellation


class ThreadedDownloads:
    """Runs blocking downloads, each in a thread and with a session of its own.

    A reactor that stops waits for the threads of its pool: it cancels the downloads before.

    :param reactor: whose pool the threads are from; usually an ``IReactorCore`` as well.
    """

    def __init__(self, reactor: IReactorThreads) -> None:
        self._reactor = reactor
        # The trigger that cancels the downloads when the reactor stops; only while there are any.
        self._trigger: object = None
        # The function that cancels each download. The key fires when the thread has ended.
        self._running: dict[Deferred[None], Callable[[], None]] = {}

    def start(
        self, session: Session, download: Callable[[Session, Cancellation], bytes]
    ) -> Deferred[bytes]:
        """Run a download in a thread; close its session afterwards.

        :param session: not used by anything else.
        :return: fires with what the download returns. Cancelling it cancels the download; the
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
            if not self._running:
                self._remove_trigger()
            if not result.called:
                result.callback(outcome)
            ended.callback(None)

        result: Deferred[bytes] = Deferred(lambda _: cancel())
        ended: Deferred[None] = Deferred()
        if not self._running:
            self._add_trigger()
        self._running[ended] = cancel
        thread = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), run)
        thread.addBoth(finish)
        return result

    async def close(self) -> None:
        """Cancel all downloads; return when their threads have ended."""
        running = list(self._running)
        self._cancel_all()
        for ended in running:
            await ended

    def _cancel_all(self) -> None:
        for cancel in self._running.values():
            cancel()

    def _add_trigger(self) -> None:
        if IReactorCore.providedBy(self._reactor):
            self._trigger = self._reactor.addSystemEventTrigger(
                "before", "shutdown", self._stopping
            )

    def _remove_trigger(self) -> None:
        trigger, self._trigger = self._trigger, None
        if trigger is not None and IReactorCore.providedBy(self._reactor):
            self._reactor.removeSystemEventTrigger(trigger)

    def _stopping(self) -> None:
        # A trigger that has fired cannot be removed.
        self._trigger = None
        self._cancel_all()


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
