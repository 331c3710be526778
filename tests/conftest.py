"""What every test under pytest is held to: a clean reactor and no unexpected error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.logger import LogEvent, globalLogPublisher

from tests.support.logged_errors import LoggedErrors


@pytest.fixture
def logged_errors() -> LoggedErrors:
    return LoggedErrors()


@pytest.fixture(autouse=True)
def _nothing_left_behind(logged_errors: LoggedErrors) -> Iterator[None]:
    """Fail a test that leaves a delayed call or a descriptor, or logs an error."""
    watched = (*reactor.getReaders(), *reactor.getWriters())
    globalLogPublisher.addObserver(logged_errors)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(logged_errors)
    assert not [call for call in reactor.getDelayedCalls() if call.active()]
    # The reactor's own waker joins when it first runs.
    left = {
        selectable
        for selectable in (*reactor.getReaders(), *reactor.getWriters())
        if selectable not in watched and not type(selectable).__module__.endswith("_signals")
    }
    assert not left
    assert not logged_errors.failures


@pytest.fixture(autouse=True)
def _directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trial's ``mktemp``, which is relative, make its directories elsewhere."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    """Everything that is logged during the test."""
    logged: list[LogEvent] = []
    globalLogPublisher.addObserver(logged.append)
    yield logged
    globalLogPublisher.removeObserver(logged.append)
