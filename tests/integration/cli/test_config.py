"""``natproxy config``: output, errors and exit status."""

from __future__ import annotations

import os
from unittest import mock

from tests.support.commands import CommandCase


class ConfigTests(CommandCase):
    def setUp(self) -> None:
        clean = {name: text for name, text in os.environ.items() if "NATPROXY" not in name}
        patched = mock.patch.dict(os.environ, {**clean, "XDG_CONFIG_HOME": "/nowhere"}, clear=True)
        patched.start()
        self.addCleanup(patched.stop)

    def write(self, text: str) -> str:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return path

    def test_settings_of_all_are_shown(self) -> None:
        with mock.patch.dict(os.environ, NATPROXY_SERVER="h:1", NATPROXY_PROXY_DRAIN="3"):
            lines = self.written("config", "show").decode().splitlines()
        found = [" ".join(line.split()) for line in lines]
        for line in (
            'server = "h:1" # environment NATPROXY_SERVER',
            "[proxy]",
            "drain = 3.0 # environment NATPROXY_PROXY_DRAIN",
            "[fileserver]",
            "drain = 30.0 # default",
        ):
            self.assertIn(line, found)

    def test_one_can_be_selected(self) -> None:
        path = self.write('server = "h:2"\n')
        out = self.written("config", "show", "--daemon=client", "--config", path).decode()
        self.assertIn(f"# {path}: server\n", out)
        self.assertNotIn("[proxy]", out)
        out = self.written("config", "show", "--daemon=fileserver").decode()
        self.assertTrue(out.startswith("[fileserver]\n"))

    def test_file_is_that_of_the_daemons(self) -> None:
        path = self.write("[proxy]\ndrain = 1\n[fileserver]\ndrain = 2\n")
        self.assertEqual(self.written("config", "check", "--config", path), b"")
        out = self.written("config", "show", "--config", path).decode()
        self.assertNotIn("server = ", out)
        for table in ("proxy", "fileserver"):
            self.assertIn(f"# {path}: {table}.drain\n", out)

    def test_every_error_has_a_line_and_the_status_is_2(self) -> None:
        path = self.write("[proxy]\ndrain = -1\ntimout = 1\n[fileserver]\nlisten = '9001'\n")
        for action in ("show", "check"):
            status, _, err = self.main("config", action, "--config", path)
            self.assertEqual(status, 2)
            self.assertIn(f"natproxy: {path}: proxy.drain -1: must be at least 0 seconds\n", err)
            self.assertIn("proxy.timout: unknown key; did you mean proxy.timeout?\n", err)
        self.assertIn("fileserver.listen 9001: not an endpoint; write tcp:9001\n", err)
        self.assertEqual(len(err.splitlines()), 3)

    def test_errors_of_the_client(self) -> None:
        with mock.patch.dict(os.environ, NATPROXY_SERVER="not : a server"):
            self.assert_fails(2, "$NATPROXY_SERVER not : a server: HOST:PORT", "config", "check")

    def test_empty_name_of_a_file(self) -> None:
        for action in ("check", "show"):
            message = "--config: must name a file"
            self.assert_fails(2, message, "config", action, "--config", "")

    def test_missing_file_is_reported_once(self) -> None:
        message = "missing.toml: No such file or directory"
        self.assert_fails(2, message, "config", "check", "--config=missing.toml")
