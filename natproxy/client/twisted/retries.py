"""Retries on a reactor, and results that several callers share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from natproxy.client.errors import ClientError
from natproxy.client.retry import (
    Cancellation,
    FailureCount,
    ProgressRule,
    Retrier,
    RetryContext,
    RetryPolicy,
)
from natproxy.client.twisted.connection import interrupted

T = TypeVar("T")


class Retries:
    """Retries the steps of one session, by the rules of `Retrier`.

    :param clock: measures delays and the time without progress.
    :param timeout: seconds that silence inside a reply may last.
    """

    def __init__(self, clock: IReactorTime, retry_policy: RetryPolicy, timeout: float) -> None:
        self._clock = clock
        self._progress = ProgressRule(timeout=timeout)
        self._retry_policy = retry_policy
        self._retry_context = RetryContext(clock.seconds)
        self._waits: set[Deferred[None]] = set()
        self._closed = False

    def retrier(self) -> Retrier:
        """Return the rules for the retries of one step."""
        return Retrier(
            self._retry_context,
            self._retry_policy,
            Cancellation(),
            lambda _: None,
            progress=self._progress,
        )

    async def run(self, step: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Run a step until it succeeds or the retry policy's limit is reached.

        :raises ClientError: as `Retrier` does; `Interrupted` if `close` is called meanwhile.
        """
        retrier = self.retrier()
        failures = FailureCount()
        while True:
            try:
                result = await step()
            except ClientError as error:
                await self.wait(retrier.delay_after(error, failures))
            else:
                retrier.succeeded()
                return result

    async def wait(self, seconds: float) -> None:
        """Wait for a number of seconds.

        :raises Interrupted: if `close` is called meanwhile.
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
        """Cancel all waits."""
        self._closed = True
        for wait in list(self._waits):
            wait.cancel()


class Shared(Generic[T]):
    """Starts an operation once, and returns its result to all who call meanwhile.

    The operation is cancelled once every caller has cancelled its Deferred.
    """

    def __init__(self, start: Callable[[], Deferred[T]]) -> None:
        self._start = start
        self._operation: Deferred[T] | None = None
        self._callers: dict[Deferred[T], None] = {}

    def result(self) -> Deferred[T]:
        """Return a Deferred of one caller."""
        caller: Deferred[T] = Deferred(self._cancel)
        self._callers[caller] = None
        if self._operation is None:
            operation = self._operation = self._start()
            operation.addBoth(self._finish)
        return caller

    def _cancel(self, caller: Deferred[T]) -> None:
        self._callers.pop(caller, None)
        if not self._callers and self._operation is not None:
            self._operation.cancel()

    def _finish(self, result: T | Failure) -> None:
        callers, self._callers, self._operation = self._callers, {}, None
        for caller in callers:
            # The callback of one may have cancelled another.
            if not caller.called:
                caller.callback(result)
