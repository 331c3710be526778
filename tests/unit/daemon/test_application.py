"""A daemon as ``twistd`` runs it, on a reactor in memory."""

from __future__ import annotations

import io
import os
import signal
import sys

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from natproxy.daemon.application import TwistdService
from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.logfile import LogWriter, RotatingFile
from natproxy.daemon.service import StartupError
from tests.support.doubles import Journal
from tests.support.services import IN_USE, ServiceCase


class TwistdServiceTests(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.terminal = io.StringIO()
        self.patch(sys, "__stderr__", self.terminal)
        self.journal = Journal(self)
        self.daemon = TwistdService(self.service, self.reactor)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_daemon_logs_where_twistd_was_told_to(self) -> None:
        log = LogChoice(structured=True)
        TwistdService(self.service, self.reactor, log)
        self.assertIs(self.service.log, log)

    def test_last_commands_are_in_the_log(self) -> None:
        path = self.mktemp()
        writer = LogWriter(RotatingFile(path))
        TwistdService(self.service, self.reactor, LogChoice(writer))
        writer.note("test", 0.0, str, "a command")
        self.assertEqual(os.path.getsize(path), 0)
        for function, args, kwargs in self.reactor.triggers["after"]["shutdown"]:
            function(*args, **kwargs)
        self.assertGreater(os.path.getsize(path), 0)

    def test_signals_are_handled_before_the_ports_are_open(self) -> None:
        def listen(factory: object) -> Deferred[IListeningPort]:
            signal.raise_signal(signal.SIGTERM)
            return started(factory)

        started = self.first.listen
        self.patch(self.first, "listen", listen)
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.assertFalse(self.reactor.hasStopped)
        self.reactor.advance(0)
        self.assertTrue(self.reactor.hasStopped)

    def test_starts_the_daemon_and_listens_to_signals(self) -> None:
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.assertEqual((self.first.times, self.second.times), (1, 1))
        self.assertIn("startup", self.reactor.triggers["after"])
        self.successResultOf(self.daemon.stopService())

    def test_failure_is_written_to_the_terminal_once_the_log_has_taken_stderr(self) -> None:
        self.patch(sys, "stderr", io.StringIO())
        self.first.error = CannotListenError("", 1, IN_USE)
        self.assertRaises(StartupError, self.daemon.privilegedStartService)
        self.assertEqual(
            self.terminal.getvalue(),
            "cannot listen on tcp:1: Address already in use; choose another one with --listen\n",
        )

    def test_failure_is_left_to_the_interpreter_while_stderr_is_the_terminal(self) -> None:
        self.patch(sys, "stderr", self.terminal)
        self.first.error = CannotListenError("", 1, IN_USE)
        self.assertRaises(StartupError, self.daemon.privilegedStartService)
        self.assertEqual(self.terminal.getvalue(), "")

    def test_failure_without_a_terminal_is_raised_all_the_same(self) -> None:
        self.patch(sys, "__stderr__", None)
        self.first.error = CannotListenError("", 1, IN_USE)
        self.assertRaises(StartupError, self.daemon.privilegedStartService)
