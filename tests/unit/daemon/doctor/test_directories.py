"""Checks of the directories of sockets and journals."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.doctor.directories import check_runtime, check_state
from natproxy.daemon.doctor.finding import Finding, Level
from natproxy.records.places import Place

UID = os.geteuid()


class DirectoriesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())

    def only(self, findings: list[Finding], level: Level, text: str) -> None:
        self.assertEqual([one.level for one in findings], [level], findings)
        self.assertIn(text, findings[0].text)

    def as_other_user(self) -> None:
        """Let nothing be writable, which root cannot see otherwise."""
        self.patch(os, "access", lambda path, mode: False)


class RuntimeTests(DirectoriesCase):
    def test_directory_that_a_daemon_creates(self) -> None:
        self.only(check_runtime(Place(self.path), UID), Level.OK, "a daemon creates it")

    def test_directory_that_the_service_manager_creates(self) -> None:
        found = check_runtime(Place(self.path, ours=False), UID)
        self.only(found, Level.PROBLEM, "does not exist")

    def test_directory_above_is_missing_or_not_writable(self) -> None:
        missing = Place(os.path.join(self.path, "file", "sockets"))
        os.mkdir(self.path)
        with open(os.path.join(self.path, "file"), "w"):
            pass
        self.only(check_runtime(missing, UID), Level.PROBLEM, "cannot be created")
        self.as_other_user()
        found = check_runtime(Place(os.path.join(self.path, "sockets")), UID)
        self.only(found, Level.PROBLEM, f"cannot be created in {self.path}")

    def test_existing_directory(self) -> None:
        os.mkdir(self.path, 0o700)
        self.only(check_runtime(Place(self.path), UID), Level.OK, f"(mode 0700, user {UID})")
        os.chmod(self.path, 0o777)
        self.only(check_runtime(Place(self.path), UID), Level.PROBLEM, "mode 0777")
        os.chmod(self.path, 0o700)
        self.as_other_user()
        self.only(check_runtime(Place(self.path), UID), Level.PROBLEM, "not writable")

    def test_file_in_its_place(self) -> None:
        with open(self.path, "w"):
            pass
        self.only(check_runtime(Place(self.path), UID), Level.PROBLEM, "not a directory")

    def test_shared_directory_of_another_user(self) -> None:
        os.mkdir(self.path, 0o700)
        shared = Place(self.path, shared=True)
        self.only(check_runtime(shared, UID), Level.OK, self.path)
        self.only(check_runtime(shared, UID + 1), Level.PROBLEM, "belongs to the user")
        os.rmdir(self.path)
        os.symlink("/", self.path)
        self.only(check_runtime(shared, UID), Level.PROBLEM, "belongs to the user")


class StateTests(DirectoriesCase):
    def check(self, needed: int = 0, in_memory: bool = False) -> list[Finding]:
        return check_state(self.path, UID, needed, lambda device: in_memory)

    def test_missing_directory_is_created(self) -> None:
        self.path = os.path.join(self.path, "natproxy", "a")
        self.only(self.check(), Level.OK, "a daemon creates it")

    def test_no_directory_at_all(self) -> None:
        self.only(check_state(None, UID, 0, bool), Level.PROBLEM, "no directory")

    def test_space(self) -> None:
        found = self.check(needed=1 << 62)
        self.assertEqual([one.level for one in found], [Level.OK, Level.WARNING])
        self.assertIn("MiB are free", found[1].text)

    def test_file_system_in_memory(self) -> None:
        found = self.check(in_memory=True)
        self.assertEqual([one.level for one in found], [Level.OK, Level.WARNING])
        self.assertIn("a reboot deletes the journal", found[1].text)
