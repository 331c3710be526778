"""The log of a worker, as its master receives it."""

from __future__ import annotations

from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.logfile import LogWriter
from natproxy.daemon.workers.logs import LONGEST, WorkerLog, log_events


class Destination:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class WorkerLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.written: list[bytes] = []
        self.log = WorkerLog(self.written.append)

    def test_whole_lines_only(self) -> None:
        for piece in (b"a\nb", b"b", b"b\n", b"c\nd\ne"):
            self.log.dataReceived(piece)
        self.assertEqual(self.written, [b"a\n", b"bbb\n", b"c\nd\n"])

    def test_last_line_of_a_worker_that_was_killed(self) -> None:
        self.log.dataReceived(b"a\nunfinis")
        self.log.connectionLost()
        self.assertEqual(self.written, [b"a\n", b"unfinis\n"])

    def test_memory_is_bounded(self) -> None:
        self.log.dataReceived(b"a" * (LONGEST + 1))
        self.assertEqual([len(lines) for lines in self.written], [LONGEST + 2])

    def test_lines_are_after_those_that_wait(self) -> None:
        destination = Destination()
        writer = LogWriter(destination)
        writer.write_lines("one ä\n".encode() + b"two \xff\n")
        self.assertEqual(destination.data, "one ä\n".encode() + b"two \\xff\n")


class EventTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def test_line_is_an_event_with_its_namespace_and_level(self) -> None:
        log_events(b"2026-01-01T00:00:00.000000Z [natproxy.proxy#warn] {a} was refused\n")
        (event,) = self.events
        self.assertEqual(event["log_namespace"], "natproxy.proxy")
        self.assertEqual((event["log_level"], event["text"]), (LogLevel.warn, "{a} was refused"))

    def test_line_without_a_level_keeps_its_system(self) -> None:
        log_events(b"2026-01-01T00:00:00.000000Z [-] Factory starting on 9000\n")
        (event,) = self.events
        self.assertEqual((event["log_system"], event["text"]), ("-", "Factory starting on 9000"))

    def test_any_other_line_is_an_event_too(self) -> None:
        log_events(b"Traceback\n\tx [a#b] c\n")
        self.assertEqual([event["text"] for event in self.events], ["Traceback", "\tx [a#b] c"])
