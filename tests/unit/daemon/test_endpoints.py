"""Endpoint strings of the settings: malformed ones, and what is suggested in their place."""

from __future__ import annotations

import os

from natproxy.daemon import endpoints, fileserver
from natproxy.daemon import proxy as proxy_plugin
from natproxy.daemon.options import DaemonOptions
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.proxy.sources import Sources
from natproxy.settings import SettingError
from tests.support.daemons import OptionsCase

MALFORMED_LISTEN = (
    "",
    "9000",
    "bogus:9000",
    "tcp",
    "tcp:",
    "tcp:http-alt-and-more",
    "tcp:9000:backlog=many",
    "tcp:9000:colour=blue",
    "unix",
    "systemd:domain=INET",
    "systemd:domain=INET:index=0",
)
MALFORMED_UPSTREAM = ("", "127.0.0.1", "bogus:127.0.0.1:9001", "tcp:127.0.0.1", "tcp:host:http-x")


class MalformedTests(OptionsCase):
    def test_listen(self) -> None:
        self.assert_all_refused(proxy_plugin.Options, "--listen", MALFORMED_LISTEN)
        self.assert_all_refused(fileserver.Options, "--listen", MALFORMED_LISTEN)

    def test_upstream(self) -> None:
        self.assert_all_refused(proxy_plugin.Options, "--upstream", MALFORMED_UPSTREAM)

    def test_port_that_does_not_exist(self) -> None:
        for endpoint in ("tcp:65536", "tcp:-1", "tcp6:port=99999", "haproxy:tcp:70000:backlog=5"):
            message = self.assert_refused(proxy_plugin.Options, "--listen", endpoint)
            self.assertIn("there is no port ", message)

    def test_upstream_with_a_port_that_does_not_exist(self) -> None:
        for port in ("0", "65536", "99999"):
            message = self.assert_refused(
                proxy_plugin.Options, "--upstream", f"tcp:127.0.0.1:{port}"
            )
            self.assertIn(f"there is no port {port}", message)

    def test_certificate_that_is_missing(self) -> None:
        message = self.assert_refused(
            proxy_plugin.Options, "--listen", "ssl:9000:privateKey=nowhere.pem"
        )
        self.assertTrue("nowhere.pem" in message.split(": ", 2)[2] or "natproxy[tls]" in message)


class SourceTests(OptionsCase):
    """Local addresses of upstream connections."""

    def setUp(self) -> None:
        super().setUp()
        self.missing = {"10.9.9.9": "not an address of this machine"}
        self.patch(endpoints, "missing_source", self.missing.get)

    def sources(self, upstream: str, *hosts: str) -> object:
        options = [f"--source={host}" for host in hosts]
        made = self.options(proxy_plugin.Options, f"--upstream={upstream}", *options)
        assert isinstance(made.config, ProxyConfig)
        return endpoints.upstream_sources(made.config)

    def error(self, upstream: str, *hosts: str) -> tuple[str, ...]:
        return self.assertRaises(SettingError, self.sources, upstream, *hosts).messages

    def test_none_is_the_default(self) -> None:
        self.assertIsNone(self.sources("unix:socket"))

    def test_option_is_repeated(self) -> None:
        sources = self.sources("tcp:10.0.0.1:9001", "10.0.0.2", "10.0.0.3")
        assert isinstance(sources, Sources)
        self.assertEqual(list(sources.of_family("10.0.0.1")), ["10.0.0.2", "10.0.0.3"])

    def test_address_of_another_machine(self) -> None:
        self.missing["10.9.9.8"] = "Permission denied"
        self.assertEqual(
            self.error("tcp:10.0.0.1:9001", "10.0.0.2", "10.9.9.9", "10.9.9.8"),
            (
                "--source 10.9.9.9: not an address of this machine",
                "--source 10.9.9.8: Permission denied",
            ),
        )

    def test_unix_socket_has_none(self) -> None:
        self.assertEqual(
            self.error("unix:socket", "10.0.0.2"),
            (
                "--source 10.0.0.2: a connection to a UNIX socket has no such address"
                " (--upstream unix:socket)",
            ),
        )

    def test_none_is_of_the_family_of_the_upstream(self) -> None:
        for upstream, family, host in [
            ("tcp:10.0.0.1:9001", "IPv4", "fd00::1"),
            ("tls:host=10.0.0.1:9001", "IPv4", "fd00::1"),
            (r"tcp:fd00\:\:9:9001", "IPv6", "10.0.0.1"),
        ]:
            self.assertEqual(
                self.error(upstream, host),
                (
                    f"--source {host}: none is of {family}, as the upstream is"
                    f" (--upstream {upstream})",
                ),
            )
            self.assertIsNotNone(self.sources(upstream, "10.0.0.2", "fd00::2"))

    def test_name_may_be_of_either_family(self) -> None:
        for host in ("10.0.0.2", "fd00::2"):
            self.assertIsNotNone(self.sources("tcp:files.example:9001", host))


class SuggestionTests(OptionsCase):
    def assert_suggested(
        self, kind: type[DaemonOptions], option: str, suggestions: dict[str, str]
    ) -> None:
        for text, suggested in suggestions.items():
            message = self.assert_refused(kind, option, text)
            self.assertTrue(message.endswith(f": not an endpoint; write {suggested}"), message)
            # The suggestion itself is valid.
            self.start(kind, f"{option}={suggested}")

    def test_listen(self) -> None:
        for kind in (proxy_plugin.Options, fileserver.Options):
            self.addCleanup(os.chdir, os.getcwd())
            os.chdir(self.directory)
            self.directory = "."
            self.assert_suggested(
                kind,
                "--listen",
                {
                    "9020": "tcp:9020",
                    ":9020": "tcp:9020",
                    "0.0.0.0:9020": "tcp:9020",
                    "127.0.0.1:9020": "tcp:9020:interface=127.0.0.1",
                    "localhost:9020": "tcp:9020:interface=127.0.0.1",
                    "files.example:9020": "tcp:9020:interface=files.example",
                    "tcp:127.0.0.1:9020": "tcp:9020:interface=127.0.0.1",
                    "tcp://127.0.0.1:9020": "tcp:9020:interface=127.0.0.1",
                    "natproxy://127.0.0.1:9020/": "tcp:9020:interface=127.0.0.1",
                    "[::1]:9020": r"tcp6:9020:interface=\:\:1",
                },
            )

    def test_misspelt_type_is_not_taken_for_a_host(self) -> None:
        for kind in (proxy_plugin.Options, fileserver.Options):
            self.assertIn(
                "Unknown endpoint type: 'tpc'",
                self.assert_refused(kind, "--listen", "tpc:9020"),
            )

    def test_upstream(self) -> None:
        self.assert_suggested(
            proxy_plugin.Options,
            "--upstream",
            {
                "9001": "tcp:127.0.0.1:9001",
                ":9001": "tcp:127.0.0.1:9001",
                "tcp:9001": "tcp:127.0.0.1:9001",
                "127.0.0.1:9001": "tcp:127.0.0.1:9001",
                "files.example:9001": "tcp:files.example:9001",
                "natproxy://files.example:9001": "tcp:files.example:9001",
                "[::1]:9001": r"tcp:\:\:1:9001",
            },
        )

    def test_nothing_is_suggested_for_what_is_not_nearly_an_endpoint(self) -> None:
        for text in ("", "files", "bogus:127.0.0.1:9001", "127.0.0.1:0", "127.0.0.1:99999"):
            for option in ("--listen", "--upstream"):
                message = self.assert_refused(proxy_plugin.Options, option, text)
                self.assertNotIn("not an endpoint; write", message)
