"""Run a file server in an application of your own, over a directory or over memory.

Usage: python examples/embedded_server.py LISTEN [DIRECTORY]

LISTEN is a Twisted endpoint string: tcp:9001:interface=127.0.0.1
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react

from natproxy.fileserver.factory import LISTING_THREADS, FileServerFactory
from natproxy.server.threads import Threads
from natproxy.storage import LocalStorage, Storage
from natproxy.testing import MemoryStorage

FILES = {b"hello.txt": b"Hello from memory.\n", b"notes/today.txt": b"Nothing yet.\n"}


async def run(reactor: Any, listen: str, directory: str = "") -> None:
    """Listen until the reactor stops."""
    storage: Storage = LocalStorage(directory) if directory else MemoryStorage(FILES)
    storage.check()
    listings = Threads(reactor, LISTING_THREADS, "listings")
    factory = FileServerFactory(reactor, storage, listings, idle_timeout=600.0)
    port = await serverFromString(reactor, listen).listen(factory)
    print(f"listening on {factory.address_of(port.getHost())}", flush=True)
    await Deferred()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    react(lambda *arguments: Deferred.fromCoroutine(run(*arguments)), sys.argv[1:])
