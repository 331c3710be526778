"""The verbs over a storage whose look-ups may wait for a network: they are made in threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from natproxy.fileserver.protocol import FileServerProtocol, methods_of
from natproxy.fileserver.refusals import parse_digest, refusal_of
from natproxy.metadata import Metadata
from natproxy.protocol import Arguments, Command, Refusal, format_metadata, parse_arguments
from natproxy.relay import FileJob
from natproxy.server.threads import WorkRefused
from natproxy.storage import OpenFile


class WaitingFileServerProtocol(FileServerProtocol):
    """Replies as its base class does, and leaves the reactor's thread for each look-up.

    A client that goes away removes its look-up from the queue. One that a thread has begun ends
    with the time-outs of the storage, and its file is closed.
    """

    def command_DOWNLOAD(self, command: Command) -> None:
        """Send a file."""
        self._open_then(command.name, self._send_whole)

    def command_STAT(self, command: Command) -> None:
        """Send the metadata of a file or a directory."""
        name = parse_arguments(command).name
        self._wait_for(
            self._services.lookups.metadata(name, self._client_host),
            self._send_metadata,
            partial(self._failed, name),
        )

    def command_GET(self, command: Command) -> None:
        """Send a range of a file, unless it is modified meanwhile."""
        arguments = parse_arguments(command)
        self._open_then(arguments.name, partial(self._send_range, arguments))

    def command_HASH(self, command: Command) -> None:
        """Send the digest of a range of a file."""
        arguments: Arguments = parse_digest(command)
        self._open_then(arguments.name, partial(self._send_digest, arguments))

    def _open_then(self, name: bytes, use: Callable[[OpenFile], None]) -> None:
        """Open a file in a thread, and continue with it.

        :param use: closes the file; it raises what a method ``command_VERB`` may raise.
        """

        def opened(file: OpenFile) -> None:
            try:
                use(file)
            except Refusal as refusal:
                self._refuse(refusal)
            except WorkRefused as error:
                self._refuse(refusal_of(name, error))

        self._wait_for(
            self._services.lookups.open(name, self._client_host),
            opened,
            partial(self._failed, name),
        )

    def _send_whole(self, file: OpenFile) -> None:
        size = file.size
        header = b"OK %d\n" % size
        self._send(FileJob(header, file, size, self.outbound, self._sent, device=file.device))

    def _send_metadata(self, metadata: Metadata) -> None:
        self._reply(b"OK " + format_metadata(metadata) + b"\n")


WaitingFileServerProtocol.methods = methods_of(WaitingFileServerProtocol)
