"""What a master needs to execute itself anew."""

from __future__ import annotations

import errno
import os
import signal
import sys
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.workers.handover import (
    VARIABLE,
    Execution,
    Identity,
    arguments_of,
    execute,
    own_pid_file,
    write_json,
)


class ArgumentsTests(SynchronousTestCase):
    def test_program_is_executed_as_it_was(self) -> None:
        for original, arguments in (
            (["python", "/bin/twistd", "natproxy"], ["/bin/twistd", "natproxy"]),
            (["python", "-O", "/bin/natproxy", "up"], ["/bin/natproxy", "up"]),
        ):
            self.assertEqual(arguments_of(original, arguments, False), original[1:])

    def test_process_in_the_background_stays_the_process(self) -> None:
        for original, arguments, place in (
            (["python", "/bin/twistd", "natproxy"], ["/bin/twistd", "natproxy"], 1),
            (["python", "-c", "run()", "natproxy"], ["-c", "natproxy"], 2),
            (["python", "-O", "/bin/twistd", "-y", "a"], ["/bin/twistd", "-y", "a"], 2),
        ):
            found = arguments_of(original, arguments, True)
            self.assertEqual(found.index("--nodaemon"), place)
            again = arguments_of(
                ["python", *found], [arguments[0], "--nodaemon", *arguments[1:]], True
            )
            self.assertEqual(again, found)


class PidFileTests(SynchronousTestCase):
    def pid_file(self, pid: object) -> str:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(f"{pid}")
        return path

    def test_own_one(self) -> None:
        path = self.pid_file(os.getpid())
        self.assertEqual(own_pid_file(["twistd", "--pidfile", path, "natproxy"]), path)
        self.assertEqual(own_pid_file(["twistd", f"--pidfile={path}", "natproxy"]), path)

    def test_others_are_left_alone(self) -> None:
        for pid in (1, "", "nonsense"):
            path = self.pid_file(pid)
            self.assertIsNone(own_pid_file(["twistd", f"--pidfile={path}"]))
        for arguments in (["twistd", "--pidfile="], ["twistd", "--pidfile"]):
            self.assertIsNone(own_pid_file(arguments))


class ExecutionTests(SynchronousTestCase):
    def execution(self, pid: int) -> Execution:
        state = {"pid": pid, "background": True, "daemons": {"proxy": {"boot": "b"}}}
        environ = {VARIABLE: str(write_json(state)), "A": "1"}
        execution = Execution(environ)
        # No child sees it.
        self.assertEqual(environ, {"A": "1"})
        return execution

    def test_state_is_taken_once(self) -> None:
        execution = self.execution(os.getpid())
        self.assertTrue(execution.happened and execution.background)
        self.assertEqual(execution.take("proxy"), {"boot": "b"})
        self.assertIsNone(execution.take("proxy"))

    def test_state_of_another_process_is_ignored(self) -> None:
        execution = self.execution(1)
        self.assertFalse(execution.happened or execution.background)
        self.assertIsNone(execution.take("proxy"))

    def test_variable_without_a_state(self) -> None:
        for text in ("", "x", "999999"):
            self.assertFalse(Execution({VARIABLE: text}).happened)

    def test_identity_of_a_process(self) -> None:
        self.assertEqual(Identity.now(), Identity.now())
        self.assertEqual(Identity.now().user, os.geteuid())


class FailureTests(SynchronousTestCase):
    def test_master_that_cannot_be_replaced_keeps_its_pid_file(self) -> None:
        path = os.path.abspath(self.mktemp())
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        self.patch(sys, "argv", ["twistd", f"--pidfile={path}", "natproxy"])
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", path)

        for name in ("unlink", "execve"):
            with mock.patch.object(os, name, refuse):
                execute({}, [], False, {})
            with open(path) as file:
                self.assertEqual(file.read(), str(os.getpid()), name)
            self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, ()), blocked)
