"""A file server in threads, with files in memory, whose replies can be made to fail.

For tests of downloads and mirrors.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, groupby
from shutil import rmtree
from typing import NamedTuple
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.client import Event, Phase, Session
from natproxy.protocol import (
    DIRECTORY,
    END,
    FILE,
    FILE_NOT_FOUND,
    MORE,
    PACK_SIZE,
    UNKNOWN_COMMAND,
    Arguments,
    Command,
    Digest,
    Entry,
    Metadata,
    Range,
    Refusal,
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

MTIME = 1_600_000_000_123_456_789


class Served(NamedTuple):
    """A file on the server."""

    content: bytes
    metadata: Metadata


@dataclass(frozen=True)
class Fault:
    """What happens instead of a complete reply to one command.

    :ivar act: called when the command has been received.
    :ivar reply: the reply to send; the connection stays open.
    :ivar cut: bytes of the body after which the connection is closed; -1: before the header.
    :ivar silent: whether there is no reply until the server is closed.
    """

    act: Callable[[], object] = lambda: None
    reply: bytes | None = None
    cut: int | None = None
    silent: bool = False


class ServedFiles:
    """Files in memory, served on loopback.

    :ivar version: of the protocol.
    :ivar directories: empty directories.
    :ivar listing: entries that ``LS`` returns instead of the real ones.
    :ivar page: entries on a page.
    :ivar lacking: verbs that it does not support.
    :ivar pack_size: bytes that end the reply to a ``PACK``.
    :ivar commands: received commands with their arguments.
    :ivar sent: number of sent bytes of files.
    """

    def __init__(self) -> None:
        self.version = 2
        self.directories: set[bytes] = set()
        self.listing: Iterable[Entry] | None = None
        self.page = 1000
        self.lacking: set[bytes] = set()
        self.pack_size = PACK_SIZE
        self.commands: list[bytes] = []
        self.sent = 0
        self._files: dict[bytes, Served] = {}
        self._faults: dict[bytes, deque[Fault]] = defaultdict(deque)
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def put(self, name: bytes, content: bytes, mtime_ns: int = MTIME) -> None:
        """Create a file, or replace it."""
        etag = f"e{next(self._numbers)}"
        metadata = Metadata(FILE, len(content), mtime_ns, etag)
        self._files[name] = Served(content, metadata)

    def remove(self, name: bytes) -> None:
        del self._files[name]

    def fail(self, verb: bytes, *faults: Fault) -> None:
        """Apply these faults to the next commands with this verb, one each."""
        self._faults[verb].extend(faults)

    def arguments_of(self, verb: bytes) -> list[bytes]:
        """Return the arguments of the received commands with this verb."""
        split = (command.partition(b" ") for command in self.commands)
        return [rest for word, _, rest in split if word == verb]

    def close(self) -> None:
        """Close all sockets and wait for the threads."""
        self._closed.set()
        self.stop_listening()
        self.cut_off()
        while self._threads:
            self._threads.pop().join(10)
        self._listener.close()

    def stop_listening(self) -> None:
        """Refuse connections from now on."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def cut_off(self) -> None:
        """Shut down every connection."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            # In this order: `close` cannot join a thread that has not been started.
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            for line in lines:
                if not self._handle(connection, line.removesuffix(b"\n")):
                    break
        with self._lock:
            self._open.discard(connection)

    def _handle(self, connection: socket.socket, line: bytes) -> bool:
        command = parse_command(line)
        assert command is not None
        with self._lock:
            self.commands.append(line)
            faults = self._faults[command.verb]
            fault = faults.popleft() if faults else Fault()
        fault.act()
        if fault.silent:
            self._closed.wait(10)
            return False
        if fault.reply is not None:
            connection.sendall(fault.reply)
            return True
        try:
            header, body = self._reply(command)
        except Refusal as refusal:
            code = refusal.code if self.version > 1 else None
            header, body = error_line(refusal.message, code), b""
        if fault.cut is not None:
            if fault.cut < 0:
                return False
            body = body[: fault.cut]
        with self._lock:
            if command.verb in (b"GET", b"DOWNLOAD", b"PACK"):
                self.sent += len(body)
        connection.sendall(header + body)
        return fault.cut is None

    def _reply(self, command: Command) -> tuple[bytes, bytes]:
        if command.verb == b"DOWNLOAD":
            content = self._file(command.name).content
            return b"OK %d\n" % len(content), content
        if command.verb == b"LIST":
            names = sorted(name for name in self._files if b"/" not in name)
            return b"OK\n" + b"".join(name + b"\n" for name in names) + b"END\n", b""
        if not command.known or self.version == 1 or command.verb in self.lacking:
            raise Refusal(400, UNKNOWN_COMMAND)
        if command.verb == b"FEAT":
            lines = abilities().splitlines(keepends=True)
            listed = [line for line in lines if line.split()[0] not in self.lacking]
            return b"OK\n" + b"".join(listed) + END + b"\n", b""
        arguments = parse_arguments(command)
        if command.verb == b"LS":
            page = self._page(arguments)
            return b"OK %d\n" % len(page), page
        if command.verb == b"PACK":
            body = pack_body(arguments.names, self._files.get, self.pack_size)
            return b"OK %d\n" % len(body), body
        if command.verb == b"STAT" and self._is_directory(arguments.name):
            return b"OK " + format_metadata(_directory(arguments.name).metadata) + b"\n", b""
        content, metadata = self._file(arguments.name)
        if arguments.if_match not in (None, metadata.etag):
            raise Refusal(412, f"changed etag={metadata.etag}")
        if arguments.offset > metadata.size:
            raise Refusal(416, f"range size={metadata.size}")
        part = content[arguments.offset :][: arguments.length]
        if command.verb == b"STAT":
            return b"OK " + format_metadata(metadata) + b"\n", b""
        if command.verb == b"HASH":
            digest = Digest(hashlib.sha256(part).hexdigest(), metadata.size, metadata.etag)
            return b"OK " + format_digest(digest) + b"\n", b""
        return format_range(Range(len(part), arguments.offset, metadata)), part

    def _file(self, name: bytes) -> Served:
        try:
            return self._files[name]
        except KeyError:
            raise Refusal(404, FILE_NOT_FOUND) from None

    def _is_directory(self, name: bytes) -> bool:
        inside = name + b"/"
        return (
            not name or name in self.directories or any(f.startswith(inside) for f in self._files)
        )

    def _page(self, arguments: Arguments) -> bytes:
        if self.listing is not None:
            return b"".join(map(format_entry, self.listing))
        if arguments.name in self._files and not arguments.after:
            return format_entry(Entry(arguments.name, self._files[arguments.name].metadata))
        if not self._is_directory(arguments.name):
            raise Refusal(404, FILE_NOT_FOUND)
        above = arguments.name + b"/" if arguments.name else b""
        names = {*self._files, *self.directories}
        for name in list(names):
            parts = name.split(b"/")
            names.update(b"/".join(parts[:depth]) for depth in range(1, len(parts)))
        below = sorted(n for n in names if n.startswith(above) and n > arguments.after)
        entries = [
            Entry(name, self._files[name].metadata) if name in self._files else _directory(name)
            for name in below
            if name[len(above) :].count(b"/") < arguments.depth
        ]
        lines = [format_entry(entry) for entry in entries[: self.page]]
        return b"".join(lines) + (MORE + b"\n" if len(entries) > self.page else b"")


def _directory(name: bytes) -> Entry:
    return Entry(name, Metadata(DIRECTORY, 0, MTIME, "directory"))


class ServedFilesCase(SynchronousTestCase):
    """A server, a session with it, and an empty directory for downloads.

    :ivar events: those that were passed to `note`.
    :ivar slept: the delays, in seconds, between attempts or for a rate limit; they are skipped.
    """

    def setUp(self) -> None:
        self.server = ServedFiles()
        self.addCleanup(self.server.close)
        self.session = Session(self.server.address, 5)
        self.addCleanup(self.session.close)
        self.directory = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(rmtree, self.directory)
        self.events: list[Event] = []
        self.slept: list[float] = []
        sleep = mock.patch(
            "natproxy.client.retry.Cancellation.sleep",
            lambda cancellation, seconds: (self.slept.append(seconds), cancellation.check()),
        )
        sleep.start()
        self.addCleanup(sleep.stop)

    def path(self, *names: bytes) -> bytes:
        return os.path.join(self.directory, *names)

    def files(self) -> list[bytes]:
        """Return the names in the directory, hidden files included."""
        return sorted(os.listdir(self.directory))

    def read(self, *names: bytes) -> bytes:
        with open(self.path(*names), "rb") as file:
            return file.read()

    def write(self, name: bytes, content: bytes, mtime_ns: int | None = None) -> None:
        """Create a file in the directory."""
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(content)
        if mtime_ns is not None:
            os.utime(self.path(name), ns=(mtime_ns, mtime_ns))

    def note(self, event: Event) -> None:
        self.events.append(event)

    def phases(self) -> list[Phase]:
        """Return the phases of the events, in order."""
        return [phase for phase, _ in groupby(event.phase for event in self.events)]

    def messages(self, phase: Phase) -> list[str]:
        return [event.message for event in self.events if event.phase is phase]
