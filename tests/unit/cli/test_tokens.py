"""``natproxy token``: its arguments, and what is printed once."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from argparse import Namespace
from contextlib import redirect_stdout

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.tokens import NO_SUCH_TOKEN, parse_expiry, run
from natproxy.client.errors import LocalError, UsageError
from natproxy.tokens.entries import load_tokens

NOW = 1_790_000_000.5


class TokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "new", "tokens")
        self.complaints: list[str] = []

    def token(
        self,
        action: str,
        client: str | None = None,
        expires: str | None = None,
        json: bool = False,
        file: str | None = None,
    ) -> tuple[int, str]:
        arguments = Namespace(
            action=action, client=client, expires=expires, json=json, file=file or self.path
        )
        with redirect_stdout(io.StringIO()) as output:
            status = run(arguments, self.complaints.append)
        return status, output.getvalue()

    def test_new_token_is_printed_alone_and_once(self) -> None:
        status, output = self.token("new", "alice", "90d")
        self.assertEqual((status, output.count("\n")), (0, 1))
        entry = load_tokens(self.path).find(output.strip().encode())
        assert entry is not None
        assert entry.expires is not None
        assert entry.created is not None
        self.assertEqual(entry.expires - entry.created, 90 * 86_400)
        shown = self.token("list")[1] + self.token("list", json=True)[1] + str(self.complaints)
        self.assertNotIn(output.strip(), shown)
        with open(self.path) as file:
            self.assertNotIn(output.strip(), file.read())

    def test_list_has_names_and_times(self) -> None:
        self.token("new", "alice")
        self.token("new", "bob", "2999-01-01")
        _, output = self.token("list", json=True)
        listed = [json.loads(line) for line in output.splitlines()]
        self.assertEqual(
            [(one["name"], one["expires"], one["expired"]) for one in listed],
            [("alice", None, False), ("bob", "2999-01-01T00:00:00Z", False)],
        )
        self.assertRegex(self.token("list")[1], r"^alice  created \S+  expires never\nbob  ")

    def test_revoked_token_is_gone(self) -> None:
        self.token("new", "alice")
        self.assertEqual(self.token("revoke", "alice"), (0, ""))
        self.assertEqual(self.token("revoke", "alice"), (NO_SUCH_TOKEN, ""))
        self.assertEqual(len(load_tokens(self.path)), 0)

    def test_wrong_arguments_change_nothing(self) -> None:
        for arguments in (
            ("new",),
            ("revoke",),
            ("list", "alice"),
            ("revoke", "alice", "90d"),
            ("new", "alice", None, True),
            ("new", "a b"),
            ("new", "alice", "yesterday"),
            ("new", "alice", "2020-01-01"),
        ):
            with self.assertRaises(UsageError):
                self.token(*arguments)  # type: ignore[arg-type]
        self.assertFalse(os.path.exists(self.path))

    def test_file_that_cannot_be_used_is_named(self) -> None:
        with self.assertRaises(LocalError) as caught:
            self.token("list")
        self.assertIn(self.path, str(caught.exception))
        self.token("new", "alice")
        os.chmod(self.path, 0o666)
        with self.assertRaises(UsageError) as refused:
            self.token("list")
        self.assertIn(f"{self.path}: other users can write", str(refused.exception))

    def test_second_token_of_a_name_is_refused(self) -> None:
        self.token("new", "alice")
        with self.assertRaises(UsageError):
            self.token("new", "alice")

    def test_expiry(self) -> None:
        for text, seconds in (("1h", 3600), ("90d", 90 * 86_400), ("2w", 14 * 86_400)):
            self.assertEqual(parse_expiry(text, NOW), int(NOW) + seconds)
        self.assertEqual(parse_expiry("2100-01-01", NOW), 4_102_444_800)
        for text in ("", "0d", "1y", "2026", "1970-01-01"):
            with self.assertRaises(UsageError):
                parse_expiry(text, NOW)
