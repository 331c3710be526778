"""The version of a server, determined without I/O."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import (
    ClientError,
    NotFound,
    NotUnderstood,
    ServerError,
    Unavailable,
    Unsupported,
)
from natproxy.client.errors import (
    CannotConnect,
    ClosedWithoutReply,
    ConnectionBroken,
    NoUpstreamReply,
)
from natproxy.client.requests import Pack, Request, Stat, Steps
from natproxy.client.version import (
    LONGEST_FEAT,
    VERSION_1,
    Feat,
    Features,
    Negotiation,
    State,
    parse_features,
)
from natproxy.protocol import NEEDS_TLS, Framing, Header, Metadata

LISTED = None
CLOSED = ClosedWithoutReply("closed")
VERSION_2 = Features(2, {b"STAT": frozenset()})
WITH_PACK = Features(2, {b"STAT": frozenset(), b"PACK": frozenset()})
METADATA = Metadata("file", 5, 0, "e")


def header(words: bytes = b"") -> Header:
    return Header(None, 0, words, Framing.LISTING)


class NegotiationCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.negotiation = Negotiation("files:9000")

    def run_steps(self, steps: Steps[Any], *outcomes: tuple[bytes, object]) -> Any:
        """Run steps: expect the verbs, and return each result or raise it."""
        try:
            request = next(steps)
            for verb, outcome in outcomes:
                self.assertEqual(request.word, verb)
                if isinstance(outcome, ClientError):
                    request = steps.throw(outcome)
                else:
                    self.note_header(request, outcome)
                    request = steps.send(outcome)
        except StopIteration as end:
            return end.value
        raise self.failureException(f"{request.word!r} is sent as well")

    def note_header(self, request: Request[Any], outcome: object) -> None:
        request.header = header(b"type=file" if outcome is METADATA else b"")


class ProbeTests(NegotiationCase):
    def assert_probe(self, features: Features, *outcomes: tuple[bytes, object]) -> None:
        self.assertEqual(self.run_steps(self.negotiation.probe(), *outcomes), features)
        self.assertEqual(self.negotiation.features, features)

    def test_version_2_is_announced(self) -> None:
        self.assert_probe(VERSION_2, (b"FEAT", VERSION_2))
        self.assertIs(self.negotiation.state, State.ANNOUNCED)

    def test_error_without_a_code_means_version_1(self) -> None:
        self.assert_probe(VERSION_1, (b"FEAT", ServerError("unknown command")))
        self.assertIs(self.negotiation.state, State.VERSION_1)

    def test_port_with_tls_is_not_of_version_1(self) -> None:
        error = ServerError(NEEDS_TLS)
        steps = self.negotiation.probe()
        self.assertRaises(ServerError, self.run_steps, steps, (b"FEAT", error))
        self.assertIs(self.negotiation.state, State.UNKNOWN)

    def test_malformed_header_means_version_1(self) -> None:
        self.assert_probe(VERSION_1, (b"FEAT", NotUnderstood("hello")))

    def test_malformed_body_does_not(self) -> None:
        steps = self.negotiation.probe()
        next(steps).begin(header())
        self.assertRaises(NotUnderstood, steps.throw, NotUnderstood("endless"))
        self.assertIs(self.negotiation.state, State.UNKNOWN)

    def test_two_closed_connections_with_replies_to_list_mean_version_1(self) -> None:
        doubt = [(b"FEAT", CLOSED), (b"LIST", LISTED)]
        self.assert_probe(VERSION_1, *doubt, *doubt)

    def test_one_closed_connection_is_forgotten(self) -> None:
        self.assert_probe(VERSION_2, (b"FEAT", CLOSED), (b"LIST", LISTED), (b"FEAT", VERSION_2))

    def test_closed_connection_without_a_reply_to_list_is_a_failure(self) -> None:
        outcomes = [(b"FEAT", CLOSED), (b"LIST", CLOSED)]
        error = self.assertRaises(
            ClosedWithoutReply, self.run_steps, self.negotiation.probe(), *outcomes
        )
        self.assertIs(error, CLOSED)
        self.assertIs(self.negotiation.state, State.UNKNOWN)

    def test_error_of_the_proxy_is_a_failure(self) -> None:
        error = Unavailable("proxy error: busy")
        steps = self.negotiation.probe()
        self.assertRaises(Unavailable, self.run_steps, steps, (b"FEAT", error))


class CarryOutTests(NegotiationCase):
    def setUp(self) -> None:
        super().setUp()
        self.negotiation.record(VERSION_2)

    def carry_out(self, *outcomes: tuple[bytes, object]) -> Any:
        return self.run_steps(self.negotiation.carry_out(Stat("a")), *outcomes)

    def test_reply_with_words_confirms_version_2(self) -> None:
        self.assertEqual(self.carry_out((b"STAT", METADATA)), METADATA)
        self.assertIs(self.negotiation.state, State.CONFIRMED)
        self.assertRaises(ClosedWithoutReply, self.carry_out, (b"STAT", CLOSED))

    def test_reply_without_words_does_not(self) -> None:
        self.carry_out((b"STAT", "no metadata"))
        self.assertIs(self.negotiation.state, State.ANNOUNCED)

    def test_two_closed_connections_with_replies_to_list_mean_version_1(self) -> None:
        doubt = [(b"STAT", CLOSED), (b"LIST", LISTED)]
        error = self.assertRaises(Unsupported, self.carry_out, *doubt, *doubt)
        self.assertEqual(
            str(error),
            "files:9000 speaks version 1 of the protocol only:"
            " it cannot report a file's size and time",
        )
        self.assertIs(self.negotiation.state, State.VERSION_1)

    def test_version_that_is_confirmed_meanwhile_is_final(self) -> None:
        self.negotiation.record(VERSION_2)
        steps = self.negotiation.carry_out(Stat("a"))
        next(steps)
        self.assertEqual(steps.throw(CLOSED).word, b"LIST")
        steps.send(LISTED)
        self.assertEqual(steps.throw(CLOSED).word, b"LIST")
        self.run_steps(self.negotiation.carry_out(Stat("b")), (b"STAT", METADATA))
        self.assertRaises(ClosedWithoutReply, steps.send, LISTED)
        self.assertIs(self.negotiation.state, State.CONFIRMED)

    def test_proxy_of_version_2_vouches_for_the_server(self) -> None:
        lost = NoUpstreamReply("empty response")
        doubt = [(b"STAT", lost), (b"LIST", LISTED)]
        self.assertRaises(Unsupported, self.carry_out, *doubt, *doubt)
        self.negotiation.record(VERSION_2._replace(via=("natproxy/2.1",)))
        self.assertRaises(NoUpstreamReply, self.carry_out, (b"STAT", lost))

    def test_other_errors_are_raised(self) -> None:
        self.assertRaises(NotFound, self.carry_out, (b"STAT", NotFound("a")))
        self.assertIs(self.negotiation.state, State.ANNOUNCED)

    def test_version_2_can_be_required(self) -> None:
        self.negotiation.require_version_2("fly")
        self.negotiation.record(VERSION_1)
        self.assertRaises(Unsupported, self.negotiation.require_version_2, "fly")


class OptionalVerbTests(NegotiationCase):
    def setUp(self) -> None:
        super().setUp()
        self.negotiation.record(WITH_PACK)

    def carry_out(self, *outcomes: tuple[bytes, object]) -> Any:
        return self.run_steps(self.negotiation.carry_out(Pack([b"a"])), *outcomes)

    def test_verb_is_offered_by_the_server_and_by_every_proxy(self) -> None:
        for via, offered in (
            ((), True),
            (("natproxy/2.1",), True),
            (("natproxy/2.1", "natproxy/3.0", "natproxy/2.10"), True),
            (("natproxy/2.0",), False),
            (("natproxy/2.1", "other/2.1"), False),
            (("natproxy/2.1x",), False),
            (("natproxy",), False),
        ):
            self.assertEqual(WITH_PACK._replace(via=via).frames(b"PACK"), offered, via)
        self.assertFalse(VERSION_2.frames(b"PACK"))
        self.assertFalse(VERSION_1.frames(b"PACK"))
        self.assertFalse(Negotiation("files:9000").offers(b"PACK"))

    def test_verb_that_is_not_offered_is_not_sent(self) -> None:
        self.negotiation.record(VERSION_2)
        error = self.assertRaises(Unsupported, self.carry_out)
        self.assertEqual(
            str(error),
            "files:9000, or a proxy before it, has no PACK: it cannot send several files at once",
        )

    def test_reply_that_is_not_understood_withdraws_the_verb(self) -> None:
        self.assertEqual(self.carry_out((b"PACK", [])), [])
        self.assertRaises(Unsupported, self.carry_out, (b"PACK", NotUnderstood("odd")))
        self.assertFalse(self.negotiation.offers(b"PACK"))
        self.assertRaises(Unsupported, self.carry_out)
        self.negotiation.record(WITH_PACK)
        self.assertFalse(self.negotiation.offers(b"PACK"))

    def test_first_reply_that_is_missing_withdraws_the_verb(self) -> None:
        for error in (CLOSED, ConnectionBroken("cut"), NoUpstreamReply("empty response")):
            self.setUp()
            self.assertRaises(Unsupported, self.carry_out, (b"PACK", error))
            self.assertFalse(self.negotiation.offers(b"PACK"))

    def test_later_reply_that_is_missing_is_a_failure(self) -> None:
        self.carry_out((b"PACK", []))
        for error in (CLOSED, ConnectionBroken("cut"), NoUpstreamReply("empty response")):
            self.assertIs(self.assertRaises(type(error), self.carry_out, (b"PACK", error)), error)
        self.assertTrue(self.negotiation.offers(b"PACK"))

    def test_other_errors_are_raised(self) -> None:
        for error in (Unavailable("too many packs at once"), NotFound("a"), CannotConnect("no")):
            self.assertIs(self.assertRaises(type(error), self.carry_out, (b"PACK", error)), error)
        self.assertTrue(self.negotiation.offers(b"PACK"))


class FeatTests(SynchronousTestCase):
    def feed(self, *pieces: bytes) -> Feat:
        request = Feat()
        request.begin(header())
        for piece in pieces:
            self.assertFalse(request.satisfied)
            request.feed(piece)
        return request

    def test_listing_in_pieces(self) -> None:
        request = self.feed(b"NATPR", b"OXY 2\nSTAT\nVIA a\nEND\n")
        self.assertFalse(request.satisfied)
        self.assertEqual(request.finish(), VERSION_2._replace(via=("a",)))

    def test_another_first_line_suffices(self) -> None:
        for listing in (b"name\n", b"NATPROXY 2 " + bytes(20_000)):
            request = self.feed(listing)
            self.assertTrue(request.satisfied)
            self.assertEqual(request.finish(), VERSION_1)

    def test_listing_without_end(self) -> None:
        request = self.feed(b"NATPROXY 2\n")
        self.assertRaises(NotUnderstood, request.feed, bytes(LONGEST_FEAT))

    def test_unknown_lines_are_ignored(self) -> None:
        listing = b"NATPROXY 2\nGET offset length\n\nVIA\nEND\n"
        features = Features(2, {b"GET": frozenset((b"offset", b"length"))})
        self.assertEqual(parse_features(listing), features)
