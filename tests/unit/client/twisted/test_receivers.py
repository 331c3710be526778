"""Deferred sessions: bodies on their way into consumers."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import StringTransport
from zope.interface.verify import verifyObject

from natproxy.client import Changed, ConnectionBroken, GaveUp, Interrupted, NotFound, NotUnderstood
from natproxy.client.version import Features
from natproxy.protocol import Range
from tests.support.deferred_sessions import FACTS, METADATA, DeferredCase, RecordingConsumer
from tests.support.doubles import HIGH_WATER, BufferedWire

REPLY = b"OK 5 offset=0 size=5 " + FACTS + b"\n"
WHOLE = Range(5, 0, METADATA)


class GetCase(DeferredCase):
    def setUp(self) -> None:
        super().setUp()
        self.client._negotiation.record(Features(2, {}))
        self.consumer = RecordingConsumer()

    def begin(self, sent: bytes = REPLY) -> Deferred[Range]:
        got = self.client.get("a", self.consumer)
        self.server = self.play((b"GET a\n", sent), of_version=None)
        return got


class FlowTests(GetCase):
    def test_fires_with_the_range_when_all_has_been_written(self) -> None:
        got = self.begin()
        self.assertEqual((self.consumer.registered, self.consumer.unregistered), ([True], 0))
        self.assertTrue(verifyObject(IPushProducer, self.consumer.producer))
        self.server.send(b"bo")
        self.assertEqual(self.consumer.got, b"bo")
        self.assertNoResult(got)
        self.server.send(b"dy!")
        self.assertEqual(self.successResultOf(got), WHOLE)
        self.assertEqual((self.consumer.got, self.consumer.unregistered), (b"body!", 1))
        self.assertTrue(self.server.wire.open)

    def test_part_of_a_file_that_must_not_have_changed(self) -> None:
        got = self.client.get("a", self.consumer, 2, 2, "e")
        reply = b"OK 2 offset=2 size=5 " + FACTS + b"\ndy"
        self.play((b"GET a offset=2 length=2 if-match=e\n", reply), of_version=None)
        self.assertEqual(self.successResultOf(got), Range(2, 2, METADATA))
        self.assertEqual(self.consumer.got, b"dy")

    def test_nothing_is_a_body_too(self) -> None:
        got = self.begin(b"OK 0 offset=0 size=0 " + FACTS + b"\n")
        self.assertEqual(self.successResultOf(got).length, 0)
        self.assertEqual((self.consumer.registered, self.consumer.unregistered), ([True], 1))

    def test_whole_file_from_a_server_of_version_1(self) -> None:
        got = self.client.get_v1(b"a b", self.consumer)
        self.play((b"DOWNLOAD a b\n", b"OK 5\nbody!"), of_version=None)
        self.assertEqual(self.successResultOf(got), 5)
        self.assertEqual((self.consumer.got, self.consumer.unregistered), (b"body!", 1))

    def test_consumer_is_left_alone_when_there_is_no_body(self) -> None:
        server = None
        for reply, kind in (
            (b"ERR 404 file not found\n", NotFound),
            (b"ERR 412 changed etag=f\n", Changed),
            (b"OK 5 offset=1 size=6 " + FACTS + b"\n", NotUnderstood),
        ):
            got = self.client.get("a", self.consumer)
            server = server or self.accept(of_version=None)
            server.send(reply)
            self.failureResultOf(got, kind)
        self.assertEqual((self.consumer.registered, self.consumer.unregistered), ([], 0))

    def test_body_that_is_cut_off(self) -> None:
        got = self.begin(REPLY + b"bo")
        self.lose(self.server)
        text = "files:9000 closed the connection inside the reply: 3 bytes missing"
        self.assert_fails(got, ConnectionBroken, text)
        self.assertEqual((self.consumer.got, self.consumer.unregistered), (b"bo", 1))

    def test_surplus_after_the_body_is_not_written_and_closes_the_connection(self) -> None:
        got = self.begin(REPLY + b"body!OK")
        self.assertEqual(self.successResultOf(got), WHOLE)
        self.assertEqual(self.consumer.got, b"body!")
        self.assertTrue(self.server.wire.aborted)


class SlowBodyTests(GetCase):
    def drip(self, seconds: int) -> None:
        for _ in range(0, seconds, 50):
            self.clock.advance(50)
            if not self.server.wire.aborted:
                self.server.send(b"x")

    def test_slow_body_fails(self) -> None:
        got = self.begin(b"OK 5000 offset=0 size=5000 " + FACTS + b"\nbo")
        self.drip(400)
        self.assert_fails(got, GaveUp, "less than 1024 bytes a second for 2 min")
        self.assertEqual(self.consumer.unregistered, 1)

    def test_slow_body_of_version_1_fails(self) -> None:
        got = self.client.get_v1("a", self.consumer)
        self.server = self.play((b"DOWNLOAD a\n", b"OK 5000\nbo"), of_version=None)
        self.drip(400)
        self.failureResultOf(got, GaveUp)
        self.assertEqual(self.consumer.unregistered, 1)

    def test_consumer_that_pauses_is_not_measured(self) -> None:
        got = self.begin(b"OK 105 offset=0 size=105 " + FACTS + b"\nbody!")
        for _ in range(100):
            self.consumer.producer.pauseProducing()
            self.clock.advance(1000)
            self.consumer.producer.resumeProducing()
            self.server.send(b"x")
        self.successResultOf(got)


class PaceTests(GetCase):
    def test_consumer_that_is_full_stops_the_connection(self) -> None:
        consumer = BufferedWire(1, 2)
        size = 3 * HIGH_WATER
        got = self.client.get("a", consumer)
        reply = b"OK %d offset=0 size=%d " % (size, size) + FACTS + b"\n"
        server = self.play((b"GET a\n", reply), of_version=None)
        received = b""
        for sent in range(HIGH_WATER // 2, size + 1, HIGH_WATER // 2):
            if not server.wire.read_from:
                received += consumer.drain()
            self.assertTrue(server.wire.read_from)
            server.send(b"x" * (HIGH_WATER // 2))
            self.assertEqual(
                server.wire.read_from, len(consumer.value()) <= HIGH_WATER or sent == size
            )
        self.assertEqual(self.successResultOf(got).length, size)
        self.assertEqual(received + consumer.value(), b"x" * size)
        self.assertLessEqual(consumer.most, 2 * HIGH_WATER)

    def test_connection_reads_on_when_the_body_ends_while_the_consumer_is_full(self) -> None:
        got = self.begin(REPLY + b"bod")
        self.consumer.producer.pauseProducing()
        self.server.send(b"y!")
        self.successResultOf(got)
        self.assertTrue(self.server.wire.read_from)
        # So that the end of the idle connection is noticed.
        self.lose(self.server)
        self.begin_listing()
        self.assertEqual(len(self.endpoint.connections), 2)

    def test_unregistered_producer_has_no_effect(self) -> None:
        got = self.begin(REPLY + b"body!")
        self.successResultOf(got)
        names = self.client.list()
        self.consumer.producer.pauseProducing()
        self.consumer.producer.resumeProducing()
        self.consumer.producer.stopProducing()
        self.assertTrue(self.server.wire.read_from)
        self.server.send(b"OK\nEND\n")
        self.assertEqual(self.successResultOf(names), [])

    def test_producer_that_was_not_paused_goes_on(self) -> None:
        got = self.begin(REPLY + b"bo")
        self.consumer.producer.resumeProducing()
        self.server.send(b"dy!")
        self.assertEqual(self.successResultOf(got), WHOLE)

    def test_silence_of_the_consumer_is_not_the_servers(self) -> None:
        got = self.begin(REPLY + b"bo")
        self.clock.advance(59)
        self.consumer.producer.pauseProducing()
        self.clock.advance(1000)
        self.assertNoResult(got)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.consumer.producer.resumeProducing()
        self.clock.advance(59)
        self.assertNoResult(got)
        self.clock.advance(1)
        self.assert_fails(got, ConnectionBroken, "files:9000 was silent for 60 s")
        self.assertTrue(self.server.wire.aborted)
        self.assertEqual(self.consumer.unregistered, 1)

    def test_bytes_that_come_while_paused_do_not_start_the_count(self) -> None:
        got = self.begin(REPLY + b"bo")
        self.consumer.producer.pauseProducing()
        self.server.send(b"dy")
        self.clock.advance(1000)
        self.assertNoResult(got)
        self.assertEqual(self.consumer.got, b"body")
        self.lose(self.server)
        self.failureResultOf(got, ConnectionBroken)


class GivingUpTests(GetCase):
    def test_consumer_that_stops(self) -> None:
        got = self.begin(REPLY + b"bo")
        self.consumer.producer.stopProducing()
        self.assert_fails(got, Interrupted, "the consumer has stopped")
        self.assertTrue(self.server.wire.aborted)
        self.assertEqual(self.consumer.unregistered, 0)
        self.server.send(b"dy!")
        self.assertEqual(self.consumer.got, b"bo")

    def test_consumer_that_has_ended_before(self) -> None:
        consumer = BufferedWire(1, 2)
        consumer.disconnected = True
        got = self.client.get("a", consumer)
        server = self.play((b"GET a\n", REPLY + b"body!"), of_version=None)
        self.failureResultOf(got, Interrupted)
        self.assertTrue(server.wire.aborted)
        self.assertEqual(consumer.value(), b"")

    def test_consumer_that_has_a_producer_already(self) -> None:
        consumer = StringTransport()
        consumer.registerProducer(RecordingConsumer(), True)
        got = self.client.get("a", consumer)
        server = self.play((b"GET a\n", REPLY), of_version=None)
        self.failureResultOf(got, RuntimeError)
        self.assertTrue(server.wire.aborted)
        self.assertIsNotNone(consumer.producer)

    def test_consumer_that_cannot_write(self) -> None:
        got = self.begin()
        self.consumer.failing = OSError(28, "No space left on device")
        self.server.send(b"body!")
        self.failureResultOf(got, OSError)
        self.assertTrue(self.server.wire.aborted)
        self.assertEqual(self.consumer.unregistered, 1)

    def test_consumer_that_cannot_finish(self) -> None:
        def unregister() -> None:
            raise OSError(28, "No space left on device")

        self.consumer.unregisterProducer = unregister
        got = self.begin(REPLY + b"body!")
        self.failureResultOf(got, OSError)

    def test_cancelled_in_the_middle(self) -> None:
        got = self.begin(REPLY + b"bo")
        got.cancel()
        self.failureResultOf(got, CancelledError)
        self.assertTrue(self.server.wire.aborted)
        self.assertEqual(self.consumer.unregistered, 1)

    def test_cancelled_by_the_consumer_from_inside_a_write(self) -> None:
        got = self.begin()
        self.consumer.write = lambda data: got.cancel()
        self.server.send(b"body!")
        self.failureResultOf(got, CancelledError)
        self.assertTrue(self.server.wire.aborted)
        self.assertEqual(self.consumer.unregistered, 1)

    def test_consumer_that_stops_and_then_raises(self) -> None:
        def write(data: bytes) -> None:
            self.consumer.producer.stopProducing()
            raise OSError

        got = self.begin()
        self.consumer.write = write
        self.server.send(b"body!")
        self.failureResultOf(got, Interrupted)

    def test_client_that_is_closed_in_the_middle(self) -> None:
        got = self.begin(REPLY + b"bo")
        closed = self.client.close()
        self.assert_fails(got, Interrupted, "the client was closed")
        self.assertTrue(self.server.wire.aborted)
        self.assertNoResult(closed)
        self.lose(self.server)
        self.successResultOf(closed)
