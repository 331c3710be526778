"""Peers in Python: Twisted's and pyftpdlib's own, and the few lines of `benchmarks.daemons`."""

from __future__ import annotations

import importlib.util
import os
import platform

from benchmarks.machine import package_version
from benchmarks.peers.base import Peer, Setting, output
from benchmarks.peers.ours import TWIST, twisted_missing
from benchmarks.processes import module


class PortForward(Peer):
    """Twisted's own TCP proxy, the plugin ``portforward``."""

    def missing(self) -> str | None:
        """See whether the plugin is there."""
        if "--dest_port" not in output(*TWIST, "portforward", "--help"):
            return "twistd has no plugin portforward"
        return None

    def version(self) -> str:
        """Give Twisted's version."""
        return f"Twisted {package_version('twisted')}"

    def command(self, setting: Setting) -> list[str]:
        """Relay to the origin."""
        return [
            *TWIST,
            "portforward",
            f"--port=tcp:{setting.port}:interface=127.0.0.1:backlog=4096",
            "--host=127.0.0.1",
            f"--dest_port={setting.origin_port}",
        ]


class Pairs(Peer):
    """A proxy with threads; see `benchmarks.daemons.pairs`.

    :param way: ``splice`` or ``copy``.
    """

    def __init__(self, name: str, title: str, way: str) -> None:
        super().__init__(name, title)
        self._way = way

    def missing(self) -> str | None:
        """See whether this Python can splice."""
        return None if self._way == "copy" or hasattr(os, "splice") else "no os.splice here"

    def version(self) -> str:
        """Give Python's version."""
        return f"Python {platform.python_version()}"

    def command(self, setting: Setting) -> list[str]:
        """Relay to the origin."""
        return module("daemons.pairs", self._way, setting.port, setting.origin_port)


class FTPServer(Peer):
    """pyftpdlib."""

    dialect = "ftp"
    keeps = True
    serves = True

    def missing(self) -> str | None:
        """See whether it is installed."""
        if importlib.util.find_spec("pyftpdlib") is None:
            return "pyftpdlib is not installed (PyPI: pyftpdlib)"
        return None

    def version(self) -> str:
        """Give pyftpdlib's version."""
        return package_version("pyftpdlib")

    def command(self, setting: Setting) -> list[str]:
        """Serve the files."""
        return module("daemons.ftp", setting.port, setting.files)


class FileSenderServer(Peer):
    """Twisted's `FileSender`."""

    keeps = True
    serves = True

    def missing(self) -> str | None:
        """See whether Twisted is there."""
        return twisted_missing()

    def version(self) -> str:
        """Give Twisted's version."""
        return f"Twisted {package_version('twisted')}"

    def command(self, setting: Setting) -> list[str]:
        """Serve the files."""
        return module("daemons.filesender", setting.port, setting.files)


class Origin(Peer):
    """The origin itself, without anything in front of it."""

    keeps = True
    serves = True

    def missing(self) -> str | None:
        """It is always there."""
        return None

    def version(self) -> str:
        """Give Python's version."""
        return f"Python {platform.python_version()}"

    def command(self, setting: Setting) -> list[str]:
        """Serve the files."""
        return module("daemons.origin", setting.port, setting.files)
