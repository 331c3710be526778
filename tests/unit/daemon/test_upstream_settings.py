"""The upstreams in options, variables and files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import endpoints
from natproxy.daemon.endpoints import upstream_targets
from natproxy.daemon.proxy_config import HEALTH_INTERVAL, ProxyConfig
from natproxy.daemon.upstream_settings import UpstreamList, UpstreamSettings, default_name
from natproxy.settings import SettingError
from natproxy.toml_values import to_toml
from tests.support.daemons import OptionsCase


class RuleTests(SynchronousTestCase):
    def refusal(self, value: object) -> str:
        return str(self.assertRaises(ValueError, UpstreamList().check, value))

    def test_string_list_and_tables(self) -> None:
        rule = UpstreamList()
        one = UpstreamSettings("tcp:a:1", "a:1")
        self.assertEqual(rule.check("tcp:a:1"), (one,))
        self.assertEqual(rule.check(["tcp:a:1"]), (one,))
        self.assertEqual(rule.check([{"endpoint": "tcp:a:1"}]), (one,))
        self.assertEqual(rule.parse(" tcp:a:1  unix:/b "), (one, UpstreamSettings("unix:/b", "/b")))
        table = {"name": "x", "endpoint": "tls:b:2", "proxy-protocol": True, "connections": 7}
        self.assertEqual(
            rule.check(["tcp:a:1", table]), (one, UpstreamSettings("tls:b:2", "x", True, 7))
        )
        self.assertEqual(rule.check(rule.check(["tcp:a:1", table])), rule.check(["tcp:a:1", table]))

    def test_errors_name_the_upstream_and_the_key(self) -> None:
        for value, message in (
            (1, "must be an endpoint, or a list of endpoints and tables"),
            ([], "must be an endpoint, or a list of endpoints and tables"),
            ([1], "must be an endpoint, or a list of endpoints and tables"),
            ("", "must not be empty"),
            (
                ["tcp:a:1", {"name": "b"}],
                "must have an endpoint in each table; upstream 2 has none",
            ),
            (
                [{"endpoint": "tcp:a:1", "nam": "b"}],
                "upstream 1.nam: unknown key; did you mean upstream 1.name?",
            ),
            (
                [{"endpoint": "tcp:a:1", "name": "b c"}],
                'upstream 1.name "b c": must be 1 to 128 printable ASCII characters without white'
                " space",
            ),
            (
                [{"endpoint": "tcp:a:1", "connections": -1}],
                "upstream 1.connections -1: must be a whole number from 0 up",
            ),
            (
                ["tcp:a:1", "tls:a:1"],
                "must not have two upstreams with the name a:1; set name in a table for each",
            ),
            ([f"tcp:a:{port}" for port in range(1, 400)], "must be at most 256 upstreams"),
        ):
            self.assertEqual(self.refusal(value), message)

    def test_names(self) -> None:
        for endpoint, name in (
            ("tcp:files.example:9001", "files.example:9001"),
            ("tcp:host=files.example:port=9001", "files.example:9001"),
            ("tls:files.example:9443:trustRoots=ca.pem", "files.example:9443"),
            (r"tcp:fd00\:\:1:9001", "[fd00::1]:9001"),
            ("unix:/run/files", "/run/files"),
            ("bogus", "bogus"),
        ):
            self.assertEqual(default_name(endpoint), name)

    @given(
        st.lists(
            st.builds(
                UpstreamSettings,
                st.sampled_from(["tcp:a:1", "unix:/x", "tls:b:2:trustRoots=c"]),
                st.text("abcdef.:[]", min_size=1, max_size=8),
                st.none() | st.booleans(),
                st.none() | st.integers(0, 99),
            ),
            min_size=1,
            max_size=5,
            unique_by=lambda one: one.name,
        )
    )
    def test_plain_value_is_the_same_setting(self, upstreams: list[UpstreamSettings]) -> None:
        rule = UpstreamList()
        value = rule.check(upstreams)
        plain = rule.plain(value)
        self.assertEqual(rule.check(plain), value)
        self.assertEqual(rule.show(value), to_toml(plain))


class SourceTests(OptionsCase):
    def load(self, text: str, **options: object) -> ProxyConfig:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return ProxyConfig.load(options, {}, path)

    def test_option_is_repeated(self) -> None:
        config = self.proxy_config("--upstream", "tcp:a:1", "--upstream", "tcp:b:2")
        self.assertEqual([one.name for one in config.upstream], ["a:1", "b:2"])

    def test_tables_of_a_file(self) -> None:
        config = self.load(
            "[proxy]\nupstream-connections = 5\nupstream-proxy-protocol = true\n"
            '[[proxy.upstream]]\nname = "one"\nendpoint = "tcp:127.0.0.1:1"\nproxy-protocol = false'
            '\n[[proxy.upstream]]\nendpoint = "tcp:127.0.0.2:2"\nconnections = 0\n'
        )
        targets = upstream_targets(MemoryReactorClock(), config)
        self.assertEqual(
            [(one.name, one.description, one.header, one.limit) for one in targets],
            [("one", "tcp:127.0.0.1:1", False, 5), ("127.0.0.2:2", "tcp:127.0.0.2:2", True, 0)],
        )

    def test_option_replaces_the_tables(self) -> None:
        text = '[[proxy.upstream]]\nname = "one"\nendpoint = "tcp:127.0.0.1:1"\n'
        config = self.load(text, upstream=["tcp:a:1", "tcp:b:2"])
        self.assertEqual([one.name for one in config.upstream], ["a:1", "b:2"])

    def test_every_malformed_endpoint_is_an_error(self) -> None:
        config = self.proxy_config("--upstream", "tcp:a", "--upstream", "tcp:b:0")
        error = self.assertRaises(SettingError, upstream_targets, MemoryReactorClock(), config)
        self.assertEqual(len(error.messages), 2)
        self.assertIn("--upstream tcp:b:0: there is no port 0", error.messages)

    def test_source_must_suit_every_upstream(self) -> None:
        self.patch(endpoints, "missing_source", lambda host: None)
        config = self.proxy_config(
            "--upstream", "tcp:127.0.0.1:1", "--upstream", "unix:/x", "--source", "127.0.0.1"
        )
        error = self.assertRaises(SettingError, upstream_targets, MemoryReactorClock(), config)
        self.assertEqual(
            error.messages,
            (
                "--source 127.0.0.1: a connection to a UNIX socket has no such address"
                " (--upstream unix:/x)",
            ),
        )

    def test_checks_are_on_by_default_with_several_upstreams(self) -> None:
        several = ("tcp:a:1", "tcp:b:2")
        self.assertEqual(ProxyConfig().health.interval, 0.0)
        self.assertEqual(ProxyConfig(health_interval=3.0).health.interval, 3.0)
        for upstream, interval, effective in (
            (several, None, HEALTH_INTERVAL),
            (several, 0.0, 0.0),
            (several, 7.0, 7.0),
        ):
            config = ProxyConfig().override(upstream=upstream, health_interval=interval)
            self.assertEqual(config.health.interval, effective)
