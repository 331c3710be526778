"""A process with a NAT table under load and its journal, which a test kills.

``python -m tests.support.journal_load DIRECTORY RING ROWS BYTES SPOOL`` prints a line for each
event, before the journal can have it: ``boot TEXT``, ``begin SERIAL TIME``, ``end SERIAL TIME``;
and ``error TEXT`` or ``error`` when the journal stops and resumes. SIGTERM ends it in order.
"""

from __future__ import annotations

import errno
import os
import random
import secrets
import signal
import sys
import time

from twisted.internet import reactor
from twisted.internet.task import LoopingCall

from natproxy.address import Address
from natproxy.daemon.clock import use_monotonic_time
from natproxy.journal import writer
from natproxy.journal.service import JournalService, JournalSettings
from natproxy.nat import NATEntry, NATTable, Outcome, Registered, Removed, TranslationKey
from natproxy.nat.ring import EventRing
from natproxy.protocol import Command
from natproxy.records.record import Origin, microseconds_of

COMMAND = Command(b"GET", b"a", b"GET a")
UPSTREAM = Address("127.0.0.1", 9001)
OPEN = 40
"""Commands in flight."""


def port_of(serial: int) -> int:
    """Return the port of a translation."""
    return 20_000 + serial % 40_000


def client_of(serial: int) -> str:
    """Return the host of the client of a translation."""
    return f"10.0.{serial // 250 % 250}.{serial % 250}"


class Client:
    """A transport that nothing is written to."""

    def write(self, data: bytes) -> None:
        """Do nothing."""


class Load:
    """The table, its traffic, and the journal.

    :param ring: events that the ring holds.
    :param max_size: bytes of all segments.
    """

    def __init__(self, directory: str, ring: int, max_size: int) -> None:
        self.boot = secrets.token_hex(4)
        self.table = NATTable(reactor.seconds)
        self.ring = EventRing(self.table, Origin("proxy-9000", 0, self.boot), ring)
        self.journal = JournalService(
            reactor, self.ring, directory, JournalSettings(86_400, max_size)
        )
        self.table.subscribe(self.registered, (Registered,))
        self.table.subscribe(self.removed, (Removed,))
        self.open: list[NATEntry] = []
        self.error: object = None
        self.serial = 0

    def registered(self, event: object) -> None:
        assert type(event) is Registered
        self.print("begin", event.serial, event.time)

    def removed(self, event: object) -> None:
        assert type(event) is Removed
        self.print("end", event.serial, event.time)

    def print(self, word: str, serial: int, seconds: float) -> None:
        os.write(1, f"{word} {serial} {microseconds_of(seconds)}\n".encode())

    def work(self) -> None:
        """Begin some commands, and end others."""
        error = self.journal.status().error
        if error != self.error:
            self.error = error
            os.write(1, f"error {error or ''}\n".encode())
        for _ in range(random.randrange(4)):
            self.serial += 1
            entry = self.table.register(
                TranslationKey(Address("127.0.0.1", port_of(self.serial)), UPSTREAM),
                Client(),
                Address(client_of(self.serial), 40_000),
                COMMAND,
                reactor.seconds(),
                lambda: None,
            )
            if random.random() < 0.7:
                self.table.relaying(entry, 100)
            self.open.append(entry)
        while len(self.open) > OPEN:
            self.table.remove(self.open.pop(random.randrange(OPEN)), Outcome.COMPLETED)

    def stop(self) -> None:
        """End in order."""
        self.loop.stop()
        for entry in self.open:
            self.table.remove(entry, Outcome.DRAINED)
        self.journal.stopService().addCallback(lambda _: reactor.stop())

    def run(self) -> None:
        """Run until a signal."""
        # Before the first output: the test sends the signal when it has read some.
        signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(self.stop))
        os.write(1, f"boot {self.boot}\n".encode())
        self.journal.startService()
        self.loop = LoopingCall(self.work)
        self.loop.start(0.001)
        reactor.run(installSignalHandlers=False)


def no_space(descriptor: int, offset: int, length: int) -> None:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main() -> None:
    """Run with the arguments of the command line."""
    directory, ring, rows, max_size, spool = sys.argv[1:]
    writer.ROWS = int(rows)
    if not int(spool):
        # As on a full disk.
        os.posix_fallocate = no_space
    use_monotonic_time(reactor)
    random.seed(time.time())
    Load(directory, int(ring), int(max_size)).run()


if __name__ == "__main__":
    main()
