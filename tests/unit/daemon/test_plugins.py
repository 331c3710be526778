"""What an operator writes on the command line, and what is made of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from unittest import SkipTest

from twisted.application.service import IService, IServiceMaker
from twisted.internet.testing import MemoryReactorClock
from twisted.python import usage
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import fileserver
from natproxy.daemon import proxy as proxy_plugin
from natproxy.daemon.descriptors import room_for_file_server, room_for_proxy
from natproxy.daemon.options import DaemonOptions
from natproxy.daemon.service import DrainingService, StartupError, TwistdService
from natproxy.fileserver.factory import FileServerFactory
from natproxy.protocol import Command
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.tcp import TCPConnector
from tests.support.doubles import Journal
from twisted.plugins import natproxy_dropin

MALFORMED_SECONDS = ("", "soon", "-1", "nan", "inf", "1e999")
MALFORMED_NUMBERS = ("", "many", "0", "-1", "1.5", "1e3", "٣", " 3")
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


COMMAND = Command(b"LIST", b"", b"LIST")


class ThreadedMemoryReactor(MemoryReactorClock):
    """A reactor in memory that has a name for its thread pool."""

    def getThreadPool(self) -> object:
        return self


class OptionsCase(SynchronousTestCase):
    """Has a reactor, and reads command lines."""

    def setUp(self) -> None:
        self.reactor = ThreadedMemoryReactor()
        self.folder = self.mktemp()
        os.mkdir(self.folder)

    def server_options(self, *arguments: str) -> fileserver.Options:
        options = fileserver.Options(self.reactor)
        options.parseOptions([f"--files={self.folder}", *arguments])
        return options

    def proxy_options(self, *arguments: str) -> proxy_plugin.Options:
        options = proxy_plugin.Options(self.reactor)
        options.parseOptions(arguments)
        return options

    def assert_refused(self, options: DaemonOptions, option: str, value: str) -> str:
        """Assert that a value gets one line, which names the daemon, the option and it."""
        wrong = self.assertRaises(StartupError, options.parseOptions, [f"{option}={value}"])
        message = str(wrong)
        self.assertEqual(message.splitlines(), [message])
        start = f"twistd {options.daemon}: {option} {value}: "
        self.assertTrue(message.startswith(start), message)
        self.assertTrue(message.removeprefix(start).strip(), message)
        return message

    def assert_all_refused(
        self, kind: type[DaemonOptions], option: str, values: Sequence[str]
    ) -> None:
        for value in values:
            self.assert_refused(kind(self.reactor), option, value)


class DefaultTests(OptionsCase):
    def test_file_server_listens_on_the_loopback_interface(self) -> None:
        daemon = fileserver.make_daemon(self.server_options())
        daemon.privilegedStartService()
        self.assertEqual(self.reactor.tcpServers, [(9001, daemon.factory, 50, "127.0.0.1")])

    def test_proxy_listens_everywhere(self) -> None:
        daemon = proxy_plugin.make_daemon(self.proxy_options())
        daemon.privilegedStartService()
        self.assertEqual(self.reactor.tcpServers, [(9000, daemon.factory, 50, "")])

    def test_proxy_connects_to_a_file_server_on_the_same_host(self) -> None:
        factory = proxy_plugin.make_daemon(self.proxy_options()).factory
        assert isinstance(factory, ProxyFactory)
        connector = factory.resources.upstreams.choose(COMMAND)
        assert isinstance(connector, TCPConnector)
        self.assertEqual(connector.address, ("127.0.0.1", 9001))

    def test_times_and_limits(self) -> None:
        proxy = self.proxy_options()
        given = [proxy[o] for o in ("timeout", "connect-timeout", "idle-timeout", "drain")]
        self.assertEqual(given, [60.0, 5.0, 600.0, 30.0])
        server = self.server_options()
        self.assertEqual([server["timeout"], server["drain"]], [600.0, 30.0])

    def test_file_server_serves_the_directory_files_and_creates_only_that(self) -> None:
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        for created in (True, False):
            options = fileserver.Options(self.reactor)
            options.parseOptions([])
            self.assertEqual(options.directory.path, os.fsencode(os.path.abspath("files")))
            self.assertEqual(options.created, created)

    def test_directory_that_was_created_is_removed_if_the_file_server_cannot_listen(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        for content in ([], ["files"]):
            options = fileserver.Options(self.reactor)
            options.parseOptions([])
            for name in content:
                open(os.path.join("files", name), "w").close()
            fileserver.make_daemon(options).undo()
            self.assertEqual(os.listdir(), content)


class GivenTests(OptionsCase):
    def test_proxy_passes_every_value_on(self) -> None:
        daemon = proxy_plugin.make_daemon(
            self.proxy_options(
                "--timeout=1.5",
                "--connect-timeout=2",
                "--idle-timeout=3e2",
                "--max-clients=4",
                "--upstream=tcp:files.example:7000",
            )
        )
        factory = daemon.factory
        assert isinstance(factory, ProxyFactory)
        self.assertEqual(factory.resources.replies.seconds, 1.5)
        self.assertEqual(factory.resources.upstreams.choose(COMMAND).timeout, 2.0)
        self.assertEqual(factory.idle.seconds, 300.0)
        self.assertEqual(factory.admission.clients, 4)

    def test_file_server_passes_every_value_on(self) -> None:
        factory = fileserver.make_daemon(self.server_options("--timeout=7")).factory
        assert isinstance(factory, FileServerFactory)
        self.assertEqual(factory.idle.seconds, 7.0)
        self.assertEqual(factory.services.storage.path, os.fsencode(os.path.abspath(self.folder)))

    def test_all_endpoints_are_listened_on_and_not_the_default(self) -> None:
        options = self.proxy_options(
            "--listen=tcp:7001", "--listen=unix:/run/x.sock", "--listen=tcp6:7002"
        )
        daemon = proxy_plugin.make_daemon(options)
        daemon.privilegedStartService()
        self.assertEqual([server[0] for server in self.reactor.tcpServers], [7001, 7002])
        self.assertEqual([server[0] for server in self.reactor.unixServers], ["/run/x.sock"])
        self.assertEqual(len(daemon.ports), 3)
        described = [description for description, _ in options.listeners]
        self.assertEqual(described, ["tcp:7001", "unix:/run/x.sock", "tcp6:7002"])

    def test_nothing_is_listened_on_before_the_service_starts(self) -> None:
        proxy_plugin.makeService(self.proxy_options("--listen=tcp:7001"))
        self.assertEqual(self.reactor.tcpServers, [])


class MalformedTests(OptionsCase):
    def test_seconds(self) -> None:
        self.assert_all_refused(fileserver.Options, "--timeout", [*MALFORMED_SECONDS, "0"])
        self.assert_all_refused(fileserver.Options, "--drain", MALFORMED_SECONDS)
        for option in ("--timeout", "--connect-timeout", "--idle-timeout"):
            self.assert_all_refused(proxy_plugin.Options, option, [*MALFORMED_SECONDS, "0"])
        self.assert_all_refused(proxy_plugin.Options, "--drain", MALFORMED_SECONDS)

    def test_numbers(self) -> None:
        self.assert_all_refused(proxy_plugin.Options, "--max-clients", MALFORMED_NUMBERS)

    def test_listen(self) -> None:
        self.assert_all_refused(proxy_plugin.Options, "--listen", MALFORMED_LISTEN)
        self.assert_all_refused(fileserver.Options, "--listen", MALFORMED_LISTEN)

    def test_upstream_without_such_a_port(self) -> None:
        for port in ("0", "65536", "99999"):
            message = self.assert_refused(
                proxy_plugin.Options(self.reactor), "--upstream", f"tcp:127.0.0.1:{port}"
            )
            self.assertIn(f"there is no port {port}", message)

    def test_upstream(self) -> None:
        self.assert_all_refused(proxy_plugin.Options, "--upstream", MALFORMED_UPSTREAM)

    def test_certificate_that_is_not_there(self) -> None:
        message = self.assert_refused(
            proxy_plugin.Options(self.reactor), "--listen", "ssl:9000:privateKey=nowhere.pem"
        )
        self.assertTrue("nowhere.pem" in message.split(": ", 2)[2] or "natproxy[tls]" in message)

    def test_unknown_option(self) -> None:
        for options in (proxy_plugin.Options(self.reactor), fileserver.Options(self.reactor)):
            wrong = self.assertRaises(StartupError, options.parseOptions, ["--colour=blue"])
            self.assertEqual(str(wrong), f"twistd {options.daemon}: option --colour not recognized")

    def test_surplus_argument(self) -> None:
        for options in (proxy_plugin.Options(self.reactor), fileserver.Options(self.reactor)):
            wrong = self.assertRaises(StartupError, options.parseOptions, ["surplus"])
            self.assertIn(f"twistd {options.daemon}: ", str(wrong))

    def test_a_complaint_is_a_usage_error_to_no_one(self) -> None:
        options = proxy_plugin.Options(self.reactor)
        wrong = self.assertRaises(StartupError, options.parseOptions, ["--drain=x"])
        self.assertNotIsInstance(wrong, usage.UsageError)


class NearlyEndpointTests(OptionsCase):
    def assert_suggested(
        self, kind: type[DaemonOptions], option: str, suggestions: dict[str, str]
    ) -> None:
        for given, suggested in suggestions.items():
            message = self.assert_refused(kind(self.reactor), option, given)
            self.assertTrue(message.endswith(f": not an endpoint; write {suggested}"), message)
            # What is suggested is understood.
            kind(self.reactor).parseOptions([f"{option}={suggested}"])

    def test_listen(self) -> None:
        for kind in (proxy_plugin.Options, fileserver.Options):
            self.addCleanup(os.chdir, os.getcwd())
            os.chdir(self.folder)
            self.folder = "."
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
                self.assert_refused(kind(self.reactor), "--listen", "tpc:9020"),
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
        for given in ("", "files", "bogus:127.0.0.1:9001", "127.0.0.1:0", "127.0.0.1:99999"):
            for option in ("--listen", "--upstream"):
                message = self.assert_refused(proxy_plugin.Options(self.reactor), option, given)
                self.assertNotIn("not an endpoint; write", message)


class OnceTests(OptionsCase):
    def test_second_upstream_is_an_error(self) -> None:
        options = proxy_plugin.Options(self.reactor)
        arguments = ["--upstream=tcp:127.0.0.1:1", "--upstream=tcp:127.0.0.1:2"]
        wrong = self.assertRaises(StartupError, options.parseOptions, arguments)
        self.assertEqual(
            str(wrong),
            "twistd natproxy: --upstream tcp:127.0.0.1:2: --upstream can be given only once",
        )

    def test_second_directory_is_an_error(self) -> None:
        options = fileserver.Options(self.reactor)
        arguments = [f"--files={self.folder}", f"--files={self.folder}"]
        wrong = self.assertRaises(StartupError, options.parseOptions, arguments)
        self.assertIn("--files can be given only once", str(wrong))


class AdmissionTests(OptionsCase):
    def admission(self, options: proxy_plugin.Options | fileserver.Options) -> tuple[int, int]:
        module = proxy_plugin if isinstance(options, proxy_plugin.Options) else fileserver
        admission = module.make_daemon(options, 65_536).factory.admission
        return admission.clients, admission.per_host

    def test_defaults(self) -> None:
        self.assertEqual(self.admission(self.proxy_options()), (10_000, 1000))
        self.assertEqual(self.admission(self.server_options()), (10_000, 0))

    def test_share_of_a_host_follows_the_number_of_clients(self) -> None:
        self.assertEqual(self.admission(self.proxy_options("--max-clients=500")), (500, 50))
        self.assertEqual(self.admission(self.proxy_options("--max-clients=100")), (100, 16))

    def test_both_limits_can_be_given(self) -> None:
        for options in (
            self.proxy_options("--max-clients=500", "--max-clients-per-host=7"),
            self.server_options("--max-clients=500", "--max-clients-per-host=7"),
        ):
            self.assertEqual(self.admission(options), (500, 7))
        self.assertEqual(self.admission(self.proxy_options("--max-clients-per-host=0"))[1], 0)

    def test_number_of_clients_follows_from_the_descriptors(self) -> None:
        journal = Journal(self)
        for module, read, room in (
            (proxy_plugin, self.proxy_options, room_for_proxy(256)),
            (fileserver, self.server_options, room_for_file_server(256)),
        ):
            admission = module.make_daemon(read(), 256).factory.admission
            self.assertEqual(admission.clients, room.clients)
            self.assertEqual(journal.lines(), [])
            # Who asks for more is told.
            options = read("--max-clients=300")
            self.assertEqual(
                module.make_daemon(options, 256).factory.admission.clients, room.clients
            )
            journal.line_with(
                f"{options.daemon}: --max-clients 300: there are descriptors for"
                f" {room.clients} clients"
            )
            journal.events.clear()

    def test_time_for_the_first_command(self) -> None:
        for module, options in (
            (proxy_plugin, self.proxy_options()),
            (fileserver, self.server_options()),
        ):
            self.assertEqual(module.make_daemon(options).factory.first_commands.seconds, 30.0)

    def test_malformed_numbers(self) -> None:
        malformed = [number for number in MALFORMED_NUMBERS if number != "0"]
        for kind in (proxy_plugin.Options, fileserver.Options):
            self.assert_all_refused(kind, "--max-clients", MALFORMED_NUMBERS)
            self.assert_all_refused(kind, "--max-clients-per-host", malformed)
            self.assert_all_refused(kind, "--first-command-timeout", MALFORMED_SECONDS)
            self.assert_all_refused(kind, "--log-size", malformed)


class FolderTests(OptionsCase):
    def assert_missing(self, path: str) -> None:
        message = self.assert_refused(fileserver.Options(self.reactor), "--files", path)
        self.assertIn("no such directory; create it, or name one that exists", message)
        self.assertFalse(os.path.exists(path))

    def test_missing_directory_that_was_named_is_an_error_and_not_created(self) -> None:
        for missing in ("typo", "deep/down", ""):
            self.assert_missing(missing and os.path.join(self.folder, missing))
        self.assertEqual(os.listdir(self.folder), [])

    def test_missing_default_directory_is_an_error_once_it_is_named(self) -> None:
        self.assert_missing("./files")

    def test_existing_directory_is_left_as_it_is(self) -> None:
        os.chmod(self.folder, 0o711)
        before = os.stat(self.folder)
        self.server_options()
        self.assertEqual(os.stat(self.folder), before)

    def test_file_in_the_place_of_the_directory(self) -> None:
        file = os.path.join(self.folder, "file")
        with open(file, "wb"):
            pass
        for path in (file, os.path.join(file, "inside")):
            message = self.assert_refused(fileserver.Options(self.reactor), "--files", path)
            self.assertIn("not a directory", message)

    def test_dangling_link_in_the_place_of_the_directory(self) -> None:
        link = os.path.join(self.folder, "link")
        os.symlink("nowhere", link)
        self.assert_missing(link)

    def test_unreadable_folder(self) -> None:
        os.chmod(self.folder, 0o300)
        if os.access(self.folder, os.R_OK):
            raise SkipTest("root may read everything")
        self.addCleanup(os.chmod, self.folder, 0o700)
        message = self.assert_refused(fileserver.Options(self.reactor), "--files", self.folder)
        self.assertIn("Permission denied", message)

    def test_folder_is_found_after_a_change_of_the_working_directory(self) -> None:
        directory = self.server_options().directory
        self.assertTrue(os.path.isabs(directory.path))


class PluginTests(OptionsCase):
    def test_makers_lead_to_the_options_and_the_service(self) -> None:
        for maker, module in (
            (natproxy_dropin.natproxy, proxy_plugin),
            (natproxy_dropin.fileserver, fileserver),
        ):
            self.assertTrue(IServiceMaker.providedBy(maker))
            self.assertIs(namedAny(maker.module), module)
            self.assertEqual(maker.tapname, module.Options.daemon)

    def test_service_holds_the_daemon(self) -> None:
        for service in (
            proxy_plugin.makeService(self.proxy_options()),
            fileserver.makeService(self.server_options()),
        ):
            self.assertTrue(IService.providedBy(service))
            assert isinstance(service, TwistdService)
            self.assertIsInstance(service.services[0], DrainingService)

    def test_help_names_every_option_with_its_default(self) -> None:
        shown = " ".join(str(proxy_plugin.Options(self.reactor)).split())
        for words in ("--listen=", "tcp:127.0.0.1:9001", "60.0", "5.0", "600.0", "30.0", "10000"):
            self.assertIn(words, shown)
