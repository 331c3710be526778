"""Tests that expect errors in the log, under trial and under pytest."""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent
from twisted.trial.unittest import SynchronousTestCase


class LoggedErrors:
    """Failures that were logged; those a test expects, it takes out."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []

    def __call__(self, event: LogEvent) -> None:
        if "log_failure" in event:
            self.failures.append(event["log_failure"].value)

    def flush(self, kind: type[BaseException]) -> list[BaseException]:
        """Take out the errors of a kind."""
        flushed = [error for error in self.failures if isinstance(error, kind)]
        self.failures = [error for error in self.failures if not isinstance(error, kind)]
        return flushed


class LoggedErrorsCase(SynchronousTestCase):
    """Gives access to the errors that pytest's fixture has collected, besides those of trial."""

    logged_errors: LoggedErrors | None = None

    @pytest.fixture(autouse=True)
    def _logged(self, logged_errors: LoggedErrors) -> None:
        self.logged_errors = logged_errors

    def flush(self, kind: type[Exception]) -> int:
        """Remove expected errors from the log, for trial and for pytest; return their number."""
        if self.logged_errors is not None:
            self.logged_errors.flush(kind)
        return len(self.flushLoggedErrors(kind))
