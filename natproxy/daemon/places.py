"""The name of a daemon, its control socket with directory and lock, and the journal's directory.

The lock is natproxy's own, an ``flock`` on ``NAME.lock``: the kernel releases it with the process.
Twisted's lock file holds a process number only. In a container, where each daemon is process 1, a
stale one would seem to have a living owner.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.listening import Bound
from natproxy.records.places import (
    LOCK_SUFFIX,
    LONGEST_PATH,
    NONE,
    SOCKET_SUFFIX,
    Place,
    default_name,
    is_private,
    socket_path,
    socket_places,
)
from natproxy.settings import SettingError

LONGEST_LOCK = 32
"""Bytes of a lock file at most: a process number, or what a crash of the system has left of it."""


def name_of(config: DaemonConfig, kind: str, ports: Sequence[Bound]) -> str:
    """Return the name of a daemon that listens.

    :param kind: a key of `natproxy.records.places.PREFIXES`.
    """
    if config.name is not None:
        return config.name
    address: object = ports[0].getHost() if ports else None
    if isinstance(address, (IPv4Address, IPv6Address)):
        return default_name(kind, address.port)
    path = address.name if isinstance(address, UNIXAddress) else None
    return default_name(kind, None, os.fsdecode(path) if path else None)


class PlaceError(Exception):
    """A socket cannot be at a path, for the reason that is this exception's text."""


class InUse(Exception):
    """Another process that runs has the lock of a path.

    :ivar owner: its number; ``None`` if it is not known.
    """

    def __init__(self, owner: int | None) -> None:
        self.owner = owner
        super().__init__("another process" if owner is None else f"process {owner}")


def check_length(path: str) -> None:
    """Check that a path is short enough for a UNIX socket.

    :raises PlaceError: if it is not.
    """
    size = len(os.fsencode(path))
    if size > LONGEST_PATH:
        raise PlaceError(
            f"a path of {size} bytes is too long for a socket: at most {LONGEST_PATH} are possible"
        )


def explicit_control(config: DaemonConfig) -> str | None:
    """Return the absolute path of a control socket that a setting names; ``None`` if none does.

    :raises SettingError: if it is too long for a socket.
    """
    if config.control is None or config.control == NONE:
        return None
    path = os.path.abspath(config.control)
    try:
        check_length(path)
    except PlaceError as error:
        raise SettingError(f"{config.label('control')} {config.control}: {error}") from None
    return path


def default_path(environ: Mapping[str, str], uid: int, name: str) -> str:
    """Return the path of the control socket of a name; its directory exists, created if need be.

    It is in the first of `natproxy.records.places.socket_places` that can be used.

    :param uid: the effective user's number.
    :raises PlaceError: if none can; with the reason for the first one.
    """
    reasons = []
    for place in socket_places(environ, uid):
        path = socket_path(place.path, name)
        try:
            check_length(path)
            prepare(place, uid)
        except PlaceError as error:
            reasons.append(f"{path}: {error}")
        else:
            return path
        if not place.ours:
            # The service manager's directory: it is searched first, and no other is expected.
            break
    raise PlaceError(reasons[0])


def prepare(place: Place, uid: int) -> None:
    """Create the directory of sockets, unless it exists, and check whose it is.

    :param uid: the effective user's number.
    :raises PlaceError: if it cannot be created, or another user may change what is in it.
    """
    if place.ours:
        try:
            os.mkdir(place.path, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise PlaceError(error.strerror) from error
    if place.shared:
        # Any user may have created it, or a link in its place.
        if not is_private(place.path, uid):
            raise PlaceError(
                "the directory must be one with mode 0700 that belongs to the user; remove it"
            )
        return
    try:
        found = os.stat(place.path)
    except OSError as error:
        raise PlaceError(error.strerror) from error
    if not stat.S_ISDIR(found.st_mode):
        raise PlaceError(os.strerror(errno.ENOTDIR))
    if place.ours and (found.st_uid != uid or found.st_mode & 0o022):
        raise PlaceError("the directory belongs to another user, or others may write to it")
    if not os.access(place.path, os.W_OK | os.X_OK, effective_ids=True):
        raise PlaceError(os.strerror(errno.EACCES))


class PathLock:
    """The lock of a socket's path; while it is held, no other daemon uses the path.

    :param path: of the socket. The lock file has its name with the suffix ``.lock``; it is not
        followed if it is a symbolic link, and it belongs to the user alone.
    :raises InUse: if another process has it.
    :raises OSError: if the lock file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path.removesuffix(SOCKET_SUFFIX) + LOCK_SUFFIX
        descriptor = None
        while descriptor is None:
            descriptor = self._acquire()
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())

    @classmethod
    def inherited(cls, path: str, descriptor: int) -> PathLock:
        """Return the lock of a socket's path that the process has already."""
        lock = cls.__new__(cls)
        lock.path = path.removesuffix(SOCKET_SUFFIX) + LOCK_SUFFIX
        lock._descriptor = descriptor
        os.set_inheritable(descriptor, False)
        return lock

    @property
    def descriptor(self) -> int:
        """The descriptor of the locked file."""
        return self._descriptor

    @property
    def held(self) -> bool:
        """Whether the locked file is the one at the path: if it was removed, others may lock."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self._descriptor))
        except OSError:
            return False

    def release(self) -> None:
        """Remove the lock file and release the lock; a second call has no effect."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # Removed before it is released: a process that has opened it before detects that
            # it is no longer under its name.
            with suppress(OSError):
                if os.path.samestat(os.lstat(self.path), os.fstat(descriptor)):
                    os.unlink(self.path)
            os.close(descriptor)

    def _acquire(self) -> int | None:
        """Return the descriptor of the locked file; ``None`` if it was removed meanwhile."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o600)
        try:
            found = os.fstat(descriptor)
            # A second name may be one that another user has linked to a file of this user.
            if (
                not stat.S_ISREG(found.st_mode)
                or found.st_uid != os.geteuid()
                or found.st_nlink > 1
            ):
                raise OSError(errno.EPERM, "not a lock file of this user", self.path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse(_number_in(os.pread(descriptor, 20, 0))) from None
            if os.fstat(descriptor).st_size > LONGEST_LOCK:
                # It would be overwritten, and removed at the end.
                raise OSError(errno.EEXIST, f"{self.path} is a file of another program")
            with suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(self.path), found):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None


def remove_stale(path: str) -> None:
    """Remove a socket whose process has ended; the caller holds its lock.

    :raises InUse: if a process listens on it, one that has not locked it.
    :raises PlaceError: if something other than a socket is at the path.
    :raises OSError: if it cannot be removed.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise PlaceError("there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            # With EAGAIN its queue is full.
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
            raise InUse(None) from None
        else:
            raise InUse(None)


def identity_of(path: str) -> tuple[int, int] | None:
    """Return what identifies the file at a path; ``None`` if there is none.

    As long as a socket is open, no other file has its identity.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def prepare_journal(path: str, parents: bool) -> None:
    """Create the directory of a journal with mode 0700, unless it exists, and check it.

    :param parents: whether to create those above as well.
    :raises PlaceError: if it cannot be created or written to, or others may write to it.
    """
    try:
        if parents:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.stat(path)
    except OSError as error:
        raise PlaceError(error.strerror) from error
    if not stat.S_ISDIR(found.st_mode):
        raise PlaceError(os.strerror(errno.ENOTDIR))
    if found.st_mode & 0o022:
        # A directory such as /tmp belongs to the system: its mode must stay as it is.
        shared = found.st_mode & stat.S_ISVTX or found.st_uid != os.geteuid()
        remedy = "name a directory in it" if shared else "chmod 700 it"
        raise PlaceError(f"other users may write to the directory; {remedy}")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise PlaceError(os.strerror(errno.EACCES))


def _number_in(text: bytes) -> int | None:
    return int(text) if text.strip().isdigit() else None
