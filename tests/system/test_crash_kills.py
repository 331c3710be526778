"""A client that is killed at any moment of a sync leaves whole files, and the next one finishes."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.crashes import VersionedFiles, served, sync, syncing

KILLS = int(os.environ.get("NATPROXY_SYNC_KILLS", "2"))
"""Clients to kill; ``.ci/long`` kills 200, each while it copies 2,000 files."""

SEED = int(os.environ.get("NATPROXY_CRASH_SEED", "11"))
"""What the moments are taken from."""

FILES = int(os.environ.get("NATPROXY_SYNC_FILES", "500"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the daemons of Linux")


@pytest.fixture
def files(tmp_path: Path) -> VersionedFiles:
    return VersionedFiles(tmp_path, FILES)


@pytest.fixture
def port(files: VersionedFiles, tmp_path: Path) -> Iterator[int]:
    with served(files, tmp_path) as port:
        yield port


def duration(port: int, target: Path) -> float:
    """Return the seconds from the first entry of a new directory to the end of a sync."""
    process = syncing(port, target)
    began = await_entry(target, process.poll)
    process.communicate()
    assert process.returncode == 0
    return time.monotonic() - began


def await_entry(target: Path, ended: Callable[[], object]) -> float:
    """Wait until a directory has an entry, or its process has ended; return the time."""
    while ended() is None and not (target.exists() and os.listdir(target)):
        time.sleep(0.001)
    return time.monotonic()


def test_killed_client_leaves_whole_files_of_one_version(
    files: VersionedFiles, port: int, tmp_path: Path
) -> None:
    """The files change meanwhile; every second run begins with the older versions of all."""
    chance = random.Random(SEED)
    target = tmp_path / "copy-0"
    lasts = duration(port, target)
    for number in range(KILLS):
        if number % 2:
            files.replace_all()
        else:
            target = tmp_path / f"copy-{number + 1}"
        with files.changing(number):
            process = syncing(port, target)
            if number % 2 == 0:
                await_entry(target, process.poll)
            time.sleep(chance.uniform(0, lasts))
            process.kill()
            process.communicate()
        whole = files.assert_whole(target)
        assert whole == FILES or number % 2 == 0, "a file that there was is missing"
        sync(port, target)
        files.assert_complete(target)
