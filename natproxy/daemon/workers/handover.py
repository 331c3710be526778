"""How a master executes itself anew: new code, in the same process, with the same workers.

The process keeps its number, its children, and the descriptors of sockets and channels. The state
that the new program needs is JSON in a descriptor, whose number is in an environment variable.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.logger import Logger

VARIABLE = "NATPROXY_MASTER"
"""The environment variable with the descriptor of the state."""

FOREGROUND = "--nodaemon"
"""The option by which ``twistd`` stays in the process that it is."""

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
"""Signals that wait until the new program has handlers for them."""

_log = Logger()


class Identity(NamedTuple):
    """What a process must still be to be able to execute itself anew.

    :ivar user: the effective user's number.
    :ivar root: device and inode of the root directory.
    """

    user: int
    root: tuple[int, int]

    @classmethod
    def now(cls) -> Identity:
        """Return that of this process."""
        root = os.stat("/")
        return cls(os.geteuid(), (root.st_dev, root.st_ino))


class Execution:
    """The state of the program that has executed this one; none if there was none.

    :ivar happened: whether there was one.
    :ivar background: whether the process is in the background, whatever the options are.
    """

    def __init__(self, environ: dict[str, str] | os._Environ[str]) -> None:
        self.background = False
        self.happened = False
        self._daemons: dict[str, Any] = {}
        descriptor = environ.pop(VARIABLE, "")
        if descriptor.isdigit():
            try:
                state = read_json(int(descriptor))
            except (OSError, ValueError):
                return
            # A child has the variable, but not the descriptors.
            if state["pid"] == os.getpid():
                self.happened = True
                self.background = state["background"]
                self._daemons = state["daemons"]

    def take(self, table: str) -> Mapping[str, Any] | None:
        """Return the state of a daemon once, if there is one.

        :param table: of its config.
        """
        state: Mapping[str, Any] | None = self._daemons.pop(table, None)
        return state


def execute(
    daemons: Mapping[str, Any],
    descriptors: Iterable[int],
    background: bool,
    variables: Mapping[str, str],
) -> None:
    """Execute the program of this process anew. It returns only if that is not possible.

    :param daemons: the states, by the tables of the configs.
    :param descriptors: that the new program inherits.
    :param background: whether the process has become a daemon since it was started.
    :param variables: that this program has taken from its environment.
    """
    arguments = arguments_of(sys.orig_argv, sys.argv, background)
    state = {"pid": os.getpid(), "background": background, "daemons": daemons}
    descriptor = write_json(state)
    for each in (descriptor, *descriptors):
        os.set_inheritable(each, True)
    pid_file = own_pid_file(sys.argv)
    _log.info("the master executes its new code")
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        if pid_file is not None:
            # twistd refuses to start if the file has the number of a process that runs.
            os.unlink(pid_file)
        environment = {**os.environ, **variables, VARIABLE: str(descriptor)}
        os.execve(sys.executable, [sys.executable, *arguments], environment)  # noqa: S606
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(descriptor)
        for each in descriptors:
            os.set_inheritable(each, False)
        if pid_file is not None and not os.path.lexists(pid_file):
            with suppress(OSError), open(pid_file, "w") as file:
                file.write(str(os.getpid()))
        _log.error(
            "cannot execute {program}: {reason}; the master runs the old code",
            program=sys.executable,
            reason=error.strerror
            if error.filename is None
            else f"{error.filename}: {error.strerror}",
        )


def arguments_of(original: Sequence[str], arguments: Sequence[str], background: bool) -> list[str]:
    """Return the arguments of Python for the program that it runs.

    :param original: as of ``sys.orig_argv``.
    :param arguments: as of ``sys.argv``.
    :param background: whether the program is in the background already.
    """
    found = list(original[1:])
    if background and FOREGROUND not in arguments:
        # Before the name of the plugin.
        found.insert(len(found) - len(arguments) + 1, FOREGROUND)
    return found


def unblock_signals() -> None:
    """Receive the signals that have waited since the program was executed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def own_pid_file(arguments: list[str]) -> str | None:
    """Return the pid file of ``twistd``, if it has the number of this process."""
    path = "twistd.pid"
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--pidfile":
            path = value if equals else (arguments[number + 1 : number + 2] or [""])[0]
    with suppress(OSError, ValueError), open(path) as file:
        if int(file.read(20)) == os.getpid():
            return path
    return None


def write_json(value: object) -> int:
    """Return a descriptor from which a value can be read; the caller closes it."""
    data = json.dumps(value).encode()
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("natproxy")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with open(descriptor, "wb", closefd=False) as writer:
        writer.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_json(descriptor: int) -> Any:
    """Return the value of `write_json`, and close the descriptor."""
    with open(descriptor, "rb") as reader:
        return json.loads(reader.read())


EXECUTION = Execution(os.environ)
"""That of this process."""
