"""A power cut at any moment of a sync, or after it, leaves whole files that were on the disk.

The client writes to ext4 on a loop device, whose disk records each write and each flush. A power
cut is replayed from the record: what was flushed is there, of the rest there may be any part. The
journal of ext4 is replayed when the result is mounted. ext4 keeps no promise here that POSIX does
not make: data may be written after the metadata, and a rename does not write the new file.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.crashes import VersionedFiles, served, sync
from tests.support.paths import ROOT
from tests.support.recording_disk import Recording

CUTS = int(os.environ.get("NATPROXY_SYNC_CUTS", "3"))
"""Power cuts to replay; ``.ci/long`` replays 100, of a sync of 2,000 files."""

SEED = int(os.environ.get("NATPROXY_CRASH_SEED", "11"))
"""What the moments are taken from."""

FILES = int(os.environ.get("NATPROXY_SYNC_FILES", "500"))
SIZE = 96 * 1024 * 1024
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
OPTIONS = "noauto_da_alloc,data=writeback,commit=1"


def _can_mount() -> bool:
    tools = ("mkfs.ext4", "losetup", "mount", "umount")
    found = all(shutil.which(tool, path=PATH) for tool in tools)
    devices = all(Path(device).exists() for device in ("/dev/fuse", "/dev/loop-control"))
    return sys.platform == "linux" and os.geteuid() == 0 and devices and found


pytestmark = pytest.mark.skipif(not _can_mount(), reason="needs root, FUSE and loop devices")


def run(*command: object) -> str:
    """Run a program of the system, and return what it prints."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, "PATH": PATH}
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@contextmanager
def mounted(image: Path, point: Path) -> Iterator[Path]:
    """Mount a disk by a loop device."""
    point.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", image)
    try:
        run("mount", "-t", "ext4", "-o", OPTIONS, device, point)
        try:
            yield point
        finally:
            run("umount", point)
    finally:
        run("losetup", "--detach", device)


@contextmanager
def recording(directory: Path, log: Path) -> Iterator[Path]:
    """Run a recording disk, and return its path."""
    directory.mkdir()
    command = (sys.executable, "-m", "tests.support.recording_disk", directory, log, str(SIZE))
    with subprocess.Popen(list(map(str, command)), cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + 20
            while not (directory / "disk").exists():
                assert process.poll() is None, "the disk has ended"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield directory / "disk"
        finally:
            subprocess.run(("umount", "-l", str(directory)), check=False)
            process.wait(20)


@dataclass(frozen=True)
class Moments:
    """Positions in a record.

    :ivar created: when the client was started.
    :ivar first: when it had ended.
    :ivar second: when its second run, for the next version of all files, had ended.
    """

    created: int
    first: int
    second: int


def record(files: VersionedFiles, port: int, directory: Path) -> tuple[Recording, Moments]:
    """Sync twice onto a disk that records, and return its record."""
    log = directory / "log"
    with recording(directory / "fuse", log) as disk:
        run("mkfs.ext4", "-q", "-F", "-J", "size=4", disk)
        with mounted(disk, directory / "mount") as point:
            # Mounting flushes; from here on nobody does but the client, and ext4 once a second.
            created = log.stat().st_size
            sync(port, point / "copy")
            first = log.stat().st_size
            files.replace_all()
            sync(port, point / "copy")
            second = log.stat().st_size
    disk_record = Recording(log, SIZE)
    log.unlink()
    return disk_record, Moments(created, first, second)


def test_power_cut_leaves_whole_files_of_one_version(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    files = VersionedFiles(tmp_path, FILES)
    with served(files, tmp_path) as port:
        disk, moments = record(files, port, tmp_path)
        middle = (moments.created, moments.second)
        cuts = [moments.first, moments.second, *(chance.randint(*middle) for _ in range(CUTS - 2))]
        for position in cuts:
            image = tmp_path / "cut"
            disk.cut(image, position, chance)
            with mounted(image, tmp_path / "mount") as point:
                target = point / "copy"
                whole = files.assert_whole(target) if target.exists() else 0
                if position >= moments.first:
                    assert whole == FILES, "a sync that has ended had not written all files"
                if position >= moments.second:
                    # Only the removal of what a transfer needs beside them may not be on the disk.
                    files.assert_newest(target)
                sync(port, target)
                files.assert_complete(target)
            image.unlink()
