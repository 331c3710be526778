"""How many clients a number of descriptors suffices for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.descriptors import (
    JOURNAL,
    PACK,
    PER_CLIENT,
    PER_PIPE,
    PER_SPLICE,
    RESERVED,
    RESERVED_BY_THREADS,
    WALK,
    Capacity,
    Observers,
    file_server_capacity,
    observers_for,
    proxy_capacity,
)
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.fileserver import digests, factory, packs, pages


def needed_by(proxy: Capacity) -> int:
    """Return the descriptors that a proxy needs when everything is used."""
    splicing = proxy.splices * PER_SPLICE + proxy.pipes * PER_PIPE
    return RESERVED + proxy.clients * PER_CLIENT + splicing


class CapacityTests(SynchronousTestCase):
    def test_every_client_can_be_served_within_the_descriptors(self) -> None:
        for descriptors in (128, 256, 1024, 4096, 65_536, 1 << 20):
            proxy = proxy_capacity(descriptors)
            needed = needed_by(proxy)
            self.assertLessEqual(needed, descriptors)
            server = file_server_capacity(descriptors)
            if descriptors >= 256:
                self.assertLessEqual(RESERVED + server.clients * PER_CLIENT, descriptors)

    def test_observers_have_descriptors_of_their_own(self) -> None:
        everything = ProxyConfig(web=("tcp:1",), ident="tcp:2")
        for descriptors in (256, 1024, 65_536):
            observers = observers_for(everything, descriptors)
            self.assertEqual(observers.control, observers.web)
            proxy = proxy_capacity(descriptors, observers)
            needed = needed_by(proxy)
            self.assertLessEqual(needed + sum(observers), descriptors)
            self.assertGreaterEqual(proxy.clients, 16)
            self.assertLessEqual(observers.control, max(2, descriptors // 16))

    def test_what_is_off_takes_no_descriptors(self) -> None:
        off = ProxyConfig(control="none", journal="none")
        self.assertEqual(observers_for(off, 1024), Observers())
        self.assertEqual(observers_for(ProxyConfig(), 1024), Observers(64, 0, 0, JOURNAL))
        self.assertEqual(observers_for(FileServerConfig(), 1024), Observers(control=64))
        several = ProxyConfig().override(upstream=("tcp:a:1", "tcp:b:1", "tcp:c:1"))
        self.assertEqual(observers_for(several, 1024).checks, 3)
        unchecked = several.override(health_interval=0)
        self.assertEqual(observers_for(unchecked, 1024).checks, 0)

    def test_default_number_of_clients_fits_into_the_units_limit(self) -> None:
        everything = Observers(64, 64, 32, JOURNAL)
        self.assertGreaterEqual(proxy_capacity(65_536, everything).clients, 10_000)
        self.assertGreaterEqual(file_server_capacity(65_536).clients, 10_000)

    def test_thousands_of_bodies_are_spliced_through_few_pipes(self) -> None:
        proxy = proxy_capacity(65_536)
        self.assertGreaterEqual(proxy.splices, 4096)
        self.assertEqual(proxy.pipes, 512)
        few = proxy_capacity(1024)
        self.assertGreaterEqual(few.splices, 64)
        self.assertGreaterEqual(few.pipes, 8)

    def test_proxy_always_admits_one_client(self) -> None:
        self.assertEqual(proxy_capacity(0), Capacity(1))

    def test_file_server_always_admits_a_proxy_with_one_client(self) -> None:
        # The connection of the last command, and that of the next.
        for descriptors in (0, 64, RESERVED + RESERVED_BY_THREADS + PER_CLIENT):
            self.assertEqual(file_server_capacity(descriptors), Capacity(2))

    def test_threads_whose_clients_have_disconnected_have_descriptors(self) -> None:
        walks = (pages.CONCURRENT_PAGES + 1) * WALK
        packed = packs.CONCURRENT_PACKS * PACK
        files = factory.CONCURRENT_READS + digests.THREADS
        self.assertLessEqual(walks + packed + files, RESERVED_BY_THREADS)
