"""A file server as Twisted's manual has it: ``DOWNLOAD``, and a `FileSender`.

Run as ``filesender PORT DIRECTORY``.
"""

from __future__ import annotations

import os
import sys

from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.protocols.basic import FileSender, LineReceiver


class FileSenderProtocol(LineReceiver):
    """Answers ``DOWNLOAD name``."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        """Send the file."""
        path = os.path.join(self.factory.directory, os.path.basename(line[9:]))
        file = open(path, "rb")  # noqa: SIM115
        self.transport.write(b"OK %d\n" % os.fstat(file.fileno()).st_size)
        sending = FileSender().beginFileTransfer(file, self.transport)
        sending.addBoth(lambda _: file.close())


class FileSenderFactory(Factory):
    """Knows the directory."""

    protocol = FileSenderProtocol
    noisy = False

    def __init__(self, directory: bytes) -> None:
        self.directory = directory


if __name__ == "__main__":
    reactor.listenTCP(
        int(sys.argv[1]),
        FileSenderFactory(os.fsencode(sys.argv[2])),
        backlog=4096,
        interface="127.0.0.1",
    )
    reactor.run()
