"""Where the settings of a command come from: option, environment, file, default."""

from __future__ import annotations

import os
from unittest import mock

from natproxy.cli.options import DEFAULT_SERVER
from natproxy.client import config
from natproxy.client.retry import Cancellation
from tests.support.commands import NAMES, CommandCase


class SettingsTests(CommandCase):
    def write_file(self, text: str) -> None:
        """Make a file of settings that the commands of this test read."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        patched = mock.patch.dict(os.environ, NATPROXY_CONFIG=path, NATPROXY_SERVER="")
        patched.start()
        self.addCleanup(patched.stop)
        self.path = path

    def test_help_names_the_default(self) -> None:
        self.assertEqual(DEFAULT_SERVER, config.DEFAULT_SERVER)

    def test_file_names_the_server(self) -> None:
        self.write_file(f'server = "{self.serve()}"\n')
        self.assertEqual(self.written("ls"), NAMES)

    def test_environment_and_option_override_the_file(self) -> None:
        address = self.serve()
        self.write_file('server = "127.0.0.1:1"\ntimeout = 5\n')
        self.assert_fails(4, "127.0.0.1:1", "ls")
        self.assertEqual(self.written("ls", "--server", address), NAMES)
        with mock.patch.dict(os.environ, NATPROXY_SERVER=address):
            self.assertEqual(self.written("ls"), NAMES)
            self.assert_fails(4, "127.0.0.1:2", "--server", "127.0.0.1:2", "ls")

    def test_file_limits_the_retries(self) -> None:
        address = self.instead(STAT=b"ERR 503 not now\n")
        self.write_file(f'server = "{address}"\nretry-for = "1m"\nretries = 1\n')
        self.patch(Cancellation, "sleep", lambda *_: None)
        status, _, err = self.main("stat", "a.txt")
        self.assertEqual(status, 5)
        self.assertIn("gave up after 2 tries", err)

    def test_wrong_setting_is_named_with_its_file(self) -> None:
        self.write_file("timeout = -1\n")
        self.assert_fails(2, f"{self.path}: timeout -1: must be", "ls", "--server", "127.0.0.1:1")
        self.write_file("timeouts = 1\n")
        self.assert_fails(2, f"{self.path}: timeouts: unknown key", "ls")

    def test_command_that_is_no_client_ignores_the_file(self) -> None:
        self.write_file("timeout = -1\n")
        self.assertIn(b"natproxy", self.written("completion", "bash"))
