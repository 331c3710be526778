"""The commands about the journal of a fleet, without a database: what is wrong is one message."""

from __future__ import annotations

import importlib.util
import os
import sys
from unittest import mock

from twisted.trial.unittest import SkipTest

from tests.support.commands import CommandCase

SECRET = "tell-no-one"
NOWHERE = f"postgresql://u:{SECRET}@127.0.0.1:1/d"


class FleetTests(CommandCase):
    def refusal(self, *arguments: str) -> tuple[int, str]:
        """Return exit status and message of a command that fails."""
        status, out, err = self.main(*arguments)
        self.assertEqual(out, b"")
        self.assertNotIn(SECRET, err)
        self.assertNotIn("Traceback", err)
        self.assertTrue(status)
        return status, err

    def test_options_that_contradict_each_other(self) -> None:
        for text, arguments in (
            ("--to", ("ship",)),
            ("--to", ("migrate", "--to", "mysql://x")),
            ("--retention soon", ("ship", "--to", NOWHERE, "--retention", "soon")),
            ("--once", ("verify", "--once")),
            ("--once", ("migrate", "--to", NOWHERE, "--once")),
            ("--client", ("ship", "--to", NOWHERE, "--client", "10.0.0.1")),
            ("--journal", ("migrate", "--to", NOWHERE, "--journal", "a")),
            ("needs a directory", ("segments", "--journal", NOWHERE)),
            ("names a directory", ("ship", "--to", NOWHERE, "--journal", NOWHERE)),
            ("excludes --name", ("ship", "--to", NOWHERE, "--journal", "a", "--name", "b")),
            ("--journal", ("proxies",)),
            ("--journal: the database", ("proxies", "--journal", "a")),
            ("--to", ("proxies", "--journal", NOWHERE, "--to", NOWHERE)),
            ("--control", ("ship", "--to", NOWHERE, "--control", "a")),
            ("--json", ("ship", "--to", NOWHERE, "--json")),
            ("no such directory", ("ship", "--once", "--to", NOWHERE, "--journal", "missing")),
        ):
            status, err = self.refusal("journal", *arguments)
            self.assertEqual(status, 2, arguments)
            self.assertIn(text, err)

    def test_options_of_top_that_contradict_each_other(self) -> None:
        for text, arguments in (
            ("--journal excludes", ("--journal", NOWHERE, "--name", "a")),
            ("the database of a fleet", ("--journal", ".")),
            ("--since yesterday", ("--journal", NOWHERE, "--since", "yesterday")),
            ("from 10s to 1d", ("--journal", NOWHERE, "--since", "2d")),
            ("from 10s to 1d", ("--journal", NOWHERE, "--since", "-1s")),
            ("--since: with --journal", ("--since", "5min")),
            ("--by proxy: with --journal", ("--by", "proxy")),
            ("needs --by", ("--json",)),
        ):
            status, err = self.refusal("top", *arguments)
            self.assertEqual(status, 2, arguments)
            self.assertIn(text, err)

    def test_each_action_has_help_of_its_own(self) -> None:
        for action, has, lacks in (
            ("segments", "--json", "--to"),
            ("erase", "--client", "--once"),
            ("ship", "--retention", "--client"),
            ("migrate", "--to", "--journal"),
            ("proxies", "--journal", "--name"),
        ):
            status, out, _ = self.main("journal", action, "--help")
            text = out.decode()
            self.assertEqual(status, 0)
            self.assertIn(f"natproxy journal {action}", text)
            self.assertIn(f" {has} ", text)
            self.assertNotIn(f" {lacks} ", text)

    def test_unknown_option_prints_the_usage_of_the_action(self) -> None:
        _, err = self.refusal("journal", "migrate", "--to", NOWHERE, "--what")
        self.assertIn("usage: natproxy journal migrate ", err)

    def test_database_excludes_a_daemon(self) -> None:
        status, err = self.refusal("whois", "1", "--journal", NOWHERE, "--name", "a")
        self.assertEqual(status, 2)
        self.assertIn("--journal excludes", err)

    def test_database_that_is_away(self) -> None:
        if importlib.util.find_spec("psycopg") is None:
            raise SkipTest("there is no psycopg")
        os.mkdir("journal")
        for arguments in (
            ("whois", "1", "--journal", NOWHERE),
            ("history", "--journal", NOWHERE),
            ("top", "--journal", NOWHERE),
            ("journal", "migrate", "--to", NOWHERE),
            ("journal", "proxies", "--journal", NOWHERE),
            ("journal", "ship", "--once", "--to", NOWHERE, "--journal", "journal"),
        ):
            _, err = self.refusal(*arguments)
            self.assertIn("PostgreSQL is away", err, arguments)

    def test_missing_driver_names_the_extra(self) -> None:
        with mock.patch.dict(sys.modules, {"psycopg": None}):
            _, err = self.refusal("whois", "1", "--journal", NOWHERE)
        self.assertIn("natproxy[postgres]", err)
