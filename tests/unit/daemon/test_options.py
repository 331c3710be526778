"""Command lines of the daemons: values, errors, help."""

from __future__ import annotations

import os

from twisted.application.service import IService, IServiceMaker
from twisted.python import usage
from twisted.python.reflect import namedAny

from natproxy.daemon import fileserver
from natproxy.daemon import proxy as proxy_plugin
from natproxy.daemon.service import DrainingService, StartupError, TwistdService
from tests.support.daemons import OptionsCase
from twisted.plugins import natproxy_dropin

MALFORMED_SECONDS = ("", "soon", "-1", "nan", "inf", "1e999")
MALFORMED_NUMBERS = ("", "many", "0", "-1", "1.5", "1e3", "٣", " 3")
KINDS = (proxy_plugin.Options, fileserver.Options)


class DefaultTests(OptionsCase):
    def test_times(self) -> None:
        proxy = self.proxy_config()
        times = (proxy.timeout, proxy.connect_timeout, proxy.idle_timeout, proxy.drain)
        self.assertEqual(times, (60.0, 5.0, 600.0, 30.0))
        server = self.server_config()
        self.assertEqual((server.timeout, server.drain), (600.0, 30.0))

    def test_options_override_the_environment_and_that_overrides_the_file(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("[proxy]\ntimeout = 1\ndrain = 1\nidle-timeout = 1\n")
        self.patch(os, "environ", {"NATPROXY_PROXY_DRAIN": "2", "NATPROXY_PROXY_TIMEOUT": "2"})
        config = self.proxy_config(f"--config={path}", "--timeout=3")
        self.assertEqual((config.timeout, config.drain, config.idle_timeout), (3.0, 2.0, 1.0))
        self.assertEqual(config.label("timeout"), "--timeout")
        self.assertEqual(config.label("drain"), "$NATPROXY_PROXY_DRAIN")
        self.assertEqual(config.label("idle_timeout"), f"{path}: proxy.idle-timeout")


class MalformedTests(OptionsCase):
    def test_seconds(self) -> None:
        self.assert_all_refused(fileserver.Options, "--timeout", [*MALFORMED_SECONDS, "0"])
        for option in ("--timeout", "--connect-timeout", "--idle-timeout"):
            self.assert_all_refused(proxy_plugin.Options, option, [*MALFORMED_SECONDS, "0"])
        for kind in KINDS:
            self.assert_all_refused(kind, "--drain", MALFORMED_SECONDS)
            self.assert_all_refused(kind, "--first-command-timeout", MALFORMED_SECONDS)

    def test_numbers(self) -> None:
        malformed = [number for number in MALFORMED_NUMBERS if number != "0"]
        for kind in KINDS:
            self.assert_all_refused(kind, "--max-clients", MALFORMED_NUMBERS)
            for option in ("--max-clients-per-host", "--log-size", "--log-keep"):
                self.assert_all_refused(kind, option, malformed)

    def test_relay(self) -> None:
        for kind, words in zip(KINDS, ("auto, copy, splice", "auto, copy, sendfile"), strict=True):
            message = self.assert_refused(kind, "--relay", "fast")
            self.assertTrue(message.endswith(f"--relay fast: must be one of {words}"))

    def test_texts(self) -> None:
        self.assertEqual(
            self.assert_refused(proxy_plugin.Options, "--timeout", "0"),
            "twistd natproxy: --timeout 0: must be at least 0.001 seconds",
        )
        self.assertEqual(
            self.assert_refused(proxy_plugin.Options, "--max-clients", "0"),
            "twistd natproxy: --max-clients 0: must be a whole number from 1 up",
        )

    def test_unknown_option(self) -> None:
        for kind in KINDS:
            wrong = self.assertRaises(StartupError, self.options, kind, "--colour=blue")
            program = kind.config_class.program()
            self.assertEqual(str(wrong), f"{program}: option --colour not recognized")

    def test_surplus_argument(self) -> None:
        for kind in KINDS:
            wrong = self.assertRaises(StartupError, self.options, kind, "tcp:9000", "surplus")
            program = kind.config_class.program()
            self.assertEqual(
                str(wrong), f"{program}: tcp:9000: not an option; settings begin with --"
            )

    def test_missing_file_of_settings(self) -> None:
        for kind in KINDS:
            wrong = self.assertRaises(StartupError, self.options, kind, "--config=missing")
            program = kind.config_class.program()
            self.assertEqual(str(wrong), f"{program}: missing: No such file or directory")

    def test_error_is_no_usage_error(self) -> None:
        wrong = self.assertRaises(StartupError, self.options, proxy_plugin.Options, "--drain=x")
        self.assertNotIsInstance(wrong, usage.UsageError)


class OnceTests(OptionsCase):
    def test_second_directory_is_an_error(self) -> None:
        arguments = (f"--files={self.directory}", f"--files={self.directory}")
        wrong = self.assertRaises(StartupError, self.options, fileserver.Options, *arguments)
        self.assertIn("--files can be specified only once", str(wrong))


class PluginTests(OptionsCase):
    def test_makers_lead_to_the_options_and_the_service(self) -> None:
        for maker, module in (
            (natproxy_dropin.natproxy, proxy_plugin),
            (natproxy_dropin.fileserver, fileserver),
        ):
            self.assertTrue(IServiceMaker.providedBy(maker))
            self.assertIs(namedAny(maker.module), module)
            self.assertEqual(maker.tapname, module.Options.config_class.daemon)

    def test_service_holds_the_daemon(self) -> None:
        proxy = proxy_plugin.Options(self.reactor)
        proxy.parseOptions([])
        server = fileserver.Options(self.reactor)
        server.parseOptions([f"--files={self.directory}"])
        for service in (proxy_plugin.makeService(proxy), fileserver.makeService(server)):
            self.assertTrue(IService.providedBy(service))
            assert isinstance(service, TwistdService)
            self.assertIsInstance(service.services[0], DrainingService)

    def test_nothing_is_listened_on_before_the_service_starts(self) -> None:
        self.start(proxy_plugin.Options, "--listen=tcp:7001")
        self.assertEqual(self.reactor.tcpServers, [])

    def test_help_names_every_option_with_its_default(self) -> None:
        shown = " ".join(str(proxy_plugin.Options(self.reactor)).split())
        for words in ("--listen=", "tcp:127.0.0.1:9001", "60.0", "5.0", "600.0", "30.0", "10000"):
            self.assertIn(words, shown)
