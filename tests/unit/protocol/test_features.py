"""What a proxy passes on of the verbs that a server announces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import (
    MAX_ABILITIES,
    MAX_ABILITY_LINES,
    VERBS,
    AbilitiesReader,
    WireError,
    abilities,
    relayed_abilities,
)

VIA = b"VIA natproxy/2.1\n"


class RelayedAbilitiesTests(SynchronousTestCase):
    def test_own_abilities_pass_whole(self) -> None:
        self.assertEqual(relayed_abilities(abilities()), abilities() + VIA)

    def test_auth_is_that_of_the_proxy_and_never_that_of_the_server(self) -> None:
        for announced in (abilities(), abilities(True), abilities(True) + b"AUTH x\r\n"):
            self.assertEqual(relayed_abilities(announced), abilities() + VIA)
            self.assertEqual(relayed_abilities(announced, True), abilities() + b"AUTH\n" + VIA)

    def test_reader_adds_auth_for_the_connection(self) -> None:
        listed = abilities(True) + b"END\n"
        self.assertNotIn(b"AUTH", AbilitiesReader().feed(listed) or b"AUTH")
        self.assertIn(b"\nAUTH\n", AbilitiesReader(True).feed(listed) or b"")

    def test_unknown_verbs_and_arguments_do_not_pass(self) -> None:
        self.assertEqual(
            relayed_abilities(
                b"NATPROXY 2\nSEND depth\nGET zip offset if-match tail\nls depth\nPACK zip\n"
                b"LS depth\n"
            ),
            b"NATPROXY 2\nGET offset if-match\nPACK\nLS depth\n" + VIA,
        )

    def test_lines_of_no_known_kind_do_not_pass(self) -> None:
        self.assertEqual(
            relayed_abilities(b"NATPROXY 2\n\n\xff\nmotd: STAT\n STAT\n"),
            b"NATPROXY 2\nSTAT\n" + VIA,
        )

    def test_other_proxies_stay_on_the_way_in_their_order(self) -> None:
        self.assertEqual(
            relayed_abilities(b"NATPROXY 2\nVIA other/3.0 x\nSTAT\nVIA natproxy/2.1\n"),
            b"NATPROXY 2\nSTAT\nVIA other/3.0 x\nVIA natproxy/2.1\n" + VIA,
        )

    def test_first_line_is_the_servers_own_word_for_its_version(self) -> None:
        for first in (b"NATPROXY 2", b"NATPROXY 3 more", b"a.txt"):
            self.assertEqual(relayed_abilities(first + b"\nSTAT\n"), first + b"\nSTAT\n" + VIA)
        self.assertEqual(relayed_abilities(b""), VIA)

    def test_carriage_returns_are_dropped(self) -> None:
        self.assertEqual(
            relayed_abilities(b"NATPROXY 2\r\nVIA x\r\nGET offset\r\n"),
            b"NATPROXY 2\nGET offset\nVIA x\n" + VIA,
        )

    @given(
        st.lists(st.lists(st.sampled_from((*VERBS, b"SEND", b"VIA", b"offset", b"depth", b"a"))))
    )
    def test_only_verbs_with_known_arguments_pass(self, lines: list[list[bytes]]) -> None:
        listed = b"".join(b" ".join(line) + b"\n" for line in [[b"NATPROXY", b"2"], *lines])
        first, *passed = relayed_abilities(listed).splitlines()
        self.assertEqual(first, b"NATPROXY 2")
        for line in passed:
            word, *arguments = line.split()
            self.assertTrue(word == b"VIA" or set(arguments) <= set(VERBS[word].keys))


class AbilitiesReaderTests(SynchronousTestCase):
    def test_pieces_of_one_byte(self) -> None:
        reader = AbilitiesReader()
        whole = abilities() + b"END\n"
        for position in range(len(whole) - 1):
            self.assertIsNone(reader.feed(whole[position : position + 1]))
        self.assertEqual(reader.feed(b"\n"), abilities() + VIA + b"END\n")

    def test_surplus_does_not_pass(self) -> None:
        self.assertEqual(
            AbilitiesReader().feed(b"A 2\nEND\nSTAT\nEND\n"), b"A 2\n" + VIA + b"END\n"
        )

    def test_body_without_an_end_is_refused_when_it_is_too_long(self) -> None:
        for piece, most in ((b"x" * 1000, MAX_ABILITIES // 1000), (b"x\n", MAX_ABILITY_LINES)):
            reader = AbilitiesReader()
            for _ in range(most):
                self.assertIsNone(reader.feed(piece))
            self.assertRaises(WireError, reader.feed, piece)
