"""``twistd fileserver``."""

from __future__ import annotations

import os

from twisted.application.service import IService
from twisted.python import usage

from natproxy import digests
from natproxy.clock import use_monotonic_time
from natproxy.fileserver import LISTING_THREADS, READS_AT_ONCE, FileServerFactory, reads_in
from natproxy.relay import PageCache, Relays, Way
from natproxy.service import DrainingService, TwistdService
from natproxy.storage import Directory
from natproxy.tap.options import DaemonOptions, seconds, way
from natproxy.threads import Threads


class Options(DaemonOptions):
    """What ``twistd fileserver`` takes."""

    daemon = "fileserver"
    default_listen = "tcp:9001:interface=127.0.0.1"

    synopsis = "[options]"
    longdesc = f"Serve the files of a directory. Listens on {default_listen} unless told otherwise."
    optParameters = [
        ["files", None, "./files", "Directory to serve; made if it is missing."],
        [
            "timeout",
            None,
            600.0,
            "Seconds until an idle or stalled client is cut off.",
            seconds("timeout"),
        ],
        [
            "relay",
            None,
            Way.AUTO,
            "How large files are sent: auto, copy or sendfile.",
            way({"auto": Way.AUTO, "copy": Way.COPY, "sendfile": Way.KERNEL}),
        ],
        [
            "drain",
            None,
            30.0,
            "Seconds that commands in flight get at the end.",
            seconds("drain", 0),
        ],
    ]

    def postOptions(self) -> None:
        """See that there is a directory to serve."""
        super().postOptions()
        self.directory = Directory(os.path.abspath(self["files"]))
        try:
            os.makedirs(self.directory.path, exist_ok=True)
            self.directory.check()
        except FileExistsError:
            raise usage.UsageError(f"--files {self['files']}: not a directory") from None
        except OSError as error:
            raise usage.UsageError(f"--files {self['files']}: {error.strerror}") from error


def make_daemon(options: Options) -> DrainingService:
    """Make the file server of these options, without anything round it."""
    reactor = options.reactor
    use_monotonic_time(reactor)
    # What hangs, or lasts, in one of them leaves the others alone.
    reads = Threads(reactor, READS_AT_ONCE, "reads")
    listings = Threads(reactor, LISTING_THREADS, "listings")
    hashes = Threads(reactor, digests.THREADS, "digests")
    relays = Relays(reactor, options["relay"], PageCache(reads_in(reads, reactor)))
    factory = FileServerFactory(
        reactor,
        options.directory,
        listings,
        options["timeout"],
        relays,
        hash_in_thread=hashes,
    )
    return DrainingService(options.listeners, factory, options["drain"], reactor)


def makeService(options: Options) -> IService:
    """Make what ``twistd`` runs."""
    return TwistdService(make_daemon(options), options.reactor)
