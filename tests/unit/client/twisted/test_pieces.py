"""Deferred sessions: replies in pieces of any size, cut off anywhere, or of any bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone

from natproxy.client import ClientError, ConnectionBroken, NotFound
from natproxy.client.version import Features, State
from natproxy.counts import byte_count
from natproxy.protocol import Entry, Range, format_metadata, format_range, listable
from tests.support.deferred_sessions import METADATA, DeferredCase, page_of

commands = st.sampled_from(("list", "stat", "read", "ls", "missing"))
names = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"x"))
bodies = st.binary(max_size=300)


class PiecesTests(DeferredCase):
    @settings(deadline=None, database=None)
    @given(
        st.lists(
            st.sampled_from(("list", "stat", "read", "ls", "missing")), min_size=1, max_size=5
        ),
        st.lists(names, max_size=6, unique=True).map(sorted),
        bodies,
        st.lists(st.integers(1, 40), min_size=1, max_size=7),
    )
    def test_replies_come_in_pieces_of_any_size(
        self, asked: list[str], entries: list[bytes], body: bytes, sizes: list[int]
    ) -> None:
        self.setUp()
        self.client._negotiation.record(Features(2, {}))
        self.client._negotiation.state = State.CONFIRMED
        listed = [name for name in entries if listable(name)]
        metadata = METADATA._replace(size=len(body))
        for number, what in enumerate(asked):
            result: Deferred[Any]
            expected: Any
            if what == "list":
                result, expected = self.client.list(), listed
                reply = b"OK\n" + b"".join(name + b"\n" for name in listed) + b"END\n"
            elif what == "stat":
                result, expected = self.client.stat("a"), metadata
                reply = b"OK " + format_metadata(metadata) + b"\n"
            elif what == "read":
                result, expected = self.client.read("a"), body
                reply = format_range(Range(len(body), 0, metadata)) + body
            elif what == "ls":
                result = self.client.ls()
                expected = [Entry(name, METADATA) for name in entries]
                reply = page_of(*entries)
            else:
                result, expected = self.client.read("a"), NotFound
                reply = b"ERR 404 file not found\n"
            if number == 0:
                self.accept(of_version=None)
            while reply:
                self.assertNoResult(result)
                size = sizes[number % len(sizes)]
                self.endpoint.last.send(reply[:size])
                reply = reply[size:]
            if expected is NotFound:
                self.failureResultOf(result, NotFound)
            else:
                self.assertEqual(self.successResultOf(result), expected)
        self.assertEqual(len(self.endpoint.connections), 1)

    @settings(deadline=None, database=None)
    @given(st.data())
    def test_connection_may_end_anywhere(self, data: st.DataObject) -> None:
        self.setUp()
        self.client._negotiation.record(Features(2, {}))
        self.client._negotiation.state = State.CONFIRMED
        body = data.draw(bodies)
        metadata = METADATA._replace(size=len(body))
        reply = format_range(Range(len(body), 0, metadata)) + body
        cut = data.draw(st.integers(0, len(reply) - 1))
        result = self.client.read("a")
        connection = self.accept(of_version=None)
        connection.send(reply[:cut]) if cut else None
        connection.die(ConnectionDone())
        error = self.failureResultOf(result, ConnectionBroken).value
        inside = f"inside the reply: {byte_count(len(reply) - cut)} missing"
        ending = inside if cut >= len(reply) - len(body) else "without a reply"
        self.assertEqual(str(error), f"files:9000 closed the connection {ending}")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @settings(deadline=None, database=None)
    @given(st.binary(max_size=200), st.integers(1, 50))
    def test_any_bytes_end_in_a_result_or_a_client_error(self, sent: bytes, size: int) -> None:
        self.setUp()
        self.client._negotiation.record(Features(2, {}))
        self.client._negotiation.state = State.CONFIRMED
        result = self.client.stat("a")
        connection = self.accept(of_version=None)
        for start in range(0, len(sent), size):
            connection.send(sent[start : start + size])
        connection.die(ConnectionDone())
        self.failureResultOf(result, ClientError)
