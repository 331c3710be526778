"""What the proxy is made of, for a config."""

from __future__ import annotations

from natproxy.daemon import proxy
from natproxy.daemon.descriptors import observers_for, proxy_capacity
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.protocol import parse_command
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.tcp import TCPConnector
from natproxy.server.admission import Admission
from tests.support.daemons import OptionsCase
from tests.support.doubles import Journal

LIST = parse_command(b"LIST")
assert LIST is not None


class ProxyCase(OptionsCase):
    def factory(self, *arguments: str) -> ProxyFactory:
        factory = self.proxy(*arguments).factory
        assert isinstance(factory, ProxyFactory)
        return factory


class MakeTests(ProxyCase):
    def test_it_listens_on_all_interfaces_by_default(self) -> None:
        daemon = self.proxy()
        daemon.privilegedStartService()
        self.assertEqual(self.reactor.tcpServers, [(9000, daemon.factory, 50, "")])

    def test_it_connects_to_a_file_server_on_the_same_host_by_default(self) -> None:
        upstream = self.factory().resources.upstreams.choose(LIST)
        assert upstream is not None
        connector = upstream.connector
        assert isinstance(connector, TCPConnector)
        self.assertEqual(connector.address, ("127.0.0.1", 9001))

    def test_values_reach_the_factory(self) -> None:
        factory = self.factory(
            "--timeout=1.5",
            "--connect-timeout=2",
            "--idle-timeout=3e2",
            "--max-clients=4",
            "--upstream=tcp:files.example:7000",
        )
        self.assertEqual(factory.resources.replies.seconds, 1.5)
        (upstream,) = factory.resources.upstreams
        self.assertEqual(upstream.connector.timeout, 2.0)
        self.assertEqual(upstream.name, "files.example:7000")
        self.assertEqual(factory.idle.seconds, 300.0)
        self.assertEqual(factory.admission.clients, 4)
        self.assertEqual(factory.first_commands.seconds, 30.0)

    def test_it_listens_on_all_endpoints_and_not_on_the_default(self) -> None:
        listen = ("--listen=tcp:7001", "--listen=unix:/run/x.sock", "--listen=tcp6:7002")
        daemon = self.proxy(*listen)
        daemon.privilegedStartService()
        self.assertEqual([server[0] for server in self.reactor.tcpServers], [7001, 7002])
        self.assertEqual([server[0] for server in self.reactor.unixServers], ["/run/x.sock"])
        self.assertEqual(len(daemon.ports), 3)

    def test_every_relay_has_a_method(self) -> None:
        for relay in proxy.RELAYS:
            self.factory(f"--relay={relay}")


class AdmissionTests(ProxyCase):
    def admission(self, *arguments: str, descriptors: int = 65_536) -> Admission:
        return self.proxy(*arguments, descriptors=descriptors).factory.admission

    def test_limits(self) -> None:
        for arguments, clients, per_host in (
            ((), 10_000, 1000),
            (("--max-clients=500",), 500, 50),
            (("--max-clients=100",), 100, 16),
            (("--max-clients=500", "--max-clients-per-host=7"), 500, 7),
            (("--max-clients-per-host=0",), 10_000, 0),
        ):
            admission = self.admission(*arguments)
            self.assertEqual((admission.clients, admission.per_host), (clients, per_host))

    def test_number_of_clients_follows_from_the_descriptors(self) -> None:
        journal = Journal(self)
        capacity = proxy_capacity(256, observers_for(ProxyConfig(), 256))
        self.assertEqual(self.admission(descriptors=256).clients, capacity.clients)
        self.assertEqual(journal.lines(), [])
        admission = self.admission("--max-clients=300", descriptors=256)
        self.assertEqual(admission.clients, capacity.clients)
        journal.line_with(
            f"natproxy: --max-clients 300: there are descriptors for {capacity.clients} clients"
        )
