"""Places of control sockets and journals."""

from __future__ import annotations

import os
import socket

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records import places
from natproxy.records.places import (
    NAME,
    Place,
    default_name,
    journal_candidates,
    journal_directory,
    journals_in,
    socket_candidates,
    socket_places,
    sockets_in,
)


class NameTests(SynchronousTestCase):
    def test_port_or_file_of_the_first_listener(self) -> None:
        self.assertEqual(default_name("proxy", 9000), "proxy-9000")
        self.assertEqual(default_name("fileserver", 9001), "files-9001")
        self.assertEqual(default_name("up", 9000), "up-9000")
        self.assertEqual(default_name("proxy", None, "/run/np/edge.sock"), "proxy-edge")
        self.assertEqual(default_name("proxy", None, "/run/np/a b"), "proxy-a_b")
        self.assertEqual(default_name("proxy", None), "proxy")

    @given(st.text())
    def test_every_default_is_a_name(self, path: str) -> None:
        self.assertTrue(NAME.fullmatch(default_name("proxy", None, path)))


class SocketTests(SynchronousTestCase):
    def test_daemon_of_a_unit(self) -> None:
        environ = {"RUNTIME_DIRECTORY": "/run/one:/run/two", "XDG_RUNTIME_DIR": "/run/user/7"}
        self.assertEqual(socket_places(environ, 7)[0], Place("/run/one", ours=False))
        self.assertEqual(socket_places(environ, 0)[0], Place("/run/one", ours=False))

    def test_root_uses_no_directory_of_another_user(self) -> None:
        environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
        self.assertEqual(socket_places(environ, 0), [Place("/run/natproxy")])

    def test_user(self) -> None:
        environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
        self.assertEqual(socket_places(environ, 7)[0], Place("/run/user/7/natproxy"))
        self.assertEqual(socket_places({}, 7), [Place("/tmp/natproxy-7", shared=True)])
        relative = {"XDG_RUNTIME_DIR": "run", "RUNTIME_DIRECTORY": "run:/x"}
        self.assertEqual(socket_places(relative, 7), [Place("/tmp/natproxy-7", shared=True)])

    def test_command_line_looks_in_all_places(self) -> None:
        environ = {"RUNTIME_DIRECTORY": "/run/natproxy", "XDG_RUNTIME_DIR": "/run/user/7"}
        self.assertEqual(
            socket_candidates(environ, 7),
            [
                "/run/natproxy",
                "/run/user/7/natproxy",
                "/tmp/natproxy-7",
                "/run/natproxy-fileserver",
            ],
        )

    def test_directory_of_the_login_is_a_candidate_without_its_variable(self) -> None:
        self.assertIn("/run/user/7/natproxy", socket_candidates({}, 7))
        self.assertNotIn("/run/user/0/natproxy", socket_candidates({}, 0))

    def listen(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)

    def test_sockets_of_a_directory(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        for name in ("b.sock", "a.sock", ".hidden.sock", "other"):
            self.listen(os.path.join(directory, name))
        with open(os.path.join(directory, "c.sock"), "w"):
            pass
        os.symlink("a.sock", os.path.join(directory, "d.sock"))
        self.assertEqual(
            list(sockets_in(directory, 7)),
            [("a", os.path.join(directory, "a.sock")), ("b", os.path.join(directory, "b.sock"))],
        )
        self.assertEqual(list(sockets_in(self.mktemp(), 7)), [])

    def test_shared_directory_must_be_the_users_own(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory, 0o700)
        self.patch(places, "shared_directory", lambda uid: directory)
        self.listen(os.path.join(directory, "a.sock"))
        uid = os.geteuid()
        self.assertEqual([name for name, _ in sockets_in(directory, uid)], ["a"])
        self.assertEqual(list(sockets_in(directory, uid + 1)), [])
        os.chmod(directory, 0o770)
        self.assertEqual(list(sockets_in(directory, uid)), [])
        os.chmod(directory, 0o700)
        link = self.mktemp()
        os.symlink(os.path.abspath(directory), link)
        self.patch(places, "shared_directory", lambda uid: link)
        self.assertEqual(list(sockets_in(link, uid)), [])


class JournalTests(SynchronousTestCase):
    def test_directories(self) -> None:
        environ = {"HOME": "/home/me"}
        self.assertEqual(journal_directory(environ, 7, "a"), "/home/me/.local/state/natproxy/a")
        environ["XDG_STATE_HOME"] = "/state"
        self.assertEqual(journal_directory(environ, 7, "a"), "/state/natproxy/a")
        self.assertEqual(journal_directory(environ, 0, "a"), "/var/lib/natproxy/a")
        environ["STATE_DIRECTORY"] = "/var/lib/one:/var/lib/two"
        self.assertEqual(journal_directory(environ, 0, "a"), "/var/lib/one/a")
        self.assertIsNone(journal_directory({}, 7, "a"))

    def test_command_line_looks_in_the_users_and_in_the_systems(self) -> None:
        self.assertEqual(journal_candidates({}, 7), ["/var/lib/natproxy"])
        self.assertEqual(
            journal_candidates({"XDG_STATE_HOME": "/s"}, 7), ["/s/natproxy", "/var/lib/natproxy"]
        )
        self.assertEqual(journal_candidates({}, 0), ["/var/lib/natproxy"])

    def test_journals_of_a_directory(self) -> None:
        directory = self.mktemp()
        os.makedirs(os.path.join(directory, "b"))
        os.mkdir(os.path.join(directory, "a"))
        os.mkdir(os.path.join(directory, ".c"))
        os.symlink("a", os.path.join(directory, "d"))
        self.assertEqual([name for name, _ in journals_in(directory)], ["a", "b"])
        self.assertEqual(list(journals_in(self.mktemp())), [])
