"""Checks of the directories of control sockets and journals."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from natproxy.daemon.doctor.finding import Finding, ok, problem, warning
from natproxy.records.places import Place, is_private


def check_runtime(place: Place, uid: int) -> list[Finding]:
    """Check the directory of control sockets.

    :param place: that a daemon uses; see `natproxy.records.places.socket_places`.
    :param uid: the user's number.
    """
    check = "runtime directory"
    path = place.path
    if place.shared and os.path.lexists(path) and not is_private(path, uid):
        text = f"{path} is not a directory of mode 0700 that belongs to the user"
        return [problem(check, text, f"remove {path}, and find out who created it")]
    return _check_directory(check, path, uid, created=place.ours)


def check_state(
    path: str | None,
    uid: int,
    needed: int,
    in_memory: Callable[[int], bool],
) -> list[Finding]:
    """Check the directory of the journal.

    :param path: of the directory that has the journals, or of the journal; ``None`` if there is
        none.
    :param uid: the user's number.
    :param needed: bytes that the journal may need.
    :param in_memory: returns whether the files of a device are in memory.
    """
    check = "state directory"
    if path is None:
        remedy = "set XDG_STATE_HOME or HOME, or --journal"
        return [problem(check, "there is no directory for the journal", remedy)]
    findings = _check_directory(check, path, uid, created=True)
    existing = _existing(path)
    free = os.statvfs(existing)
    available = free.f_bavail * free.f_frsize
    if available < needed:
        text = (
            f"{available >> 20:,} MiB are free in {existing}; the journal may need {needed >> 20:,}"
        )
        remedy = "a lower --journal-max-size, or more space"
        findings.append(warning("space of the journal", text, remedy))
    if in_memory(os.stat(existing).st_dev):
        text = f"{existing} is in memory: a reboot deletes the journal"
        findings.append(warning("state directory", text, "a directory on a disk with --journal"))
    return findings


def _check_directory(check: str, path: str, uid: int, created: bool) -> list[Finding]:
    """Check owner, mode and access of a directory, or whether it can be created."""
    try:
        found = os.stat(path)
    except OSError:
        above = _existing(path)
        if created and os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK):
            return [ok(check, f"{path} does not exist; a daemon creates it")]
        text = f"{path} does not exist, and cannot be created in {above}"
        return [problem(check, text, f"install -d -m 700 {path}, for the daemon's user")]
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        return [problem(check, f"{path} is not a directory", f"remove {path}")]
    if mode & 0o022:
        # A directory such as /tmp belongs to the system: its mode must stay as it is.
        shared = mode & stat.S_ISVTX or found.st_uid != uid
        remedy = f"name a directory in {path}" if shared else f"chmod 700 {path}"
        return [problem(check, f"others may write to {path} (mode {mode:04o})", remedy)]
    if not os.access(path, os.W_OK | os.X_OK):
        text = f"{path} is not writable for the user {uid}: it belongs to {found.st_uid}"
        return [problem(check, text, f"run as {found.st_uid}, or chown {uid} {path}")]
    return [ok(check, f"{path} (mode {mode:04o}, user {found.st_uid})")]


def _existing(path: str) -> str:
    """Return the nearest directory above a path that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path) or "."
    return path
