"""Changes of a file of tokens."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.tokens.entries import (
    MOST_TOKENS,
    TokenFileError,
    format_entry,
    load_tokens,
    new_token,
)
from natproxy.tokens.file import NoSuchToken, TokenExists, add_token, remove_token


class TokenFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.addCleanup(os.umask, os.umask(0))
        self.path = os.path.join(self.directory, "tokens")

    def names(self) -> list[str]:
        return [entry.name for entry in load_tokens(self.path).entries]

    def text(self) -> str:
        with open(self.path) as file:
            return file.read()

    def mode(self) -> int:
        return stat.S_IMODE(os.stat(self.path).st_mode)

    def test_new_file_is_for_its_owner_alone_whatever_the_umask(self) -> None:
        token, entry = new_token("alice")
        add_token(self.path, entry)
        self.assertEqual((self.mode(), self.names()), (0o600, ["alice"]))
        self.assertEqual(load_tokens(self.path).find(token.encode()), entry)

    def test_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it(self) -> None:
        add_token(self.path, new_token("alice")[1])
        os.chmod(self.path, 0o640)
        with open(self.path) as before:
            add_token(self.path, new_token("bob")[1])
            remove_token(self.path, "alice")
            # A daemon that reads it meanwhile has all of it.
            self.assertEqual(os.fstat(before.fileno()).st_nlink, 0)
            self.assertEqual(before.read().count("\n"), 1)
        self.assertEqual((self.mode(), self.names()), (0o640, ["bob"]))
        self.assertEqual(os.listdir(self.directory), ["tokens"])

    def test_comments_and_other_lines_stay(self) -> None:
        lines = [format_entry(new_token(name)[1]) for name in ("alice", "bob", "alice")]
        with open(self.path, "w") as file:
            file.write(f"# ours\n\n{lines[0]}\n{lines[1]}\n  {lines[2]}\n# end")
        os.chmod(self.path, 0o600)
        self.assertEqual(remove_token(self.path, "alice"), 2)
        self.assertEqual(self.text(), f"# ours\n\n{lines[1]}\n# end")
        added = new_token("carol")[1]
        add_token(self.path, added)
        self.assertEqual(self.text(), f"# ours\n\n{lines[1]}\n# end\n{format_entry(added)}\n")

    def test_other_line_separators_in_a_comment_are_part_of_it(self) -> None:
        line = format_entry(new_token("alice")[1])
        for separator in "\x0b\x0c\x1c\x1d\x1e\r":
            with open(self.path, "w", newline="") as file:
                file.write(f"# of{separator}bob alice\n{line}\n")
            os.chmod(self.path, 0o600)
            self.assertEqual(remove_token(self.path, "alice"), 1)
            with open(self.path, newline="") as file:
                self.assertEqual(file.read(), f"# of{separator}bob alice\n")

    def test_name_is_used_once_and_what_is_missing_is_not_removed(self) -> None:
        add_token(self.path, new_token("alice")[1])
        before = self.text()
        with self.assertRaises(TokenExists):
            add_token(self.path, new_token("alice")[1])
        with self.assertRaises(NoSuchToken):
            remove_token(self.path, "bob")
        self.assertEqual(self.text(), before)

    def test_malformed_file_is_not_changed(self) -> None:
        with open(self.path, "w") as file:
            file.write("alice\n")
        for change in (
            lambda: add_token(self.path, new_token("bob")[1]),
            lambda: remove_token(self.path, "alice"),
        ):
            with self.assertRaises(TokenFileError):
                change()
        self.assertEqual(self.text(), "alice\n")

    def test_full_file_takes_no_more(self) -> None:
        line = format_entry(new_token("alice")[1])
        with open(self.path, "w") as file:
            file.writelines(f"{line.replace('alice', f'a{n}', 1)}\n" for n in range(MOST_TOKENS))
        os.chmod(self.path, 0o600)
        with self.assertRaises(TokenFileError):
            add_token(self.path, new_token("bob")[1])
        self.assertEqual(len(self.names()), MOST_TOKENS)

    def test_failure_leaves_the_old_file(self) -> None:
        add_token(self.path, new_token("alice")[1])
        before = self.text()
        for call in ("os.fsync", "os.replace", "os.fchmod"):
            with mock.patch(call, side_effect=OSError(28, "full")), self.assertRaises(OSError):
                add_token(self.path, new_token("bob")[1])
            self.assertEqual((self.text(), os.listdir(self.directory)), (before, ["tokens"]))

    def test_directory_must_exist(self) -> None:
        with self.assertRaises(FileNotFoundError):
            add_token(os.path.join(self.directory, "none", "tokens"), new_token("a")[1])
