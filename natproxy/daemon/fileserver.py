"""``twistd fileserver``: the file server, made of its config."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from twisted.application.service import IService
from twisted.logger import Logger

from natproxy.daemon.application import TwistdService
from natproxy.daemon.clock import use_monotonic_time
from natproxy.daemon.descriptors import attainable, file_server_capacity, observers_for
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.fileserver_observation import FileServerObservation
from natproxy.daemon.objects import open_objects
from natproxy.daemon.options import DaemonOptions, parameters_of
from natproxy.daemon.parts import (
    prepare_certificates,
    prepare_clients,
    prepare_file_server_timeouts,
    prepare_hiding,
    prepare_limits,
    prepare_relays,
    prepare_rules,
    prepare_service,
    prepare_tokens,
    prepare_trusted_proxies,
)
from natproxy.daemon.reload import LiveSettings, Reloader
from natproxy.daemon.service import (
    DaemonService,
    DrainingService,
    startup_errors,
)
from natproxy.daemon.workers.daemon import of_processes
from natproxy.daemon.workers.share import ALONE, Share
from natproxy.fileserver import digests
from natproxy.fileserver.factory import (
    CONCURRENT_READS,
    LISTING_THREADS,
    FileServerFactory,
    Reads,
)
from natproxy.fileserver.lookups import CONCURRENT_LOOKUPS
from natproxy.protocol import printable
from natproxy.relay import Method, PageCache, Relays
from natproxy.server.gates import LimitGate
from natproxy.server.threads import Threads
from natproxy.settings import SettingError
from natproxy.storage import LocalStorage, ObjectStorage
from natproxy.storage.local.metadata import Describe, metadata_of, replica_metadata_of
from natproxy.storage.objects.location import is_location

_log = Logger()

DEFAULT_FILES = "./files"
"""The directory that is served if none is named; the only one that is ever created."""

RELAYS = {"auto": Method.AUTO, "copy": Method.COPY, "sendfile": Method.KERNEL}
"""How files are sent, by the values of ``relay``."""

ETAGS: dict[str, Describe] = {"file": metadata_of, "content": replica_metadata_of}
"""How files are described, by the values of ``etag``."""


class Options(DaemonOptions):
    """The command line of ``twistd fileserver``."""

    config_class = FileServerConfig
    config: FileServerConfig

    synopsis = "[options]"
    longdesc = (
        "Serve the files of a directory, or the objects of a bucket. Listens on"
        f" {FileServerConfig().listen[0]} by default."
    )
    optParameters = parameters_of(FileServerConfig, "files", "hide")

    def opt_files(self, path: str) -> None:
        """Directory to serve, or s3://BUCKET/PREFIX; without it ./files, created if missing."""
        self.set_once("files", path)

    def opt_hide(self, pattern: str) -> None:
        """Pattern of files and directories that are neither listed nor sent; may be repeated."""
        self._add("hide", pattern)


class ServedDirectory(NamedTuple):
    """The directory that a file server serves.

    :ivar directory: the storage: of a directory, or of objects.
    :ivar created: whether it did not exist, and was created.
    """

    directory: LocalStorage | ObjectStorage
    created: bool

    @property
    def title(self) -> str:
        """The path of the directory, or the location of the objects."""
        directory = self.directory
        if isinstance(directory, ObjectStorage):
            return printable(str(directory.location).encode())
        return printable(directory.path)

    def remove_created(self) -> None:
        """Remove the directory if it was created, and is still empty."""
        if self.created and isinstance(self.directory, LocalStorage):
            with suppress(OSError):
                os.rmdir(self.directory.path)


def open_directory(config: FileServerConfig) -> ServedDirectory:
    """Return the directory to serve; it exists and can be listed.

    A directory that is named must exist: if a misspelt name were created, mirrors of the empty
    directory would be emptied.

    :raises SettingError: if it does not exist, or cannot be read, or a setting is for the other
        kind of storage.
    """
    path = DEFAULT_FILES if config.files is None else config.files
    if is_location(path):
        if config.etag != "file":
            raise SettingError(
                f"{config.label('etag')} {config.etag}: only for a directory; objects have the"
                " etags of their store, in which all its file servers agree"
            )
        return ServedDirectory(open_objects(config), False)
    for setting, value in (("s3-endpoint", config.s3_endpoint), ("cache", config.cache)):
        if value is not None:
            raise SettingError(
                f"{config.label(setting)} {value}: only for an object store;"
                " --files s3://BUCKET/PREFIX names one"
            )
    named = f"{config.label('files')} {path}"
    directory = LocalStorage(os.path.abspath(path), describe=ETAGS[config.etag])
    created = False
    try:
        if config.files is None:
            created = _create(directory.path)
        else:
            os.stat(path)
        directory.check()
    except (FileExistsError, NotADirectoryError):
        raise SettingError(f"{named}: not a directory") from None
    except FileNotFoundError:
        raise SettingError(
            f"{named}: no such directory; create it, or name one that exists"
        ) from None
    except OSError as error:
        raise SettingError(f"{named}: {error.strerror}") from error
    return ServedDirectory(directory, created)


def make_file_server(
    reactor: Any,
    config: FileServerConfig,
    descriptors: int | None = None,
    served: ServedDirectory | None = None,
) -> DaemonService:
    """Return the file server of a config, without a log and signal handlers.

    :param reactor: its clock is changed; see `use_monotonic_time`.
    :param descriptors: that a process may use; by default, all that it may have.
    :param served: the directory, if the caller has opened it; see `open_directory`.
    :raises SettingError: if an endpoint is malformed, or the directory cannot be served.
    """
    server = make_file_server_process(reactor, config, descriptors, served)
    return of_processes(reactor, server, config, "fileserver")


def make_file_server_process(
    reactor: Any,
    config: FileServerConfig,
    descriptors: int | None = None,
    served: ServedDirectory | None = None,
    share: Share = ALONE,
) -> DrainingService:
    """Return the file server of a config in one process; see `make_file_server`.

    :param share: the part of the daemon that the process is.
    """
    endpoints = share.listening(reactor, config)
    served = open_directory(config) if served is None else served
    use_monotonic_time(reactor)
    descriptors = attainable() if descriptors is None else descriptors
    observers = observers_for(config, descriptors, share.workers)
    capacity = file_server_capacity(descriptors - share.inherited, observers)
    # Each has threads of its own: slow or blocked work of one kind does not delay the others.
    reads = Reads(Threads(reactor, CONCURRENT_READS, "reads"), reactor)
    listings = Threads(reactor, LISTING_THREADS, "listings")
    hashes = Threads(reactor, digests.THREADS, "digests")
    lookups = Threads(reactor, CONCURRENT_LOOKUPS, "lookups")
    relays = Relays(reactor, page_cache=PageCache(reads))
    factory = FileServerFactory(
        reactor,
        served.directory,
        listings,
        config.timeout,
        relays,
        hash_in_thread=hashes,
        reads=reads,
        look_up_in_thread=lookups,
    )
    if isinstance(served.directory, ObjectStorage):
        served.directory.report = partial(reactor.callFromThread, _report)
    created = ", which was created," if served.created else ""
    server = DrainingService(
        endpoints,
        factory,
        config.drain,
        reactor,
        details=f"the file server of {served.title}{created}",
        label=config.label("listen"),
        # The log of the next start reports again that the directory was created.
        start_failed=served.remove_created,
    )
    observation = FileServerObservation(reactor, server, config, "fileserver", observers)
    observation.share = share
    server.companion = observation
    settings = LiveSettings(
        config,
        (
            partial(prepare_service, server),
            partial(prepare_clients, factory, capacity, lambda _: 0, share.workers),
            partial(prepare_rules, factory),
            partial(prepare_hiding, served.directory),
            partial(prepare_trusted_proxies, factory),
            partial(prepare_limits, LimitGate(factory), share.workers),
            partial(prepare_relays, relays, RELAYS),
            partial(prepare_file_server_timeouts, factory),
            partial(prepare_tokens, factory),
            partial(prepare_certificates, [*endpoints, *observation.endpoints], time.time),
            observation.prepare,
        ),
    )
    server.reloader = Reloader(reactor, Threads(reactor, 1, "reload"), settings)
    return server


def makeService(options: Options) -> IService:
    """Return what ``twistd`` runs.

    :raises StartupError: if an endpoint is malformed, or the directory cannot be served.
    """
    with startup_errors(options.config.program()):
        server = make_file_server(options.reactor, options.config)
    return TwistdService(server, options.reactor, options.log)


def _report(line: str) -> None:
    """Log what listings of objects leave out."""
    _log.warn("{line}", line=line)


def _create(path: bytes) -> bool:
    """Create a directory unless it exists, and return whether it was created."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True
