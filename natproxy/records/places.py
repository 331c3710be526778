"""Where a daemon's control socket and its journal are, by the daemon's name.

A daemon and the command line use it; neither Twisted nor a file is needed for it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

NONE = "none"
"""The value of ``--control`` and ``--journal`` for no socket and no journal."""

SOCKET_SUFFIX = ".sock"

LOCK_SUFFIX = ".lock"

LONGEST_PATH = 107
"""Bytes of the path of a UNIX socket at most (``sun_path``)."""

NAME = re.compile(r"(?!.*\.w[0-9]+(\.[0-9]+)?\Z)[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""Matches a name of a daemon. What ends with ``.w0`` is the socket of a worker."""

NAME_RULE = (
    "must be at most 64 letters of ASCII, digits, _, . and -, not begin with . or -, and not end"
    " with .w0 or the like, as the sockets of workers do"
)

SYSTEM_RUN = "/run/natproxy"
"""The directory of the sockets of root's daemons, and of those of the units."""

SYSTEM_STATE = "/var/lib/natproxy"
"""Likewise, of their journals."""

PREFIXES = {"proxy": "proxy", "fileserver": "files", "up": "up"}
"""What the default name of each kind of daemon begins with."""


class Place(NamedTuple):
    """A directory for control sockets.

    :ivar path: absolute.
    :ivar ours: whether it is for natproxy alone, and a daemon creates it with mode 0700 if it does
        not exist; else a service manager or the system has created it.
    :ivar shared: whether others may create files in the directory above, as in ``/tmp``.
    """

    path: str
    ours: bool = True
    shared: bool = False


def default_name(kind: str, port: int | None, path: str | None = None) -> str:
    """Return the name of a daemon that was not configured: ``proxy-9000``.

    :param kind: a key of `PREFIXES`.
    :param port: the TCP port of its first listener.
    :param path: that of its first listener if that is a UNIX socket: the file's name, without its
        suffix, is in the place of the port.
    """
    if port is not None:
        return f"{PREFIXES[kind]}-{port}"
    stem = os.path.basename(path or "").removesuffix(SOCKET_SUFFIX)
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", stem)[:40]
    return f"{PREFIXES[kind]}-{stem}" if stem else PREFIXES[kind]


def socket_places(environ: Mapping[str, str], uid: int) -> list[Place]:
    """Return the directories in which a control socket may be; a daemon uses the first one.

    :param environ: environment variables.
    :param uid: the effective user's number.
    """
    runtime = first_of(environ.get("RUNTIME_DIRECTORY"))
    places = [Place(runtime, ours=False)] if runtime else []
    if uid == 0:
        # `sudo` and `su` may have left the variable of another user.
        return [*places, Place(SYSTEM_RUN)]
    user = absolute(environ.get("XDG_RUNTIME_DIR"))
    if user:
        places.append(Place(os.path.join(user, "natproxy")))
    return [*places, Place(shared_directory(uid), shared=True)]


def shared_directory(uid: int) -> str:
    """Return the directory of a user's sockets where the system has none for the user."""
    return f"/tmp/natproxy-{uid}"  # noqa: S108


def socket_candidates(environ: Mapping[str, str], uid: int) -> list[str]:
    """Return the directories in which the command line looks for sockets, the preferred first.

    Besides those of `socket_places` they are that of the user's login, which a job of cron has no
    variable for, and those of the units in ``deploy/``.
    """
    paths = [place.path for place in socket_places(environ, uid)]
    if uid != 0:
        paths.append(f"/run/user/{uid}/natproxy")
    return list(dict.fromkeys([*paths, SYSTEM_RUN, f"{SYSTEM_RUN}-fileserver"]))


def socket_path(directory: str, name: str) -> str:
    """Return the path of the control socket of a name."""
    return os.path.join(directory, name + SOCKET_SUFFIX)


def sockets_in(directory: str, uid: int) -> Iterator[tuple[str, str]]:
    """Yield name and path of each daemon's socket in a directory, sorted by name.

    There are none in a directory that does not exist or cannot be read, nor in a
    `shared_directory` that another user has created.

    :param uid: the effective user's number.
    """
    if directory == shared_directory(uid) and not is_private(directory, uid):
        return
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for name in names:
        stem = name.removesuffix(SOCKET_SUFFIX)
        if stem != name and NAME.fullmatch(stem):
            path = os.path.join(directory, name)
            try:
                kind = os.lstat(path).st_mode
            except OSError:
                continue
            if stat.S_ISSOCK(kind):
                yield stem, path


def is_private(directory: str, uid: int) -> bool:
    """Return whether a path is a directory of a user that no other user can enter.

    A symbolic link is none.
    """
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def journal_parent(environ: Mapping[str, str], uid: int) -> str | None:
    """Return the directory in which each daemon's journal is a directory of its own.

    ``None`` if there is none: neither ``$STATE_DIRECTORY``, ``$XDG_STATE_HOME`` nor ``$HOME`` is
    set.
    """
    state = first_of(environ.get("STATE_DIRECTORY"))
    if state:
        return state
    if uid == 0:
        return SYSTEM_STATE
    user = absolute(environ.get("XDG_STATE_HOME"))
    if user:
        return os.path.join(user, "natproxy")
    home = absolute(environ.get("HOME"))
    return os.path.join(home, ".local", "state", "natproxy") if home else None


def journal_directory(environ: Mapping[str, str], uid: int, name: str) -> str | None:
    """Return the default directory of the journal of a name; ``None`` if there is none."""
    parent = journal_parent(environ, uid)
    return None if parent is None else os.path.join(parent, name)


def journal_candidates(environ: Mapping[str, str], uid: int) -> list[str]:
    """Return the directories in which the command line looks for the journals of daemons."""
    parent = journal_parent(environ, uid)
    paths = [] if parent is None else [parent]
    return list(dict.fromkeys([*paths, SYSTEM_STATE]))


def journals_in(directory: str) -> Iterator[tuple[str, str]]:
    """Yield name and path of each directory of a name, sorted by name; none if it is missing."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield entry.name, entry.path


def first_of(value: str | None) -> str | None:
    """Return the first absolute path of a list, as systemd separates them, by colons."""
    return absolute((value or "").split(":")[0])


def absolute(value: str | None) -> str | None:
    """Return a path if it is absolute: the XDG rules ignore relative ones."""
    return value if value and value.startswith("/") else None
