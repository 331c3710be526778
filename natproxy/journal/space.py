"""The space that the journal leaves to others, and the reasons for which it cannot be written."""

from __future__ import annotations

import errno
import os
import sqlite3

RESERVE = 64 << 20
"""Bytes that must remain free on the file system of the journal, …"""

RESERVE_SHARE = 0.05
"""… or this share of it, if that is less."""

FULL = "the disk is full"


class Unwritable(Exception):
    """The journal cannot be written for now. Its text is the reason, and what to do."""


def check_space(directory: str) -> None:
    """Check that the journal may use more of its file system.

    :raises Unwritable: if too little would remain for others.
    """
    system = os.statvfs(directory)
    free = system.f_bavail * system.f_frsize
    reserve = min(RESERVE, int(system.f_blocks * system.f_frsize * RESERVE_SHARE))
    if free < reserve:
        raise Unwritable(
            f"only {free >> 10} KiB of its file system are free, and {reserve >> 10} KiB are left"
            " to others; free some space, or lower --journal-max-size"
        )


def reason_of(error: sqlite3.Error | OSError) -> str:
    """Return why something could not be written, and what to do."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{FULL}; free some space, or lower --journal-max-size"
        return f"{error.strerror or error}; check the directory and its permissions"
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return f"{FULL} or fails ({text}); free some space, or lower --journal-max-size"
    return f"{text}; check the directory and its permissions"
