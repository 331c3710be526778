"""Retries on a reactor: the waits between the tries of a step."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from natproxy.client.errors import ClientError
from natproxy.client.retry import Cancellation, FailureCount, Retrier, RetryContext, RetryPolicy
from natproxy.client.twisted.connection import interrupted

T = TypeVar("T")


class Retries:
    """Retries the steps of one client, by the rules of `Retrier`.

    :param clock: to wait by, and to measure the time without progress by.
    :param timeout: seconds that silence inside a reply may last.
    """

    def __init__(self, clock: IReactorTime, retry_policy: RetryPolicy, timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        self._retry_policy = retry_policy
        self._retry_context = RetryContext()
        self._waits: set[Deferred[None]] = set()
        self._closed = False

    def retrier(self) -> Retrier:
        """Return what decides about the retries of one step."""
        return Retrier(
            self._retry_context,
            self._retry_policy,
            Cancellation(),
            lambda _: None,
            clock=self._clock.seconds,
            timeout=self._timeout,
        )

    async def run(self, step: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Run a step until it succeeds or the retry policy's limit is reached.

        :raises ClientError: as `Retrier` does; `Interrupted` if it is closed meanwhile.
        """
        retrier = self.retrier()
        tries = FailureCount()
        while True:
            try:
                result = await step()
            except ClientError as error:
                await self.wait(retrier.delay_after(error, tries))
            else:
                retrier.succeeded()
                return result

    async def wait(self, seconds: float) -> None:
        """Wait; a Deferred that is cancelled meanwhile ends the wait.

        :raises Interrupted: if it is closed meanwhile.
        """
        wait: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._clock.callLater(seconds, wait.callback, None)
        self._waits.add(wait)
        try:
            await wait
        except CancelledError:
            if self._closed:
                raise interrupted() from None
            raise
        finally:
            self._waits.discard(wait)

    def close(self) -> None:
        """End all waits."""
        self._closed = True
        for wait in list(self._waits):
            wait.cancel()
