"""``--retry-for``, ``--retries`` and ``--wait`` on the command line."""

from __future__ import annotations

from argparse import Namespace

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.commands import COMMANDS
from natproxy.cli.context import configure, retry_policy_of
from natproxy.cli.parsing import program_parser
from natproxy.client.retry import Cancellation, RetryPolicy
from tests.support.answering_server import Version2
from tests.support.commands import FILES, CommandCase

QUESTIONS = (["ls"], ["stat", "a"], ["hash", "a"], ["list"])
TRANSFERS = (["get", "a"], ["cat", "a"], ["sync", "a", "b"])


class OptionTests(SynchronousTestCase):
    def retry_policy(self, *words: str) -> RetryPolicy:
        options: Namespace = program_parser(COMMANDS).parse_args(words)
        return retry_policy_of(configure(options))

    def test_defaults(self) -> None:
        for command in QUESTIONS:
            self.assertEqual(self.retry_policy(*command), RetryPolicy(0, None, False))
        for command in TRANSFERS:
            self.assertEqual(self.retry_policy(*command), RetryPolicy(1800, None, False))

    def test_each_command_takes_them(self) -> None:
        for command in (*QUESTIONS, *TRANSFERS):
            policy = self.retry_policy(*command, "--retry-for", "2h", "--retries", "3", "--wait")
            self.assertEqual(policy, RetryPolicy(7200, 3, True))

    def test_waiting_without_a_duration_is_not_in_vain(self) -> None:
        self.assertEqual(self.retry_policy("ls", "--wait"), RetryPolicy(1800, None, True))
        self.assertEqual(self.retry_policy("ls", "--wait", "--retry-for", "5").retry_for, 5)


class RetryTests(CommandCase):
    def setUp(self) -> None:
        self.slept: list[float] = []
        self.patch(Cancellation, "sleep", lambda stop, seconds: self.slept.append(seconds))

    def failing_once(self, line_begins: bytes, failure: bytes = b"ERR 503 not now\n") -> str:
        """Give the address of a server whose first reply to such a line is a failure."""
        version2 = Version2(dict(FILES), page=2)
        failures = [failure]

        def answer(line: bytes) -> bytes:
            if line.startswith(line_begins) and failures:
                return failures.pop()
            return version2(line)

        return self.serve(answer)

    def test_commands_that_list_and_tell_are_retried_when_asked_to(self) -> None:
        for command in QUESTIONS:
            line = command[0].upper().encode()
            address = self.failing_once(line)
            words = [word.replace("a", "a.txt") if word == "a" else word for word in command]
            status, out, err = self.main(*words, "--server", address)
            self.assertEqual((status, out), (1, b""))
            self.assertEqual(self.slept, [])
            address = self.failing_once(line)
            status, out, err = self.main(*words, "--server", address, "--retry-for", "1m")
            self.assertEqual((status, len(self.slept)), (0, 1))
            self.assertIn("not now; trying again in", err)
            self.assertTrue(out)
            self.slept.clear()

    def test_listing_that_breaks_off_is_continued_after_the_last_entry(self) -> None:
        whole = self.main("ls", "--server", self.serve(Version2(dict(FILES), page=2)))[1]
        for failure in (b"ERR 503 not now\n", b"OK 500\ntype=file"):
            address = self.failing_once(b"LS after", failure)
            status, out, _ = self.main(
                "ls", "--server", address, "--retry-for", "1m", "--timeout", "0.2"
            )
            self.assertEqual((status, out), (0, whole))
            self.assertEqual(len(self.slept), 1)
            self.slept.clear()

    def test_duration_that_cannot_be_read_is_wrong_usage(self) -> None:
        status, _, err = self.main("get", "a", "--retry-for", "soon")
        self.assertEqual(status, 2)
        self.assertIn("must be a duration, such as 90s, 30m, 2h or inf", err)
