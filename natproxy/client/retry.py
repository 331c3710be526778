"""How long to wait: between two tries, and to stay below a rate."""

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
    ConnectionBroken,
    GaveUp,
    Interrupted,
    UsageError,
)

FIRST_WAIT = 0.5
"""Seconds between the first two tries, give or take a half; then twice as long each time."""

LONGEST_WAIT = 30.0
"""Seconds between two tries at most, give or take a half."""

RETRY_FOR = 1800.0
"""Seconds without progress until a download is given up, unless the caller wants otherwise."""

LEAST_RATE = 1024.0
"""Bytes a second below which a transfer makes no progress."""

WINDOW = 60.0
"""Seconds over which that rate is measured; no longer than the patience lasts."""

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smh]?)")
_SECONDS_IN = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}

LONGEST_TIMEOUT = 10**6
"""Seconds that a time-out may last."""

LATE = 0.5
"""Seconds that a transfer may be behind its rate and still catch up."""

_Result = TypeVar("_Result")


class Stop:
    """Ends what several threads are doing: each looks at it, and none sleeps through it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End everything, as soon as may be."""
        self._event.set()

    def check(self) -> None:
        """Go on, or don't.

        :raises Interrupted: after `set`.
        """
        if self._event.is_set():
            raise Interrupted("interrupted")

    def sleep(self, seconds: float) -> None:
        """Wait.

        :raises Interrupted: as soon as `set` is called.
        """
        self._event.wait(seconds)
        self.check()


class Patience(NamedTuple):
    """How long temporary failures are retried.

    :ivar retry_for: seconds without progress until giving up: 0 for no retry, `math.inf` for
        no end. Progress is `LEAST_RATE` over `WINDOW`.
    :ivar retries: consecutive failures without progress before giving up, if that comes sooner;
        `None` for any number.
    :ivar wait: whether a server that has never been connected to is waited for, too.
    """

    retry_for: float = 0.0
    retries: int | None = None
    wait: bool = False

    @property
    def none(self) -> bool:
        """Whether nothing is retried."""
        return self.retry_for <= 0 or self.retries == 0


DOWNLOAD_PATIENCE = Patience(RETRY_FOR)
"""How long a download is retried, unless the caller wants otherwise."""


class Contact:
    """What a session's commands have in common.

    :ivar reached: whether a connection to the server has ever been made.
    """

    def __init__(self) -> None:
        self.reached = False
        self._lock = threading.Lock()
        # One for each wait between two tries; several may be of one `Stop`.
        self._waiting: list[Stop] = []

    def sleep(self, stop: Stop, seconds: float) -> None:
        """Wait between two tries.

        :raises Interrupted: as soon as ``stop`` is set, or `interrupt` is called.
        """
        with self._lock:
            self._waiting.append(stop)
        try:
            stop.sleep(seconds)
        finally:
            with self._lock:
                self._waiting.remove(stop)

    def interrupt(self) -> None:
        """End all waits between two tries, and what they belong to."""
        with self._lock:
            for stop in self._waiting:
                stop.set()


class Outage:
    """The time since when nothing succeeds, shared by all transfers of one batch.

    A transfer that begins during an outage has no more patience left than those which began
    before it. Several threads use it.
    """

    def __init__(self) -> None:
        # When the first failure was that nothing has succeeded after.
        self._began: float | None = None
        self._lock = threading.Lock()

    def since(self, now: float) -> float:
        """Note a failure, and return when the first one was."""
        with self._lock:
            if self._began is None:
                self._began = now
            return self._began

    def over(self) -> None:
        """Note that something has succeeded."""
        with self._lock:
            self._began = None


class Tries:
    """The tries of one step.

    :ivar failures: in a row, without progress.
    :ivar progress: how often there had been progress at the last failure.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.progress = 0


class Persistence:
    """Takes steps, each again and again until it succeeds or the patience is used up.

    Several threads may take steps at once, for one file: the progress of any counts for all.

    :param contact: of the session. A first connection that cannot be made is not tried again
        unless `Patience.wait`: the address is more likely misspelt than the server restarting.
    :param tell: is told what has failed, and when the next try will be.
    :param outage: shared with the other transfers of a batch.
    :param least: bytes a second that are progress; a limited transfer is slower.
    :param clock: gives seconds, from any origin.
    :param timeout: seconds that silence may last; without patience, the rate is not measured
        over less.
    """

    def __init__(
        self,
        contact: Contact,
        patience: Patience,
        stop: Stop,
        tell: Callable[[str], object],
        outage: Outage | None = None,
        least: float = LEAST_RATE,
        clock: Callable[[], float] | None = None,
        timeout: float = 0.0,
    ) -> None:
        self._contact = contact
        self._patience = patience
        self._stop = stop
        self._tell = tell
        self._outage = outage or Outage()
        self._clock = clock or time.monotonic
        self._lock = threading.Lock()
        self._least = least
        if patience.none:
            # As in `Pace`: two silences may follow each other, or the process may be stopped.
            self._window = max(WINDOW, timeout)
            self._longest = 2 * self._window
        else:
            self._window = min(WINDOW, patience.retry_for)
            self._longest = patience.retry_for
        # When the first failure was that no progress followed.
        self._failing: float | None = None
        self._progress = 0
        self._window_began: float | None = None
        self._window_received = 0
        self._slow = 0.0
        self._paused_at: float | None = None

    def pause(self) -> None:
        """Stop measuring the rate: the receiver of the bytes, not the server, is waited for.

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
        """Count bytes that have come and are kept.

        :raises GaveUp: if they have come below `LEAST_RATE` for the whole patience; without
            patience, for two windows.
        """
        with self._lock:
            now = self._clock()
            if self._window_began is None:
                self._window_began = now
            lasted = now - self._window_began
            if lasted > self._window:
                # A process that was stopped, or a reader that paused, is not the server's fault.
                self._slow += min(lasted, 2 * self._window)
                self._window_began, self._window_received = now, 0
            self._window_received += size
            if self._window_received >= self._least * self._window:
                self._progressed()
            elif self._slow > self._longest:
                seconds = shown_duration(self._longest)
                raise GaveUp(f"less than {self._least:g} bytes a second for {seconds}")

    def __call__(self, step: Callable[[], _Result]) -> _Result:
        """Take a step and return its result.

        :raises ClientError: as the step does, if it cannot be tried again; `GaveUp`, if that
            was of no use; `Interrupted`.
        """
        tries = Tries()
        while True:
            self._stop.check()
            try:
                result = step()
            except ClientError as error:
                self._stop.check()
                seconds = self.wait_after(error, tries)
                self._tell(f"{error}; trying again in {seconds:.1f} s")
                self._contact.sleep(self._stop, seconds)
            else:
                self.succeeded()
                return result

    def succeeded(self) -> None:
        """Note that a step has been taken."""
        self._contact.reached = True
        with self._lock:
            self._progressed()

    def _progressed(self) -> None:
        self._failing = None
        self._progress += 1
        self._window_began = None
        self._window_received = 0
        self._slow = 0.0
        self._outage.over()

    def _is_worth_a_retry(self, error: ClientError) -> bool:
        if not error.passing or self._patience.none:
            return False
        if not isinstance(error, CannotConnect):
            # Whatever else goes wrong, goes wrong on a connection.
            self._contact.reached = True
        elif not self._contact.reached and not self._patience.wait:
            return False
        return True

    def wait_after(self, error: ClientError, tries: Tries) -> float:
        """Return the seconds until the next try of a step.

        :param tries: of this step.
        :raises ClientError: the error, if it cannot be tried again; `GaveUp`, if there is no
            patience left.
        """
        if not self._is_worth_a_retry(error):
            raise error
        with self._lock:
            if self._progress != tries.progress:
                tries.failures, tries.progress = 0, self._progress
        tries.failures += 1
        failures = tries.failures
        patience = self._patience
        with self._lock:
            now = self._clock()
            # Another transfer of the batch may succeed at any time.
            since = self._outage.since(now)
            if self._failing is None:
                self._failing = since
            left = self._failing + patience.retry_for - now
        if patience.retries is not None and failures > patience.retries:
            raise GaveUp(f"{error} (gave up after {failures} tries)") from error
        if left <= 0:
            seconds = shown_duration(patience.retry_for)
            raise GaveUp(f"{error} (gave up after {seconds} without progress)") from error
        return min(left, backoff(failures))


def backoff(failures: int, chance: Callable[[], float] | None = None) -> float:
    """Return the seconds between two tries, after so many failures in a row: 1 or more.

    :param chance: returns a number from 0 to 1.
    """
    # No power of two is needed that no float can hold.
    middle = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures - 1, 16))
    if chance is None:
        # Most commands never wait: they need not import it.
        import random

        chance = random.random
    # A thousand clients of one restarted proxy should not come back at once.
    return middle * (0.5 + chance())


def check_timeout(name: str, seconds: float | None) -> None:
    """Check a time-out; `None` is none that could be wrong.

    :param name: of the option.
    :raises UsageError: if it is not more than 0, or too long.
    """
    if seconds is not None and not 0 < seconds <= LONGEST_TIMEOUT:
        raise UsageError(
            f"{name} {seconds:g}: must be more than 0 and at most {LONGEST_TIMEOUT} seconds"
        )


def parse_duration(text: str) -> float:
    """Parse a duration: ``90``, ``90s``, ``30m``, ``2h`` or ``inf``.

    :return: seconds.
    :raises ValueError: if it is none.
    """
    words = text.strip().lower()
    if words == "inf":
        return math.inf
    number = _DURATION.fullmatch(words)
    if number is None:
        raise ValueError(f"'{text}': must be a duration, such as 90s, 30m, 2h or inf")
    return float(number[1]) * _SECONDS_IN[number[2]]


def shown_duration(seconds: float) -> str:
    """Return a duration as people read it: ``30 min``, ``90 s``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


class Pace:
    """Notices a body that is received below `LEAST_RATE`, which silence alone does not show.

    It is for bodies that are held in memory: `Persistence` judges downloads.

    :param server: its name in messages.
    :param timeout: seconds that silence may last; the rate is not measured over less.
    """

    def __init__(self, server: object, timeout: float) -> None:
        self._server = server
        # Two silences may follow each other.
        self._window = max(WINDOW, 2 * timeout)
        self._seconds = 0.0
        self._size = 0

    def received(self, size: int, seconds: float) -> None:
        """Count bytes, and the seconds for which they were waited for.

        :raises ConnectionBroken: if too few have come in a `WINDOW`.
        """
        self._seconds += seconds
        self._size += size
        if self._seconds > self._window:
            if self._size < LEAST_RATE * self._window:
                raise ConnectionBroken(
                    f"{self._server} sent less than {LEAST_RATE:g} bytes a second"
                )
            self._seconds, self._size = 0.0, 0


class Limit:
    """Keeps the bytes of all transfers together below a rate.

    :param rate: bytes a second.
    :raises UsageError: if it is no positive number.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < rate < math.inf:
            raise UsageError(f"a limit of {rate:g} bytes a second: must be more than 0")
        self.rate = rate
        self._clock = clock
        # Several threads take from it.
        self._lock = threading.Lock()
        self._free_at = clock()

    @property
    def piece(self) -> int:
        """Bytes to receive at once, so that the rate is smooth."""
        return max(4096, min(1 << 20, int(self.rate / 10)))

    def take(self, size: int) -> float:
        """Account for bytes received; give the seconds to wait before any more."""
        with self._lock:
            now = self._clock()
            # What was lost by waking up late may be made good; real idleness is not saved up.
            self._free_at = max(self._free_at, now - LATE) + size / self.rate
            return max(0.0, self._free_at - now)
