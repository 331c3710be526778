"""Ctrl-C: the first ends a command, the next one the process, and neither with a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli import interrupts, main
from tests.support.answering_server import AnsweringServer

# Takes long to put things in order after the first Ctrl-C.
SLOW = """
import sys, time
from natproxy import cli
def run(arguments):
    try:
        print("waiting", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)
cli._run = run
sys.exit(cli.main())
"""


class HandlerTests(SynchronousTestCase):
    def setUp(self) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        self.addCleanup(setattr, interrupts._interrupt, "raised", False)

    def interrupt(self) -> None:
        self.assertRaises(KeyboardInterrupt, signal.raise_signal, signal.SIGINT)

    def test_second_one_ends_the_process_unless_a_command_begins_in_between(self) -> None:
        interrupts.interrupt_once()
        for _ in range(2):
            self.interrupt()
            self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_DFL)
            interrupts.rearm()
        interrupts.end_at_interrupt()
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_DFL)

    def test_handlers_of_others_stay(self) -> None:
        for handler in (signal.SIG_IGN, signal.SIG_DFL, lambda *_: None):
            signal.signal(signal.SIGINT, handler)
            interrupts.interrupt_once()
            interrupts.rearm()
            interrupts.end_at_interrupt()
            self.assertIs(signal.getsignal(signal.SIGINT), handler)

    def test_program_that_calls_the_command_line_keeps_its_handler(self) -> None:
        main(["completion", "frobnicate"])
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)


class ProcessTests(SynchronousTestCase):
    def test_second_one_ends_a_process_that_takes_long_after_the_first(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for line in (b"waiting\n", b"cleaning\n"):
                self.assertEqual(process.stdout.readline(), line)
                process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        self.assertEqual((process.returncode, errors), (-signal.SIGINT, b""))

    def test_process_that_is_to_ignore_it_does(self) -> None:
        asked, released = threading.Event(), threading.Event()

        def reply(_: bytes) -> bytes:
            asked.set()
            released.wait(20)
            return b"OK\na\nEND\n"

        server = AnsweringServer(reply)
        self.addCleanup(server.close)
        command = f"trap '' INT; exec {sys.executable} -m natproxy list"
        with subprocess.Popen(
            ["sh", "-c", command],
            env={**os.environ, "NATPROXY_SERVER": server.server_address},
            stdout=subprocess.PIPE,
        ) as process:
            self.assertTrue(asked.wait(20))
            process.send_signal(signal.SIGINT)
            released.set()
            out, _ = process.communicate(timeout=30)
        self.assertEqual((process.returncode, out), (0, b"a\n"))
