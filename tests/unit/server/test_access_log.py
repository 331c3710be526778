"""The lines of the access log: one a command, of thirteen words, whatever a client sends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import error
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import Failed, Outcome
from natproxy.protocol import decode_name, encode_name, parse_command
from natproxy.server import access_log
from natproxy.server.access_log import BATCH, AccessLog
from natproxy.server.events import Finished
from tests.support.proxies import ProxyCase

CLIENT = Address("127.0.0.1", 43_210)


class Lines:
    """An access log with the lines that it has written."""

    def __init__(self) -> None:
        self.firsts = 0
        self.pieces: list[tuple[bytes, int]] = []
        self.log = AccessLog(self.first, lambda *piece: self.pieces.append(piece), lambda: 7.25)

    def first(self) -> None:
        self.firsts += 1

    def words(self) -> list[list[str]]:
        """Return the words of every line."""
        self.log.flush()
        text = b"".join(piece for piece, _ in self.pieces).decode("ascii")
        assert text.count("\n") == sum(count for _, count in self.pieces)
        return [line.split(" ") for line in text.splitlines()]


def finished(line: bytes, client: Address = CLIENT) -> Finished:
    command = parse_command(line)
    assert command is not None
    return Finished(client, command, Outcome.COMPLETED, 17, 3.0, 3.125)


class ProxyTests(ProxyCase):
    options = {"wall_clock": lambda: 1_764_165_787.123456}

    def setUp(self) -> None:
        super().setUp()
        self.lines = Lines()
        self.table.count(self.lines.log.removed)
        self.table.subscribe(self.lines.log.failed, (Failed,))

    def test_command_with_a_reply(self) -> None:
        upstream = self.travelling(b"GET a%20b offset=3\n")
        self.clock.advance(2)
        upstream.send(b"OK 3 offset=3 size=6 etag=e mtime=1.0\na")
        self.clock.advance(1)
        upstream.send(b"bc")
        (words,) = self.lines.words()
        self.assertEqual(
            words,
            [
                "2025-11-26T14:03:07.123456Z",
                "127.0.0.1:43210",
                "50000",
                "127.0.0.1:9001",
                "GET",
                "a%20b",
                "1",
                "completed",
                str(len(self.wire.value())),
                "2.000000",
                "3.000000",
                "-",
                "-",
            ],
        )

    def test_command_without_a_header_has_no_time_of_a_first_byte(self) -> None:
        self.travelling(b"STAT a\n").die()
        (words,) = self.lines.words()
        self.assertEqual(words[7:], ["upstream-gone", "35", "-", "0.000000", words[11], "-"])
        self.assertEqual(decode_name(words[11].encode()), b"empty response from server")

    def test_command_without_a_connection(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        (words,) = self.lines.words()
        self.assertEqual(words[1:8], [str(CLIENT), "-", "-", "LIST", "-", "0", "error"])
        self.assertEqual(words[11], "the%20server%20refuses%20connections")

    def test_command_of_a_client_that_is_gone(self) -> None:
        self.travelling(b"DOWNLOAD a\n").send(b"OK 10\nabc")
        self.wire.lose(self.protocol)
        (words,) = self.lines.words()
        self.assertEqual(words[7:9], ["client-gone", str(len(b"OK 10\nabc"))])

    def test_events_of_translations_are_ignored(self) -> None:
        self.table.subscribe(self.lines.log.failed)
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        self.assertEqual(len(self.lines.words()), 1)


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = Lines()

    def words_of(self, line: bytes, client: Address = CLIENT) -> list[str]:
        self.lines.log.finished(finished(line, client))
        return self.lines.words()[-1]

    def test_command_of_the_file_server(self) -> None:
        self.assertEqual(
            " ".join(self.words_of(b"DOWNLOAD a b")),
            "1970-01-01T00:00:07.250000Z 127.0.0.1:43210 - - DOWNLOAD a%20b 1 completed 17"
            " - 0.125000 - -",
        )

    def test_translation_of_the_proxy_is_the_last_word(self) -> None:
        event = finished(b"LIST")._replace(translation="0123456789abcdef:7")
        self.lines.log.finished(event)
        self.assertEqual(self.lines.words()[-1][12], "0123456789abcdef:7")

    def test_several_files_are_the_first_and_their_number(self) -> None:
        self.assertEqual(self.words_of(b"PACK a%20b c d")[4:7], ["PACK", "a%20b", "3"])

    def test_name_that_stands_for_none(self) -> None:
        self.assertEqual(self.words_of(b"DOWNLOAD -")[5], "%2D")
        self.assertEqual(self.words_of(b"LIST")[5:7], ["-", "0"])

    def test_secret_is_not_written(self) -> None:
        for line in (b"AUTH s3cret", b"auth:s3cret x"):
            self.assertNotIn("s3cret", " ".join(self.words_of(line)))

    def test_client_of_a_socket_whose_path_has_spaces(self) -> None:
        words = self.words_of(b"LIST", Address("unix/run/a b", 65_537))
        self.assertEqual((len(words), words[1]), (13, "unix/run/a%20b#65537"))

    def test_long_commands_are_not_cached(self) -> None:
        access_log._cached_words.cache_clear()
        self.words_of(b"DOWNLOAD " + b"x" * 300)
        self.assertEqual(access_log._cached_words.cache_info().currsize, 0)

    @given(st.binary(max_size=400).filter(lambda text: b"\n" not in text))
    def test_every_command_is_one_line_of_thirteen_words(self, text: bytes) -> None:
        command = parse_command(text)
        if command is None:
            return
        lines = Lines()
        lines.log.finished(finished(text))
        (words,) = lines.words()
        self.assertEqual(len(words), 13)
        self.assertTrue(all(word.isascii() and word.isprintable() and word for word in words))

    @given(st.binary(min_size=1, max_size=60))
    def test_name_can_be_decoded(self, name: bytes) -> None:
        lines = Lines()
        lines.log.finished(finished(b"GET " + encode_name(name)))
        self.assertEqual(decode_name(lines.words()[0][5].encode()), name)


class BatchTests(SynchronousTestCase):
    def test_nothing_is_written_before_the_flush_or_a_batch(self) -> None:
        lines = Lines()
        for _ in range(BATCH - 1):
            lines.log.finished(finished(b"LIST"))
        self.assertEqual((lines.firsts, lines.pieces, lines.log.waiting), (1, [], True))
        lines.log.finished(finished(b"LIST"))
        self.assertEqual([count for _, count in lines.pieces], [BATCH])
        lines.log.finished(finished(b"LIST"))
        self.assertEqual(lines.firsts, 1)
        lines.log.flush()
        self.assertEqual([count for _, count in lines.pieces], [BATCH, 1])
        lines.log.flush()
        self.assertEqual((len(lines.pieces), lines.log.waiting), (2, False))
        lines.log.finished(finished(b"LIST"))
        self.assertEqual(lines.firsts, 2)
