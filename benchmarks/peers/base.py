"""What a peer is."""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.processes import module


@dataclass(frozen=True)
class Setting:
    """What a peer is started with.

    :ivar port: to listen on.
    :ivar origin_port: of the file server behind it, if it is a proxy.
    :ivar files: the directory that is served.
    :ivar directory: for its configuration only.
    :ivar clients: that it must be able to hold at once.
    :ivar threads: that it may run on, where it can be told.
    """

    port: int
    origin_port: int
    files: Path
    directory: Path
    clients: int
    threads: int


class Peer(ABC):
    """One program, in one configuration.

    :param name: by which it is asked for on the command line.
    :param title: by which it is shown.
    :cvar dialect: what its clients speak; see `benchmarks.load.dialects`.
    :cvar keeps: whether a client keeps its connection and the peer opens an upstream
        connection for each command. The others translate connection by connection, and
        their clients connect anew for each command.
    :cvar serves: whether it is a file server itself, so that none is needed behind it.
    """

    dialect = "line"
    keeps = False
    serves = False

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title

    @abstractmethod
    def missing(self) -> str | None:
        """Say why it can't take part, if so."""

    @abstractmethod
    def version(self) -> str:
        """Give its version."""

    def control(self, setting: Setting) -> Path | None:
        """Return the path of its control socket, if it has one."""
        return None

    def origin(self, setting: Setting) -> list[str] | None:
        """Return the command line of the file server behind it, if it needs one."""
        if self.serves:
            return None
        return module("daemons.origin", setting.origin_port, setting.files)

    def syslog(self, setting: Setting) -> Path | None:
        """Return the path of the socket that it logs to, if it does."""
        return None

    @abstractmethod
    def command(self, setting: Setting) -> list[str]:
        """Write its configuration and give its command line, for the foreground."""


@cache
def executable(name: str) -> str | None:
    """Find a program, also where daemons live that are not in everybody's path."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


@cache
def output(*command: str) -> str:
    """Give what a program writes, to its standard error as well; nothing if it fails to run."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout + run.stderr


def version_in(text: str) -> str:
    """Find the first thing in a text that looks like a version."""
    found = re.search(r"\d+(\.\d+)+\S*", text)
    return found[0] if found else "?"
