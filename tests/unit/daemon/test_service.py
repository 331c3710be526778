"""Listening, draining and stopping, with the test's own clock and endpoints."""

from __future__ import annotations

import errno
import os
import signal
import sys
from functools import partial
from inspect import getclosurevars

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.scripts._twistd_unix import UnixAppLogger
from twisted.trial.unittest import SynchronousTestCase

from natproxy import __version__
from natproxy.daemon import service
from natproxy.daemon.logfile import RotatingFile
from natproxy.daemon.service import DrainingService, Phase, StartupError
from natproxy.daemon.signals import MaintenanceSignals, SignalService, TerminationSignals
from natproxy.proxy.factory import ProxyFactory
from tests.support.doubles import Journal
from tests.support.services import IN_USE, ServiceCase


class ListeningTests(ServiceCase):
    def test_every_endpoint_is_listened_on_with_privileges(self) -> None:
        self.service.privilegedStartService()
        self.assertEqual(self.service.ports, [self.first.port, self.second.port])

    def test_limit_of_descriptors_is_raised(self) -> None:
        self.service.startService()
        self.assertEqual(self.raised, [True])

    def test_threads_delay_the_reactor_briefly(self) -> None:
        sys.setswitchinterval(0.005)
        self.service.startService()
        self.assertAlmostEqual(sys.getswitchinterval(), service.SWITCH_INTERVAL)

    def test_log_names_addresses_upstream_limits_and_version(self) -> None:
        journal = Journal(self)
        self.service.startService()
        self.assertEqual(
            journal.line_with("listens on"),
            f"natproxy {__version__}: the proxy in front of tcp:upstream:1 listens on"
            " 127.0.0.1:9000, 127.0.0.1:9000; clients at once: 10000, of one host: no limit",
        )

    def test_start_after_the_privileged_one_does_not_listen_again(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()
        self.assertEqual((self.first.times, self.second.times), (1, 1))

    def test_start_alone_listens(self) -> None:
        self.service.startService()
        self.assertEqual(self.service.ports, [self.first.port, self.second.port])

    def test_port_in_use_is_reported_in_one_line(self) -> None:
        self.second.error = CannotListenError("127.0.0.1", 2, IN_USE)
        wrong = self.assertRaises(StartupError, self.service.privilegedStartService)
        self.assertEqual(
            str(wrong),
            "cannot listen on tcp:2: Address already in use; choose another one with --listen",
        )

    def test_ports_that_were_open_are_closed_when_the_next_one_fails(self) -> None:
        self.second.error = CannotListenError("127.0.0.1", 2, IN_USE)
        self.assertRaises(StartupError, self.service.privilegedStartService)
        self.assertFalse(self.first.port.listening)

    def test_plain_operating_system_error_is_reported_as_well(self) -> None:
        self.first.error = PermissionError(errno.EACCES, "Permission denied")
        wrong = self.assertRaises(StartupError, self.service.privilegedStartService)
        self.assertEqual(str(wrong), "cannot listen on tcp:1: Permission denied")
        self.assertEqual(self.second.times, 0)

    def test_any_other_error_is_reported_by_its_text(self) -> None:
        self.first.error = OverflowError("bind(): port must be 0-65535.")
        wrong = self.assertRaises(StartupError, self.service.privilegedStartService)
        self.assertEqual(str(wrong), "cannot listen on tcp:1: bind(): port must be 0-65535.")


class StartupErrorTests(SynchronousTestCase):
    def test_ends_the_process_and_is_an_exception(self) -> None:
        wrong = StartupError("nothing works")
        self.assertIsInstance(wrong, SystemExit)
        self.assertIsInstance(wrong, Exception)

    def test_text_is_what_the_interpreter_prints_at_exit(self) -> None:
        self.assertEqual(StartupError("nothing works").code, "nothing works")
        self.assertEqual(str(StartupError("nothing works")), "nothing works")


class DrainingTests(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.service.startService()

    def test_without_clients_the_end_comes_at_once(self) -> None:
        self.successResultOf(self.service.stopService())
        self.assertFalse(self.first.port.listening)
        self.assertFalse(self.second.port.listening)
        self.assert_clock_is_idle()

    def test_waits_for_the_ports_to_close(self) -> None:
        self.second.port.closed = Deferred()
        stopped = self.service.stopService()
        self.assertNoResult(stopped)
        self.second.port.closed.callback(None)
        self.successResultOf(stopped)

    def test_idle_client_is_closed_at_once(self) -> None:
        protocol, wire = self.client()
        stopped = self.service.stopService()
        self.assertTrue(wire.disconnecting)
        self.assertFalse(wire.aborted)
        self.assertNoResult(stopped)
        wire.lose(protocol)
        self.successResultOf(stopped)
        self.assert_clock_is_idle()

    def test_command_in_flight_is_finished_and_the_next_one_discarded(self) -> None:
        protocol, wire = self.client(b"LIST\nLIST\n")
        self.upstream.last.accept()
        stopped = self.service.stopService()
        self.assertFalse(self.first.port.listening)
        self.reactor.advance(29)
        self.assertTrue(wire.open)
        self.upstream.last.protocol.dataReceived(b"OK\nEND\n")
        self.assertEqual(wire.taken(), b"OK\nEND\n")
        self.assertEqual(len(self.upstream.connections), 1)
        self.assertFalse(wire.open)
        self.assertFalse(wire.aborted)
        wire.lose(protocol)
        self.successResultOf(stopped)
        self.assert_clock_is_idle()

    def test_what_is_left_at_the_deadline_is_aborted(self) -> None:
        protocol, wire = self.client(b"LIST\n")
        self.upstream.last.accept()
        stopped = self.service.stopService()
        self.reactor.advance(29.9)
        self.assertFalse(wire.aborted)
        self.reactor.advance(0.1)
        self.assertTrue(wire.aborted)
        self.assertTrue(self.upstream.last.wire.aborted)
        self.assertEqual(len(self.factory.table), 0)
        self.assertNoResult(stopped)
        wire.lose(protocol)
        self.successResultOf(stopped)
        self.assert_clock_is_idle()

    def test_abort_does_not_wait_for_the_deadline(self) -> None:
        protocol, wire = self.client(b"LIST\n")
        stopped = self.service.stopService()
        self.service.abort()
        self.assertTrue(wire.aborted)
        wire.lose(protocol)
        self.successResultOf(stopped)
        self.assert_clock_is_idle()

    def test_can_be_started_again(self) -> None:
        self.successResultOf(self.service.stopService())
        self.service.startService()
        self.assertEqual((self.first.times, self.second.times), (2, 2))


class PlayedCompanion:
    """Writes down what it is called for; may fail, and may take its time to stop."""

    def __init__(self, service: DrainingService, factory: ProxyFactory) -> None:
        self.calls: list[str] = []
        self.failing = ""
        self.stopped: Deferred[None] = succeed(None)
        self._service = service
        self._factory = factory

    def open_ports(self) -> None:
        self._called(f"open beside {len(self._service.ports)} ports")

    def start(self) -> None:
        self._called("start")

    def cancel_start(self) -> None:
        self.calls.append("cancel")

    def reopen_logs(self) -> bool:
        self._called("reopen")
        return True

    async def stop(self) -> None:
        self._called(f"stop beside {len(self._factory.connections)} clients")
        await self.stopped

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.failing and what.startswith(self.failing):
            raise StartupError("it fails")


class CompanionTests(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.companion = self.service.companion = PlayedCompanion(self.service, self.factory)

    def test_sockets_are_opened_with_privileges_and_files_without(self) -> None:
        self.assertIs(self.service.phase, Phase.STARTING)
        self.service.privilegedStartService()
        self.assertEqual(self.companion.calls, ["open beside 2 ports"])
        self.assertIs(self.service.phase, Phase.LISTENING)
        self.service.startService()
        self.assertEqual(self.companion.calls[1:], ["start"])

    def test_logs_are_opened_again(self) -> None:
        self.assertTrue(self.service.reopen_logs())
        self.assertEqual(self.companion.calls, ["reopen"])
        self.service.companion = None
        self.assertFalse(self.service.reopen_logs())

    def test_stops_when_the_last_client_has_finished(self) -> None:
        self.service.startService()
        protocol, wire = self.client(b"LIST\n")
        self.upstream.last.accept()
        self.companion.stopped = Deferred()
        stopped = self.service.stopService()
        self.assertIs(self.service.phase, Phase.DRAINING)
        self.assertEqual(len(self.companion.calls), 2)
        self.upstream.last.protocol.dataReceived(b"OK\nEND\n")
        wire.lose(protocol)
        self.assertEqual(self.companion.calls[2:], ["stop beside 0 clients"])
        self.assertNoResult(stopped)
        self.companion.stopped.callback(None)
        self.successResultOf(stopped)
        self.assertIs(self.service.phase, Phase.STOPPED)

    def test_ports_are_closed_if_it_cannot_start(self) -> None:
        for failing in ("open", "start"):
            self.companion.failing = failing
            wrong = self.assertRaises(StartupError, self.service.startService)
            self.assertEqual(str(wrong), "it fails")
            self.assertFalse(self.first.port.listening)
            self.assertEqual(self.service.ports, [])
            self.assertEqual(self.companion.calls[-1], "cancel")
            self.first.port.listening = True

    def test_addresses_stay_while_it_drains(self) -> None:
        self.service.startService()
        self.service.stopService()
        self.assertEqual(self.service.addresses, ("127.0.0.1:9000",) * 2)


class DrainLogTests(ServiceCase):
    def test_number_of_connections_has_its_plural(self) -> None:
        journal = Journal(self)
        self.client()
        self.service.stopService()
        journal.line_with("draining 1 connection for up to 30 s")
        self.client()
        self.service.stopService()
        journal.line_with("draining 2 connections for up to 30 s")
        self.factory.abort()


class SignalTests(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.aborted = 0
        self.signals = TerminationSignals(self.reactor, self.abort)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def abort(self) -> None:
        self.aborted += 1

    def test_first_signal_stops_the_reactor(self) -> None:
        self.signals.received(signal.SIGTERM)
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(self.aborted, 0)

    def test_second_signal_aborts_and_stops_nothing_twice(self) -> None:
        self.signals.received(signal.SIGINT)
        self.reactor.hasStopped = False
        self.signals.received(signal.SIGTERM)
        self.assertEqual(self.aborted, 1)
        self.assertFalse(self.reactor.hasStopped)

    def test_signal_after_another_request_to_stop_aborts(self) -> None:
        journal = Journal(self)
        self.signals.stop("drain by uid 0")
        journal.line_with("drain by uid 0: stopping")
        self.reactor.hasStopped = False
        self.signals.stop("drain by uid 0")
        self.assertFalse(self.reactor.hasStopped)
        self.signals.received(signal.SIGTERM)
        self.assertEqual(self.aborted, 1)

    def test_handlers_are_installed_only_once_the_reactor_has_started(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        self.signals.startService()
        self.assertIs(signal.getsignal(signal.SIGTERM), before)
        self.reactor.started()
        self.assertIsNot(signal.getsignal(signal.SIGTERM), before)

    def test_signal_to_a_daemon_that_starts_stops_it_in_the_first_turn(self) -> None:
        self.signals.handle_now()
        signal.raise_signal(signal.SIGTERM)
        self.signals.startService()
        self.reactor.started()
        self.assertFalse(self.reactor.hasStopped)
        self.reactor.advance(0)
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(self.aborted, 0)

    def test_signal_waits_for_a_turn_of_the_reactor(self) -> None:
        self.signals.startService()
        self.reactor.started()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        self.assertFalse(self.reactor.hasStopped)
        self.reactor.advance(0)
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(self.aborted, 1)


class MaintenanceTests(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.journal = Journal(self)
        for number in (signal.SIGUSR1, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.signal(number, signal.SIG_DFL))

    def start(self, kind: SignalService) -> None:
        kind.startService()
        self.reactor.started()

    def test_log_is_opened_again(self) -> None:
        file = RotatingFile(self.mktemp())
        self.start(MaintenanceSignals(self.reactor, file))
        signal.raise_signal(signal.SIGUSR1)
        self.assertEqual(self.journal.lines(), [])
        self.reactor.advance(0)
        self.journal.line_with("has been opened again")
        file.close()

    def test_other_logs_are_opened_again(self) -> None:
        calls: list[str] = []

        def reopen(name: str, found: bool) -> bool:
            calls.append(name)
            return found

        others = partial(reopen, "a", False), partial(reopen, "b", True)
        self.start(MaintenanceSignals(self.reactor, None, *others))
        signal.raise_signal(signal.SIGUSR1)
        self.reactor.advance(0)
        self.assertEqual((calls, self.journal.lines()), (["a", "b"], []))

    def test_nothing_is_done_without_a_log(self) -> None:
        self.start(MaintenanceSignals(self.reactor, None))
        signal.raise_signal(signal.SIGUSR1)
        self.reactor.advance(0)
        self.assertEqual(
            self.journal.lines(),
            ["SIGUSR1: nothing is done, since there is no log file (--log, --access-log)"],
        )
        self.assertIs(signal.getsignal(signal.SIGHUP), signal.SIG_DFL)

    def test_hangup_of_a_daemon_that_starts_reloads_the_settings_later(self) -> None:
        causes: list[str] = []
        signals = MaintenanceSignals(self.reactor, None, reload=causes.append)
        signals.handle_now()
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(causes, [])
        self.start(signals)
        self.reactor.advance(0)
        self.assertEqual(causes, ["SIGHUP"])

    def test_hangup_that_is_ignored_stays_ignored(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signals = MaintenanceSignals(self.reactor, None, reload=self.fail)
        signals.handle_now()
        self.start(signals)
        self.assertIs(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)

    def test_hangup_reloads_the_settings_in_a_turn_of_the_reactor(self) -> None:
        causes: list[str] = []
        self.start(MaintenanceSignals(self.reactor, None, reload=causes.append))
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(causes, [])
        self.reactor.advance(0)
        self.assertEqual(causes, ["SIGHUP"])
        self.assertFalse(self.reactor.hasStopped)

    def test_log_of_twistd_is_opened_again_and_not_renamed(self) -> None:
        path = self.mktemp()
        # It installs its own handler, which renames the file.
        UnixAppLogger({"logfile": path})._getLogObserver()
        handler = signal.getsignal(signal.SIGUSR1)
        file = getclosurevars(handler).nonlocals["logFile"]  # type: ignore[arg-type]
        self.addCleanup(file.close)
        self.start(MaintenanceSignals(self.reactor, None))
        os.rename(path, path + ".rotated")
        signal.raise_signal(signal.SIGUSR1)
        self.reactor.advance(0)
        self.journal.line_with("has been opened again")
        self.assertTrue(os.path.exists(path))
        self.assertFalse(os.path.exists(path + ".1"))

    def test_signals_that_are_ignored_or_handled_stay_so(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.default_int_handler)
        self.start(MaintenanceSignals(self.reactor, None, reload=lambda cause: None))
        self.assertIs(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)
        self.assertIs(signal.getsignal(signal.SIGUSR1), signal.default_int_handler)

    def test_end_of_the_terminal_stops_natproxy_up(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.start(TerminationSignals(self.reactor, lambda: None, hangup=True))
        signal.raise_signal(signal.SIGHUP)
        self.reactor.advance(0)
        self.assertTrue(self.reactor.hasStopped)
