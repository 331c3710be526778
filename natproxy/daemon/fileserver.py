"""``twistd fileserver``."""

from __future__ import annotations

import os
from contextlib import suppress

from twisted.application.service import IService
from twisted.python import usage

from natproxy.daemon.clock import use_monotonic_time
from natproxy.daemon.descriptors import attainable, room_for_file_server
from natproxy.daemon.options import DaemonOptions, relay_method, seconds, whole_number
from natproxy.daemon.service import DrainingService, TwistdService
from natproxy.fileserver import digests
from natproxy.fileserver.factory import (
    CONCURRENT_READS,
    LISTING_THREADS,
    FileServerFactory,
    read_in,
)
from natproxy.protocol import printable
from natproxy.relay import Method, PageCache, Relays
from natproxy.server.threads import Threads
from natproxy.storage import LocalStorage

DEFAULT_FILES = "./files"
"""The directory that is served if none is named; the only one that is ever created."""


class Options(DaemonOptions):
    """What ``twistd fileserver`` takes.

    :ivar directory: the directory to serve.
    :ivar created: whether it did not exist, and was created.
    """

    created = False

    daemon = "fileserver"
    default_listen = "tcp:9001:interface=127.0.0.1"

    synopsis = "[options]"
    longdesc = f"Serve the files of a directory. Listens on {default_listen} unless told otherwise."
    optParameters = [
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
            Method.AUTO,
            "How large files are sent: auto, copy or sendfile.",
            relay_method({"auto": Method.AUTO, "copy": Method.COPY, "sendfile": Method.KERNEL}),
        ],
        [
            "max-clients-per-host",
            None,
            None,
            "Connections of one host at once; 0, the default: no limit (its clients are proxies).",
            whole_number("max-clients-per-host", 0),
        ],
        *DaemonOptions.common,
    ]

    def opt_files(self, path: str) -> None:
        """Directory to serve; without it ./files, which is created if it is missing."""
        self.once("files", path)

    def postOptions(self) -> None:
        """Check that the directory exists and can be listed.

        A directory that was named must exist: serving an empty one in the place of a
        misspelt name would let mirrors of it be emptied.
        """
        super().postOptions()
        given: str | None = self.get("files")
        shown = given if given is not None else DEFAULT_FILES
        self.directory = LocalStorage(os.path.abspath(shown))
        try:
            if given is None:
                self.created = _created(self.directory.path)
            else:
                os.stat(given)
            self.directory.check()
        except (FileExistsError, NotADirectoryError):
            raise usage.UsageError(f"--files {shown}: not a directory") from None
        except FileNotFoundError:
            raise usage.UsageError(
                f"--files {shown}: no such directory; create it, or name one that exists"
            ) from None
        except OSError as error:
            raise usage.UsageError(f"--files {shown}: {error.strerror}") from error

    def remove_created(self) -> None:
        """Remove the directory again if it was created, and is still empty."""
        if self.created:
            with suppress(OSError):
                os.rmdir(self.directory.path)


def _created(path: bytes) -> bool:
    """Create a directory unless it exists, and return whether it was created."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def make_daemon(options: Options, descriptors: int | None = None) -> DrainingService:
    """Make the file server of these options, without a log and signal handlers.

    :param descriptors: that it may use; by default, all that the process may have.
    """
    reactor = options.reactor
    use_monotonic_time(reactor)
    room = room_for_file_server(attainable() if descriptors is None else descriptors)
    # What hangs, or lasts, in one of them leaves the others alone.
    reads = Threads(reactor, CONCURRENT_READS, "reads")
    listings = Threads(reactor, LISTING_THREADS, "listings")
    hashes = Threads(reactor, digests.THREADS, "digests")
    factory = FileServerFactory(
        reactor,
        options.directory,
        listings,
        options["timeout"],
        Relays(reactor, options["relay"], PageCache(read_in(reads, reactor))),
        hash_in_thread=hashes,
        admission=options.admission(room, lambda _: 0),
        first_command_timeout=options["first-command-timeout"],
    )
    path = printable(options.directory.path)
    created = ", which was created," if options.created else ""
    daemon = DrainingService(
        options.listeners,
        factory,
        options["drain"],
        reactor,
        f"the file server of {path}{created}",
        options.listen_option,
    )
    # The next start is to say again that it was created.
    daemon.undo = options.remove_created
    return daemon


def makeService(options: Options) -> IService:
    """Make what ``twistd`` runs."""
    return TwistdService(make_daemon(options), options.reactor, options.log.file)
