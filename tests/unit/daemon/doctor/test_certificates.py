"""How long certificates are still valid."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.certificates import listening_tls
from natproxy.daemon.doctor.certificates import check_certificates
from natproxy.daemon.doctor.finding import Level
from tests.support.certificates import Authority


class CertificateTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        cert, key = Authority(directory).issue("server.example")
        self.description = f"ssl:9443:privateKey={key}:certKey={cert}"
        self.reactor = MemoryReactorClock()
        self.end = listening_tls(self.reactor, self.description)[1].expires.timestamp()

    def test_level_by_the_time_that_is_left(self) -> None:
        for left, level in (
            (30 * 86_400.0, Level.OK),
            (3 * 86_400.0, Level.WARNING),
            (0.0, Level.PROBLEM),
        ):
            for prefix in ("", "haproxy:"):
                now = self.end - left
                (finding,) = check_certificates(
                    self.reactor, [prefix + self.description], lambda now=now: now
                )
                self.assertIs(finding.level, level)
                self.assertIs("reload" in finding.remedy, level is not Level.OK)

    def test_other_endpoints_and_wrong_ones_are_no_findings(self) -> None:
        endpoints = ["tcp:1", "ssl:1", "ssl:1:privateKey=/nowhere", "unix:ssl:1"]
        self.assertEqual(check_certificates(self.reactor, endpoints, lambda: 0.0), [])
