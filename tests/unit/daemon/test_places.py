"""Directories, lock and file of the control socket, and the directory of the journal."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import places
from natproxy.daemon.places import (
    InUse,
    PathLock,
    PlaceError,
    check_length,
    default_path,
    explicit_control,
    prepare,
    prepare_journal,
    remove_stale,
)
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.records.places import LONGEST_PATH, Place
from natproxy.settings import SettingError

UID = os.geteuid()


class PlacesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory, 0o700)
        # Paths of sockets are relative: those of temporary directories may be too long.
        before = os.getcwd()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, before)

    def assert_refused(self, place: Place, reason: str) -> None:
        wrong = self.assertRaises(PlaceError, prepare, place, UID)
        self.assertIn(reason, str(wrong))


class LengthTests(SynchronousTestCase):
    def test_longest_path_can_be_bound(self) -> None:
        self.assertIsNone(check_length("a" * LONGEST_PATH))
        wrong = self.assertRaises(PlaceError, check_length, "a" * 106 + "é")
        self.assertEqual(
            str(wrong), "a path of 108 bytes is too long for a socket: at most 107 are possible"
        )


class ExplicitTests(SynchronousTestCase):
    def test_path_is_absolute(self) -> None:
        self.assertEqual(explicit_control(ProxyConfig(control="a.sock")), os.path.abspath("a.sock"))
        for control in (None, "none"):
            self.assertIsNone(explicit_control(ProxyConfig(control=control)))

    def test_path_that_is_too_long(self) -> None:
        config = ProxyConfig.load({"control": "/" + "x" * 107}, {})
        wrong = self.assertRaises(SettingError, explicit_control, config)
        self.assertTrue(str(wrong).startswith("--control /xxx"), str(wrong))
        self.assertIn("a path of 108 bytes is too long", str(wrong))


class DirectoryTests(PlacesCase):
    def test_own_directory_is_created_for_the_user_alone(self) -> None:
        prepare(Place("sockets"), UID)
        self.assertEqual(stat.S_IMODE(os.stat("sockets").st_mode), 0o700)
        prepare(Place("sockets"), UID)

    def test_directory_of_the_service_manager_is_not_created(self) -> None:
        self.assert_refused(Place("run", ours=False), os.strerror(errno.ENOENT))
        self.assertFalse(os.path.exists("run"))
        os.mkdir("run", 0o755)
        prepare(Place("run", ours=False), UID)

    def test_directory_above_must_exist(self) -> None:
        self.assert_refused(Place("missing/sockets"), os.strerror(errno.ENOENT))

    def test_file_in_its_place(self) -> None:
        with open("sockets", "w"):
            pass
        self.assert_refused(Place("sockets"), os.strerror(errno.ENOTDIR))
        self.assert_refused(Place("sockets", shared=True), "must be one with mode 0700")

    def test_others_may_not_write_to_it(self) -> None:
        for mode in (0o770, 0o707):
            os.mkdir("sockets")
            os.chmod("sockets", mode)
            self.assert_refused(Place("sockets"), "others may write to it")
            os.rmdir("sockets")

    def test_directory_of_another_user(self) -> None:
        os.mkdir("sockets", 0o700)
        wrong = self.assertRaises(PlaceError, prepare, Place("sockets"), UID + 1)
        self.assertIn("belongs to another user", str(wrong))

    def test_shared_directory_is_private_and_no_link(self) -> None:
        shared = Place("sockets", shared=True)
        prepare(shared, UID)
        prepare(shared, UID)
        self.assertRaises(PlaceError, prepare, shared, UID + 1)
        os.chmod("sockets", 0o755)
        self.assert_refused(shared, "mode 0700")
        os.chmod("sockets", 0o700)
        os.rename("sockets", "elsewhere")
        os.symlink("elsewhere", "sockets")
        self.assert_refused(shared, "mode 0700")

    def test_first_place_that_can_be_used(self) -> None:
        with open("file", "w"):
            pass
        found = [Place("file/natproxy"), Place("b", shared=True)]
        self.patch(places, "socket_places", lambda environ, uid: found)
        self.assertEqual(default_path({}, UID, "proxy-9000"), "b/proxy-9000.sock")

    def test_reason_is_that_of_the_first_place(self) -> None:
        found = [Place("run", ours=False), Place("b")]
        self.patch(places, "socket_places", lambda environ, uid: found)
        wrong = self.assertRaises(PlaceError, default_path, {}, UID, "a")
        self.assertEqual(str(wrong), "run/a.sock: No such file or directory")
        self.assertFalse(os.path.exists("b"))

    def test_path_that_is_too_long(self) -> None:
        found = [Place("x" * 120, ours=False)]
        self.patch(places, "socket_places", lambda environ, uid: found)
        self.assertIn("too long", str(self.assertRaises(PlaceError, default_path, {}, UID, "a")))


class LockTests(PlacesCase):
    def test_second_owner_learns_the_number_of_the_first(self) -> None:
        first = PathLock("a.sock")
        self.assertEqual(first.path, "a.lock")
        wrong = self.assertRaises(InUse, PathLock, "a.sock")
        self.assertEqual((wrong.owner, str(wrong)), (os.getpid(), f"process {os.getpid()}"))
        first.release()
        self.assertFalse(os.path.exists("a.lock"))
        PathLock("a.sock").release()

    def test_lock_file_of_a_process_that_has_ended_is_no_obstacle(self) -> None:
        # In a container every daemon is process 1: its number says nothing.
        with open("a.lock", "w") as file:
            file.write(f"{os.getpid()}\n")
        lock = PathLock("a.sock")
        with open("a.lock") as file:
            self.assertEqual(file.read(), f"{os.getpid()}\n")
        lock.release()

    def test_file_of_another_program_is_neither_overwritten_nor_removed(self) -> None:
        with open("poetry.lock", "w") as file:
            file.write("content\n" * 5)
        wrong = self.assertRaises(OSError, PathLock, "poetry.sock")
        self.assertIn("poetry.lock is a file of another program", str(wrong))
        with open("poetry.lock") as file:
            self.assertEqual(file.read(), "content\n" * 5)

    def test_second_release_does_not_remove_the_lock_of_another(self) -> None:
        first = PathLock("a.sock")
        first.release()
        second = PathLock("a.sock")
        first.release()
        self.assertTrue(os.path.exists("a.lock"))
        second.release()

    def test_owner_without_a_number(self) -> None:
        with open("a.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            wrong = self.assertRaises(InUse, PathLock, "a.sock")
        self.assertEqual((wrong.owner, str(wrong)), (None, "another process"))

    def test_lock_file_that_is_removed_while_it_is_opened_is_opened_again(self) -> None:
        flock, removed = fcntl.flock, []

        def remove_first(descriptor: int, operation: int) -> None:
            flock(descriptor, operation)
            if not removed:
                removed.append(True)
                os.unlink("a.lock")

        self.patch(fcntl, "flock", remove_first)
        lock = PathLock("a.sock")
        self.assertTrue(os.path.exists("a.lock"))
        lock.release()
        self.assertEqual(removed, [True])

    def test_link_in_its_place_is_not_followed(self) -> None:
        with open("precious", "w") as file:
            file.write("content")
        os.symlink("precious", "a.lock")
        self.assertRaises(OSError, PathLock, "a.sock")
        os.unlink("a.lock")
        os.link("precious", "a.lock")
        self.assertRaises(OSError, PathLock, "a.sock")
        with open("precious") as file:
            self.assertEqual(file.read(), "content")

    def test_pipe_or_directory_in_its_place(self) -> None:
        os.mkfifo("a.lock")
        self.assertRaises(OSError, PathLock, "a.sock")
        os.mkdir("b.lock")
        self.assertRaises(OSError, PathLock, "b.sock")

    @given(st.binary(max_size=30))
    def test_short_content_is_overwritten(self, content: bytes) -> None:
        with open("a.lock", "wb") as file:
            file.write(content)
        PathLock("a.sock").release()


class StaleTests(PlacesCase):
    def listen(self, path: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(path)
        listening.listen(1)
        return listening

    def test_nothing_there(self) -> None:
        remove_stale("a.sock")

    def test_socket_without_a_process_is_removed(self) -> None:
        self.listen("a.sock").close()
        remove_stale("a.sock")
        self.assertFalse(os.path.lexists("a.sock"))

    def test_socket_of_a_process_that_listens_is_kept(self) -> None:
        self.listen("a.sock")
        self.assertRaises(InUse, remove_stale, "a.sock")
        self.assertTrue(os.path.lexists("a.sock"))

    def test_process_whose_queue_is_full_listens_too(self) -> None:
        self.listen("a.sock")
        full = False
        while not full:
            waiting = socket.socket(socket.AF_UNIX)
            self.addCleanup(waiting.close)
            waiting.setblocking(False)
            full = waiting.connect_ex("a.sock") == errno.EAGAIN
        self.assertRaises(InUse, remove_stale, "a.sock")
        self.assertTrue(os.path.lexists("a.sock"))

    def test_other_files_are_kept(self) -> None:
        with open("a.sock", "w"):
            pass
        self.assertRaises(PlaceError, remove_stale, "a.sock")
        self.assertTrue(os.path.exists("a.sock"))
        os.symlink("elsewhere", "b.sock")
        self.assertRaises(PlaceError, remove_stale, "b.sock")
        self.assertTrue(os.path.islink("b.sock"))


class JournalTests(PlacesCase):
    def assert_journal_refused(self, path: str, reason: str, parents: bool = False) -> None:
        wrong = self.assertRaises(PlaceError, prepare_journal, os.path.abspath(path), parents)
        self.assertIn(reason, str(wrong))

    def test_created_for_the_user_alone(self) -> None:
        path = os.path.abspath("state/natproxy/a")
        prepare_journal(path, parents=True)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o700)
        prepare_journal(path, parents=True)

    def test_directory_above_one_that_is_named_must_exist(self) -> None:
        self.assert_journal_refused("missing/a", os.strerror(errno.ENOENT))

    def test_others_may_not_write_to_it(self) -> None:
        os.mkdir("a")
        os.chmod("a", 0o777)
        self.assert_journal_refused("a", "other users may write to the directory; chmod 700 it")

    def test_mode_of_a_directory_such_as_tmp_is_left_alone(self) -> None:
        os.mkdir("a")
        os.chmod("a", 0o1777)
        self.assert_journal_refused("a", "to the directory; name a directory in it")

    def test_file_in_its_place(self) -> None:
        with open("a", "w"):
            pass
        self.assert_journal_refused("a", os.strerror(errno.ENOTDIR))
        self.assert_journal_refused("a/b", os.strerror(errno.EEXIST), parents=True)
