"""The file of a control socket is made again if it was removed, on a reactor in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from natproxy.daemon.control_socket import CHECK, ControlSocket, InheritedControl
from natproxy.daemon.places import InUse, PathLock, PlaceError
from tests.support.doubles import Journal as Log
from tests.support.logged_errors import LoggedErrorsCase


class Listening:
    """A port; its file has the place of a socket's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = open(path, "xb")  # noqa: SIM115
        # Of the socket that it has.
        self.socket = self
        self.reads = True

    def fileno(self) -> int:
        return self.file.fileno()

    def stopReading(self) -> None:
        self.reads = False

    def close(self) -> None:
        self.file.close()

    def stopListening(self) -> None:
        self.close()
        os.unlink(self.path)


class ListeningClock(Clock):
    """A reactor that makes files in the place of sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self.ports: list[Listening] = []

    def listenUNIX(self, path: str, factory: object, backlog: int, mode: int) -> Listening:
        if self.failure is not None:
            raise self.failure
        self.ports.append(Listening(path))
        return self.ports[-1]


class ControlSocketCase(LoggedErrorsCase):
    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory, True)
        self.clock = ListeningClock()
        self.log = Log(self)
        self.path = os.path.join(self.directory, "a.sock")
        self.located = self.path
        self.control = ControlSocket(self.clock, Factory(), self.locate)
        self.control.open()
        self.addCleanup(self.close)

    def locate(self) -> str:
        if not os.path.isdir(self.directory):
            os.mkdir(self.directory, 0o700)
        return self.located

    def close(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.control.close()))
        self.control.release()
        for port in self.clock.ports:
            port.close()

    def lines(self) -> list[str]:
        return [line for line in self.log.lines() if "control socket" in line]

    def wait(self) -> None:
        self.clock.advance(CHECK)


class MakeAgainTests(ControlSocketCase):
    def test_nothing_happens_while_it_is_there(self) -> None:
        self.wait()
        self.assertEqual((len(self.clock.ports), self.lines()), (1, []))

    def test_it_is_made_again_and_logged_once(self) -> None:
        os.unlink(self.path)
        self.wait()
        self.wait()
        first, second = self.clock.ports
        self.assertTrue(first.file.closed)
        self.assertFalse(first.reads)
        self.assertFalse(second.file.closed)
        self.assertEqual(
            self.lines(), [f"the control socket {self.path} was removed; it is made again"]
        )

    def test_directory_and_lock_are_made_again(self) -> None:
        shutil.rmtree(self.directory)
        self.wait()
        self.assertTrue(os.path.exists(self.path))
        self.assertRaises(InUse, PathLock, self.path)

    def test_lock_alone_is_made_again(self) -> None:
        os.unlink(os.path.join(self.directory, "a.lock"))
        self.wait()
        self.assertRaises(InUse, PathLock, self.path)
        self.assertEqual((len(self.clock.ports), self.lines()), (1, []))

    def test_another_daemon_may_have_taken_the_name(self) -> None:
        shutil.rmtree(self.directory)
        os.mkdir(self.directory, 0o700)
        other = PathLock(self.path)
        self.wait()
        self.wait()
        self.assertFalse(os.path.exists(self.path))
        (line,) = self.lines()
        self.assertIn(f"cannot be made again yet: in use by process {os.getpid()}", line)
        other.release()
        self.wait()
        self.assertTrue(os.path.exists(self.path))

    def test_file_of_another_program_is_left_alone(self) -> None:
        os.unlink(self.path)
        with open(self.path, "w") as file:
            file.write("other")
        self.wait()
        self.wait()
        (line,) = self.lines()
        self.assertIn("was replaced by another file", line)
        self.assertEqual(len(self.clock.ports), 1)
        os.unlink(self.path)
        self.wait()
        self.assertEqual(len(self.clock.ports), 2)

    def test_failure_is_logged_once_and_tried_again(self) -> None:
        os.unlink(self.path)
        self.clock.failure = OSError(28, "No space left on device")
        self.wait()
        self.wait()
        (line,) = self.lines()
        self.assertIn("cannot be made again yet: No space left on device", line)
        self.clock.failure = None
        self.wait()
        self.assertEqual(len(self.clock.ports), 2)

    def test_path_stays_the_same(self) -> None:
        os.unlink(self.path)
        self.located = os.path.join(self.directory, "b.sock")
        self.wait()
        (line,) = self.lines()
        self.assertIn("its directory is missing", line)
        self.assertFalse(os.path.exists(self.located))

    def test_end(self) -> None:
        self.close()
        self.assertEqual(os.listdir(self.directory), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.close()

    def test_replaced_file_stays_at_the_end(self) -> None:
        os.unlink(self.path)
        with open(self.path, "w"):
            pass
        self.close()
        self.assertEqual(os.listdir(self.directory), ["a.sock"])
        self.log.line_with("was removed or replaced")

    def test_failure_to_open(self) -> None:
        other = ControlSocket(self.clock, Factory(), self.locate)
        self.assertRaises(InUse, other.open)

        def nowhere() -> str:
            raise PlaceError("nowhere")

        self.assertRaises(PlaceError, ControlSocket(self.clock, Factory(), nowhere).open)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class InheritedTests(ControlSocketCase):
    def test_what_the_next_program_needs(self) -> None:
        found = self.control.inheritable()
        assert found is not None
        members: Any = {**found._asdict(), "identity": list(found.identity or ())}
        self.assertEqual(InheritedControl.from_json(members), found)
        self.assertIsNone(InheritedControl.from_json(None))
        self.assertEqual((found.path, found.socket), (self.path, self.clock.ports[0].fileno()))

    def test_that_of_another_path_is_closed(self) -> None:
        found = self.control.inheritable()
        assert found is not None
        copy = found._replace(socket=os.dup(found.socket), lock=os.dup(found.lock))
        self.located = os.path.join(self.directory, "b.sock")
        other = ControlSocket(self.clock, Factory(), self.locate)
        other.open(copy)
        self.assertFalse(os.path.exists(self.path))
        # Both numbers are free for the new socket and its lock.
        numbers = {copy.socket, copy.lock}
        self.assertLessEqual({each.fileno() for each in self.clock.ports[1:]}, numbers)
        self.successResultOf(Deferred.fromCoroutine(other.close()))
        other.release()
