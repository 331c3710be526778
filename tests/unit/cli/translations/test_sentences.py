from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations.sentences import holder
from natproxy.records.record import Record

TRANSLATION = Record(
    command=7,
    attempt=1,
    client="10.0.0.5",
    client_port=42748,
    upstream="10.0.0.8",
    upstream_port=9001,
    verb="GET",
    name="a.iso",
    state="removed",
    outcome="completed",
)


class HolderTests(SynchronousTestCase):
    def test_only_attempt_of_a_command_is_not_numbered(self) -> None:
        self.assertTrue(holder("port 1", TRANSLATION).endswith("10.0.0.8:9001, completed"))

    def test_each_of_several_attempts_is_numbered(self) -> None:
        first = TRANSLATION._replace(outcome="retried", reason="9 bytes missing")
        end = "10.0.0.8:9001, attempt 1 of command 7, retried, 9 bytes missing"
        self.assertTrue(holder("port 1", first).endswith(end))
        last = TRANSLATION._replace(attempt=2)
        self.assertTrue(holder("port 1", last).endswith("attempt 2 of command 7, completed"))
