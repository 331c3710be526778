"""Retries of temporary failures: when, how often, and until when."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from natproxy.client.errors import (
    CannotConnect,
    ClientError,
    GaveUp,
    Interrupted,
    Limited,
    UsageError,
)
from natproxy.client.rate import MINIMUM_RATE, RATE_WINDOW

FIRST_DELAY = 0.5
"""Seconds between the first two attempts, varied by up to half; each further delay is doubled."""

LONGEST_DELAY = 30.0
"""Seconds between two attempts at most, varied by up to half."""

LONGEST_LIMITED = 300.0
"""Seconds to wait at most because a server requires it."""

RETRY_FOR = 1800.0
"""Seconds without progress after which a download fails, by default."""

LONGEST_TIMEOUT = 10**6
"""Seconds that a time-out may last."""

TIMEOUT_RULE = f"must be more than 0 and at most {LONGEST_TIMEOUT} seconds"
DURATION_RULE = "must be a duration, such as 90s, 30m, 2h or inf"

_DURATION = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smh]?)"
_SECONDS_IN = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}

_Result = TypeVar("_Result")


class Cancellation:
    """Cancels what several threads do: each of them checks it, and its `sleep` ends early."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Cancel the work; any thread may call this."""
        self._event.set()

    def check(self) -> None:
        """Return if the work is not cancelled.

        :raises Interrupted: after `cancel`.
        """
        if self._event.is_set():
            raise Interrupted("interrupted")

    def sleep(self, seconds: float) -> None:
        """Wait.

        :raises Interrupted: as soon as `cancel` is called.
        """
        self._event.wait(seconds)
        self.check()


class RetryPolicy(NamedTuple):
    """How long temporary failures are retried.

    :ivar retry_for: seconds without progress before giving up: 0 for no retries, ``math.inf`` for
        no limit. Progress is a completed step, or `MINIMUM_RATE` over `RATE_WINDOW`.
    :ivar retries: consecutive failures without progress before giving up, if that comes sooner;
        ``None`` for no limit.
    :ivar wait: whether a first connection that fails is retried as well.
    """

    retry_for: float = 0.0
    retries: int | None = None
    wait: bool = False

    @property
    def disabled(self) -> bool:
        """Whether nothing is retried."""
        return self.retry_for <= 0 or self.retries == 0


DOWNLOAD_RETRY_POLICY = RetryPolicy(RETRY_FOR)
"""How long a download is retried by default."""


class ProgressRule(NamedTuple):
    """How fast bytes must be received to count as progress.

    :ivar minimum_rate: bytes a second; lower for a limited download.
    :ivar timeout: seconds that silence may last. If nothing is retried, the rate is not
        measured over less.
    """

    minimum_rate: float = MINIMUM_RATE
    timeout: float = 0.0


class RetryContext:
    """State that all commands of one session share. Several threads use it.

    :param clock: returns seconds, from any origin.
    :ivar clock: the parameter.
    :ivar reached: whether a connection to the server has ever been made.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.reached = False
        self._lock = threading.Lock()
        # One item for each delay that is under way; several may use one `Cancellation`.
        self._delays: list[Cancellation] = []

    def sleep(self, cancellation: Cancellation, seconds: float) -> None:
        """Wait between two attempts.

        :raises Interrupted: as soon as ``cancellation`` or `interrupt` cancels the wait.
        """
        with self._lock:
            self._delays.append(cancellation)
        try:
            cancellation.sleep(seconds)
        finally:
            with self._lock:
                self._delays.remove(cancellation)

    def interrupt(self) -> None:
        """Cancel all work that waits between two attempts."""
        with self._lock:
            for cancellation in self._delays:
                cancellation.cancel()


class Outage:
    """The time since which every attempt has failed, shared by all transfers of one batch.

    So a transfer that begins during an outage fails at the same time as those which began
    before it. Several threads use it.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._lock = threading.Lock()

    def failed(self, now: float) -> float:
        """Record a failure and return the time of the first failure of this outage."""
        with self._lock:
            if self._began is None:
                self._began = now
            return self._began

    def end(self) -> None:
        """Record that an attempt succeeded."""
        with self._lock:
            self._began = None


class FailureCount:
    """Counts the failed attempts of one step.

    :ivar count: consecutive failures without progress.
    :ivar progress: how often the `Retrier` had recorded progress at the last failure.
    """

    def __init__(self) -> None:
        self.count = 0
        self.progress = 0


class Retrier:
    """Repeats a step until it succeeds, fails permanently, or the policy's limit is reached.

    Several threads may run steps for one file at once: the progress of one counts for all.

    :param context: of the session. A first connection that fails is not retried unless
        `RetryPolicy.wait` is set: the address is more likely misspelt than the server restarting.
    :param cancellation: cancels the steps, and the delays between them.
    :param report: called with a message before each delay: the error, and the delay.
    :param outage: shared by the downloads of a batch.
    :param progress: how fast bytes must be received.
    """

    def __init__(
        self,
        context: RetryContext,
        policy: RetryPolicy,
        cancellation: Cancellation,
        report: Callable[[str], object],
        outage: Outage | None = None,
        progress: ProgressRule | None = None,
    ) -> None:
        progress = progress or ProgressRule()
        self._context = context
        self._policy = policy
        self._cancellation = cancellation
        self._report = report
        self._outage = outage or Outage()
        self._clock = context.clock
        self._lock = threading.Lock()
        self._minimum_rate = progress.minimum_rate
        if policy.disabled:
            # As in `RateMonitor`: the peer may be silent twice in a row. The process itself may
            # have been stopped for a while, too.
            self._window = max(RATE_WINDOW, progress.timeout)
            self._longest_slow = 2 * self._window
        else:
            self._window = min(RATE_WINDOW, policy.retry_for)
            self._longest_slow = policy.retry_for
        # The time of the first failure since the last progress.
        self._failing_since: float | None = None
        self._progress = 0
        self._window_began: float | None = None
        self._window_received = 0
        self._slow = 0.0
        self._paused_at: float | None = None

    def pause(self) -> None:
        """Stop measuring the rate while the receiver of the bytes, not the server, is slow.

        Only transfers without segments call it.
        """
        with self._lock:
            if self._paused_at is None:
                self._paused_at = self._clock()

    def resume(self) -> None:
        """Measure the rate again after `pause`; without one, do nothing."""
        with self._lock:
            if self._paused_at is not None and self._window_began is not None:
                self._window_began += self._clock() - self._paused_at
            self._paused_at = None

    def received(self, size: int) -> None:
        """Count bytes that have been received and are kept.

        :raises GaveUp: if the rate was below the minimum for `RetryPolicy.retry_for`, or, if
            nothing is retried, for two windows.
        """
        with self._lock:
            now = self._clock()
            if self._window_began is None:
                self._window_began = now
            elapsed = now - self._window_began
            if elapsed > self._window:
                # A stopped process or a paused receiver is not the server's fault.
                self._slow += min(elapsed, 2 * self._window)
                self._window_began, self._window_received = now, 0
            self._window_received += size
            if self._window_received >= self._minimum_rate * self._window:
                self._record_progress()
            elif self._slow > self._longest_slow:
                seconds = format_duration(self._longest_slow)
                raise GaveUp(f"less than {self._minimum_rate:g} bytes a second for {seconds}")

    def __call__(self, step: Callable[[], _Result]) -> _Result:
        """Run a step until it succeeds and return its result.

        :raises ClientError: the step's error, if it is permanent or nothing is retried.
        :raises GaveUp: if the policy's limit is reached.
        :raises Interrupted: if the work is cancelled.
        """
        failures = FailureCount()
        while True:
            self._cancellation.check()
            try:
                result = step()
            except ClientError as error:
                self._cancellation.check()
                seconds = self.delay_after(error, failures)
                self._report(f"{error}; trying again in {seconds:.1f} s")
                self._context.sleep(self._cancellation, seconds)
            else:
                self.succeeded()
                return result

    def succeeded(self) -> None:
        """Record that a step succeeded."""
        self._context.reached = True
        with self._lock:
            self._record_progress()

    def _record_progress(self) -> None:
        self._failing_since = None
        self._progress += 1
        self._window_began = None
        self._window_received = 0
        self._slow = 0.0
        self._outage.end()

    def _is_retried(self, error: ClientError) -> bool:
        if not error.passing or self._policy.disabled:
            return False
        if not isinstance(error, CannotConnect):
            # Every other temporary failure happens on a connection.
            self._context.reached = True
        return self._context.reached or self._policy.wait

    def delay_after(self, error: ClientError, failures: FailureCount) -> float:
        """Count a failure and return the seconds until the next attempt.

        :param failures: of this step.
        :raises ClientError: the error, if it is not retried.
        :raises GaveUp: if the policy's limit is reached.
        """
        if not self._is_retried(error):
            raise error
        with self._lock:
            if self._progress != failures.progress:
                failures.count, failures.progress = 0, self._progress
        failures.count += 1
        count = failures.count
        policy = self._policy
        with self._lock:
            now = self._clock()
            # Another transfer of the batch may end the outage at any time.
            since = self._outage.failed(now)
            if self._failing_since is None:
                self._failing_since = since
            left = self._failing_since + policy.retry_for - now
        if policy.retries is not None and count > policy.retries:
            raise _exhausted(error, f"{count} tries") from error
        if left <= 0:
            seconds = format_duration(policy.retry_for)
            raise _exhausted(error, f"{seconds} without progress") from error
        delay = backoff(count)
        if isinstance(error, Limited) and error.retry_after:
            # Not all at the same moment.
            delay = max(delay, min(error.retry_after, LONGEST_LIMITED) + backoff(1))
        return min(left, delay)


def _exhausted(error: ClientError, limit: str) -> GaveUp:
    failure = GaveUp(f"{error} (gave up after {limit})")
    failure.name = error.name
    return failure


def backoff(failures: int, jitter: Callable[[], float] | None = None) -> float:
    """Return the seconds to wait after consecutive failures.

    :param failures: 1 or more.
    :param jitter: returns a number from 0 to 1.
    """
    # The exponent is limited: a float cannot hold any power of two.
    middle = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))
    if jitter is None:
        # Imported here because most commands never wait.
        import random

        jitter = random.random
    # A thousand clients of one restarted proxy must not reconnect at the same moment.
    return middle * (0.5 + jitter())


def is_timeout(seconds: float) -> bool:
    """Return whether seconds are a valid time-out: `TIMEOUT_RULE`."""
    return 0 < seconds <= LONGEST_TIMEOUT


def check_timeout(name: str, seconds: float | None) -> None:
    """Check a time-out; ``None`` is valid.

    :param name: of the option.
    :raises UsageError: if it is not more than 0, or more than `LONGEST_TIMEOUT`.
    """
    if seconds is not None and not is_timeout(seconds):
        raise UsageError(f"{name} {seconds:g}: {TIMEOUT_RULE}")


def parse_duration(text: str) -> float:
    """Parse a duration: ``90``, ``90s``, ``30m``, ``2h`` or ``inf``.

    :return: seconds.
    :raises ValueError: if it is malformed.
    """
    normalized = text.strip().lower()
    if normalized == "inf":
        return math.inf
    match = re.fullmatch(_DURATION, normalized)
    if match is None:
        raise ValueError(f"'{text}': {DURATION_RULE}")
    return float(match[1]) * _SECONDS_IN[match[2]]


def format_duration(seconds: float) -> str:
    """Return a duration for people: ``30 min``, ``90 s``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
