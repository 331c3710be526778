"""Control socket, web endpoints and journal beside a daemon, on a reactor in memory."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy import __version__
from natproxy.daemon import observation, service
from natproxy.daemon.fileserver import make_file_server
from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.logfile import LogWriter, RotatingFile
from natproxy.daemon.observation import Observation
from natproxy.daemon.places import PathLock
from natproxy.daemon.proxy import make_proxy
from natproxy.daemon.proxy_observation import ProxyObservation
from natproxy.daemon.service import DrainingService, Phase, StartupError
from natproxy.journal import directory as journal_directory
from natproxy.journal import history as journal_history
from natproxy.journal import service as journal_service
from natproxy.journal.service import JournalError
from natproxy.journal.status import JournalStatus
from natproxy.metrics.proxy import ProxyMetrics
from natproxy.records.event_rows import NAME, ROUTE
from natproxy.settings import SettingError
from tests.support.daemons import DaemonReactor, OptionsCase
from tests.support.doubles import Journal as Log


class PlayedJournal:
    """A journal that writes down its calls."""

    def __init__(self, test: ObservationCase, directory: str) -> None:
        self.directory = directory
        self.calls = test.calls
        self.failure: JournalError | None = None
        self.stopped: Deferred[None] = succeed(None)

    def startService(self) -> None:
        self.calls.append("journal starts")
        if self.failure is not None:
            raise self.failure

    def stopService(self) -> Deferred[None]:
        self.calls.append("journal stops")
        return self.stopped

    def status(self) -> JournalStatus:
        return JournalStatus(self.directory, 0, 0.0, 0, 0, 0, 0, None)


class ObservationCase(OptionsCase):
    """Makes daemons whose places are in a directory of the test's own."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(service, "raise_limit", lambda: None)
        self.calls: list[str] = []
        self.failure: JournalError | None = None
        self.journals: list[PlayedJournal] = []
        self.patch(journal_service, "JournalService", self.make_journal)
        self.patch(journal_history, "JournalHistory", lambda *arguments, **named: None)
        # `mktemp` returns paths that are too long for a socket.
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(place)
        os.mkdir("run", 0o700)
        self.patch(
            os,
            "environ",
            {**os.environ, "RUNTIME_DIRECTORY": "/dev/null/run", "STATE_DIRECTORY": "/dev/null/s"},
        )

    def make_journal(
        self, reactor: object, ring: object, directory: str, settings: object, **named: object
    ) -> PlayedJournal:
        journal = PlayedJournal(self, directory)
        journal.failure = self.failure
        self.journals.append(journal)
        return journal

    def daemon(self, *arguments: str) -> DrainingService:
        return make_proxy(self.reactor, self.proxy_config(*arguments))

    def started(self, *arguments: str) -> tuple[DrainingService, ProxyObservation]:
        """Start a proxy; return it with its companion. The socket is below the working directory,
        and there is no journal, if no option says otherwise.
        """
        default = ("--control=run/a.sock", "--journal=none")
        daemon = self.daemon(*default[: 2 if not arguments else 0], *arguments)
        daemon.startService()
        companion = daemon.companion
        assert isinstance(companion, ProxyObservation)
        self.addCleanup(self.end, daemon)
        return daemon, companion

    def end(self, daemon: DrainingService) -> None:
        if daemon.phase is Phase.LISTENING:
            self.successResultOf(daemon.stopService())

    def refused(self, *arguments: str) -> str:
        daemon = self.daemon(*arguments)
        text = str(self.assertRaises(StartupError, daemon.startService))
        self.assertEqual(daemon.ports, [])
        return text


def end_command(factory: Any, line: bytes = b"GET a\n") -> None:
    """Receive a command that ends at once: its client is gone."""
    client = IPv4Address("TCP", "10.0.0.7", 43210)
    protocol = factory.buildProtocol(client)
    transport = StringTransport(peerAddress=client)
    transport.abortConnection = lambda: None  # type: ignore[method-assign]
    protocol.makeConnection(transport)
    protocol.dataReceived(line)
    protocol.connectionLost(Failure(ConnectionDone()))


class ControlTests(ObservationCase):
    def test_socket_is_for_the_user_alone(self) -> None:
        masks: list[int] = []
        listen = self.reactor.listenUNIX

        def listenUNIX(*arguments: Any) -> Any:
            masks.append(os.umask(0o177))
            return listen(*arguments)

        self.patch(self.reactor, "listenUNIX", listenUNIX)
        before = os.umask(0o022)
        self.addCleanup(os.umask, before)
        _, companion = self.started()
        path, factory, _, mode, _ = self.reactor.unixServers[0]
        self.assertEqual((path, mode), (os.path.abspath("run/a.sock"), 0o600))
        self.assertEqual(companion.control, path)
        self.assertEqual(masks, [0o177])
        self.assertEqual(os.umask(0o022), 0o022)
        self.assertIsNotNone(factory.buildProtocol(None))

    def test_none(self) -> None:
        daemon, companion = self.started("--control=none", "--journal=none")
        self.assertEqual(self.reactor.unixServers, [])
        self.assertIsNone(companion.control)
        self.assertIsNone(companion.metrics)
        self.successResultOf(daemon.stopService())

    def test_default_place_that_cannot_be_used_is_a_warning(self) -> None:
        log = Log(self)
        daemon, companion = self.started("--journal=none")
        self.assertIs(daemon.phase, Phase.LISTENING)
        self.assertIsNone(companion.control)
        log.line_with("no control socket: /dev/null/run/proxy-9000.sock: Not a directory; choose")

    def test_default_place(self) -> None:
        os.environ["RUNTIME_DIRECTORY"] = runtime = os.path.abspath("run")
        _, companion = self.started("--journal=none", "--listen=tcp:1234")
        self.assertEqual(companion.control, f"{runtime}/proxy-1234.sock")

    def test_path_that_was_configured_must_be_usable(self) -> None:
        path = os.path.abspath("missing/a.sock")
        self.assertEqual(
            self.refused("--control=missing/a.sock", "--journal=none"),
            f"--control {path}: No such file or directory",
        )
        with open("run/b.sock", "w"):
            pass
        self.assertIn("not a socket", self.refused("--control=run/b.sock", "--journal=none"))
        long = "--control=" + "x" * 200
        wrong = self.assertRaises(SettingError, self.daemon, long)
        self.assertIn("too long for a socket", str(wrong))

    def test_path_or_name_of_another_daemon(self) -> None:
        os.environ["RUNTIME_DIRECTORY"] = runtime = os.path.abspath("run")
        lock = PathLock("run/proxy-9000.sock")
        self.addCleanup(lock.release)
        self.assertEqual(
            self.refused("--journal=none"),
            f"name proxy-9000: in use by process {os.getpid()}; choose another --name",
        )
        self.assertIn(
            f"--control {runtime}/proxy-9000.sock: in use by process",
            self.refused("--control=run/proxy-9000.sock", "--journal=none"),
        )
        _, companion = self.started("--name=other", "--journal=none")
        self.assertEqual(companion.control, f"{runtime}/other.sock")

    def test_lock_is_released_if_the_socket_cannot_be_opened(self) -> None:
        def listenUNIX(*arguments: object) -> None:
            raise OSError(13, "Permission denied")

        self.patch(self.reactor, "listenUNIX", listenUNIX)
        text = self.refused("--control=run/a.sock", "--journal=none")
        self.assertIn("Permission denied", text)
        PathLock("run/a.sock").release()

    def test_socket_goes_at_the_end_with_its_lock(self) -> None:
        daemon, _ = self.started()
        self.assertTrue(os.path.exists("run/a.lock"))
        self.successResultOf(daemon.stopService())
        self.assertFalse(os.path.exists("run/a.lock"))
        self.assertEqual([call for call in self.reactor.getDelayedCalls() if call.active()], [])


class AccessLogTests(ObservationCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(observation, "Threads", lambda reactor, most, name: maybeDeferred)
        self.off = ("--control=none", "--journal=none", "--upstream=unix:up.sock")

    def lines(self, path: str = "access") -> list[list[str]]:
        with open(path) as file:
            return [line.split(" ") for line in file.read().splitlines()]

    def test_line_of_the_proxy_is_in_the_file_and_not_in_the_log(self) -> None:
        log = Log(self)
        daemon, companion = self.started(*self.off, "--access-log=access")
        end_command(daemon.factory)
        self.reactor.advance(1)
        ((_, client, *_, outcome, _, _, _, _, _, _),) = self.lines()
        self.assertEqual((client, outcome), ("10.0.0.7:43210", "client-gone"))
        self.assertEqual(log.outcomes, [])
        log.line_with(f"access log: {os.path.abspath('access')}")
        access = companion.status()["access_log"]
        self.assertEqual(access, {"path": os.path.abspath("access"), "lost": 0, "error": None})

    def test_lines_that_are_lost_are_a_metric(self) -> None:
        off = ("--journal=none", "--control=run/a.sock")
        for options, lost in (((), None), (("--access-log=access",), 7)):
            daemon, companion = self.started(*off, *options)
            metrics = companion.metrics
            assert metrics is not None
            if lost is not None:
                assert companion.access is not None
                companion.access.lost = lost
            samples = [
                value
                for family in metrics.families()
                if family.name == "natproxy_access_log_lost_lines"
                for _, value in family.samples
            ]
            self.assertEqual(samples, [] if lost is None else [lost])
            self.end(daemon)

    def test_line_of_the_file_server(self) -> None:
        log = Log(self)
        daemon = make_file_server(
            self.reactor, self.server_config("--control=none", "--access-log=access")
        )
        daemon.startService()
        self.addCleanup(self.end, daemon)
        end_command(daemon.factory, b"NOTHING x\n")
        self.reactor.advance(1)
        self.assertEqual([words[2:6] for words in self.lines()], [["-", "-", "NOTHING", "x"]])
        self.assertEqual(log.outcomes, [])

    def test_events_go_on_for_an_observer_of_the_operators(self) -> None:
        log = Log(self)
        daemon = self.daemon(*self.off, "--access-log=access")
        daemon.log = LogChoice(structured=True)
        daemon.startService()
        self.addCleanup(self.end, daemon)
        end_command(daemon.factory)
        self.reactor.advance(1)
        self.assertEqual((len(self.lines()), log.ends), (1, ["client-gone"]))

    def test_log_of_the_daemon_has_lines_and_no_events(self) -> None:
        log = Log(self)
        daemon = self.daemon(*self.off)
        server = make_file_server(self.reactor, self.server_config("--control=none"))
        for each, line in ((daemon, b"LIST\n"), (server, b"NOTHING x\n")):
            each.log = LogChoice(LogWriter(RotatingFile("log")))
            each.startService()
            self.addCleanup(self.end, each)
            end_command(each.factory, line)
        self.assertEqual(log.outcomes, [])
        with open("log") as file:
            proxied, served = file.read().splitlines()
        self.assertIn("Z [natproxy.proxy.command_log#info] 10.0.0.7:43210 LIST: client", proxied)
        self.assertIn("Z [natproxy.fileserver.commands#info] 10.0.0.7:43210 NOTHING x: ", served)

    def test_nothing_is_logged_if_the_level_is_higher(self) -> None:
        log = Log(self)
        daemon = self.daemon(*self.off)
        daemon.log = LogChoice(commands=False)
        daemon.startService()
        self.addCleanup(self.end, daemon)
        end_command(daemon.factory)
        self.assertEqual(log.outcomes, [])

    def test_none_by_default(self) -> None:
        log = Log(self)
        daemon, companion = self.started(*self.off)
        end_command(daemon.factory)
        self.assertEqual(log.ends, ["client-gone"])
        self.assertIsNone(companion.status()["access_log"])
        self.assertFalse(companion.reopen_logs())

    def test_file_that_cannot_be_opened(self) -> None:
        path = os.path.abspath("missing/access")
        self.assertEqual(
            self.refused(*self.off, "--access-log=missing/access"),
            f"--access-log {path}: No such file or directory",
        )

    def test_path_is_relative_to_the_first_working_directory(self) -> None:
        daemon = self.daemon(*self.off, "--access-log=access")
        path = os.path.abspath("access")
        os.chdir("/")
        daemon.startService()
        self.addCleanup(self.end, daemon)
        self.assertTrue(os.path.exists(path))

    def test_stop_writes_the_last_lines(self) -> None:
        daemon, _ = self.started(*self.off, "--access-log=access")
        end_command(daemon.factory)
        self.assertEqual(self.lines(), [])
        self.successResultOf(daemon.stopService())
        self.assertEqual(len(self.lines()), 1)

    def test_file_is_opened_again(self) -> None:
        daemon, _ = self.started(*self.off, "--access-log=access")
        end_command(daemon.factory)
        os.rename("access", "old")
        self.assertTrue(daemon.reopen_logs())
        end_command(daemon.factory)
        self.successResultOf(daemon.stopService())
        self.assertEqual((len(self.lines("old")), len(self.lines())), (1, 1))


class NamesOfFilesTests(ObservationCase):
    def test_events_have_all_names_if_they_are_wanted(self) -> None:
        for names, shown in (
            ("none", "a and 2 others"),
            ("full", "a and 2 others"),
            ("all", "a and 2 others, b c%20d"),
        ):
            self.reactor = DaemonReactor()
            daemon, companion = self.started(
                "--control=run/a.sock",
                "--journal=none",
                "--upstream=unix:up.sock",
                f"--journal-names={names}",
            )
            end_command(daemon.factory, b"PACK a b c%20d\n")
            ring = companion.observed().ring
            assert ring is not None
            ((row,), _) = ring.read(0, 10)
            route = row[ROUTE]
            assert route is not None
            self.assertEqual(route[NAME], shown)
            self.end(daemon)


class NameTests(ObservationCase):
    def test_name_of_the_first_listener_or_the_option(self) -> None:
        for arguments, name in (
            (("--listen=tcp:7", "--listen=tcp:8"), "proxy-7"),
            (("--listen=unix:some/edge.sock",), "proxy-edge"),
            (("--name=chosen",), "chosen"),
        ):
            self.reactor = DaemonReactor()
            off = ("--control=none", "--journal=none")
            _, companion = self.started(*off, *arguments)
            self.assertEqual(companion.origin.proxy, name)

    def test_each_run_has_a_boot_of_its_own(self) -> None:
        boots = {self.started("--control=none")[1].origin.boot for _ in range(3)}
        self.assertEqual(len(boots), 3)

    def test_file_server(self) -> None:
        os.environ["RUNTIME_DIRECTORY"] = runtime = os.path.abspath("run")
        daemon = make_file_server(self.reactor, self.server_config())
        daemon.startService()
        companion = daemon.companion
        assert isinstance(companion, Observation)
        self.addCleanup(self.end, daemon)
        self.assertEqual(companion.control, f"{runtime}/files-9001.sock")
        status = companion.status()
        self.assertEqual((status["kind"], status["name"]), ("fileserver", "files-9001"))
        observed = companion.observed()
        self.assertEqual((observed.table, observed.ring, observed.history), (None, None, None))


class StatusTests(ObservationCase):
    def test_members(self) -> None:
        _, companion = self.started()
        self.reactor.advance(5)
        status = companion.status()
        for member, value in (
            ("name", "proxy-9000"),
            ("kind", "proxy"),
            ("version", __version__),
            ("pid", os.getpid()),
            ("worker", 0),
            ("boot", companion.origin.boot),
            ("uptime", 5.0),
            ("upstream", "tcp:127.0.0.1:9001"),
            ("draining", False),
            ("clients", 0),
            ("table", 0),
            ("ring", {"first": 1, "next": 1}),
            ("position", f"0:0:{companion.origin.boot}"),
            ("journal", None),
            ("control", os.path.abspath("run/a.sock")),
            ("web", []),
        ):
            self.assertEqual(status[member], value, member)
        self.assertEqual(len(status["listen"]), 1)
        self.assertEqual(status["commands"], {"total": 0, "sent": 0, "verbs": {}})
        self.assertIn("duration", status["counters"])
        self.assertIn("reactor_delay", status["counters"])
        self.assertIn("total", status["counters"]["ports"])

    def test_ready_while_it_listens(self) -> None:
        daemon, companion = self.started()
        observed = companion.observed()
        self.assertIsNone(observed.ready())
        daemon.phase = Phase.DRAINING
        self.assertEqual(observed.ready(), "the daemon is draining")
        self.assertTrue(companion.status()["draining"])

    def test_drain_ends_the_process(self) -> None:
        daemon, companion = self.started()
        causes: list[str] = []
        daemon.end = causes.append
        companion.observed().drain()
        self.assertEqual(len(causes), 1)


class WebTests(ObservationCase):
    def test_opened_with_the_ports_of_the_daemon_and_served_later(self) -> None:
        daemon = self.daemon(
            "--control=none", "--journal=none", "--web=tcp:9080:interface=127.0.0.1"
        )
        daemon.privilegedStartService()
        port, factory, _, interface = self.reactor.tcpServers[1]
        self.assertEqual((port, interface), (9080, "127.0.0.1"))
        self.assertIsNone(factory.buildProtocol(None))
        daemon.startService()
        self.assertIsNotNone(factory.buildProtocol(None))
        self.successResultOf(daemon.stopService())

    def test_wrong_endpoint_names_the_option(self) -> None:
        for endpoint in ("9080", "bogus:1", "tcp:99999"):
            text = self.assert_refused(self.options_class, "--web", endpoint)
            self.assertIn(f"--web {endpoint}: ", text)

    @property
    def options_class(self) -> Any:
        from natproxy.daemon.proxy import Options

        return Options


class IdentTests(ObservationCase):
    def test_none_by_default(self) -> None:
        self.started()
        self.assertEqual(len(self.reactor.tcpServers), 1)

    def test_opened_with_the_ports_of_the_daemon_and_closed_with_them(self) -> None:
        daemon, companion = self.started(
            "--control=none", "--journal=none", "--ident=tcp:1113:interface=127.0.0.1"
        )
        port, factory, _, interface = self.reactor.tcpServers[1]
        self.assertEqual((port, interface), (1113, "127.0.0.1"))
        transport = StringTransport(
            hostAddress=IPv4Address("TCP", "127.0.0.1", 1113),
            peerAddress=IPv4Address("TCP", "127.0.0.1", 40000),
        )
        connection = factory.buildProtocol(transport.getPeer())
        connection.makeConnection(transport)
        connection.dataReceived(b"1, 2\r\n")
        self.assertEqual(transport.value(), b"1, 2 : ERROR : NO-USER\r\n")
        connection.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(daemon.stopService())
        self.assertEqual(companion._ident_ports, [])

    def test_port_that_cannot_be_opened_closes_the_others(self) -> None:
        listen = self.reactor.listenTCP

        def listenTCP(port: int, *arguments: Any, **named: Any) -> Any:
            if port == 1113:
                raise CannotListenError("127.0.0.1", port, OSError(errno.EADDRINUSE, "in use"))
            return listen(port, *arguments, **named)

        self.patch(self.reactor, "listenTCP", listenTCP)
        text = self.refused("--control=none", "--journal=none", "--ident=tcp:1113")
        self.assertIn("choose another one with --ident", text)


class ReconcileTests(ObservationCase):
    def test_comparison_is_a_resource_of_a_proxy_with_metrics(self) -> None:
        _, companion = self.started()
        metrics = companion.metrics
        assert isinstance(metrics, ProxyMetrics)
        self.assertEqual(companion.observed().reconcile, metrics.reconcile)


class JournalTests(ObservationCase):
    def test_directory_that_was_configured(self) -> None:
        _, companion = self.started("--control=run/a.sock", "--journal=kept")
        path = os.path.abspath("kept")
        self.assertEqual(companion.status()["journal"]["directory"], path)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o700)

    def test_default_directory(self) -> None:
        os.environ["STATE_DIRECTORY"] = state = os.path.abspath("state")
        self.started("--control=none")
        self.assertEqual(self.journals[0].directory, f"{state}/proxy-9000")

    def test_default_that_cannot_be_used_is_a_warning(self) -> None:
        log = Log(self)
        daemon, companion = self.started("--control=none")
        self.assertIs(daemon.phase, Phase.LISTENING)
        self.assertIsNone(companion.journal)
        log.line_with("no journal: /dev/null/s/proxy-9000: Not a directory; choose a directory")

    def test_configured_one_that_cannot_be_used_is_an_error(self) -> None:
        text = self.refused("--control=none", "--journal=missing/kept")
        path = os.path.abspath("missing/kept")
        self.assertEqual(text, f"--journal {path}: No such file or directory")
        self.failure = JournalError("another daemon writes it")
        text = self.refused("--control=none", "--journal=kept")
        self.assertIn("kept: another daemon writes it", text)

    def test_socket_is_removed_if_it_cannot_be_used(self) -> None:
        def listenUNIX(path: str, *arguments: object) -> object:
            with open(path, "w"):
                return object()

        self.patch(self.reactor, "listenUNIX", listenUNIX)
        self.refused("--control=run/a.sock", "--journal=missing/kept")
        self.assertEqual(os.listdir("run"), [])

    def test_is_not_touched_if_the_name_is_in_use(self) -> None:
        lock = PathLock("run/a.sock")
        self.addCleanup(lock.release)
        self.refused("--control=run/a.sock", "--journal=kept")
        self.assertFalse(os.path.exists("kept"))

    def test_run_without_it_is_recorded_in_the_one_of_an_earlier_run(self) -> None:
        os.environ["STATE_DIRECTORY"] = state = os.path.abspath("state")
        os.makedirs(f"{state}/proxy-9000")
        noted: list[str] = []
        self.patch(journal_directory, "note_off", lambda path, since: noted.append(path))
        self.started("--control=none", "--journal=none")
        self.assertEqual(noted, [f"{state}/proxy-9000"])

    def test_is_written_to_its_end_before_the_control_socket_goes(self) -> None:
        daemon, _ = self.started("--control=run/a.sock", "--journal=kept")
        self.journals[0].stopped = Deferred()
        stopped = daemon.stopService()
        self.assertEqual(self.calls, ["journal starts", "journal stops"])
        self.assertTrue(os.path.exists("run/a.lock"))
        self.assertNoResult(stopped)
        self.journals[0].stopped.callback(None)
        self.successResultOf(stopped)
        self.assertFalse(os.path.exists("run/a.lock"))


class GuardTests(SynchronousTestCase):
    def test_no_test_has_places_outside_of_its_own_directory(self) -> None:
        for variable in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY"):
            self.assertRaises(NotADirectoryError, os.makedirs, os.environ[variable])
