"""Messages between a master and a worker."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.workers.channel import Channel, Lines, Message
from tests.support.logged_errors import LoggedErrorsCase


class LinesTests(SynchronousTestCase):
    @given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 200)))
    def test_any_pieces_are_the_same_lines(self, texts: list[bytes], cuts: list[int]) -> None:
        lines = [text.replace(b"\n", b"") for text in texts]
        data = b"".join(line + b"\n" for line in lines)
        places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
        found = Lines()
        received = [line for begin, end in pairwise(places) for line in found.feed(data[begin:end])]
        self.assertEqual(received, lines)

    def test_memory_is_bounded(self) -> None:
        lines = Lines(longest=10)
        self.assertEqual(list(lines.feed(b"123456789\n1234567890")), [b"123456789"])
        with self.assertRaises(ValueError):
            list(lines.feed(b"1"))


class ChannelTests(LoggedErrorsCase):
    def setUp(self) -> None:
        self.received: list[Message] = []
        self.lost = 0
        self.channel = Channel(self.received.append, self.lose)
        self.transport = StringTransport()

    def lose(self) -> None:
        self.lost += 1

    def sent(self) -> list[Message]:
        return [json.loads(line) for line in self.transport.value().splitlines()]

    def test_messages_wait_for_the_connection(self) -> None:
        self.channel.send({"do": "adopt", "socket": 1})
        self.channel.makeConnection(self.transport)
        self.channel.send({"do": "release", "socket": 1})
        self.assertEqual([message["do"] for message in self.sent()], ["adopt", "release"])

    def test_end_is_reported_once(self) -> None:
        self.channel.makeConnection(self.transport)
        self.channel.connectionLost()
        self.channel.connectionLost()
        self.channel.send({"do": "drain"})
        self.assertEqual((self.lost, self.sent()), (1, []))

    def test_wrong_message_is_logged_and_the_next_one_received(self) -> None:
        self.channel.makeConnection(self.transport)
        self.channel.dataReceived(b"nonsense\n" + b'{"event": "beat"}\n')
        self.assertEqual(self.received, [{"event": "beat"}])
        self.assertEqual(self.flush(ValueError), 1)
