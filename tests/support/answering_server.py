"""A server in threads that replies to each line with the result of a function.

For tests that need other replies than a file server's, or commands from other processes. A file
server with faults is `tests.support.served_files`; a fixed dialogue is
`tests.support.scripted_server`.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable

from natproxy.protocol import (
    DIRECTORY,
    FILE,
    FILE_NOT_FOUND,
    MORE,
    Arguments,
    Digest,
    Entry,
    Metadata,
    Range,
    abilities,
    error_line,
    format_digest,
    format_entry,
    format_metadata,
    format_range,
    parse_arguments,
    parse_command,
)
from tests.support.packs import pack_body


class AnsweringServer:
    """Serves any number of connections at once, each for any number of commands.

    :param reply: returns the reply to a line; an empty reply closes the connection.
    :ivar lines: all received lines, in order.
    :ivar connections: number of accepted connections.
    """

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.lines: list[bytes] = []
        self.connections = 0
        self._reply = reply
        self._accepted: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.server_address = f"127.0.0.1:{self.port}"
        self._start(self._accept)

    def close(self) -> None:
        """Close all connections and wait for the threads."""
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._listener.close()
        for connection in self._accepted:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._accepted.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    self.lines.append(line.rstrip(b"\n"))
                    reply = self._reply(self.lines[-1])
                    if not reply:
                        return
                    connection.sendall(reply)
            except OSError:
                return


class Version2:
    """The replies of a server of version 2 with files in a dictionary.

    :ivar files: contents by name; a file's ``etag`` depends on its content alone.
    :param page: entries on a page of ``LS``.
    """

    def __init__(self, files: dict[bytes, bytes], page: int = 1000) -> None:
        self.files = files
        self._page = page

    def __call__(self, line: bytes) -> bytes:
        """Return the reply to a line."""
        command = parse_command(line)
        assert command is not None
        if command.verb == b"FEAT":
            return b"OK\n" + abilities() + b"END\n"
        if command.verb == b"LIST":
            return b"OK\n" + b"".join(name + b"\n" for name in sorted(self.files)) + b"END\n"
        if command.verb == b"DOWNLOAD":
            content = self.files.get(command.name)
            if content is None:
                return b"ERR file not found\n"
            return b"OK %d\n%b" % (len(content), content)
        return self._version_2(command.verb, parse_arguments(command))

    def _version_2(self, verb: bytes, arguments: Arguments) -> bytes:
        if verb == b"LS":
            return self._list(arguments)
        if verb == b"PACK":
            body = pack_body(arguments.names, self._find)
            return b"OK %d\n%b" % (len(body), body)
        if not arguments.name:
            return b"OK " + format_metadata(Metadata(DIRECTORY, 0, 0, "d")) + b"\n"
        content = self.files.get(arguments.name)
        if content is None:
            return error_line(FILE_NOT_FOUND, 404)
        metadata = metadata_of(content)
        if arguments.if_match not in (None, metadata.etag):
            return error_line(f"changed etag={metadata.etag}", 412)
        if verb == b"STAT":
            return b"OK " + format_metadata(metadata) + b"\n"
        if arguments.offset > len(content):
            return error_line(f"range size={len(content)}", 416)
        end = len(content) if arguments.length is None else arguments.offset + arguments.length
        part = content[arguments.offset : end]
        if verb == b"GET":
            return format_range(Range(len(part), arguments.offset, metadata)) + part
        digest = Digest(hashlib.sha256(part).hexdigest(), len(content), metadata.etag)
        return b"OK " + format_digest(digest) + b"\n"

    def _find(self, name: bytes) -> tuple[bytes, Metadata] | None:
        content = self.files.get(name)
        return None if content is None else (content, metadata_of(content))

    def _list(self, arguments: Arguments) -> bytes:
        entries = [
            Entry(name, metadata_of(content))
            for name, content in sorted(self.files.items())
            if name > arguments.after
        ]
        lines = [format_entry(entry) for entry in entries[: self._page]]
        if len(entries) > self._page:
            lines.append(MORE + b"\n")
        body = b"".join(lines)
        return b"OK %d\n%b" % (len(body), body)


def metadata_of(content: bytes) -> Metadata:
    """Return the metadata that `Version2` sends for a file with this content."""
    return Metadata(FILE, len(content), 10**9, hashlib.sha256(content).hexdigest()[:16])
