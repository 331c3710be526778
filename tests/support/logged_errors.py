"""Tests that expect errors in the log, under trial and under pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from twisted.trial.unittest import SynchronousTestCase

if TYPE_CHECKING:
    from tests.conftest import LoggedErrors


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
