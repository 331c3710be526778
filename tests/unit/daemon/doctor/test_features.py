"""Checks of features of the kernel, the clock and optional packages."""

from __future__ import annotations

import os
from importlib.metadata import metadata

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.doctor.features import (
    EXTRAS,
    UNSYNCHRONIZED,
    check_clock,
    check_extras,
    check_kernel,
    check_no_port,
    check_nowait,
    check_openat2,
    clock_state,
)
from natproxy.daemon.doctor.finding import Finding, Level

NOW = 1_800_000_000.0


class FeaturesCase(SynchronousTestCase):
    def only(self, findings: list[Finding], level: Level, text: str) -> None:
        self.assertEqual([one.level for one in findings], [level], findings)
        self.assertIn(text, findings[0].text)


class KernelTests(FeaturesCase):
    def test_openat2(self) -> None:
        self.only(check_openat2(lambda: True), Level.OK, "confines")
        self.only(check_openat2(lambda: False), Level.WARNING, "not available")

    def test_versions(self) -> None:
        for release in ("5.6", "5.10.0-13-amd64", "6.1.0", "10.0"):
            self.only(check_kernel(release), Level.OK, release)
        for release in ("5.5.9", "4.19.0-1", "unknown"):
            self.only(check_kernel(release), Level.WARNING, "lacks")

    def test_nowait(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("content")
        self.only(check_nowait(path, 0), Level.WARNING, "not available")
        # A flag that no kernel has is refused as one that a file system lacks.
        self.only(check_nowait(path, 1 << 30), Level.WARNING, "not supported")
        self.only(check_nowait("/nowhere/file"), Level.WARNING, "cannot be read")
        found = check_nowait(path)
        self.assertIn(found[0].level, (Level.OK, Level.WARNING))

    def test_nowait_of_a_file_that_is_not_in_memory(self) -> None:
        def would_block(*arguments: object) -> int:
            raise BlockingIOError

        self.patch(os, "preadv", would_block)
        self.only(check_nowait(os.devnull, 8), Level.OK, "without a thread")

    def test_port_chosen_by_connect(self) -> None:
        self.only(check_no_port(9999), Level.WARNING, "not available")


class ClockTests(FeaturesCase):
    def check(self, state: int | None = 0, start: float = NOW, step: float = 0.0) -> list[Finding]:
        slept: list[float] = []

        def state_of() -> int:
            if state is None:
                raise OSError
            return state

        def wall() -> float:
            return start + sum(slept) + (step if slept else 0.0)

        return check_clock(state_of, wall, lambda: sum(slept), slept.append)

    def test_synchronized(self) -> None:
        self.only(self.check(), Level.OK, "synchronized")

    def test_not_synchronized(self) -> None:
        self.only(self.check(UNSYNCHRONIZED), Level.WARNING, "not synchronized")

    def test_state_is_not_available(self) -> None:
        self.only(self.check(None), Level.WARNING, "cannot be read")

    def test_clock_that_is_set_meanwhile(self) -> None:
        self.only(self.check(step=-3.0), Level.WARNING, "set by -3.000 s")

    def test_clock_that_was_never_set(self) -> None:
        self.only(self.check(start=0.0), Level.PROBLEM, "before 2024")

    def test_state_of_this_system(self) -> None:
        try:
            self.assertIn(clock_state(), range(6))
        except OSError as error:
            # A sandbox may forbid it.
            self.assertTrue(error.strerror)


class ExtrasTests(FeaturesCase):
    def test_all_are_installed(self) -> None:
        findings = check_extras(["tls"], lambda package: True)
        self.assertEqual({one.level for one in findings}, {Level.OK})
        self.assertEqual(len(findings), len(EXTRAS))

    def test_each_extra_for_users_is_checked(self) -> None:
        extras = metadata("natproxy").get_all("Provides-Extra") or []
        developers = {"bench", "dev", "fuzz", "test"}
        self.assertEqual(set(extras) - developers - set(EXTRAS), set())

    def test_missing_ones_are_no_problem_unless_they_are_needed(self) -> None:
        findings = check_extras(["tls"], lambda package: None)
        levels = {one.check: one.level for one in findings}
        self.assertIs(levels.pop("extra tls"), Level.PROBLEM)
        self.assertEqual(set(levels.values()), {Level.OK})
        self.assertIn("pip install 'natproxy[metrics]'", findings[-1].text)

    def test_parser_of_files_on_old_pythons(self) -> None:
        findings = check_extras(["config"], lambda package: package == "tomli")
        found = {one.check: one.text for one in findings}
        self.assertEqual(found["extra config"], "installed")
