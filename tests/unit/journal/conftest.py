"""Directories in memory: sealing a segment waits for the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from tests.support.journals import MEMORY


@pytest.fixture(autouse=True)
def _directory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        monkeypatch.chdir(directory)
        yield
