"""Rules: compared with a naive engine, and what no spelling of a command may evade."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import tempfile
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.caller import Caller
from natproxy.access.decision import DEFAULT, MALFORMED_NAME, UNKNOWN_VERB, Decision
from natproxy.access.rules import ALWAYS_ALLOWED, MOST_CALLERS, AccessRule, Rules, RulesGate
from natproxy.access.verdict import PROCEED, Verdict, refuse
from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.nat import Outcome
from natproxy.protocol import (
    FORBIDDEN,
    Command,
    Refusal,
    parse_arguments,
    parse_command,
    parse_names,
)
from natproxy.storage import LocalStorage, NotFound

HOSTS = ("10.0.0.5", "10.0.1.5", "::ffff:10.0.0.5", "2001:db8::1", "fe80::1%eth0", "unix:/run/x")
CLIENTS = ("10.0.0.0/24", "10.0.0.0/8", "10.0.0.5", "2001:db8::/32", "fe80::/10", "unix")
IDENTITIES = ("alice", "bob@example.org")
NAMES = (b"a", b"a/b", b"a/b/c", b"ab", b"d", b"d/a", b"a b", b"\xff", b"a%b", b"")
PATTERNS = ("a", "/a", "a/b", "/a/*", "*b", "d/**", "**/c", "a b", "\udcff", "a%b", "/", "?", "a*c")
VERBS = ("GET", "STAT", "DOWNLOAD", "LS", "LIST", "HASH", "PACK", "WHO", "FEAT")


def caller(host: str, identity: str | None = None) -> Caller:
    """Return the client with a host."""
    port = FIRST_STAND_IN_PORT if host.startswith("unix") else 4000
    return Caller.at(Address(host, port), identity)


def command(line: bytes) -> Command:
    """Return the command of a line."""
    parsed = parse_command(line)
    assert parsed is not None
    return parsed


def decide(rules: Rules, line: bytes, host: str = "10.0.0.5") -> Decision:
    """Return what rules decide about a line of a client without identity."""
    return rules.decide(caller(host), command(line))


# A naive engine: each rule is compared with the command, in order.


def encoded(name: bytes, choose: list[bool]) -> bytes:
    """Return a name as a word; bytes that need not be encoded are, as chosen."""
    word = b"".join(
        b"%%%02x" % byte if byte <= 0x20 or byte >= 0x7F or byte == 0x25 or each else bytes([byte])
        for byte, each in zip(name, [*choose, *[False] * len(name)], strict=False)
    )
    return word or b"."


def has(pattern: bytes, name: bytes) -> bool:
    """Return whether a pattern of one star at most, or ``**``, matches a whole text."""
    if not pattern:
        return not name
    if pattern.startswith(b"**"):
        return any(has(pattern[2:], name[at:]) for at in range(len(name) + 1))
    if pattern.startswith(b"*"):
        part = name.partition(b"/")[0]
        return any(has(pattern[1:], name[at:]) for at in range(len(part) + 1))
    if not name or (pattern[:1] == b"?" and name[:1] == b"/"):
        return False
    return (pattern[:1] in (b"?", name[:1])) and has(pattern[1:], name[1:])


def covers(text: str, name: bytes) -> bool:
    """Return whether a pattern matches a name or a directory above it."""
    pattern = text.encode("utf-8", "surrogateescape")
    if pattern == b"/":
        return True
    parts = name.split(b"/")
    above = [b"/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    if pattern.startswith(b"/"):
        return any(has(pattern[1:], each) for each in above)
    if pattern.startswith(b"**"):
        return any(has(pattern, b"/" + each) for each in above)
    starts = [
        each[at:] for each in above for at in range(len(each)) if each[:at][-1:] in (b"", b"/")
    ]
    return any(has(pattern, each) for each in starts)


class Case(NamedTuple):
    """A command as it was meant, and how it is spelt."""

    verb: str
    names: list[bytes]
    line: bytes


def naive(rules: list[AccessRule], default: bool, host: str, who: str | None, case: Case) -> bool:
    """Return whether a command is allowed."""
    if case.verb == "FEAT":
        return True
    if case.verb == "WHO" and any(rule.names is not None for rule in rules):
        return False
    return all(naive_name(rules, default, host, who, case.verb, each) for each in case.names)


def naive_name(
    rules: list[AccessRule], default: bool, host: str, who: str | None, verb: str, name: bytes
) -> bool:
    for rule in rules:
        if rule.clients is not None and not any(naive_network(host, net) for net in rule.clients):
            continue
        accepted = (who,) if who is None else (who, "*")
        if rule.identities is not None and not set(accepted) & set(rule.identities):
            continue
        if rule.verbs is not None and verb not in rule.verbs:
            continue
        if rule.names is not None and not any(covers(each, name) for each in rule.names):
            continue
        return rule.allow
    return default


def naive_network(host: str, network: str) -> bool:
    if network == "unix" or host.startswith("unix"):
        return network == "unix" and host.startswith("unix")
    address = ipaddress.ip_address(host.partition("%")[0].removeprefix("::ffff:"))
    parsed = ipaddress.ip_network(network)
    return address.version == parsed.version and address in parsed


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return a command, spelt in one of many ways."""
    verb = draw(st.sampled_from(VERBS))
    names = [draw(st.sampled_from(NAMES))]
    choose = st.lists(st.booleans(), max_size=5)
    word = draw(st.sampled_from((verb, verb.lower(), verb.title()))).encode()
    blank = draw(st.sampled_from((b" ", b"\t", b"  ")))
    if verb == "DOWNLOAD":
        # The rest of the line; white space at its beginning is none of the name.
        return Case(verb, names, word + blank + names[0])
    if verb == "PACK":
        names += draw(st.lists(st.sampled_from(NAMES), max_size=3))
    words = [encoded(each, draw(choose)) for each in names]
    if verb in ("LIST", "FEAT", "WHO"):
        return Case(verb, [b""], word + draw(st.sampled_from((b"", b" a"))))
    if verb == "LS" and draw(st.booleans()):
        return Case(verb, [b""], word + blank + b"depth=inf after=a")
    if verb == "GET":
        words.append(b"offset=3")
    return Case(verb, names, word + blank + blank.join(words) + draw(st.sampled_from((b"", b"\r"))))


def some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...] | None]:
    return st.none() | st.lists(st.sampled_from(values), min_size=1, max_size=3).map(tuple)


RULES = st.lists(
    st.builds(
        AccessRule,
        st.booleans(),
        some(CLIENTS),
        some((*IDENTITIES, "*")),
        some(tuple(verb for verb in VERBS if verb not in ("WHO", "FEAT"))),
        some(PATTERNS),
    ),
    max_size=6,
)


class NaiveTests(SynchronousTestCase):
    @settings(max_examples=50)
    @given(
        RULES,
        st.booleans(),
        st.lists(
            st.tuples(st.sampled_from(HOSTS), st.sampled_from((None, *IDENTITIES)), cases()),
            min_size=1,
            max_size=6,
        ),
    )
    @example([AccessRule(False, names=("a",))], True, [("10.0.0.5", None, Case("WHO", [], b"WHO"))])
    def test_decides_as_a_naive_engine(
        self, rules: list[AccessRule], default: bool, calls: list[tuple[str, str | None, Case]]
    ) -> None:
        engine = Rules(rules, default)
        for host, who, case in calls:
            decision = engine.decide(caller(host, who), command(case.line))
            expected = naive(rules, default, host, who, case)
            self.assertEqual(decision.allowed, expected, (case, decision))
            if not decision.allowed:
                self.assertIn(decision.decided_by, engine.deciders)


Lines = list[tuple[bytes, bytes]]

LINES = st.lists(
    st.tuples(
        st.sampled_from((b"DOWNLOAD", b"GET", b"STAT", b"PACK")),
        st.one_of(
            st.text("ab/.% \r", max_size=8).map(str.encode),
            st.builds(
                encoded,
                st.sampled_from((b"aa", b"d/a/a", b"b a", b"%62", b"d/%61/b", b"d//a/a")),
                st.lists(st.booleans(), max_size=8),
            ),
        ),
    ),
    min_size=2,
)


class StorageTests(SynchronousTestCase):
    """What the file server resolves to one file, the rules decide alike, however it is spelt."""

    def setUp(self) -> None:
        directory = tempfile.mkdtemp()
        self.storage = LocalStorage(directory)
        for name in ("a", "b", "a ", "%61"):
            os.makedirs(os.path.join(directory, "d", name))
        for path in ("aa", "b a", "%62", "d/a/a", "d/b/a", "d/a /a", "d/%61/b"):
            with open(os.path.join(directory, path), "w") as file:
                file.write("x")

    def resolved(self, verb: bytes, line: bytes) -> list[str]:
        """Return the etags of what the server resolves the names of a command to."""
        parsed = parse_command(verb + b" " + line)
        assert parsed is not None
        if verb == b"DOWNLOAD":
            names = [parsed.name]
        else:
            try:
                names = parse_names(parsed) if verb == b"PACK" else [parse_arguments(parsed).name]
            except Refusal:
                return []
        found = []
        for name in names:
            with contextlib.suppress(NotFound, OSError):
                found.append(self.storage.metadata(name).etag)
        return found

    @given(LINES)
    @example([(b"DOWNLOAD", b"d/a/a"), (b"GET", b"d/%61/a"), (b"STAT", b"%64%2Fa%2fa")])
    @example([(b"DOWNLOAD", b"b a"), (b"GET", b"b%20a"), (b"PACK", b"b%20a"), (b"GET", b"%2562")])
    @example([(b"DOWNLOAD", b""), (b"PACK", b".. .")])
    def test_spellings_of_one_file_are_decided_alike(
        self, lines: list[tuple[bytes, bytes]]
    ) -> None:
        texts = ["aa", "/d/a", "b a", "%62", "/d/%61/b"]
        for text in texts:
            rules = Rules([AccessRule(False, names=(text,))])
            decisions: dict[str, bool] = {}
            for verb, line in lines:
                parsed = parse_command(verb + b" " + line)
                if parsed is None:
                    continue
                allowed = rules.decide(caller("10.0.0.5"), parsed).allowed
                found = self.resolved(verb, line)
                if verb == b"PACK" and len(line.split()) != 1:
                    continue
                for etag in found:
                    self.assertEqual(decisions.setdefault(etag, allowed), allowed, (verb, line))


class EvasionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rules = Rules([AccessRule(False, names=("/secret",))])

    def test_no_spelling_evades_a_rule(self) -> None:
        for line in (
            b"GET secret",
            b"get secret",
            b"GET %73ecret",
            b"GET %73%65%63%72%65%74",
            b"GET secret/x",
            b"GET secret%2Fx",
            b"GET secret%2fx offset=1",
            b"GET /secret",
            b"GET //secret",
            b"GET ./secret",
            b"GET .%2Fsecret",
            b"GET secret/",
            b"GET secret/.",
            b"GET a/../secret",
            b"GET secret%00",
            b"  GET\tsecret",
            b"GET secret\r",
            b"DOWNLOAD secret",
            b"DOWNLOAD   secret",
            b"DOWNLOAD secret ",
            b"DOWNLOAD secret\r\r",
            b"DOWNLOAD ./secret",
            b"DOWNLOAD a/../secret",
            b"STAT secret",
            b"HASH secret",
            b"LS secret",
            b"LS secret depth=inf",
            b"LS secret/sub",
            b"PACK secret",
            b"PACK a secret",
            b"PACK a %73ecret/x b",
            b"WHO secret",
            b"RETR x",
            b"AUTHX secret",
            b"VIA secret",
            b"VIA " + b"0" * 31,
            b"GET %zz",
            b"PACK a %",
            b"PACK",
            b"PACK " + b"a " * 513,
        ):
            self.assertFalse(decide(self.rules, line).allowed, line)

    def test_others_are_allowed(self) -> None:
        for line in (
            b"GET public",
            b"GET secrets",
            b"GET public/secret",
            b"GET .secret",
            b"DOWNLOAD %73ecret",
            b"LS",
            b"LS .",
            b"LS depth=inf",
            b"LS after=secret",
            b"LIST",
            b"LIST secret",
            b"FEAT",
            b"AUTH secret",
            b"VIA " + b"0" * 32,
        ):
            self.assertTrue(decide(self.rules, line).allowed, line)


class RulesTests(SynchronousTestCase):
    def test_without_rules_everything_is_allowed(self) -> None:
        self.assertTrue(decide(Rules(), b"WHO x").allowed)
        self.assertFalse(Rules())
        self.assertEqual(Rules().deciders, ())

    def test_first_rule_that_matches_decides(self) -> None:
        rules = Rules(
            [AccessRule(True, names=("a/b",)), AccessRule(False, names=("a",), note="no")]
        )
        self.assertEqual(decide(rules, b"GET a/b/c").decided_by, "1")
        denied = decide(rules, b"GET a/c")
        self.assertEqual((denied.decided_by, denied.reason), ("2", "rule 2: no"))
        self.assertEqual(decide(rules, b"GET c").decided_by, DEFAULT)

    def test_default_is_stated(self) -> None:
        rules = Rules([AccessRule(True, clients=("10.0.0.0/24",))], default=False)
        self.assertTrue(decide(rules, b"LIST").allowed)
        denied = decide(rules, b"LIST", "10.0.1.1")
        self.assertEqual(denied.reason, "no rule matches, and the default is deny")
        self.assertEqual(rules.deciders, (DEFAULT,))

    def test_always_allowed(self) -> None:
        rules = Rules([AccessRule(False)], default=False)
        for verb in ALWAYS_ALLOWED:
            self.assertTrue(decide(rules, verb + b" x").allowed)
        self.assertFalse(decide(rules, b"LIST").allowed)

    def test_unknown_verb_without_names_in_rules(self) -> None:
        rules = Rules([AccessRule(False, clients=("10.0.0.0/24",))])
        self.assertFalse(decide(rules, b"WHO x").allowed)
        self.assertTrue(decide(rules, b"WHO x", "10.0.1.1").allowed)

    def test_reason_of_an_unknown_verb_and_of_a_malformed_name(self) -> None:
        # The rule is about other clients, and the verb about a name that is not found in its line.
        rules = Rules([AccessRule(True, clients=("10.9.0.0/16",), names=("a",))])
        self.assertEqual(decide(rules, b"WHO a").decided_by, UNKNOWN_VERB)
        self.assertEqual(decide(rules, b"GET %", "10.9.0.1").decided_by, MALFORMED_NAME)
        self.assertTrue(decide(rules, b"GET %").allowed)

    def test_denied_name_of_a_pack(self) -> None:
        rules = Rules([AccessRule(False, names=("s",))])
        self.assertEqual(decide(rules, b"PACK a b%20c//s %73 s").name, b"b c//s")
        self.assertIsNone(decide(rules, b"PACK a b").name)
        self.assertIsNone(decide(rules, b"GET s").name)

    def test_identities(self) -> None:
        rules = Rules([AccessRule(True, identities=("al*", "*@example.org"))], default=False)
        for who, allowed in (
            ("alice", True),
            ("al", True),
            ("x@example.org", True),
            ("x@example.org.evil", False),
            ("xal", False),
            (None, False),
        ):
            decision = rules.decide(caller("10.0.0.5", who), command(b"LIST"))
            self.assertEqual(decision.allowed, allowed, who)

    def test_any_number_of_callers_and_verbs_is_decided(self) -> None:
        rules = Rules([AccessRule(False, clients=("10.0.0.0/17",)), AccessRule(True, names=("a",))])
        for number in range(2 * MOST_CALLERS):
            host = f"10.0.{number % 256}.{number // 256}"
            line = b"X%d a" % number
            self.assertFalse(decide(rules, line, host).allowed)
            self.assertEqual(decide(rules, b"GET a", host).allowed, number % 256 >= 128)


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.gate = RulesGate(Rules([AccessRule(False, names=("s t",), note="private")]))

    def admit(self, line: bytes) -> Verdict:
        return self.gate.admit(command(line), caller("10.0.0.5"))

    def test_allowed_command_proceeds(self) -> None:
        self.assertIs(self.admit(b"GET a"), PROCEED)
        self.assertEqual(self.gate.denied, {})

    def test_denied_command_is_refused_and_counted(self) -> None:
        verdict = self.admit(b"GET s%20t/u")
        self.assertEqual(verdict, refuse(FORBIDDEN, "forbidden", Outcome.DENIED, "rule 1: private"))
        self.admit(b"WHO")
        self.assertEqual(self.gate.denied, {"1": 1, UNKNOWN_VERB: 1})

    def test_denied_name_of_a_pack_is_encoded(self) -> None:
        self.assertEqual(self.admit(b"PACK a %73%20t/%25 b").text, "forbidden name=s%20t/%25")
        self.gate.rules = Rules([AccessRule(False, names=("/",))])
        self.assertEqual(self.admit(b"PACK .").text, "forbidden name=.")

    def test_rules_are_replaced_for_the_next_command(self) -> None:
        self.gate.rules = Rules()
        self.assertIs(self.admit(b"GET s%20t"), PROCEED)


class ExplanationTests(SynchronousTestCase):
    def test_reason_for_each_rule_that_does_not_match(self) -> None:
        rules = Rules(
            [
                AccessRule(False, clients=("192.168.0.0/16",), note="office"),
                AccessRule(False, identities=("alice",)),
                AccessRule(False, verbs=("HASH",)),
                AccessRule(False, names=("secret",)),
                AccessRule(True, names=("public",)),
                AccessRule(False),
            ]
        )
        explained = rules.explain(caller("10.0.0.5"), command(b"GET public/a"))
        self.assertEqual(
            explained,
            [
                "rule 1 (office) does not match: 10.0.0.5 is not in its clients",
                "rule 2 does not match: no identity is not among its identities",
                "rule 3 does not match: GET is not among its verbs",
                "rule 4 does not match: public/a matches none of its names",
            ],
        )
