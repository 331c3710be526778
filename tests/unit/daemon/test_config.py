"""The configs of the daemons: sources, errors, and what differs."""

from __future__ import annotations

import dataclasses
import os

from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import ScopeLimits
from natproxy.access.rules import AccessRule
from natproxy.daemon.config import DaemonConfig, without_options
from natproxy.daemon.config_fields import fields_of, key_of, settings_of, variable_of
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.limits import LimitSettings
from natproxy.daemon.options import parameters_of
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.reload import diff
from natproxy.settings import DEFAULT, Flag, Found, Seconds, SettingError, Source, WholeNumber
from natproxy.toml import format_settings
from tests.support.tables import Visit, VisitedConfig

BOTH = (ProxyConfig, FileServerConfig)


class ConfigCase(SynchronousTestCase):
    def write(self, text: str) -> str:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return path

    def error(self, text: str, config: type[DaemonConfig] = ProxyConfig) -> str:
        """Load a file that is wrong; return the message without its path."""
        path = self.write(text)
        error = self.assertRaises(SettingError, config.load, environment={}, file=path)
        self.assertTrue(str(error).startswith(f"{path}: "), str(error))
        return str(error).removeprefix(f"{path}: ")


class RecordTests(ConfigCase):
    def test_configs_are_frozen(self) -> None:
        config = ProxyConfig()
        with self.assertRaises(dataclasses.FrozenInstanceError):
            config.timeout = 1.0  # type: ignore[misc]

    def test_values_of_python_are_checked_and_converted(self) -> None:
        self.assertEqual(ProxyConfig(timeout=1).timeout, 1.0)
        error = self.assertRaises(SettingError, ProxyConfig, timeout=0)
        self.assertEqual(str(error), "--timeout 0: must be at least 0.001 seconds")
        self.assertRaises(SettingError, ProxyConfig, listen=())
        self.assertRaises(SettingError, FileServerConfig, max_clients_per_host=None)
        self.assertRaises(SettingError, FileServerConfig, relay="splice")

    def test_defaults_are_valid_and_have_no_other_source(self) -> None:
        for config in BOTH:
            loaded = config.load(environment={})
            self.assertEqual(loaded, config())
            self.assertEqual(set(loaded.sources.values()), {DEFAULT})

    def test_every_field_has_a_key_a_variable_and_a_summary(self) -> None:
        for config in BOTH:
            for one in fields_of(config):
                self.assertNotIn("_", key_of(one.name))
                self.assertTrue(one.metadata["summary"].endswith("."))
                self.assertTrue(variable_of(config, one.name).isupper())
                self.assertIn(
                    f":ivar {one.name}:", (config.__doc__ or "") + str(DaemonConfig.__doc__)
                )


class SourceTests(ConfigCase):
    def test_every_key_of_a_file_is_read(self) -> None:
        path = self.write(
            "[proxy]\n"
            'listen = ["tcp:1", "tcp:2"]\nupstream = "tcp:h:3"\ntimeout = 4\n'
            'source = "10.0.0.2"\nupstream-proxy-protocol = true\n'
            "connect-timeout = 5\nidle-timeout = 6\nfirst-command-timeout = 7.5\ndrain = 8\n"
            "resume-for = 21\n"
            'relay = "copy"\nmax-clients = 9\nmax-clients-per-host = 10\n'
            "line-timeout = 19\nbody-timeout = 20\n"
            'max-delay = 16\nmin-rate = "18K"\nlimits.total.commands = 17\n'
            'log = "a log"\nlog-level = "warn"\nlog-size = 11\nlog-keep = 12\naccess-log = "e"\n'
            'name = "a"\ncontrol = "b"\nweb = ["tcp:13"]\nweb-hosts = "c"\nident = "tcp:14"\n'
            'journal = "d"\njournal-keep = "15h"\njournal-max-size = "16M"\n'
            'journal-names = "none"\ntokens = "f"\nauth-plain = true\n'
            "workers = 19\nreload-drain = 20\n"
            'rules-default = "deny"\ntrusted-proxies = ["10.0.0.0/8"]\n'
            "upstream-lookup = 20\nupstream-connections = 21\n"
            "queue = 22\nqueue-timeout = 23\nhealth-interval = 24\n"
            "health-timeout = 25\nhealth-rise = 26\nhealth-fall = 27\nhealth-failures = 28\n"
            '[[proxy.rules]]\naction = "allow"\nclients = "unix"\n'
        )
        config = ProxyConfig.load(environment={}, file=path)
        self.assertEqual(
            config,
            ProxyConfig(
                listen=("tcp:1", "tcp:2"),
                upstream="tcp:h:3",
                source=("10.0.0.2",),
                upstream_proxy_protocol=True,
                upstream_lookup=20.0,
                upstream_connections=21,
                queue=22,
                queue_timeout=23.0,
                health_interval=24.0,
                health_timeout=25.0,
                health_rise=26,
                health_fall=27,
                health_failures=28,
                timeout=4.0,
                connect_timeout=5.0,
                resume_for=21.0,
                idle_timeout=6.0,
                first_command_timeout=7.5,
                drain=8.0,
                relay="copy",
                max_clients=9,
                max_clients_per_host=10,
                max_delay=16.0,
                min_rate=18 << 10,
                line_timeout=19.0,
                body_timeout=20.0,
                limits=LimitSettings(total=ScopeLimits(commands=17)),
                log="a log",
                log_level="warn",
                log_size=11,
                log_keep=12,
                access_log="e",
                name="a",
                control="b",
                web=("tcp:13",),
                web_hosts=("c",),
                ident="tcp:14",
                journal="d",
                journal_keep=15 * 3600.0,
                journal_max_size=16 << 20,
                journal_names="none",
                tokens="f",
                auth_plain=True,
                workers=19,
                reload_drain=20.0,
                rules=(AccessRule(True, ("unix",)),),
                rules_default="deny",
                trusted_proxies=("10.0.0.0/8",),
            ),
        )
        for one in settings_of(ProxyConfig):
            self.assertEqual(config.label(one.field), f"{path}: proxy.{one.key}")

    def test_every_variable_is_read(self) -> None:
        values = {
            "LISTEN": "tcp:1  tcp:2",
            "FILES": "a directory",
            "S3_ENDPOINT": "http://127.0.0.1:8333",
            "CACHE": "a cache",
            "CACHE_SIZE": "1G",
            "TIMEOUT": "1",
            "FIRST_COMMAND_TIMEOUT": "0",
            "DRAIN": "2",
            "RELAY": "sendfile",
            "MAX_CLIENTS": "3",
            "MAX_CLIENTS_PER_HOST": "4",
            "MAX_DELAY": "9",
            "MIN_RATE": "4K",
            "LINE_TIMEOUT": "10",
            "BODY_TIMEOUT": "11",
            "LOG": "-",
            "LOG_LEVEL": "debug",
            "LOG_SIZE": "0",
            "LOG_KEEP": "5",
            "ACCESS_LOG": "-",
            "NAME": "a",
            "CONTROL": "none",
            "WEB": "tcp:6  tcp:7",
            "WEB_HOSTS": "a.example",
            "TOKENS": "tokens",
            "WORKERS": "auto",
            "RELOAD_DRAIN": "10",
            "AUTH_PLAIN": "yes",
            "RULES_DEFAULT": "deny",
            "TRUSTED_PROXIES": "10.0.0.0/8  unix",
            "HIDE": "*.key /private",
        }
        environment = {f"NATPROXY_FILESERVER_{name}": value for name, value in values.items()}
        config = FileServerConfig.load(environment=environment)
        self.assertEqual(config.listen, ("tcp:1", "tcp:2"))
        self.assertEqual(
            (config.files, config.relay, config.log_keep), ("a directory", "sendfile", 5)
        )
        self.assertEqual(
            {
                config.source_of(one.field).kind
                for one in settings_of(FileServerConfig)
                if not one.table_only
            },
            {"environment"},
        )

    def test_order_of_the_sources(self) -> None:
        path = self.write("[proxy]\ntimeout = 1\ndrain = 1\nidle-timeout = 1\n")
        environment = {"NATPROXY_PROXY_CONFIG": path, "NATPROXY_PROXY_DRAIN": "2"}
        environment["NATPROXY_PROXY_TIMEOUT"] = "2"
        config = ProxyConfig.load({"timeout": "3"}, environment)
        times = (config.timeout, config.drain, config.idle_timeout, config.connect_timeout)
        self.assertEqual(times, (3.0, 2.0, 1.0, 5.0))
        labels = [config.label(name) for name in ("timeout", "drain", "connect_timeout")]
        self.assertEqual(labels, ["--timeout", "$NATPROXY_PROXY_DRAIN", "--connect-timeout"])

    def test_order_of_the_sources_of_every_setting(self) -> None:
        values = {
            "log-level": ("debug", "warn", "error"),
            "relay": ("copy", "auto", "copy"),
            "upstream-proxy-protocol": ("true", "false", "true"),
            "journal-names": ("none", "full", "none"),
            "rules-default": ("deny", "allow", "deny"),
            "trusted-proxies": ("10.0.0.1", "10.0.0.2", "10.0.0.3"),
            "source": ("127.0.0.1", "::1", "127.0.0.3"),
            "journal-keep": ("1d", "2d", "3d"),
            "journal-max-size": ("1G", "2G", "3G"),
            "min-rate": ("1K", "2K", "3K"),
            "auth-plain": ("true", "false", "true"),
            "workers": ("auto", "2", "3"),
            "s3-endpoint": ("http://a", "https://b", "http://c:1"),
            "cache-size": ("1G", "2G", "3G"),
        }
        for kind in (ProxyConfig, FileServerConfig):
            for one in settings_of(kind):
                if one.table_only:
                    continue
                quoted = not isinstance(one.rule, (Seconds, WholeNumber, Flag))
                numbers = [f"text{n}" if quoted else str(n) for n in (1, 2, 3)]
                in_file, in_variable, in_option = values.get(one.key, tuple(numbers))
                path = self.write(
                    f"[{kind.table}]\n{one.key} = " + (f'"{in_file}"' if quoted else in_file)
                )
                environment: dict[str, str] = {}
                options: dict[str, object] = {}
                for text, kind_of_source in (
                    (in_file, "file"),
                    (in_variable, "environment"),
                    (in_option, "option"),
                ):
                    if kind_of_source == "environment":
                        environment[one.variable] = text
                    elif kind_of_source == "option":
                        options[one.key] = text
                    config = kind.load(options, environment, path)
                    self.assertEqual(getattr(config, one.field), one.rule.parse(text), one.key)
                    self.assertEqual(config.source_of(one.field).kind, kind_of_source)

    def test_overridden_value_stays_whatever_the_file_has(self) -> None:
        path = self.write("[proxy]\n")
        config = ProxyConfig.load({}, {}, path).override(timeout=60.0, upstream="tcp:a:1")
        with open(path, "w") as file:
            file.write("[proxy]\ntimeout = 1\nupstream = 'tcp:b:1'\ndrain = 2\n")
        again = config.load_again()
        self.assertEqual((again.timeout, again.drain), (60.0, 2.0))
        self.assertEqual([one.endpoint for one in again.upstream], ["tcp:a:1"])
        self.assertRaises(SettingError, config.override, timeout=0)

    def test_file_of_windows_editors(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"\xef\xbb\xbf[proxy]\r\ntimeout = 1\r\n")
        self.assertEqual(ProxyConfig.load({}, {}, path).timeout, 1.0)

    def test_option_may_name_a_source_of_its_own(self) -> None:
        source = Source("option", "--fileserver-listen")
        config = FileServerConfig.load({"listen": Found("tcp:1", source)}, {})
        self.assertEqual((config.listen, config.label("listen")), (("tcp:1",), source.name))

    def test_daemon_reads_its_own_table_only(self) -> None:
        path = self.write("[proxy]\ntimeout = 1\n")
        self.assertEqual(FileServerConfig.load(environment={}, file=path), FileServerConfig())


class ErrorTests(ConfigCase):
    def test_wrong_rules_and_patterns(self) -> None:
        rules = "[[proxy.rules]]\naction = 'deny'\n" * 2
        error = self.error(rules + "clients = ['10.0.0.300']\n")
        self.assertEqual(
            error,
            "proxy.rules[1].clients: '10.0.0.300' is no network: write one as 10.0.0.0/8,"
            " an address, or 'unix' (rule 2)",
        )
        self.assertEqual(
            self.error("[proxy]\ntrusted-proxies = ['10.0.0.1/8']\n"),
            "proxy.trusted-proxies [\"10.0.0.1/8\"]: '10.0.0.1/8' has bits set after its prefix:"
            " 10.0.0.0/8 may be meant",
        )
        error = self.error("[fileserver]\nhide = ['a//b']\n", FileServerConfig)
        self.assertIn("fileserver.hide [\"a//b\"]: 'a//b' cannot be used: no name has", error)

    def test_unknown_keys_and_tables(self) -> None:
        for text, message in (
            ("[prxy]\n", "prxy: unknown key; did you mean proxy?"),
            ("timeout = 1\n", "timeout: unknown key; known are fileserver, proxy"),
            ("proxy = 1\n", "proxy: must be a table, [proxy]"),
            ("[proxy]\ntime-out = 1\n", "proxy.time-out: unknown key; did you mean proxy.timeout?"),
            (
                "[proxy]\nidle_timeout = 1\n",
                "proxy.idle_timeout: unknown key; did you mean proxy.idle-timeout?",
            ),
        ):
            self.assertEqual(self.error(text), message)
        self.assertIn(
            "fileserver.upstream: unknown",
            self.error("[fileserver]\nupstream = ''\n", FileServerConfig),
        )

    def test_wrong_types_and_values(self) -> None:
        for line, message in (
            ("timeout = '5'", 'timeout "5": must be a number of seconds'),
            ("timeout = inf", "timeout inf: must be a finite number of seconds"),
            ("drain = -1", "drain -1: must be at least 0 seconds"),
            ("max-clients = 0", "max-clients 0: must be a whole number from 1 up"),
            ("max-clients = 2.0", "max-clients 2.0: must be a whole number from 1 up"),
            ("log-size = true", "log-size true: must be a whole number from 0 up"),
            ("listen = []", "listen []: must be a string, or a list of at least one"),
            ("listen = [1]", "listen [1]: must be a string, or a list of at least one"),
            ("upstream = 1", "upstream 1: must be an endpoint, or a list of endpoints and tables"),
            ("upstream = ''", 'upstream "": must not be empty'),
            ('log = "a\\u0000"', 'log "a\\u0000": must not contain a NUL character'),
            ("relay = 'sendfile'", 'relay "sendfile": must be one of auto, copy, splice'),
        ):
            self.assertEqual(self.error(f"[proxy]\n{line}\n"), f"proxy.{message}")

    def test_value_that_is_overridden_is_an_error_too(self) -> None:
        path = self.write("[proxy]\ntimeout = 0\n")
        error = self.assertRaises(SettingError, ProxyConfig.load, {"timeout": "1"}, {}, path)
        self.assertIn("proxy.timeout 0: must be", str(error))

    def test_every_error_has_a_message(self) -> None:
        path = self.write("[proxy]\ntimeout = 0\ndrain = -1\ncolour = 1\n")
        error = self.assertRaises(SettingError, ProxyConfig.load, {"relay": "x"}, {}, path)
        self.assertEqual(len(error.messages), 4)

    def test_unknown_table_hides_no_other_error(self) -> None:
        path = self.write("fileserver = 1\n[colour]\n[proxy]\ntimeout = 0\n")
        for config, wrong in ((ProxyConfig, 3), (FileServerConfig, 2)):
            error = self.assertRaises(SettingError, config.load, {}, {}, path)
            self.assertEqual(len(error.messages), wrong)

    def test_file_that_is_not_utf_8(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"[proxy]\n\nlog = '\xe9'\n")
        error = self.assertRaises(SettingError, ProxyConfig.load, {}, {}, path)
        self.assertEqual(str(error), f"{path}: not a TOML file: not UTF-8 (at line 3)")

    def test_file_without_end(self) -> None:
        error = self.assertRaises(SettingError, ProxyConfig.load, {}, {}, "/dev/zero")
        message = "/dev/zero: not a file of settings: larger than 1048576 bytes"
        self.assertEqual(str(error), message)
        self.assertEqual(ProxyConfig.load({}, {}, self.write("#" * 2**20)), ProxyConfig())

    def test_empty_name_of_a_file_is_not_taken_for_none(self) -> None:
        environment = {"NATPROXY_PROXY_CONFIG": self.write("")}
        error = self.assertRaises(SettingError, ProxyConfig.load, {}, environment, "")
        self.assertEqual(str(error), "--config: must name a file")

    def test_file_that_cannot_be_read(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        for path, message in (
            ("missing", "No such file or directory"),
            (directory, "Is a directory"),
        ):
            error = self.assertRaises(SettingError, ProxyConfig.load, environment={}, file=path)
            self.assertEqual(str(error), f"{path}: {message}")
        self.assertTrue(self.error("[proxy\n").startswith("not a TOML file: "))


class ReloadableTests(ConfigCase):
    def test_what_takes_a_restart(self) -> None:
        fixed = {
            one.name
            for config in BOTH
            for one in fields_of(config)
            if not one.metadata["reloadable"]
        }
        places = {"name", "control", "web", "web_hosts", "journal", "journal_names", "ident"}
        files = {"files", "s3_endpoint", "cache", "cache_size"}
        self.assertEqual(fixed, {"listen", "log", "access_log", "workers", *files, *places})


class TableOnlyTests(ConfigCase):
    """A value that only the file has: `tests.support.tables`."""

    TEXT = (
        "[proxy]\ndrain = 5\n"
        "[[proxy.visits]]\naction = 'come'\n[[proxy.visits]]\naction = 'go'\n"
        "[proxy.visits.hours]\nfrom = 8\n"
    )
    VISITS = (Visit("come"), Visit("go", {"from": 8}))

    def test_it_is_read_checked_and_compared(self) -> None:
        path = self.write(self.TEXT)
        config = VisitedConfig.load(environment={}, file=path)
        self.assertEqual(config.visits, self.VISITS)
        self.assertEqual(config.label("visits"), f"{path}: proxy.visits")
        self.assertEqual(config, VisitedConfig(visits=self.VISITS, drain=5.0))
        self.assertEqual(diff(VisitedConfig(), config), (("drain", "visits"), ()))

    def test_error_names_the_key_inside(self) -> None:
        for line, message in (
            ("action = 'stay'", "visits[0].action stay: must be one of come, go"),
            ("akcion = 1", "visits[0].akcion: unknown key; did you mean visits[0].action?"),
        ):
            text = f"[[proxy.visits]]\n{line}\n"
            self.assertEqual(self.error(text, VisitedConfig), f"proxy.{message}")
        error = self.assertRaises(SettingError, VisitedConfig.load, {"visits": [{"action": 1}]}, {})
        self.assertEqual(str(error), "visits[0].action 1: must be one of come, go")
        error = self.assertRaises(SettingError, VisitedConfig, visits=3)
        self.assertEqual(str(error), "visits: must be a list of tables, [[proxy.visits]]")

    def test_it_has_neither_an_option_nor_a_variable(self) -> None:
        visits = [one for one in settings_of(VisitedConfig) if one.key == "visits"]
        self.assertEqual([(one.variable, one.option) for one in visits], [("", "visits")])
        self.assertNotIn("visits", [one[0] for one in parameters_of(VisitedConfig)])
        variables = {"": "x", "NATPROXY_PROXY_VISITS": "x"}
        self.assertEqual(VisitedConfig.load({}, variables), VisitedConfig())
        self.assertEqual(VisitedConfig().label("visits"), "proxy.visits")
        self.assertEqual(without_options(VisitedConfig()).label("visits"), "proxy.visits")

    def test_shown_settings_are_a_file_with_the_same_values(self) -> None:
        path = self.write(self.TEXT)
        for config in (VisitedConfig.load(environment={}, file=path), VisitedConfig()):
            settings = settings_of(VisitedConfig)
            found = {
                one.field: Found(getattr(config, one.field), config.source_of(one.field))
                for one in settings
            }
            shown = format_settings(settings, found, "proxy")
            again = VisitedConfig.load(environment={}, file=self.write(shown))
            self.assertEqual(again, config)
        self.assertIn("visits = []", shown)
