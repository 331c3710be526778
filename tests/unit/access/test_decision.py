"""The names in a command, and what is decided by them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.decision import MALFORMED, READERS, Decision, names_in
from natproxy.protocol import VERBS, parse_command

ALLOWED = Decision(True, "default", "")
DENIED = Decision(False, "1", "rule 1")


class NameTests(SynchronousTestCase):
    def decide(self, line: bytes) -> tuple[Decision, list[bytes]]:
        """Return the decision of a command if ``secret`` is denied, and the names it depends on."""
        seen: list[bytes] = []

        def decide_name(name: bytes) -> Decision:
            seen.append(name)
            return DENIED if name == b"secret" else ALLOWED

        command = parse_command(line)
        return READERS[VERBS[command.verb].naming](decide_name)(command), seen

    def test_names_are_those_of_the_verb(self) -> None:
        for line, names in (
            (b"LIST", [b""]),
            (b"DOWNLOAD a b", [b"a b"]),
            (b"GET a%20b offset=1", [b"a b"]),
            (b"STAT", [b""]),
            (b"LS depth=1", [b""]),
            (b"LS a depth=1", [b"a"]),
            (b"PACK a b%2Fc", [b"a", b"b/c"]),
        ):
            decision, seen = self.decide(line)
            self.assertEqual((decision, seen), (ALLOWED, names), line)
            if line != b"STAT":
                self.assertEqual(names_in(parse_command(line)), names, line)

    def test_denied_name(self) -> None:
        for line in (b"DOWNLOAD secret", b"DOWNLOAD secret ", b"GET %73ecret", b"LS secret"):
            self.assertEqual(self.decide(line)[0], DENIED, line)
        self.assertEqual(self.decide(b"PACK a secret b")[0], DENIED._replace(name=b"secret"))

    def test_name_that_cannot_be_decoded(self) -> None:
        for line in (
            *(b"GET %zz", b"PACK a %zz", b"PACK", b"LS %zz"),
            *(b"GET a\x19", b"LS a\xff", b"PACK a b\x19", b"PACK a \xff c"),
        ):
            self.assertEqual(self.decide(line)[0], MALFORMED, line)
        self.assertEqual(names_in(parse_command(b"PACK a %zz")), [b"a", None])
