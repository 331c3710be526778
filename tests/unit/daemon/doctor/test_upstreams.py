"""The check of the addresses of upstreams."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.doctor.finding import Level
from natproxy.daemon.doctor.upstreams import check_upstreams

LOCAL = ("127.0.0.1", "::1", "10.0.0.1")


class UpstreamsTests(SynchronousTestCase):
    def found(self, listen: str, *endpoints: str) -> list[tuple[Level, str]]:
        """Return the levels and texts for a proxy; its upstreams are a, b, and so on."""
        upstreams = list(zip("abc", endpoints, strict=False))
        return [
            (each.level, each.text)
            for each in check_upstreams([listen], upstreams, LOCAL.__contains__)
        ]

    def test_one_and_several(self) -> None:
        self.assertEqual(self.found("tcp:9000", "tcp:127.0.0.1:9001"), [(Level.OK, "one")])
        self.assertEqual(
            self.found("tcp:9000", "tcp:files-a:9001", "tls:files-b:9001:trustRoots=/x", "unix:/c"),
            [(Level.OK, "3 at addresses of their own")],
        )

    def test_two_at_one_address(self) -> None:
        for first, second, place in (
            ("tcp:10.0.0.9:9001", "tcp:host=10.0.0.9:port=9001", "10.0.0.9:9001"),
            ("tcp:[\\:\\:1]:9001", "tcp:host=[\\:\\:1]:9001:timeout=3", "[::1]:9001"),
            ("tcp:files:9001", "tls:files:9001", "files:9001"),
            ("unix:/run/files", "unix:path=/run/files:timeout=3", "/run/files"),
        ):
            text = f"a and b are at one address ({place}): they fail together"
            self.assertEqual(self.found("tcp:9000", first, second), [(Level.WARNING, text)])

    def test_proxy_itself(self) -> None:
        for listen, upstream in (
            ("tcp:9000", "tcp:127.0.0.1:9000"),
            ("tcp:9000", "tcp:localhost:9000"),
            ("tcp:9000", "tcp:10.0.0.1:9000"),
            ("tcp:9000:interface=0.0.0.0", "tcp:10.0.0.1:9000"),
            ("haproxy:tcp:port=9000:interface=127.0.0.1", "tcp:127.0.0.1:9000"),
            ("tcp:9000:interface=127.0.0.1", "tcp:localhost:9000"),
            ("tcp:9000:interface=10.0.0.1", "tcp:10.0.0.1:9000"),
            ("tls:9443:certificate=/c:privateKey=/k", "tls:localhost:9443"),
            ("unix:/run/natproxy", "unix:/run/natproxy"),
        ):
            ((level, text),) = self.found(listen, upstream)
            self.assertIs(level, Level.PROBLEM, listen)
            self.assertIn("the upstream a is the proxy itself", text)

    def test_others_are_not_the_proxy(self) -> None:
        for listen, upstream in (
            ("tcp:9000", "tcp:127.0.0.1:9001"),
            ("tcp:9000", "tcp:10.0.0.2:9000"),
            ("tcp:9000:interface=10.0.0.1", "tcp:127.0.0.1:9000"),
            ("tcp:9000:interface=10.0.0.1", "tcp:localhost:9000"),
            ("unix:/run/natproxy", "unix:/run/files"),
            ("systemd:domain=INET:index=0", "tcp:127.0.0.1:9000"),
            ("tcp:9000", "clientFromSomePlugin:9000"),
        ):
            self.assertEqual(self.found(listen, upstream), [(Level.OK, "one")], (listen, upstream))
