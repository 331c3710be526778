from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations import candidates
from natproxy.cli.translations.candidates import columns, daemon_names, filter_words
from natproxy.client.control.finding import Place


class CandidatesTests(SynchronousTestCase):
    def test_columns_that_are_listed_are_not_offered_again(self) -> None:
        self.assertIn("age", columns(""))
        found = columns("port,age,na")
        self.assertIn("port,age,name", found)
        self.assertNotIn("port,age,port", found)

    def test_member_comes_first_and_after_a_keyword(self) -> None:
        for typed, words in (("", []), ("cl", []), ("", ["verb", "GET", "and"]), ("", ["not"])):
            found = filter_words(typed, words)
            self.assertIn("client", found)
            self.assertNotIn("and", found)

    def test_values_follow_their_member(self) -> None:
        self.assertIn("GET", filter_words("", ["verb"]))
        self.assertIn("relaying", filter_words("re", ["verb", "GET", "and", "state"]))
        self.assertEqual(filter_words("", ["client"]), [])

    def test_keyword_follows_a_value(self) -> None:
        self.assertIn("and", filter_words("", ["verb", "GET"]))

    def test_words_in_quotes_are_one(self) -> None:
        self.assertIn("verb GET and state", filter_words("verb GET and st", []))
        self.assertIn("verb LS", filter_words("verb ", ["ignored"]))

    def test_parentheses_are_part_of_the_word(self) -> None:
        self.assertIn("(verb", filter_words("(ve", []))
        self.assertIn("not ((client", filter_words("not ((", []))
        self.assertNotIn("(and", filter_words("(", []))
        self.assertIn("(verb GET", filter_words("(verb ", []))

    def test_names_of_daemons_are_those_of_the_sockets(self) -> None:
        class Sockets:
            def sockets(self) -> list[Place]:
                return [Place("b", "/1/b.sock"), Place("a", "/1/a.sock"), Place("b", "/2/b.sock")]

        self.patch(candidates, "Search", Sockets)
        self.assertEqual(daemon_names(), ["a", "b"])
