"""How many clients a number of descriptors suffices for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.descriptors import (
    PER_CLIENT,
    PER_SPLICE,
    RESERVED,
    RESERVED_BY_THREADS,
    WALK,
    Capacity,
    file_server_capacity,
    proxy_capacity,
)
from natproxy.fileserver import digests
from natproxy.fileserver import protocol as fileserver


class CapacityTests(SynchronousTestCase):
    def test_every_client_can_be_served_within_the_descriptors(self) -> None:
        for descriptors in (128, 256, 1024, 4096, 65_536, 1 << 20):
            proxy = proxy_capacity(descriptors)
            needed = RESERVED + proxy.clients * PER_CLIENT + proxy.splices * PER_SPLICE
            self.assertLessEqual(needed, descriptors)
            server = file_server_capacity(descriptors)
            if descriptors >= 256:
                self.assertLessEqual(RESERVED + server.clients * PER_CLIENT, descriptors)

    def test_default_number_of_clients_fits_into_the_units_limit(self) -> None:
        self.assertGreaterEqual(proxy_capacity(65_536).clients, 10_000)
        self.assertGreaterEqual(file_server_capacity(65_536).clients, 10_000)

    def test_proxy_always_admits_one_client(self) -> None:
        self.assertEqual(proxy_capacity(0), Capacity(1))

    def test_file_server_always_admits_a_proxy_with_one_client(self) -> None:
        # The connection of the last command, and that of the next.
        for descriptors in (0, 64, RESERVED + RESERVED_BY_THREADS + PER_CLIENT):
            self.assertEqual(file_server_capacity(descriptors), Capacity(2))

    def test_threads_whose_clients_have_disconnected_have_descriptors(self) -> None:
        walks = (fileserver.PAGES_AT_ONCE + 1) * WALK
        files = fileserver.READS_AT_ONCE + digests.THREADS
        self.assertLessEqual(walks + files, RESERVED_BY_THREADS)
