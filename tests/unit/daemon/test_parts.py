"""Each reloadable setting of both daemons takes effect at a reload."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import LogLevel

from natproxy.access import Limits
from natproxy.access.rules import AccessRule
from natproxy.daemon import endpoints, fileserver
from natproxy.daemon import proxy as proxy_plugin
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.config_fields import fields_of, key_of
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.logfile import MIB, LogWriter, RotatingFile
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.proxy_observation import ProxyObservation
from natproxy.daemon.reload import Reloader, Result
from natproxy.daemon.service import DrainingService
from natproxy.journal.maintenance import Maintenance
from natproxy.protocol import Command
from natproxy.proxy.resolution import AddressCache
from natproxy.relay import Method, Relays
from natproxy.settings import SettingError
from natproxy.tokens.entries import new_token
from natproxy.tokens.file import add_token
from natproxy.toml_values import to_toml
from tests.support.daemons import OptionsCase, at_once
from tests.support.doubles import Journal

Effects = Mapping[str, tuple[object, Callable[[Any], object], object]]
"""By field: a value of TOML, what reads its effect of a service, and the effect."""

LIST = Command(b"LIST", b"", b"LIST")

TOKENS = "tokens-of-the-test"
"""A file in the working directory."""

BOTH: Effects = {
    "auth_plain": (True, lambda service: service.factory.authenticator._plain, True),
    "drain": (7.0, lambda service: service.drain, 7.0),
    "first_command_timeout": (8, lambda service: service.factory.first_commands.seconds, 8.0),
    "log_keep": (3, lambda service: service.log.file._kept, 3),
    "log_level": ("warn", lambda service: service.log.writer.level, LogLevel.warn),
    "log_size": (4, lambda service: service.log.file._limit, 4 * MIB),
    "max_clients": (5, lambda service: service.factory.admission.clients, 5),
    "max_clients_per_host": (6, lambda service: service.factory.admission.per_host, 6),
    "reload_drain": (14, lambda service: service.reloader.settings[0].config.reload_drain, 14.0),
    "tokens": (TOKENS, lambda service: len(service.factory.authenticator._tokens), 1),
    "limits": (
        {"total": {"commands": 5}},
        lambda service: any(isinstance(each, Limits) for each in service.factory.gates),
        True,
    ),
    "max_delay": (4, lambda service: service.factory.delays.longest, 4.0),
    "rules": (
        [{"action": "deny"}],
        lambda service: service.factory.rules.rules.rules,
        (AccessRule(False),),
    ),
    "rules_default": (
        "deny",
        lambda service: service.factory.rules in service.factory.gates,
        True,
    ),
    "trusted_proxies": (
        ["10.0.0.0/8"],
        lambda service: service.factory.trusted_proxies is not None,
        True,
    ),
    "line_timeout": (13, lambda service: service.factory.lines.seconds, 13.0),
    "body_timeout": (14, lambda service: service.factory.bodies.seconds, 14.0),
    "min_rate": ("4K", lambda service: service.factory.minimum_rate.rate, 4096),
    "relay": ("copy", lambda service: _method(_relays(service)), Method.COPY),
}

PROXY: Effects = {
    **BOTH,
    "connect_timeout": (9, lambda service: _connector(service).timeout, 9.0),
    "health_failures": (21, lambda service: _upstreams(service).health.failures, 21),
    "health_fall": (22, lambda service: _upstreams(service).health.fall, 22),
    "health_interval": (23, lambda service: _upstreams(service).health.interval, 23.0),
    "health_rise": (24, lambda service: _upstreams(service).health.rise, 24),
    "health_timeout": (25, lambda service: _upstreams(service).health.timeout, 25.0),
    "idle_timeout": (10, lambda service: service.factory.idle.seconds, 10.0),
    "journal_keep": ("1h", lambda service: _maintenance(service)._keep, 3600.0),
    "journal_max_size": ("2M", lambda service: _maintenance(service)._max_size, 2 << 20),
    "resume_for": (12, lambda service: service.factory.resources.retries.resume_for, 12.0),
    "queue": (26, lambda service: _upstreams(service).queue.length, 26),
    "queue_timeout": (27, lambda service: _upstreams(service).queue.timeout, 27.0),
    "source": (["127.0.0.3"], lambda service: _connector(service).sources is not None, True),
    "timeout": (11, lambda service: service.factory.resources.replies.seconds, 11.0),
    "upstream_proxy_protocol": (
        True,
        lambda service: _upstream(service).header,
        True,
    ),
    "upstream_lookup": (29, lambda service: _resolver(service).interval, 29.0),
    "upstream_connections": (28, lambda service: _upstream(service).limit, 28),
    "upstream": ("tcp:127.0.0.2:1", lambda service: _connector(service).address, ("127.0.0.2", 1)),
}

FILE_SERVER: Effects = {
    **BOTH,
    "hide": (["a"], lambda service: service.factory.services.storage._hiding is not None, True),
    "timeout": (12, lambda service: service.factory.idle.seconds, 12.0),
}


def _relays(service: DrainingService) -> Relays:
    factory: Any = service.factory
    relays = (factory.resources if hasattr(factory, "resources") else factory.services).relays
    assert isinstance(relays, Relays)
    return relays


def _method(relays: Relays) -> Method:
    return Method.COPY if relays._shared is None else Method.AUTO


def _upstreams(service: DrainingService) -> Any:
    factory: Any = service.factory
    return factory.resources.upstreams


def _resolver(service: DrainingService) -> Any:
    assert service.reloader is not None
    (settings,) = service.reloader.settings
    (names,) = [
        bound
        for part in settings._parts
        for bound in getattr(part, "args", ())
        if isinstance(bound, AddressCache)
    ]
    return names


def _upstream(service: DrainingService) -> Any:
    return _upstreams(service).choose(LIST)


def _connector(service: DrainingService) -> Any:
    return _upstream(service).connector


def _maintenance(service: DrainingService) -> Any:
    companion = service.companion
    assert isinstance(companion, ProxyObservation)
    assert companion.journal is not None
    return companion.journal._maintenance


class PlayedJournal:
    """The part of a journal that a reload changes."""

    def __init__(self) -> None:
        self._maintenance = Maintenance("", "", 0, 1.0, 1)

    def retain(self, keep: float, max_size: int) -> None:
        self._maintenance.limit(keep, max_size)


class EffectTests(OptionsCase):
    def setUp(self) -> None:
        super().setUp()
        self.journal = Journal(self)
        self.file = os.path.abspath(self.mktemp())
        self.write("# none\n")
        self.patch(endpoints, "missing_source", lambda host: None)
        add_token(TOKENS, new_token("alice")[1])
        self.addCleanup(os.unlink, TOKENS)

    def write(self, text: str) -> None:
        with open(self.file, "w") as file:
            file.write(text)

    def service(self, config: type[DaemonConfig]) -> DrainingService:
        """Return a daemon with a log and a journal, whose reloads happen at once."""
        option = f"--config={self.file}"
        if config is ProxyConfig:
            service = self.proxy(option)
            assert isinstance(service.companion, ProxyObservation)
            service.companion.journal = PlayedJournal()  # type: ignore[assignment]
        else:
            service = self.server(option)
        log = RotatingFile(self.mktemp())
        self.addCleanup(log.close)
        service.log = LogChoice(LogWriter(log), log)
        assert service.reloader is not None
        service.reloader = Reloader(self.reactor, at_once, *service.reloader.settings)
        return service

    def reload(self, service: DrainingService) -> Result:
        return self.successResultOf(service.reload("SIGHUP"))

    def assert_effects(self, config: type[DaemonConfig], effects: Effects) -> None:
        reloadable = {one.name for one in fields_of(config) if one.metadata["reloadable"]}
        # A field that is missing here needs an effect, or is not reloadable.
        self.assertEqual(set(effects), reloadable)
        for name, (value, effect_of, expected) in effects.items():
            self.write("# none\n")
            service = self.service(config)
            self.assertNotEqual(effect_of(service), expected, name)
            self.write(f"[{config.table}]\n{key_of(name)} = {to_toml(value)}\n")
            result = self.reload(service)
            self.assertEqual(result.errors, ())
            self.assertEqual(
                [one.setting for one in result.changed], [f"{config.table}.{key_of(name)}"]
            )
            self.assertEqual(effect_of(service), expected, name)
            self.write("# none\n")
            self.assertEqual(len(self.reload(service).changed), 1)
            self.assertNotEqual(effect_of(service), expected, name)

    def test_every_reloadable_setting_of_the_proxy(self) -> None:
        self.assert_effects(ProxyConfig, PROXY)

    def test_every_reloadable_setting_of_the_file_server(self) -> None:
        self.assert_effects(FileServerConfig, FILE_SERVER)

    def test_start_has_the_same_effects(self) -> None:
        for config, effects in ((ProxyConfig, PROXY), (FileServerConfig, FILE_SERVER)):
            # The log and the journal are opened later, with their settings.
            early = {
                name: effect
                for name, effect in effects.items()
                if not name.startswith(("log_", "journal_"))
            }
            lines = [
                f"{key_of(name)} = {to_toml(value)}\n" for name, (value, _, _) in early.items()
            ]
            self.write(f"[{config.table}]\n{''.join(lines)}")
            service = self.service(config)
            for name, (_, effect_of, expected) in early.items():
                self.assertEqual(effect_of(service), expected, name)

    def test_status_shows_the_upstream_that_is_used(self) -> None:
        service = self.service(ProxyConfig)
        self.write("[proxy]\nupstream = 'tcp:127.0.0.2:1'\n")
        self.reload(service)
        companion = service.companion
        assert isinstance(companion, ProxyObservation)
        companion.journal = None
        self.assertEqual(companion.status()["upstream"], "tcp:127.0.0.2:1")

    def test_wrong_file_of_tokens_changes_nothing(self) -> None:
        for mode, reason in ((0o666, "other users can write the file"), (0o600, "line 1: ")):
            self.write("# none\n")
            service = self.service(ProxyConfig)
            with open("wrong-tokens", "w") as file:
                file.write("alice\n")
            os.chmod("wrong-tokens", mode)
            self.write("[proxy]\ntokens = 'wrong-tokens'\ntimeout = 5\n")
            (error,) = self.reload(service).errors
            self.assertTrue(
                error.startswith(f"{self.file}: proxy.tokens wrong-tokens: {reason}"), error
            )
            self.assertEqual(PROXY["timeout"][1](service), 60.0)
            os.unlink("wrong-tokens")

    def test_missing_file_of_tokens_is_an_error_at_the_start(self) -> None:
        self.write("[fileserver]\ntokens = 'none'\n")
        error = self.assertRaises(SettingError, self.service, FileServerConfig)
        self.assertEqual(
            str(error), f"{self.file}: fileserver.tokens none: No such file or directory"
        )

    def test_changed_file_of_tokens_is_read_again(self) -> None:
        self.write(f"[proxy]\ntokens = '{TOKENS}'\n")
        service = self.service(ProxyConfig)
        add_token(TOKENS, new_token("bob")[1])
        self.assertEqual(self.reload(service).errors, ())
        self.assertEqual(len(service.factory.authenticator._tokens), 2)

    def test_wrong_upstream_changes_nothing(self) -> None:
        service = self.service(ProxyConfig)
        self.write("[proxy]\nupstream = '9001'\ntimeout = 5\n")
        (error,) = self.reload(service).errors
        self.assertEqual(
            error, f"{self.file}: proxy.upstream 9001: not an endpoint; write tcp:127.0.0.1:9001"
        )
        self.assertEqual(PROXY["timeout"][1](service), 60.0)

    def test_level_of_a_log_that_is_not_the_daemons_is_an_error(self) -> None:
        service = self.service(ProxyConfig)
        service.log = LogChoice(foreign="twistd writes the log")
        self.write("[proxy]\nlog-level = 'error'\n")
        (error,) = self.reload(service).errors
        self.assertEqual(
            error, f"{self.file}: proxy.log-level error: has no effect: twistd writes the log"
        )

    def test_daemon_that_stops_reloads_nothing(self) -> None:
        service = self.service(FileServerConfig)
        service.stopService()
        self.write("[fileserver]\ntimeout = 5\n")
        (error,) = self.reload(service).errors
        self.assertIn("the daemon is stopped", error)
        self.assertEqual(FILE_SERVER["timeout"][1](service), 600.0)

    def test_plugins_reload_at_a_hangup(self) -> None:
        for plugin in (proxy_plugin, fileserver):
            options = plugin.Options(self.reactor)
            options.parseOptions([f"--config={self.file}"])
            service: Any = plugin.makeService(options)
            (daemon, _, maintenance) = service.services
            self.assertEqual(maintenance._reload, daemon.reload)
            self.assertIsNotNone(daemon.reloader)
