"""What the metrics of the file server count."""

from __future__ import annotations

from natproxy.metrics.families import Buckets
from natproxy.metrics.fileserver import FileServerMetrics
from natproxy.records.record import Origin
from tests.support.fileserver import FileServerCase
from tests.support.metrics import buckets, value


class FileServerMetricsTests(FileServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.metrics = FileServerMetrics(self.factory, Origin("files-9001", 0, "b00t"))

    def value(self, name: str, *labels: str) -> float:
        return value(self.metrics.families(), f"natproxy_fileserver_{name}", *labels)

    def duration(self, verb: str) -> Buckets:
        families = self.metrics.families()
        return buckets(families, "natproxy_fileserver_command_duration_seconds", verb)

    def test_command(self) -> None:
        (self.files / "a").write_bytes(b"abc")
        reply = self.send(b"DOWNLOAD a\n")
        self.assertEqual(self.value("commands", "DOWNLOAD", "completed"), 1)
        self.assertEqual(self.value("sent_bytes", "DOWNLOAD"), len(reply))

    def test_unknown_verb(self) -> None:
        self.send(b"EVIL a\n")
        self.assertEqual(self.value("commands", "other", "completed"), 1)

    def test_work_in_threads(self) -> None:
        self.send(b"LIST\n")
        self.assertEqual(self.value("threads_busy", "listings"), 1)
        self.clock.advance(3.0)
        self.thread.run()
        self.assertEqual(self.value("threads_busy", "listings"), 0)
        self.assertEqual(self.value("work", "listings"), 1)
        self.assertEqual(self.value("threads", "pages"), 7)
        self.assertAlmostEqual(self.duration("LIST").sum, 3.0)

    def test_threads_that_hang(self) -> None:
        self.send(b"LS\n")
        self.clock.advance(46.0)
        self.assertEqual(self.value("threads_hanging", "pages"), 1)
        self.assertEqual(self.value("work_timeouts", "pages"), 1)
        self.thread.run()
        self.assertEqual(self.value("threads_hanging", "pages"), 0)

    def test_relays(self) -> None:
        (self.files / "a").write_bytes(b"x" * 100_000)
        self.protocol.dataReceived(b"DOWNLOAD a\n")
        self.assertEqual(self.value("relays", "read"), 1)
        self.assertEqual(self.value("relays_active", "read"), 0)
        self.assertEqual(self.value("relay_bytes", "read"), len(b"OK 100000\n") + 100_000)

    def test_counters_for_status(self) -> None:
        self.send(b"EVIL a\n")
        counters = self.metrics.counters()
        self.assertEqual(counters["commands"]["total"], 1)
        self.assertEqual(counters["threads"]["listings"]["limit"], 1)
        self.assertEqual(counters["clients"]["now"], 1)

    def test_nothing_is_counted_after_close(self) -> None:
        self.metrics.close()
        self.send(b"EVIL a\n")
        self.assertEqual(self.value("commands", "other", "completed"), 0)
