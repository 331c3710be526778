"""``natproxy config``: output, errors and exit status."""

from __future__ import annotations

import json
import os
from unittest import mock

from tests.support.commands import CommandCase


class ConfigCase(CommandCase):
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


class ConfigTests(ConfigCase):
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


class DecisionTests(ConfigCase):
    """Which rule decides about a command."""

    RULES = (
        "[[proxy.rules]]\naction = 'deny'\nclients = '192.168.0.0/16'\n"
        "[[proxy.rules]]\naction = 'deny'\nidentities = 'mallory'\n"
        "[[proxy.rules]]\naction = 'deny'\nnames = 'secret'\nnote = 'private'\n"
        "[fileserver]\nrules-default = 'deny'\n"
    )

    def decided(self, who: str, line: str, *options: str) -> tuple[int, str]:
        path = self.write(self.RULES)
        arguments = ("config", "check", "--as", who, line, "--config", path, *options)
        status, out, err = self.main(*arguments)
        self.assertEqual(err, "")
        return status, out.decode()

    def test_denied_command(self) -> None:
        status, text = self.decided("client=10.0.0.5,identity=alice", "GET %73ecret/a")
        self.assertEqual(status, 1)
        self.assertEqual(
            text,
            "proxy: 'GET %73ecret/a' of 10.0.0.5 (alice) is denied: by rule 3: private\n"
            "  rule 1 does not match: 10.0.0.5 is not in its clients\n"
            "  rule 2 does not match: alice is not among its identities\n",
        )

    def test_allowed_command(self) -> None:
        status, text = self.decided("client=unix", "LIST")
        self.assertEqual(status, 0)
        self.assertTrue(
            text.startswith(
                "proxy: 'LIST' of unix is allowed: no rule matches, and the default is allow\n"
                "  rule 1 does not match: unix is not in its clients\n"
                "  rule 2 does not match: no identity is not among its identities\n"
                "  rule 3 (private) does not match: . matches none of its names\n"
            ),
            text,
        )

    def test_rules_of_the_file_server(self) -> None:
        status, text = self.decided("client=::1", "STAT a", "--daemon=fileserver")
        self.assertEqual(
            (status, text),
            (
                1,
                "fileserver: 'STAT a' of ::1 is denied: no rule matches, and the default is deny\n",
            ),
        )

    def test_json(self) -> None:
        status, text = self.decided("client=192.168.1.1", "PACK a secret%20b secret", "--json")
        self.assertEqual(status, 1)
        self.assertEqual(
            json.loads(text),
            {
                "daemon": "proxy",
                "client": "192.168.1.1",
                "identity": None,
                "command": "PACK a secret%20b secret",
                "allowed": False,
                "decided_by": "1",
                "reason": "rule 1",
                "name": None,
                "not_matching": [],
            },
        )
        _, text = self.decided("client=10.0.0.1", "PACK a secret/b%20c")
        self.assertIn(" is denied for the name secret/b%20c: by rule 3: private\n", text)

    def test_secret_is_not_shown(self) -> None:
        status, text = self.decided("client=10.0.0.1", "AUTH hunter2")
        self.assertEqual(
            (status, text),
            (0, "proxy: 'AUTH [redacted]' of 10.0.0.1 is allowed: always allowed\n"),
        )

    def test_usage(self) -> None:
        check = ("config", "check")
        for arguments in (
            ("config", "show", "--as", "client=10.0.0.5", "GET a"),
            ("config", "diff", "--as", "client=10.0.0.5", "GET a"),
            (*check, "--as", "10.0.0.5", "GET a"),
            (*check, "--as", "client=example.org", "GET a"),
            (*check, "--as", "client=10.0.0.5,user=a", "GET a"),
            (*check, "--as", "client=10.0.0.5", " "),
            (*check, "--as", "client=10.0.0.5", "GET a\nLIST"),
            (*check, "--as", "client=10.0.0.5", "GET a", "--daemon=client"),
            (*check, "--json"),
        ):
            self.assert_fails(2, "", *arguments)

    def test_wrong_settings(self) -> None:
        path = self.write("[[proxy.rules]]\naction = 'no'\n")
        status, out, err = self.main(
            "config", "check", "--as", "client=10.0.0.5", "GET a", "--config", path
        )
        self.assertEqual((status, out), (2, b""))
        self.assertIn('proxy.rules[0].action: must be "allow" or "deny" (rule 1)\n', err)
