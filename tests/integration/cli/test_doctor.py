"""``natproxy doctor`` on this host: output and exit status."""

from __future__ import annotations

import json
import os
from unittest import mock

from tests.support.commands import CommandCase


class DoctorTests(CommandCase):
    def setUp(self) -> None:
        clean = {name: text for name, text in os.environ.items() if "NATPROXY" not in name}
        self.runtime = os.path.abspath(self.mktemp())
        self.state = os.path.abspath(self.mktemp())
        os.mkdir(self.runtime, 0o700)
        clean |= {"RUNTIME_DIRECTORY": self.runtime, "STATE_DIRECTORY": self.state}
        patched = mock.patch.dict(os.environ, clean, clear=True)
        patched.start()
        self.addCleanup(patched.stop)

    def test_every_check_has_a_line_and_every_warning_a_remedy(self) -> None:
        status, out, err = self.main("doctor")
        self.assertEqual((status, err), (0, ""))
        lines = out.decode().splitlines()
        for check in ("descriptors of the proxy", "ports", "backlog", "pipes", "openat2", "clock"):
            self.assertTrue([line for line in lines if f" {check}: " in line], check)
        self.assertIn(f"ok       runtime directory: {self.runtime} (mode 0700", out.decode())
        warnings = [line for line in lines if line.startswith(("warning", "problem"))]
        remedies = [line for line in lines if line.lstrip().startswith("remedy: ")]
        self.assertEqual(len(warnings), len(remedies))

    def test_nothing_is_created(self) -> None:
        self.main("doctor")
        self.assertEqual(os.listdir(self.runtime), [])
        self.assertFalse(os.path.exists(self.state))

    def test_problem_has_status_1_and_is_in_the_json(self) -> None:
        os.chmod(self.runtime, 0o777)
        status, out, _ = self.main("doctor", "--json")
        self.assertEqual(status, 1)
        found = [one for one in json.loads(out) if one["level"] == "problem"]
        self.assertEqual(
            found,
            [
                {
                    "check": "runtime directory",
                    "level": "problem",
                    "text": f"others may write to {self.runtime} (mode 0777)",
                    "remedy": f"chmod 700 {self.runtime}",
                }
            ],
        )

    def test_wrong_settings_are_problems(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("[proxy]\ndrain = -1\n[fileserver]\nlisten = 'ssl:1'\n")
        status, out, _ = self.main("doctor", "--config", path)
        self.assertEqual(status, 1)
        self.assertIn("problem  settings: ", out.decode())
        self.assertIn("proxy.drain -1: must be at least 0 seconds", out.decode())

    def test_limits_of_another_process(self) -> None:
        status, out, _ = self.main("doctor", "--pid", "999999999")
        self.assertEqual(status, 0)
        self.assertIn("/proc/999999999/limits cannot be read", out.decode())
