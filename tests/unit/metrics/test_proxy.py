"""What the metrics of the proxy count."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectError

from natproxy.access import Caller
from natproxy.address import Address
from natproxy.journal.status import JournalStatus
from natproxy.metrics.families import Buckets
from natproxy.metrics.kernel import PortFigures
from natproxy.metrics.proxy import ProxyMetrics, Recorders
from natproxy.nat.ring import EventRing
from natproxy.records.record import Origin
from natproxy.server.admission import Admission
from natproxy.tokens.entries import Tokens, new_token
from tests.support.doubles import PlayedThread
from tests.support.gates import DENIED, limited
from tests.support.metrics import buckets, value, values
from tests.support.proxies import ProxyCase

ORIGIN = Origin("proxy-9000", 0, "b00t")


class ProxyMetricsCase(ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.thread = PlayedThread()
        self.metrics = ProxyMetrics(self.factory, ORIGIN, in_thread=self.thread)

    def value(self, name: str, *labels: str) -> float:
        return value(self.metrics.families(), name, *labels)

    def buckets(self, name: str, *labels: str) -> Buckets:
        return buckets(self.metrics.families(), name, *labels)


class CommandTests(ProxyMetricsCase):
    def test_completed_command(self) -> None:
        upstream = self.travelling(b"LIST\n")
        self.clock.advance(0.2)
        upstream.send(b"OK\na.txt\n")
        self.clock.advance(2.0)
        upstream.send(b"END\n")
        self.assertEqual(self.value("natproxy_commands", "LIST", "completed"), 1)
        self.assertEqual(self.value("natproxy_commands", "LIST", "error"), 0)
        self.assertEqual(self.value("natproxy_sent_bytes", "LIST"), len(b"OK\na.txt\nEND\n"))
        first, whole = (
            self.buckets(f"natproxy_{name}_seconds", "LIST")
            for name in ("first_byte", "command_duration")
        )
        self.assertAlmostEqual(first.sum, 0.2)
        self.assertAlmostEqual(whole.sum, 2.2)
        self.assertEqual(first.counts[first.bounds.index(0.25)], 1)
        self.assertEqual(whole.counts[whole.bounds.index(5.0)], 1)

    def test_time_to_connect(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.clock.advance(0.03)
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK\nEND\n")
        connect = self.buckets("natproxy_connect_seconds")
        self.assertAlmostEqual(connect.sum, 0.03)
        self.assertEqual(connect.counts[connect.bounds.index(0.05)], 1)

    def test_command_without_an_upstream(self) -> None:
        self.protocol.dataReceived(b"STAT a\n")
        self.endpoint.last.refuse(ConnectError())
        self.assertEqual(self.value("natproxy_commands", "STAT", "error"), 1)
        self.assertEqual(self.value("natproxy_sent_bytes", "STAT"), len(self.wire.taken()))
        self.assertEqual(values(self.metrics.families(), "natproxy_first_byte_seconds"), {})

    def test_body_that_waits_for_its_file_server(self) -> None:
        self.factory.resources.retries.resume_for = 30.0
        self.travelling(b"GET a\n").send(b"OK 10 offset=0 size=10 etag=e mtime=1.0\nabc")
        self.assertEqual(self.metrics.counters()["retries"]["waiting"], 0)
        self.endpoint.last.die()
        self.assertEqual(self.metrics.counters()["retries"]["waiting"], 1)

    def test_client_that_goes(self) -> None:
        self.travelling(b"DOWNLOAD a\n").send(b"OK 10\nabc")
        self.wire.lose(self.protocol)
        self.assertEqual(self.value("natproxy_commands", "DOWNLOAD", "client-gone"), 1)
        self.assertEqual(self.value("natproxy_sent_bytes", "DOWNLOAD"), len(b"OK 10\nabc"))

    def test_unknown_verbs_share_one_label(self) -> None:
        for verb in (b"EVIL{}", b'X"', b"list2"):
            self.travelling(verb + b" name\n").send(b"ERR unknown command\n")
        self.assertEqual(self.value("natproxy_commands", "other", "completed"), 3)
        labels = {labels[0] for labels in values(self.metrics.families(), "natproxy_commands")}
        known = {"LIST", "DOWNLOAD", "FEAT", "STAT", "GET", "LS", "PACK", "HASH", "other"}
        self.assertEqual(labels, known)

    def test_nothing_of_the_network_is_a_label(self) -> None:
        self.travelling(b"GET s3cret.txt\n").send(b"OK 1 offset=0 size=1 etag=e mtime=0\nx")
        shown = repr(self.metrics.families())
        for text in ("s3cret", "43210", "127.0.0.1", "9001", "50000"):
            self.assertNotIn(text, shown)

    def test_expiry_of_certificates_only_with_tls(self) -> None:
        name = "natproxy_certificate_expiry_seconds"
        self.assertNotIn(name, [family.name for family in self.metrics.families()])
        self.metrics.certificate_expiry = lambda: 1.75e9
        self.assertEqual(self.value(name), 1.75e9)

    def test_nothing_is_counted_after_close(self) -> None:
        self.metrics.close()
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        self.assertEqual(self.value("natproxy_commands", "LIST", "completed"), 0)


class StateTests(ProxyMetricsCase):
    def test_clients_and_refusals(self) -> None:
        self.factory.admission = Admission(2)
        self.new_client(1)
        _, second = self.new_client(2)
        self.assertFalse(second.aborted)
        self.new_client(3)
        self.assertEqual(self.value("natproxy_clients"), 2)
        self.assertEqual(self.value("natproxy_clients_limit"), 2)
        self.assertEqual(self.value("natproxy_connections"), 3)
        self.assertEqual(self.value("natproxy_clients_refused", "clients"), 1)
        self.assertEqual(self.value("natproxy_clients_refused", "host"), 0)
        self.assertEqual(self.value("natproxy_clients_refused", "proxy-header"), 0)
        self.factory.failed_handshakes = 7
        self.assertEqual(self.value("natproxy_clients_refused", "tls-handshake"), 7)
        self.factory.arrivals.limit(1.0)
        for _ in range(3):
            self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        self.assertEqual(self.value("natproxy_clients_refused", "rate"), 2)

    def test_tokens_by_their_result(self) -> None:
        token, entry = new_token("alice")
        self.factory.accept_tokens(Tokens([entry]), False)
        for line in (f"AUTH {token}\n", "AUTH wrong\n", f"AUTH:{token}\n"):
            self.protocol.dataReceived(line.encode())
            self.clock.advance(1)
        results = ("accepted", "refused", "unsupported", "expired", "unencrypted")
        self.assertEqual(
            [self.value("natproxy_auth", result) for result in results], [1, 1, 1, 0, 0]
        )

    def test_limits(self) -> None:
        caller = Caller.at(Address("10.0.0.1", 1), "alice")
        self.factory.counts.delay(limited(1.0), caller)
        self.factory.counts.refuse(limited(1.0, "total.digests"), caller)
        self.factory.counts.refuse(DENIED, caller)
        self.assertEqual(self.value("natproxy_delayed", "client", "commands"), 1)
        self.assertEqual(self.value("natproxy_limited", "total", "digests"), 1)
        self.assertEqual(self.value("natproxy_connections_delayed"), 0)
        limits = self.metrics.counters()["limits"]
        self.assertEqual(limits["delayed"], {"client.commands": 1})
        self.assertEqual(limits["refused"], {"total.digests": 1})
        self.factory.counts.refuse(limited(1.0, "total.digests"), caller)
        (client,) = self.metrics.counters()["limits"]["clients"]
        self.assertEqual(
            client,
            {
                "client": "10.0.0.1",
                "identity": "alice",
                "delayed": 1,
                "refused": 2,
                "limit": "total.digests",
                "age": 0.0,
            },
        )

    def test_table_and_relays(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        self.assertEqual(self.value("natproxy_table_entries"), 1)
        upstream.send(b"OK 10\nabc")
        self.assertEqual(self.value("natproxy_relays", "copy"), 1)
        self.assertEqual(self.value("natproxy_relays_active", "copy"), 1)
        self.assertEqual(self.value("natproxy_relay_bytes", "copy"), len(b"OK 10\nabc"))
        upstream.send(b"defghij")
        self.assertEqual(self.value("natproxy_relays_active", "copy"), 0)
        self.assertEqual(self.value("natproxy_relay_bytes", "copy"), len(b"OK 10\nabcdefghij"))
        self.assertEqual(self.value("natproxy_table_entries"), 0)

    def test_recorders(self) -> None:
        self.assertEqual(values(self.metrics.families(), "natproxy_events"), {})
        self.assertEqual(values(self.metrics.families(), "natproxy_journal_rows"), {})

        class Journal:
            def status(self) -> JournalStatus:
                return JournalStatus("journal", 0, 0.25, 7, 1, 3, 9, "full")

        ring = EventRing(self.table, ORIGIN, size=2)
        self.metrics.recorders = Recorders(ring, Journal())
        ring.watchers = 5
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        found = {
            name: self.value(f"natproxy_{name}")
            for name in (
                "events",
                "ring_events",
                "watchers",
                "journal_lag_seconds",
                "journal_rows",
                "journal_gaps",
                "journal_segments",
                "journal_size_bytes",
                "journal_failed",
            )
        }
        self.assertEqual(list(found.values()), [3, 2, 5, 0.25, 7, 1, 3, 9, 1])

    def test_delay_of_the_reactor(self) -> None:
        self.metrics.startService()
        self.clock.advance(1.0)
        self.clock.advance(1.3)
        self.metrics.stopService()
        delay = self.buckets("natproxy_reactor_delay_seconds")
        self.assertEqual(sum(delay.counts), 2)
        self.assertEqual(delay.counts[0], 1)
        self.assertEqual(delay.counts[delay.bounds.index(0.5)], 1)
        self.clock.advance(5.0)
        self.assertEqual(sum(self.buckets("natproxy_reactor_delay_seconds").counts), 2)

    def test_build(self) -> None:
        (labels,) = values(self.metrics.families(), "natproxy_build")
        self.assertEqual(labels[3:], ("proxy-9000", "b00t"))


class PortTests(ProxyMetricsCase):
    def test_figures_are_of_the_upstreams_of_commands(self) -> None:
        self.assertEqual(self.metrics.upstreams(), frozenset())
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        self.travelling(b"LIST\n")
        self.assertEqual(self.metrics.upstreams(), {("127.0.0.1", 9001)})

    def test_unix_sockets_are_no_upstreams(self) -> None:
        self.endpoint.connections.clear()
        self.protocol.dataReceived(b"LIST\n")
        upstream = self.endpoint.last
        upstream.wire.peerAddr = UNIXAddress(None)
        upstream.accept()
        self.assertEqual(self.metrics.upstreams(), frozenset())

    def test_refresh_reads_in_a_thread_and_the_next_scrape_shows_it(self) -> None:
        self.metrics._ports._read = lambda upstreams: PortFigures(100, 30, 4)
        self.assertEqual(values(self.metrics.families(), "natproxy_upstream_ports_free"), {})
        done = self.metrics.refresh()
        self.thread.run()
        self.successResultOf(done)
        self.assertEqual(self.value("natproxy_upstream_ports_free"), 70)
        self.assertEqual(self.value("natproxy_upstream_time_wait"), 4)


class CountersTests(ProxyMetricsCase):
    def test_counters_for_status(self) -> None:
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        counters = self.metrics.counters()
        self.assertEqual(counters["commands"]["total"], 1)
        self.assertEqual(list(counters["commands"]["verbs"]), ["LIST"])
        self.assertEqual(counters["commands"]["verbs"]["LIST"]["completed"], 1)
        self.assertEqual(sum(counters["commands"]["duration"]["counts"]), 1)
        self.assertEqual(counters["clients"]["now"], 1)
        self.assertEqual(set(counters["ports"]), {"total", "used", "free", "time_wait"})

    def test_counters_of_an_idle_proxy(self) -> None:
        counters = self.metrics.counters()
        self.assertEqual(counters["commands"]["total"], 0)
        self.assertEqual(set(counters["commands"]["duration"]["counts"]), {0})
