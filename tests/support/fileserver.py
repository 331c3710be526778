"""A file server's protocol over a local directory, with doubles of transports and threads."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.factory import FileServerFactory
from natproxy.fileserver.protocol import FileServerProtocol
from natproxy.metadata import Metadata
from natproxy.storage import LocalStorage, RacyTimestamps, Storage
from natproxy.storage.local.metadata import metadata_of
from tests.support.doubles import Journal, PlayedThread, TurnClock, Wire
from tests.support.files import open_descriptors


class FileServerCase(SynchronousTestCase):
    """A file server with one client; it serves a new directory inside another.

    :ivar clock_ahead: seconds by which the server's wall clock is ahead of the file system's.
    """

    def setUp(self) -> None:
        outside = tempfile.TemporaryDirectory()
        self.addCleanup(outside.cleanup)
        self.outside = Path(outside.name)
        self.files = self.outside / "files"
        self.files.mkdir()
        self.journal = Journal(self)
        self.clock = TurnClock()
        self.thread = PlayedThread()
        self.clock_ahead = 0.0
        racy = RacyTimestamps(
            lambda: self.clock.seconds(),
            lambda: time.time() + self.clock_ahead,
            lambda device: True,
        )
        self.descriptors = open_descriptors()
        self.addCleanup(self.lose_clients)
        self.serve(LocalStorage(os.fspath(self.files), racy=racy))

    def serve(self, storage: Storage) -> None:
        """Serve a storage to a new client."""
        self.factory = FileServerFactory(self.clock, storage, self.thread, 600.0)
        self.protocol, self.wire = self.new_client(43210)

    def new_client(self, port: int) -> tuple[FileServerProtocol, Wire]:
        wire = Wire(9001, port)
        protocol = self.factory.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        return protocol, wire

    def send(self, command: bytes) -> bytes:
        """Send a command and return what is replied at once."""
        self.protocol.dataReceived(command)
        return self.wire.taken()

    def send_and_run(self, command: bytes) -> bytes:
        """Send a command that is replied to from a thread, and run the thread."""
        self.assertEqual(self.send(command), b"")
        self.thread.run()
        return self.wire.taken()

    def lose_clients(self) -> None:
        for connection in list(self.factory.connections):
            connection.transport.lose(connection)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])
        self.assertEqual(open_descriptors(), self.descriptors)


class Version2Case(FileServerCase):
    """A file ``a`` and a directory ``sub`` with a file in it."""

    def setUp(self) -> None:
        super().setUp()
        (self.files / "a").write_bytes(b"content of a")
        (self.files / "sub").mkdir()
        (self.files / "sub" / "b=c d").write_bytes(b"inside")
        self.clock_ahead = 60.0

    def metadata(self, name: str) -> Metadata:
        return metadata_of(os.stat(self.files / name))

    def assert_logged(self, verb: str, sent: int) -> None:
        """Assert how the end of the last command was logged."""
        event = self.journal.outcomes[-1]
        logged = (event["verb"], event["outcome"], event["bytes"])
        self.assertEqual(logged, (verb, "completed", sent))
