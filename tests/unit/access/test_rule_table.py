"""Rules in a TOML file: what they mean, and what is reported about wrong ones."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.rule_table import MOST_RULES, parse_rules, rule_tables
from natproxy.access.rules import AccessRule


class ParseTests(SynchronousTestCase):
    def test_every_key(self) -> None:
        table = {
            "action": "deny",
            "clients": ["10.0.0.0/8", "unix"],
            "identities": ["alice", "*@example.org"],
            "verbs": ["get", "PACK"],
            "names": ["/private", "*.key"],
            "note": "office only",
        }
        (rule,) = parse_rules([table])
        self.assertEqual(
            rule,
            AccessRule(
                False,
                ("10.0.0.0/8", "unix"),
                ("alice", "*@example.org"),
                ("GET", "PACK"),
                ("/private", "*.key"),
                "office only",
            ),
        )
        self.assertEqual(parse_rules([rule]), (rule,))
        self.assertEqual(rule_tables([rule]), [{**table, "verbs": ["GET", "PACK"]}])

    def test_what_is_missing_restricts_nothing(self) -> None:
        self.assertEqual(parse_rules([{"action": "allow"}]), (AccessRule(True),))
        self.assertEqual(rule_tables([AccessRule(True)]), [{"action": "allow"}])

    def test_one_string_is_a_list_of_one(self) -> None:
        (rule,) = parse_rules([{"action": "deny", "names": "a"}])
        self.assertEqual(rule.names, ("a",))

    def test_messages_name_the_key(self) -> None:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, 'rules[1].action: must be "allow" or "deny"'),
            ({"action": "permit"}, 'rules[1].action: must be "allow" or "deny"'),
            ({"action": ["deny"]}, 'rules[1].action: must be "allow" or "deny"'),
            (
                {"action": "deny", "client": "10.0.0.1"},
                "rules[1].client: unknown key; did you mean clients?",
            ),
            (
                {"action": "deny", "zzz": 1},
                "rules[1].zzz: unknown key; known are action, clients, identities, verbs, names,"
                " note",
            ),
            (
                {"action": "deny", "clients": ["10.0.0.300"]},
                "rules[1].clients: '10.0.0.300' is no network: write one as 10.0.0.0/8,"
                " an address, or 'unix'",
            ),
            (
                {"action": "deny", "clients": []},
                "rules[1].clients: must be a string, or a list of 1 to 1000 strings",
            ),
            (
                {"action": "deny", "names": ["a", 1]},
                "rules[1].names: must be a string, or a list of 1 to 1000 strings",
            ),
            (
                {"action": "deny", "names": ["a//b"]},
                "rules[1].names: 'a//b' cannot be used: no name has an empty component, '.', '..'"
                " or a NUL",
            ),
            (
                {"action": "deny", "verbs": ["FEAT"]},
                "rules[1].verbs: FEAT is always allowed, and no rule is about it",
            ),
            (
                {"action": "deny", "identities": ["a\nb"]},
                "rules[1].identities: 'a\\nb' is no identity: printable ASCII is needed",
            ),
            (
                {"action": "deny", "note": "a\nb"},
                "rules[1].note: must be a string of up to 128 printable characters",
            ),
        ]
        for table, message in wrong:
            with self.assertRaises(ValueError) as caught:
                parse_rules([{"action": "allow"}, table])
            self.assertEqual(str(caught.exception), f"{message} (rule 2)")

    def test_unknown_verb(self) -> None:
        with self.assertRaisesRegex(ValueError, r"rules\[0\].verbs: 'WHO' is none of LIST, DOWNL"):
            parse_rules([{"action": "deny", "verbs": "who"}])

    def test_no_array_of_tables(self) -> None:
        for value in ("deny", {"action": "deny"}, [{"action": "deny"}] * (MOST_RULES + 1)):
            with self.assertRaisesRegex(ValueError, r"rules: must be an array of up to 1000 tab"):
                parse_rules(value)
        with self.assertRaisesRegex(ValueError, r"rules\[0\]: must be a table"):
            parse_rules(["deny"])
