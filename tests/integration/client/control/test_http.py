from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.control import http
from natproxy.client.control.http import Reply, request
from natproxy.client.errors import (
    CannotConnect,
    ClientError,
    ClosedWithoutReply,
    ConnectionBroken,
    NoDaemon,
    NotUnderstood,
)
from tests.support.control_server import ControlServer, Request, chunked, whole


class HTTPCase(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        # A path of a socket has at most 107 bytes.
        self.path = os.path.relpath(directory / "proxy.sock")

    def serve(self, *pieces: bytes) -> None:
        self.serve_by(lambda _: pieces)

    def serve_by(self, reply: Callable[[Request], Iterable[bytes]]) -> None:
        self.server = ControlServer(Path(self.path), reply)
        self.addCleanup(self.server.close)

    def reply(self, **options: Any) -> Reply:
        reply = request(self.path, "GET", "/v1/status", **{"timeout": 10.0, **options})
        self.addCleanup(reply.close)
        return reply


class BodyTests(HTTPCase):
    def body(self, *pieces: bytes) -> bytes:
        self.serve(*pieces)
        return self.reply().read(1 << 20)

    def test_body_with_a_length_ends_there(self) -> None:
        self.assertEqual(self.body(b"HTTP/1.1 200 OK\r\ncontent-length:  3\r\n\r\nabcdef"), b"abc")

    def test_body_without_a_length_ends_with_the_connection(self) -> None:
        self.assertEqual(self.body(b"HTTP/1.0 200 OK\r\n\r\nab", b"cd"), b"abcd")

    def test_chunks_have_extensions_and_trailers(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        body = b"3;name=value\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
        self.assertEqual(self.body(head + body), b"abc0123456789")

    def test_pieces_do_not_matter(self) -> None:
        reply = b"".join(chunked([b"abc", b"\r\n" * 9, b"x" * 300]))
        body = self.body(*(reply[place : place + 1] for place in range(len(reply))))
        self.assertEqual(body, b"abc" + b"\r\n" * 9 + b"x" * 300)

    def test_interim_reply_is_skipped(self) -> None:
        self.assertEqual(self.body(b"HTTP/1.1 100 Continue\r\n\r\n", *whole(b"x")), b"x")

    def test_reply_without_content_has_no_body(self) -> None:
        self.assertEqual(self.body(b"HTTP/1.1 204 No Content\r\n\r\n"), b"")

    def test_status_and_header_fields_are_parsed(self) -> None:
        self.serve(*whole(b"gone", "404 Not Found"))
        reply = self.reply()
        self.assertEqual((reply.status, reply.headers["content-length"]), (404, "4"))

    def test_body_over_the_limit_is_refused(self) -> None:
        self.serve(*whole(b"12345"))
        with self.assertRaisesRegex(NotUnderstood, "more than 4 bytes"):
            self.reply().read(4)

    def test_lines_are_yielded_as_they_arrive(self) -> None:
        received = threading.Event()

        def pieces() -> Iterator[bytes]:
            yield b"one\ntw"
            self.assertTrue(received.wait(10))
            yield b"o\n\nthree"

        self.serve_by(lambda _: chunked(pieces()))
        lines = self.reply().lines()
        self.assertEqual(next(lines), b"one")
        received.set()
        self.assertEqual(list(lines), [b"two", b"", b"three"])

    def test_line_over_the_limit_is_refused(self) -> None:
        self.serve(*whole(b"x" * 200))
        self.patch(http, "LONGEST_LINE", 100)
        with self.assertRaisesRegex(NotUnderstood, "too long"):
            list(self.reply().lines())


class MalformedTests(HTTPCase):
    def assert_fails(self, kind: type[ClientError], *pieces: bytes) -> None:
        self.serve(*pieces)
        with self.assertRaisesRegex(kind, r"proxy\.sock: "):
            self.reply().read(1 << 20)
        self.server.close()
        os.unlink(self.path)

    def test_reply_that_is_not_http_is_refused(self) -> None:
        for header in (
            b"OK 5\r\n\r\n",
            b"HTTP/1.1 2x0 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nx\r\n\r\n",
        ):
            self.assert_fails(NotUnderstood, header)

    def test_endless_header_is_refused(self) -> None:
        self.assert_fails(
            NotUnderstood, b"HTTP/1.1 200 OK\r\nA: ", b"x" * (http.LONGEST_HEADER + 9)
        )

    def test_malformed_framing_is_refused(self) -> None:
        head = b"HTTP/1.1 200 OK\r\n"
        self.assert_fails(NotUnderstood, head + b"Content-Length: -1\r\n\r\n")
        self.assert_fails(NotUnderstood, head + b"Transfer-Encoding: gzip\r\n\r\n")
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        for chunk in (b"xyz\r\n", b"-1\r\n", b"0x1\r\na\r\n", b"1_0\r\n", b"\r\n", b"1\r\nab\r\n"):
            self.assert_fails(NotUnderstood, head + chunk)

    def test_reply_that_is_cut_off_is_an_error(self) -> None:
        self.assert_fails(ClosedWithoutReply, b"HTTP/1.1 200 OK\r\n")
        self.assert_fails(ConnectionBroken, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for rest in (b"", b"3\r\nab", b"1\r\na\r\n", b"0\r\n"):
            self.assert_fails(ConnectionBroken, head + rest)

    def test_silence_is_an_error(self) -> None:
        done = threading.Event()
        self.addCleanup(done.set)

        def silent(_: Request) -> Iterator[bytes]:
            done.wait(10)
            yield b""

        self.serve_by(silent)
        with self.assertRaisesRegex(ConnectionBroken, "no reply for 0.05 seconds"):
            self.reply(timeout=0.05)


class ConnectTests(HTTPCase):
    def assert_fails(self, kind: type[ClientError], reason: str) -> None:
        with self.assertRaisesRegex(kind, reason):
            self.reply(connect_timeout=0.05)

    def test_missing_and_stale_sockets_mean_that_no_daemon_runs(self) -> None:
        self.assert_fails(NoDaemon, "no such socket")
        self.serve()
        self.server.close()
        self.assert_fails(NoDaemon, "no daemon listens on this socket")

    def test_file_is_no_socket(self) -> None:
        Path(self.path).touch()
        self.assert_fails(CannotConnect, "not a socket")

    def test_permission_names_the_owner(self) -> None:
        self.serve()
        error = PermissionError(13, "Permission denied")
        self.patch(http, "user_name", lambda uid: "the user daemon")
        with mock.patch("socket.socket.connect", side_effect=error):
            self.assert_fails(
                CannotConnect,
                "permission denied; it belongs to the user daemon: run this command as that"
                " user or as root",
            )

    def test_full_queue_is_waited_for_until_the_time_out(self) -> None:
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
            listening.bind(self.path)
            listening.listen(0)
            first.connect(self.path)
            self.assert_fails(CannotConnect, "does not accept connections")

    def test_path_that_no_socket_can_have_is_an_error(self) -> None:
        self.path = "x" * 200
        self.assert_fails(CannotConnect, "too long")

    def test_request_has_its_body_and_its_length(self) -> None:
        self.serve(*whole(b""))
        request(self.path, "POST", "/v1/kill?a=%20b", b"{}", 10.0).close()
        self.assertEqual(self.server.requests, [Request("POST", "/v1/kill", {"a": " b"}, b"{}")])
