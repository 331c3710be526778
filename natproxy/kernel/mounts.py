"""Types of the mounted file systems, by device number.

``fstatfs(2)`` would return the type as well, but on FUSE it calls the file system's process,
which may hang. ``/proc/self/mountinfo`` is written by the kernel alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

_TABLE = "/proc/self/mountinfo"

# Seconds for which a type is used: after an unmount, its device number is used again.
_KEPT_FOR = 60.0

# Seconds after which the table is read again for an unknown device.
_AGAIN_AFTER = 5.0

_IN_MEMORY = frozenset(("tmpfs", "ramfs", "hugetlbfs", "devtmpfs"))

# Their time stamps come from this kernel's clock. Not overlayfs: a layer may be on NFS.
_LOCAL = _IN_MEMORY | {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "zfs", "bcachefs"}


class Mounts:
    """The table of mounts; several threads may use it at once.

    :param table: path of the table.
    :param clock: returns monotonic seconds.
    """

    def __init__(self, table: str = _TABLE, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._clock = clock
        self._types: dict[int, str] = {}
        self._read_at: float | None = None

    def type_of(self, device: int) -> str | None:
        """Return the type of the file system on a device, or ``None`` if it is not known.

        :param device: ``st_dev``.
        """
        now = self._clock()
        age = None if self._read_at is None else now - self._read_at
        if age is None or age > (_KEPT_FOR if device in self._types else _AGAIN_AFTER):
            self._types = self._read()
            self._read_at = now
        return self._types.get(device)

    def in_memory(self, device: int) -> bool:
        """Return whether a device's files are in memory, so that a read never waits for a disk."""
        return self.type_of(device) in _IN_MEMORY

    def has_local_clock(self, device: int) -> bool:
        """Return whether a device's time stamps certainly come from this machine's clock."""
        return self.type_of(device) in _LOCAL

    def _read(self) -> dict[int, str]:
        types: dict[int, str] = {}
        with suppress(OSError), open(self._table, "rb") as table:
            for line in table:
                # 36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw
                mount, dash, system = line.decode("ascii", "replace").partition(" - ")
                words = mount.split()
                if dash and len(words) > 2 and system.split():
                    major, _, minor = words[2].partition(":")
                    if major.isdigit() and minor.isdigit():
                        types[os.makedev(int(major), int(minor))] = system.split()[0]
        return types
