"""Clients that copy a tree of files, each with the server that it copies from."""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import package_version
from benchmarks.peers.base import Peer, Setting, executable, output, version_in
from benchmarks.peers.clients import Fetching
from benchmarks.peers.nginx import NginxHTTP
from benchmarks.peers.ours import FileServer, NATProxy
from benchmarks.trees import Source


class Copying(Peer):
    """A client that copies a tree."""

    @abstractmethod
    def copy(self, port: int, source: Source, target: Path) -> list[str]:
        """Return the command line that copies a tree into an existing directory.

        What it needs beside it is written to the working directory.
        """


class _Sync(Copying):
    """``natproxy sync``.

    :param options: of the command line.
    """

    def __init__(self, name: str, title: str, *options: str) -> None:
        super().__init__(name, title)
        self._options = options

    def missing(self) -> str | None:
        """See whether this natproxy has the options."""
        text = output(sys.executable, "-m", "natproxy", "sync", "--help")
        lacking = [option for option in self._options if option not in text]
        return super().missing() or (f"this natproxy has no {lacking[0]}" if lacking else None)

    def version(self) -> str:
        """Return natproxy's version."""
        return package_version("natproxy")

    def copy(self, port: int, source: Source, target: Path) -> list[str]:
        """Copy by ``sync``."""
        server = f"--server=127.0.0.1:{port}"
        command = [sys.executable, "-m", "natproxy", "sync", server, "-q", *self._options]
        return [*command, source.tree.name, str(target)]


class _Proxied(NATProxy):
    """natproxy in front of natproxy's file server."""

    def missing(self) -> str | None:
        """See whether both are there."""
        return super().missing() or FileServer("", "").missing()

    def origin(self, setting: Setting) -> list[str]:
        """Run the file server behind it."""
        return FileServer("", "").command(replace(setting, port=setting.origin_port))


class ProxiedSync(_Sync, _Proxied):
    """``natproxy sync`` through the proxy."""


class DirectSync(_Sync, FileServer):
    """``natproxy sync`` straight from the file server."""


class ProxiedGet(_Proxied, Fetching):
    """``natproxy get`` through the proxy."""

    def fetch(self, port: int, name: str) -> list[str]:
        """Fetch by ``get``."""
        return [sys.executable, "-m", "natproxy", "get", f"--server=127.0.0.1:{port}", "-q", name]


_RSYNCD = """\
port = {port}
address = 127.0.0.1
use chroot = no
reverse lookup = no
{user}
[files]
path = {files}
read only = yes
"""


class Rsync(Copying):
    """rsync from its own daemon.

    :param options: of the command line.
    """

    serves = True

    def __init__(self, name: str, title: str, *options: str) -> None:
        super().__init__(name, title)
        self._options = options

    def missing(self) -> str | None:
        """See whether it is installed and has the options."""
        if executable("rsync") is None:
            return "rsync is not installed (Debian: rsync)"
        lacking = [each for each in self._options if each not in output("rsync", "--help")]
        return f"this rsync has no {lacking[0]}" if lacking else None

    def version(self) -> str:
        """Ask it."""
        return version_in(output("rsync", "--version"))

    def command(self, setting: Setting) -> list[str]:
        """Run the daemon."""
        path = setting.directory / "rsyncd.conf"
        user = "uid = root\ngid = root" if os.geteuid() == 0 else ""
        path.write_text(_RSYNCD.format(port=setting.port, user=user, files=setting.files))
        log = f"--log-file={setting.directory / 'rsyncd.log'}"
        return ["rsync", "--daemon", "--no-detach", f"--config={path}", log]

    def copy(self, port: int, source: Source, target: Path) -> list[str]:
        """Copy with directories and times."""
        url = f"rsync://127.0.0.1:{port}/files/{source.tree.name}/"
        return ["rsync", "-rt", *self._options, url, f"{target}/"]


class _FromNginx(NginxHTTP, Copying):
    """A client of nginx.

    :cvar client: its program.
    :cvar package: that holds it.
    """

    client: str
    package: str

    def missing(self) -> str | None:
        """See whether both are installed."""
        lacking = f"{self.client} is not installed (Debian: {self.package})"
        return super().missing() or (None if executable(self.client) else lacking)

    def version(self) -> str:
        """Ask the client."""
        return version_in(output(self.client, "--version"))


class Rclone(_FromNginx):
    """rclone, which reads nginx's lists of directories."""

    client = package = "rclone"

    def copy(self, port: int, source: Source, target: Path) -> list[str]:
        """Copy with what it does by default."""
        url = f"--http-url=http://127.0.0.1:{port}/"
        remote = f":http:{source.tree.name}"
        return ["rclone", "--config=", "-q", "copy", url, remote, str(target)]


class WgetTree(_FromNginx):
    """wget, which follows nginx's lists of directories on one connection."""

    client = package = "wget"

    def copy(self, port: int, source: Source, target: Path) -> list[str]:
        """Copy recursively."""
        url = f"http://127.0.0.1:{port}/{source.tree.name}/"
        options = ["-q", "-r", "-l", "inf", "-np", "-nH", "--cut-dirs=1", "-R", "index.html*"]
        return ["wget", *options, "-P", str(target), url]


class Aria2(_FromNginx):
    """aria2, which is given a list."""

    client = "aria2c"
    package = "aria2"

    def copy(self, port: int, source: Source, target: Path) -> list[str]:
        """Copy from a list of addresses, sixteen files at a time."""
        url = f"http://127.0.0.1:{port}/{source.tree.name}"
        listed = target.with_name(f"{target.name}.list")
        with listed.open("w") as file:
            file.writelines(f"{url}/{name}\n out={name}\n" for name in source.names())
        options = ["-q", "-j16", "--file-allocation=none", "--remote-time=true", "--no-conf"]
        return ["aria2c", *options, "-d", str(target), "-i", str(listed)]
