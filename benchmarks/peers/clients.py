"""Command line clients, each with the file server that it fetches from."""

from __future__ import annotations

import sys
from abc import abstractmethod

from benchmarks.machine import package_version
from benchmarks.peers.base import Peer, executable, output, version_in
from benchmarks.peers.nginx import NginxHTTP
from benchmarks.peers.ours import FileServer


class Fetching(Peer):
    """A client."""

    @abstractmethod
    def fetch(self, port: int, name: str) -> list[str]:
        """Give the command line that saves a file in the working directory."""


class NATProxyGet(FileServer, Fetching):
    """``natproxy get`` from natproxy's file server.

    :param options: of the command line.
    """

    def __init__(self, name: str, title: str, *options: str) -> None:
        super().__init__(name, title)
        self._options = options

    def version(self) -> str:
        """Give natproxy's version."""
        return package_version("natproxy")

    def fetch(self, port: int, name: str) -> list[str]:
        """Fetch by ``get``."""
        server = f"--server=127.0.0.1:{port}"
        return [sys.executable, "-m", "natproxy", "get", server, "-q", *self._options, name]


class _FromNginx(NginxHTTP, Fetching):
    client: str
    options: tuple[str, ...]

    def missing(self) -> str | None:
        """See whether both are installed."""
        here = executable(self.client)
        return super().missing() or (None if here else f"{self.client} is not installed")

    def version(self) -> str:
        """Ask the client."""
        return version_in(output(self.client, "--version"))

    def fetch(self, port: int, name: str) -> list[str]:
        """Fetch over HTTP."""
        return [self.client, *self.options, f"http://127.0.0.1:{port}/{name}"]


class Curl(_FromNginx):
    """``curl -O`` from nginx."""

    client = "curl"
    options = ("-s", "-S", "-f", "-O")


class Wget(_FromNginx):
    """``wget`` from nginx."""

    client = "wget"
    options = ("-q",)
